// Every code of the small float formats, against their definition in doubles: what it stands for,
// and which floats round to it.
#include "tensor/dtype.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace hone {
namespace {

// A format as its definition has it: sign, exponent with a bias, mantissa; subnormals.
struct Format {
  int exponent_bits, mantissa_bits, bias;
  bool ieee_top;   // the largest exponent is infinity and NaN; else only all ones is NaN
  bool saturates;  // beyond the largest: the largest, not infinity

  uint32_t codes() const { return 1u << (exponent_bits + mantissa_bits); }  // without sign
  double value(uint32_t code) const {
    const uint32_t mantissa = code & ((1u << mantissa_bits) - 1);
    const int exponent = static_cast<int>(code >> mantissa_bits);
    const bool top = exponent == (1 << exponent_bits) - 1;
    if (top && ieee_top && mantissa == 0) return std::numeric_limits<double>::infinity();
    if (top && (ieee_top || mantissa + 1 == 1u << mantissa_bits)) return std::nan("");
    const double fraction = static_cast<double>(mantissa) / (1 << mantissa_bits);
    return exponent == 0 ? std::ldexp(fraction, 1 - bias)
                         : std::ldexp(1 + fraction, exponent - bias);
  }
  uint32_t largest() const {
    uint32_t code = codes() - 1;
    while (!std::isfinite(value(code))) --code;
    return code;
  }
};

template <typename T>
constexpr Format kFormat{};
template <>
constexpr Format kFormat<f16>{5, 10, 15, true, false};
template <>
constexpr Format kFormat<bf16>{8, 7, 127, true, false};
template <>
constexpr Format kFormat<f8_e4m3>{4, 3, 7, false, true};
template <>
constexpr Format kFormat<f8_e5m2>{5, 2, 15, true, true};

template <typename T>
T narrow(float x);
template <>
f16 narrow<f16>(float x) {
  return to_f16(x);
}
template <>
bf16 narrow<bf16>(float x) {
  return to_bf16(x);
}
template <>
f8_e4m3 narrow<f8_e4m3>(float x) {
  return to_f8_e4m3(x);
}
template <>
f8_e5m2 narrow<f8_e5m2>(float x) {
  return to_f8_e5m2(x);
}

template <typename T>
class SmallFloat : public ::testing::Test {
 protected:
  static constexpr Format kF = kFormat<T>;
  static T code(uint32_t magnitude, bool negative) {
    const uint32_t sign = negative ? kF.codes() : 0;
    return {static_cast<decltype(T::bits)>(magnitude | sign)};
  }
  // Both signs of `x` give `magnitude`.
  static void expect_code(float x, uint32_t magnitude) {
    EXPECT_EQ(narrow<T>(x).bits, code(magnitude, false).bits) << x;
    EXPECT_EQ(narrow<T>(-x).bits, code(magnitude, true).bits) << -x;
  }
};
using SmallFloats = ::testing::Types<f16, bf16, f8_e4m3, f8_e5m2>;
TYPED_TEST_SUITE(SmallFloat, SmallFloats);

TYPED_TEST(SmallFloat, EveryCodeHasItsValueAndComesBack) {
  constexpr Format f = TestFixture::kF;
  for (uint32_t m = 0; m < f.codes(); ++m)
    for (bool negative : {false, true}) {
      const TypeParam code = TestFixture::code(m, negative);
      const float value = to_f32(code);
      ASSERT_EQ(std::signbit(value), negative) << m;
      const double expected = f.value(m);
      if (std::isnan(expected)) {
        ASSERT_TRUE(std::isnan(value)) << m;
        ASSERT_TRUE(std::isnan(to_f32(narrow<TypeParam>(value)))) << m;
        continue;
      }
      ASSERT_EQ(double{std::fabs(value)}, expected) << m;
      if (std::isfinite(value) || !f.saturates) {
        ASSERT_EQ(narrow<TypeParam>(value).bits, code.bits);
      }
    }
}

TYPED_TEST(SmallFloat, RoundsToTheNearestAndTiesToEven) {
  constexpr Format f = TestFixture::kF;
  for (uint32_t m = 0; m < f.largest(); ++m) {
    // One bit more than the format has: exact as a float.
    const auto tie = static_cast<float>((f.value(m) + f.value(m + 1)) / 2);
    ASSERT_EQ(double{tie}, (f.value(m) + f.value(m + 1)) / 2);
    TestFixture::expect_code(tie, m + (m & 1));
    TestFixture::expect_code(std::nextafter(tie, 0.0f), m);
    TestFixture::expect_code(std::nextafter(tie, INFINITY), m + 1);
  }
}

TYPED_TEST(SmallFloat, BeyondTheRange) {
  constexpr Format f = TestFixture::kF;
  const uint32_t top = f.largest();
  const double last = f.value(top), step = last - f.value(top - 1);
  const uint32_t beyond = f.saturates ? top : top + 1;  // top + 1 is infinity
  const auto tie = static_cast<float>(last + step / 2);
  TestFixture::expect_code(std::nextafter(tie, 0.0f), top);
  TestFixture::expect_code(tie, f.saturates ? top : beyond);  // the top is odd: away from it
  TestFixture::expect_code(std::nextafter(tie, INFINITY), beyond);
  for (float x = tie * 1.01f; x < INFINITY; x *= 1.01f) TestFixture::expect_code(x, beyond);
  TestFixture::expect_code(std::numeric_limits<float>::max(), beyond);
  TestFixture::expect_code(INFINITY, beyond);
  TestFixture::expect_code(std::numeric_limits<float>::denorm_min(), 0);
  EXPECT_TRUE(std::isnan(to_f32(narrow<TypeParam>(NAN))));
  EXPECT_TRUE(std::isnan(to_f32(narrow<TypeParam>(std::bit_cast<float>(0xff800001u)))));
}

// Random floats of all exponents: nothing lies nearer than what was chosen.
TYPED_TEST(SmallFloat, ChoosesTheNearest) {
  constexpr Format f = TestFixture::kF;
  std::mt19937 random(7);
  for (int i = 0; i < 100'000; ++i) {
    const auto x = std::bit_cast<float>(static_cast<uint32_t>(random()) & 0x7fffffffu);
    if (std::isnan(x) || x > f.value(f.largest())) continue;
    const uint32_t m = narrow<TypeParam>(x).bits;
    const double error = std::fabs(f.value(m) - x);
    ASSERT_LE(error, std::fabs(f.value(m == 0 ? 0 : m - 1) - x)) << x;
    ASSERT_LE(error, std::fabs(f.value(std::min(m + 1, f.largest())) - x)) << x;
  }
}

TEST(Tf32, KeepsTenBitsTiesAway) {
  EXPECT_EQ(round_tf32(1.0f), 1.0f);
  EXPECT_EQ(round_tf32(1 + 0x1p-11f), 1 + 0x1p-10f);
  EXPECT_EQ(round_tf32(-1 - 0x1p-11f), -1 - 0x1p-10f);
  EXPECT_EQ(round_tf32(std::nextafter(1 + 0x1p-11f, 0.0f)), 1.0f);
  EXPECT_EQ(round_tf32(std::numeric_limits<float>::max()), INFINITY);
  EXPECT_EQ(round_tf32(-INFINITY), -INFINITY);
  EXPECT_TRUE(std::isnan(round_tf32(std::bit_cast<float>(0x7f800001u))));
  EXPECT_EQ(std::bit_cast<uint32_t>(round_tf32(-0.0f)), 0x80000000u);
  EXPECT_EQ(round_tf32(0x1p-149f), 0.0f);
}

TEST(DTypes, SizesNamesAndKinds) {
  EXPECT_EQ(dtype_size(DType::f64), 8);
  EXPECT_EQ(dtype_size(DType::bf16), 2);
  EXPECT_EQ(dtype_size(DType::f8_e5m2), 1);
  EXPECT_EQ(dtype_name(DType::f8_e4m3), "f8_e4m3");
  EXPECT_EQ(dtype_name(DType::i64), "i64");
  EXPECT_TRUE(is_float(DType::f8_e5m2));
  EXPECT_FALSE(is_float(DType::i8));
  EXPECT_THROW(visit_dtype(static_cast<DType>(99), [](auto) {}), Error);
}

}  // namespace
}  // namespace hone
