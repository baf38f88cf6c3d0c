// The optimizers' kernels of every table against kernels/ref: odd sizes, tails, both roundings, the
// dynamic 8-bit map value by value, and what must be the same on every instruction set.
#include <algorithm>
#include <cstring>

#include "kernels/ref/optimizer.h"
#include "kernels/select.h"
#include "tables.h"
#include "tensor/dtype.h"
#include "testing.h"

namespace hone::kernels {
namespace {

using testing::random_values;

struct Method {
  const char* name;
  int64_t (*KernelTable::*kernel)(const UpdateArgs*);
  double (*reference)(const UpdateArgs&, double, ref::Element&);
  bool has_m, has_v;
};
constexpr Method kMethods[] = {
    {"adamw", &KernelTable::adamw, ref::adamw, true, true},
    {"sgd", &KernelTable::sgd, ref::sgd, false, false},
    {"momentum", &KernelTable::sgd, ref::sgd, true, false},
    {"lion", &KernelTable::lion, ref::lion, true, false},
    {"adafactor", &KernelTable::adafactor, ref::adafactor, false, true},
    {"adafactor_m", &KernelTable::adafactor, ref::adafactor, true, true}};

UpdateArgs coefficients() {
  UpdateArgs a{};
  a.gradient_factor = 0.25f;
  a.keep = 0.999f;
  a.rate = 0.01f;
  a.beta1 = 0.9f;
  a.rest1 = 0.1f;
  a.beta2 = 0.99f;
  a.rest2 = 0.01f;
  a.root_factor = 1.7f;
  a.eps = 1e-8f;
  a.l2 = 0.05f;
  return a;
}

// n values of a type, and their bytes.
std::vector<uint8_t> stored(const std::vector<float>& x, FloatType type) {
  std::vector<uint8_t> out(x.size() * 4);
  for (size_t i = 0; i < x.size(); ++i) {
    const uint16_t half = type == kBf16 ? to_bf16(x[i]).bits : to_f16(x[i]).bits;
    if (type == kF32)
      std::memcpy(&out[4 * i], &x[i], 4);
    else
      std::memcpy(&out[2 * i], &half, 2);
  }
  return out;
}
float value_of(const std::vector<uint8_t>& bytes, size_t i, FloatType type) {
  float x;
  uint16_t half;
  std::memcpy(&x, &bytes[4 * i], 4);
  std::memcpy(&half, &bytes[2 * i], 2);
  return type == kF32 ? x : type == kBf16 ? to_f32(bf16{half}) : to_f32(f16{half});
}
float rounded(float x, FloatType type) { return value_of(stored({x, 0}, type), 0, type); }

class OptimizerKernelTest : public ::testing::TestWithParam<const KernelTable*> {
 protected:
  const KernelTable& k() const { return *GetParam(); }
};

TEST_P(OptimizerKernelTest, StepsEqualTheReference) {
  for (const Method& method : kMethods)
    for (FloatType type : {kF32, kBf16, kF16})
      for (int nesterov : {0, 1})
        for (int64_t n : {1, 15, 16, 100, 1031}) {
          auto w = random_values(n, 1), g = random_values(n, 2), m = random_values(n, 3);
          auto v = random_values(n, 4);
          for (float& x : v) x = x * x;
          g[0] = 0;
          if (n > 20) g[20] = m[20] = 0;  // Lion's sign of zero
          auto bytes = stored(w, type);
          UpdateArgs a = coefficients();
          a.nesterov = nesterov;
          a.w = bytes.data();
          a.type = type;
          a.g = g.data();
          auto m_before = m, v_before = v;
          a.m = method.has_m ? m.data() : nullptr;
          a.v = method.has_v ? v.data() : nullptr;
          a.n = n;
          const auto before = bytes;
          (k().*method.kernel)(&a);
          for (int64_t i = 0; i < n; ++i) {
            ref::Element e{value_of(before, i, type), m_before[i], v_before[i]};
            const double u = method.reference(a, double{g[i]} * a.gradient_factor, e);
            const double next = double{a.keep} * e.w - u;
            // One unit where the sum is near the middle of two stored values.
            const double unit =
                type == kF32 ? 1e-6 : std::abs(next) * (type == kBf16 ? 8e-3 : 1e-3);
            const float got = value_of(bytes, i, type);
            if (std::abs(got - next) > 1e-6) {
              ASSERT_NEAR(got, rounded(static_cast<float>(next), type), unit)
                  << method.name << " " << type << " " << i << " of " << n;
            }
            ASSERT_NEAR(m[i], method.has_m ? e.m : m_before[i], 1e-6) << method.name;
            ASSERT_NEAR(v[i], e.v, 1e-6) << method.name;
          }
        }
}

TEST_P(OptimizerKernelTest, NothingBehindTheEndIsWritten) {
  const int64_t n = 300;
  for (const Method& method : kMethods)
    for (FloatType type : {kF32, kBf16}) {
      std::vector<float> g(n, 1.0f), m(n, 7.0f), v(n, 7.0f);
      auto bytes = stored(std::vector<float>(n, 2.0f), type);
      UpdateArgs a = coefficients();
      a.w = bytes.data();
      a.type = type;
      a.g = g.data();
      a.m = m.data();
      a.v = v.data();
      a.n = n - 5;
      (k().*method.kernel)(&a);
      for (int64_t i = n - 5; i < n; ++i) {
        EXPECT_EQ(value_of(bytes, i, type), 2) << method.name;
        EXPECT_EQ(m[i], 7) << method.name;
        EXPECT_EQ(v[i], 7) << method.name;
      }
    }
}

// Two steps of 8-bit AdamW that change no state show what a code means.
TEST_P(OptimizerKernelTest, CodesAreThoseOfTheDynamicMap) {
  for (bool with_sign : {true, false}) {
    const auto map = ref::dynamic_map(with_sign);
    const int64_t n = kStateBlock;
    std::vector<float> w(n), g(n), values(n);
    std::vector<uint8_t> codes(n), others(n, with_sign ? 0 : 127);
    float scale = 3.0f, other = 0;
    for (int64_t i = 0; i < n; ++i) codes[i] = static_cast<uint8_t>(i);
    UpdateArgs a{};
    a.w = w.data();
    a.g = g.data();
    a.n = n;
    a.m_codes = with_sign ? codes.data() : others.data();
    a.v_codes = with_sign ? others.data() : codes.data();
    a.m = with_sign ? &scale : &other;
    a.v = with_sign ? &other : &scale;
    // w becomes −m, or √v is seen through a constant m.
    a.beta1 = a.beta2 = 1;
    a.rate = 1;
    a.eps = 1;
    k().adamw_8bit(&a);
    EXPECT_EQ(scale, 3);
    for (int64_t i = 0; i < n; ++i) {
      EXPECT_EQ(codes[i], i) << "a value's nearest code is its own";
      if (with_sign) {
        EXPECT_NEAR(w[i], -3 * map[i], 2e-6 * std::abs(map[i])) << i;
      }
    }
    // Any values: the code of the nearest. g becomes the state.
    values = random_values(n, 5);
    for (int64_t i = 0; i < n; ++i) values[i] *= std::pow(10.0f, static_cast<float>(i % 9) - 8);
    values[7] = 4;  // the largest
    a.beta1 = a.beta2 = 0;
    a.gradient_factor = 1;
    a.rest1 = 1;
    a.rest2 = 1;
    for (int64_t i = 0; i < n; ++i) g[i] = with_sign ? values[i] : std::sqrt(std::abs(values[i]));
    k().adamw_8bit(&a);
    EXPECT_NEAR(scale, 4, 1e-6);
    for (int64_t i = 0; i < n; ++i) {
      const double x = (with_sign ? double{g[i]} : double{g[i]} * g[i]) / scale;
      const double best = map[ref::nearest_code(map, x)];
      EXPECT_NEAR(std::abs(map[codes[i]] - x), std::abs(best - x), 1e-6 * std::abs(x)) << x;
    }
  }
}

TEST_P(OptimizerKernelTest, EightBitAdamWIsAdamWBetweenConversions) {
  const auto signed_map = ref::dynamic_map(true), unsigned_map = ref::dynamic_map(false);
  for (int64_t n : {256, 600, 1000}) {
    auto w = random_values(n, 1), g = random_values(n, 2);
    const int64_t blocks = (n + kStateBlock - 1) / kStateBlock;
    std::vector<float> m(blocks, 0.5f), v(blocks, 0.25f);
    std::vector<uint8_t> mc(n), vc(n);
    for (int64_t i = 0; i < n; ++i) mc[i] = (uint8_t)(i * 37), vc[i] = (uint8_t)(128 + i % 100);
    auto w0 = w;
    auto m0 = m, v0 = v;
    auto mc0 = mc, vc0 = vc;
    UpdateArgs a = coefficients();
    a.w = w.data();
    a.g = g.data();
    a.m = m.data();
    a.v = v.data();
    a.m_codes = mc.data();
    a.v_codes = vc.data();
    a.n = n;
    k().adamw_8bit(&a);
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t end = std::min(n, (b + 1) * kStateBlock);
      std::vector<ref::Element> block;
      double top_m = 0, top_v = 0;
      for (int64_t i = b * kStateBlock; i < end; ++i) {
        ref::Element e{w0[i], m0[b] * signed_map[mc0[i]], v0[b] * unsigned_map[vc0[i]]};
        const double u = ref::adamw(a, double{g[i]} * a.gradient_factor, e);
        EXPECT_NEAR(w[i], a.keep * w0[i] - u, 2e-6);
        top_m = std::max(top_m, std::abs(e.m));
        top_v = std::max(top_v, e.v);
        block.push_back(e);
      }
      EXPECT_NEAR(m[b], top_m, 1e-6);
      EXPECT_NEAR(v[b], top_v, 1e-6);
      for (int64_t i = b * kStateBlock; i < end; ++i) {
        const ref::Element& e = block[i - b * kStateBlock];
        const double x = e.m / top_m, y = e.v / top_v;
        EXPECT_NEAR(std::abs(signed_map[mc[i]] - x),
                    std::abs(signed_map[ref::nearest_code(signed_map, x)] - x), 1e-5);
        EXPECT_NEAR(std::abs(unsigned_map[vc[i]] - y),
                    std::abs(unsigned_map[ref::nearest_code(unsigned_map, y)] - y), 1e-5);
      }
    }
  }
}

TEST_P(OptimizerKernelTest, StatesOfNaNAndInfinityStayCodes) {
  const int64_t n = 2 * kStateBlock;
  std::vector<float> w(n, 1.0f), g(n, 1.0f), m(2), v(2);
  std::vector<uint8_t> mc(n, 127), vc(n, 0);
  g[3] = NAN;
  g[300] = INFINITY;
  UpdateArgs a = coefficients();
  a.w = w.data();
  a.g = g.data();
  a.m = m.data();
  a.v = v.data();
  a.m_codes = mc.data();
  a.v_codes = vc.data();
  a.n = n;
  for (int i = 0; i < 3; ++i) k().adamw_8bit(&a);
  EXPECT_TRUE(std::isnan(w[3]));
  EXPECT_FALSE(std::isfinite(w[300]));
}

// The mean of many roundings of one number is the number; and values that are stored exactly, or
// are not finite, stay.
TEST_P(OptimizerKernelTest, StochasticRoundingIsUnbiased) {
  const int64_t n = 1 << 20;
  std::vector<float> g(n);
  std::vector<uint8_t> bytes;
  auto round_all = [&](float x, FloatType type) {
    // w = 0 − 1·(−x)
    std::fill(g.begin(), g.end(), -x);
    bytes = stored(std::vector<float>(n, 0.0f), type);
    UpdateArgs a{};
    a.w = bytes.data();
    a.type = type;
    a.g = g.data();
    a.n = n;
    a.gradient_factor = a.rate = 1;
    a.stochastic = 1;
    a.key = 0x0123456789abcdefull;
    a.first = 5;
    k().sgd(&a);
  };
  for (FloatType type : {kBf16, kF16})
    for (float x : {1.0017f, -0.73211f, 3.1e-3f, 1.2345e-6f}) {
      round_all(x, type);
      double sum = 0;
      for (int64_t i = 0; i < n; ++i) sum += value_of(bytes, i, type);
      // f16's subnormals are far apart: one draw has the variance of a coin.
      const double unit = type == kF16 && std::abs(x) < 6.1e-5 ? 0x1p-24 : 0;
      EXPECT_NEAR(sum / double(n), x, std::max(3e-5 * std::abs(x), 4e-3 * unit))
          << type << " " << x;
    }
  for (FloatType type : {kBf16, kF16})
    for (float x : {0.0f, 1.0f, -2.5f, INFINITY, -INFINITY, NAN}) {
      round_all(x, type);
      for (int64_t i = 0; i < 100; ++i) {
        const float y = value_of(bytes, i, type);
        EXPECT_TRUE(std::isnan(x) ? std::isnan(y) : y == x) << type << " " << x << " " << y;
      }
    }
}

// However a range is cut, and bit by bit on every table.
TEST_P(OptimizerKernelTest, RandomDrawsAreAFunctionOfKeyAndElement) {
  const int64_t n = 1000;
  auto g = random_values(n, 9);
  for (FloatType type : {kBf16, kF16}) {
    auto rounded_by = [&](const KernelTable& table, uint64_t key, int64_t cut) {
      auto bytes = stored(std::vector<float>(n, 0.0f), type);
      for (int64_t begin : {int64_t{0}, cut}) {
        UpdateArgs a{};
        a.w = bytes.data() + 2 * begin;
        a.type = type;
        a.g = g.data() + begin;
        a.n = begin == 0 ? cut : n - cut;
        a.gradient_factor = a.rate = 1;
        a.stochastic = 1;
        a.key = key;
        a.first = static_cast<uint32_t>(begin);
        if (a.n > 0) table.sgd(&a);
      }
      return bytes;
    };
    const auto expected = rounded_by(*testing::tested_tables().front(), 7, n);
    EXPECT_TRUE(rounded_by(k(), 7, n) == expected);
    EXPECT_TRUE(rounded_by(k(), 7, 333) == expected);
    EXPECT_FALSE(rounded_by(k(), 8, n) == expected);
    EXPECT_FALSE(rounded_by(k(), 7 + (1ull << 32), n) == expected);
  }
}

TEST_P(OptimizerKernelTest, CountsUpdatesThatAreLost) {
  const int64_t n = 53;
  for (FloatType type : {kF32, kBf16}) {
    std::vector<float> g(n, 1.0f);
    for (int64_t i = 0; i < 10; ++i) g[i] = 0;       // no update
    for (int64_t i = 10; i < 30; ++i) g[i] = 1e-9f;  // lost
    auto bytes = stored(std::vector<float>(n, 1.0f), type);
    UpdateArgs a{};
    a.w = bytes.data();
    a.type = type;
    a.g = g.data();
    a.n = n;
    a.gradient_factor = a.rate = a.keep = 1;
    auto again = bytes;
    EXPECT_EQ(k().sgd(&a), 0);
    a.w = again.data();
    a.count_unchanged = 1;
    EXPECT_EQ(k().sgd(&a), 20);
    EXPECT_EQ(again, bytes);
  }
}

TEST_P(OptimizerKernelTest, SumsOfSquares) {
  for (int64_t n : {1, 16, 37, 4099}) {
    auto x = random_values(n, 1), f = random_values(n, 2);
    double sum = 0, product = 0;
    for (int64_t i = 0; i < n; ++i) {
      sum += double{x[i]} * x[i];
      product += double(x[i] * f[i]) * double(x[i] * f[i]);
    }
    EXPECT_NEAR(k().sum_of_squares(x.data(), nullptr, n), sum, 1e-12 * sum);
    EXPECT_NEAR(k().sum_of_squares(x.data(), f.data(), n), product, 1e-12 * product);
    const KernelTable& first = *testing::tested_tables().front();
    EXPECT_EQ(k().sum_of_squares(x.data(), nullptr, n), first.sum_of_squares(x.data(), nullptr, n));
    auto sums = random_values(n, 3);
    const auto before = sums;
    k().add_squares_to(x.data(), 0.5f, 1e-3f, n, sums.data());
    for (int64_t i = 0; i < n; ++i)
      EXPECT_NEAR(sums[i], before[i] + 0.25 * double{x[i]} * x[i] + 1e-3, 1e-6);
    x[n - 1] = 3e38f;
    EXPECT_TRUE(std::isfinite(k().sum_of_squares(x.data(), nullptr, n)));
    for (float bad : {INFINITY, NAN}) {
      x[n / 2] = bad;
      EXPECT_FALSE(std::isfinite(k().sum_of_squares(x.data(), nullptr, n)));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(AllIsas, OptimizerKernelTest,
                         ::testing::ValuesIn(testing::tested_tables()),
                         [](const auto& info) { return std::string(info.param->isa); });

}  // namespace
}  // namespace hone::kernels
