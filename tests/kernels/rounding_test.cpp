// Rounding to narrower types against conversions of single numbers.
#include <cmath>
#include <cstring>

#include "kernels/select.h"
#include "tables.h"
#include "tensor/dtype.h"
#include "testing.h"

namespace hone::kernels {
namespace {

float from_bits(uint32_t u) {
  float x;
  std::memcpy(&x, &u, 4);
  return x;
}
uint32_t bits(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  return u;
}

float one(float x, Rounding to) {
  const uint32_t u = bits(x);
  if (to == kRoundBf16) return to_f32(hone::to_bf16(x));
  if (to == kRoundF16) return to_f32(hone::to_f16(x));
  if (!std::isfinite(x)) return x;
  return from_bits((to == kRoundTf32 ? u + 0x1000u : u) & ~0x1fffu);
}

class RoundingTest : public ::testing::TestWithParam<const KernelTable*> {};

TEST_P(RoundingTest, EqualsConversionsOfSingleNumbersAndCountsLosses) {
  std::vector<float> x{0.0f,           -0.0f,  1.0f,      65504.0f,  65519.0f,  65520.0f,
                       -70000.0f,      1e-8f,  -5.96e-8f, 2.9e-8f,   3e38f,     3.4e38f,
                       -3.4028235e38f, 1e-45f, INFINITY,  -INFINITY, 1.0009765f};
  for (uint32_t i = 0; i < 4000; ++i) x.push_back(from_bits(i * 1073741u + 12345u));
  std::erase_if(x, [](float v) { return std::isnan(v); });
  for (Rounding to : {kRoundBf16, kRoundF16, kRoundTf32, kCutTf32})
    for (size_t n : {size_t{1}, size_t{15}, size_t{33}, x.size()}) {
      std::vector<float> y(n);
      int64_t lost[2] = {0, 0}, expected[2] = {0, 0};
      GetParam()->round_values(x.data(), int64_t(n), to, y.data(), lost);
      for (size_t i = 0; i < n; ++i) {
        const float want = one(x[i], to);
        ASSERT_EQ(bits(y[i]), bits(want)) << x[i] << " to " << int(to);
        expected[0] += std::isfinite(x[i]) && std::isinf(want);
        expected[1] += x[i] != 0 && want == 0;
      }
      EXPECT_EQ(lost[0], expected[0]) << int(to);
      EXPECT_EQ(lost[1], expected[1]) << int(to);
    }
  for (size_t n : {size_t{1}, size_t{15}, size_t{33}, x.size()}) {
    std::vector<float> values(n);
    std::vector<uint16_t> y(n + 1, 7), uncounted = y;
    int64_t lost[2] = {5, 6}, expected[2] = {5, 6};
    GetParam()->round_values(x.data(), int64_t(n), kRoundBf16, values.data(), expected);
    GetParam()->round_to_bf16(x.data(), int64_t(n), y.data(), lost);
    GetParam()->round_to_bf16(x.data(), int64_t(n), uncounted.data(), nullptr);
    for (size_t i = 0; i < n; ++i) ASSERT_EQ(y[i], bits(values[i]) >> 16) << x[i];
    EXPECT_EQ(y[n], 7) << "written behind the last";
    EXPECT_EQ(y, uncounted);
    EXPECT_EQ(lost[0], expected[0]);
    EXPECT_EQ(lost[1], expected[1]);
  }
  float nan = NAN, y = 0;
  int64_t lost[2] = {0, 0};
  for (Rounding to : {kRoundBf16, kRoundF16, kRoundTf32, kCutTf32}) {
    GetParam()->round_values(&nan, 1, to, &y, lost);
    EXPECT_TRUE(std::isnan(y));
  }
  EXPECT_EQ(lost[0] + lost[1], 0);
}

INSTANTIATE_TEST_SUITE_P(AllIsas, RoundingTest, ::testing::ValuesIn(testing::tested_tables()),
                         [](const auto& info) { return std::string(info.param->isa); });

}  // namespace
}  // namespace hone::kernels
