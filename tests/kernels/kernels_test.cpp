// Every kernel table that this CPU can run, and matrix tiles in plain loops, against kernels/ref:
// odd sizes, tails, extreme values.
#include <algorithm>
#include <cstring>
#include <random>

#include "kernels/ref/ref.h"
#include "kernels/select.h"
#include "tables.h"
#include "tensor/dtype.h"
#include "testing.h"

namespace hone::kernels {
namespace {

using testing::random_values;
using testing::relative_distance;

class KernelsTest : public ::testing::TestWithParam<const KernelTable*> {
 protected:
  const KernelTable& k() const { return *GetParam(); }
};

std::vector<float> float_panels(const std::vector<float>& w, int64_t n, int64_t k) {
  int64_t panels = (n + kPanel - 1) / kPanel;
  std::vector<float> out(static_cast<size_t>(panels * k * kPanel));
  for (int64_t r = 0; r < n; ++r)
    for (int64_t c = 0; c < k; ++c) out[(r / kPanel * k + c) * kPanel + r % kPanel] = w[r * k + c];
  return out;
}

TEST_P(KernelsTest, FloatGemmEqualsReference) {
  for (int64_t t : {1, 2, 5, 13})
    for (int64_t n : {1, 16, 33, 130})
      for (int64_t kk : {1, 31, 64, 1030}) {
        auto x = random_values(t * kk, 1), w = random_values(n * kk, 2), b = random_values(n, 3);
        auto panels = float_panels(w, n, kk);
        std::vector<float> y(t * n, NAN), expected(t * n);
        GemmArgs g{};
        g.panels = panels.data();
        g.x = x.data();
        g.ldx = kk;
        g.y = y.data();
        g.ldy = n;
        g.bias = b.data();
        g.t = t;
        g.n = n;
        g.k = kk;
        g.p1 = (n + kPanel - 1) / kPanel;
        k().gemm_f32(&g);
        ref::gemm(x.data(), w.data(), b.data(), t, n, kk, expected.data());
        ASSERT_LT(relative_distance(y.data(), expected.data(), t * n), 1e-5)
            << t << "x" << n << "x" << kk;
      }
}

// Matrix tiles add bf16 products in an order of their own.
bool has_tiles(const KernelTable& k) {
  return std::string_view(k.isa).find("amx") != std::string_view::npos;
}

GemmArgs gemm_args(const std::vector<float>& x, int64_t t, int64_t n, int64_t k) {
  GemmArgs g{};
  g.x = x.data();
  g.ldx = g.k = k;
  g.ldy = g.n = n;
  g.t = t;
  g.p1 = (n + kPanel - 1) / kPanel;
  return g;
}

std::vector<uint16_t> half_bits(const std::vector<float>& values, bool bf) {
  std::vector<uint16_t> out(values.size());
  for (size_t i = 0; i < values.size(); ++i)
    out[i] = bf ? to_bf16(values[i]).bits : to_f16(values[i]).bits;
  return out;
}

TEST_P(KernelsTest, HalfGemmIsExactOnHalfValues) {
  for (int64_t t : {3, 17, 32})
    for (int64_t n : {20, 200})
      for (int64_t kk : {50, 1025}) {
        auto x = random_values(t * kk, 4), w = random_values(n * kk, 5), bias = random_values(n, 6);
        for (bool bf : {false, true}) {
          for (float& v : w) v = bf ? to_f32(to_bf16(v)) : to_f32(to_f16(v));
          auto panels = float_panels(w, n, kk);
          auto half = half_bits(panels, bf);
          std::vector<float> a(t * n), b(t * n, NAN), expected(t * n);
          GemmArgs g = gemm_args(x, t, n, kk);
          g.bias = bias.data();
          g.panels = panels.data();
          g.y = a.data();
          k().gemm_f32(&g);
          g.panels = half.data();
          g.y = b.data();
          bf ? k().gemm_bf16(&g) : k().gemm_f16(&g);
          if (!bf || !has_tiles(k())) {
            EXPECT_EQ(a, b);
            continue;
          }
          // No further from the exact products than sums in f32 are: all bits of x take part.
          ref::gemm(x.data(), w.data(), bias.data(), t, n, kk, expected.data());
          EXPECT_LE(relative_distance(b.data(), expected.data(), t * n),
                    relative_distance(a.data(), expected.data(), t * n));
        }
      }
}

TEST_P(KernelsTest, Bf16GemmKeepsInfinitiesNansAndLargeNumbers) {
  const int64_t kk = 40;
  const float large = 3.4e38f;
  for (int64_t t : {1, 16}) {
    std::vector<float> x(t * kk, 0.0f), w(16 * kk, 1.0f), y(t * 16);
    auto half = half_bits(float_panels(w, 16, kk), true);
    for (float bad : {INFINITY, -INFINITY, NAN, large, -large, 1e-30f}) {
      x[(t - 1) * kk + 37] = bad;
      GemmArgs g = gemm_args(x, t, 16, kk);
      g.panels = half.data();
      g.y = y.data();
      k().gemm_bf16(&g);
      for (int64_t i = 0; i < t * 16; ++i) {
        float expected = i < (t - 1) * 16 ? 0 : bad;
        EXPECT_TRUE(std::isnan(expected) ? std::isnan(y[i]) : y[i] == expected) << t << " " << bad;
      }
    }
  }
}

// What is rounded is known, so that the products are as near as sums in f32 are.
TEST_P(KernelsTest, Bf16DotsEqualTheReferenceOfRoundedActivations) {
  prefer_bf16_dots(true);
  const bool runs = k().gemm_bf16_dot != nullptr && uses_bf16_dots();
  prefer_bf16_dots(false);
  if (!runs) GTEST_SKIP() << "no dots of bf16 with " << k().isa << " on this CPU";
  for (int64_t t : {1, 2, 3, 7, 20, 50})
    for (int64_t n : {1, 16, 40, 70, 150})
      for (int64_t kk : {2, 30, 2050}) {
        auto x = random_values(t * kk, 31), w = random_values(n * kk, 32),
             bias = random_values(n, 33);
        auto half = half_bits(float_panels(w, n, kk), true);
        std::vector<uint16_t> rounded(t * kk);
        k().round_to_bf16(x.data(), t * kk, rounded.data(), nullptr);
        auto value = [](uint16_t bits) { return to_f32(bf16{bits}); };
        for (int64_t i = 0; i < t * kk; ++i) {
          EXPECT_EQ(rounded[i], to_bf16(x[i]).bits);
          x[i] = value(rounded[i]);
        }
        for (float& v : w) v = value(to_bf16(v).bits);
        std::vector<float> y(t * n, NAN), expected(t * n), one(n);
        ref::gemm(x.data(), w.data(), bias.data(), t, n, kk, expected.data());
        GemmArgs g = gemm_args(x, t, n, kk);
        g.xb = rounded.data();
        g.panels = half.data();
        g.bias = bias.data();
        g.y = y.data();
        k().gemm_bf16_dot(&g);
        EXPECT_LT(relative_distance(y.data(), expected.data(), t * n), 1e-6) << t << n << kk;
        // The product of the columns' two halves, one added to the other, is the whole.
        if (kk > 64) {
          GemmArgs half_of = g;
          std::vector<float> sum(t * n, NAN);
          half_of.y = sum.data();
          half_of.bias = nullptr;
          const int64_t first = kk / 4 * 2;
          std::vector<uint16_t> part;
          for (int64_t k0 : {int64_t{0}, first}) {
            half_of.k = k0 == 0 ? first : kk - first;
            part.clear();
            for (int64_t p = 0; p < g.p1; ++p)
              part.insert(part.end(), half.begin() + (p * kk + k0) * kPanel,
                          half.begin() + (p * kk + k0 + half_of.k) * kPanel);
            half_of.xb = rounded.data() + k0;
            half_of.panels = part.data();
            half_of.accumulate = k0 > 0;
            k().gemm_bf16_dot(&half_of);
          }
          ref::gemm(x.data(), w.data(), nullptr, t, n, kk, expected.data());
          EXPECT_LT(relative_distance(sum.data(), expected.data(), t * n), 1e-6) << t << n << kk;
        }
        g.t = 1;
        g.y = one.data();
        for (int64_t r = 0; r < t; ++r) {
          g.xb = rounded.data() + r * kk;
          k().gemm_bf16_dot(&g);
          ASSERT_EQ(0, std::memcmp(one.data(), y.data() + r * n, n * 4)) << "row " << r;
        }
      }
}

TEST_P(KernelsTest, RoundingToBf16KeepsInfinitiesAndNans) {
  const float in[] = {INFINITY, -INFINITY, NAN, 3.4e38f, 1.00390625f, 1.01171875f, 0.0f};
  uint16_t out[7];
  k().round_to_bf16(in, 7, out, nullptr);
  for (int i : {0, 1, 3, 4, 5, 6}) EXPECT_EQ(out[i], to_bf16(in[i]).bits) << in[i];
  EXPECT_TRUE(std::isnan(to_f32(bf16{out[2]})));
}

TEST_P(KernelsTest, RowsDoNotDependOnTheirNeighbours) {
  const int64_t t = 11, n = 40, kk = 2100;
  auto x = random_values(t * kk, 6), panels = float_panels(random_values(n * kk, 7), n, kk);
  std::vector<float> all(t * n), one(n);
  GemmArgs g{};
  g.panels = panels.data();
  g.x = x.data();
  g.ldx = kk;
  g.y = all.data();
  g.ldy = n;
  g.t = t;
  g.n = n;
  g.k = kk;
  g.p1 = 3;
  k().gemm_f32(&g);
  g.y = one.data();
  g.t = 1;
  for (int64_t r = 0; r < t; ++r) {
    g.x = x.data() + r * kk;
    k().gemm_f32(&g);
    ASSERT_EQ(0, std::memcmp(one.data(), all.data() + r * n, n * 4)) << "row " << r;
  }
}

TEST_P(KernelsTest, Bf16RowsDoNotDependOnTheirNeighbours) {
  const int64_t t = 37, n = 150, kk = 1060;
  auto x = random_values(t * kk, 6);
  auto half = half_bits(float_panels(random_values(n * kk, 7), n, kk), true);
  std::vector<float> all(t * n), one(n);
  GemmArgs g = gemm_args(x, t, n, kk);
  g.panels = half.data();
  g.y = all.data();
  k().gemm_bf16(&g);
  g.y = one.data();
  g.t = 1;
  for (int64_t r = 0; r < t; ++r) {
    g.x = x.data() + r * kk;
    k().gemm_bf16(&g);
    ASSERT_EQ(0, std::memcmp(one.data(), all.data() + r * n, n * 4)) << "row " << r;
  }
}

// Code panels of random bytes with sensible scales.
std::vector<uint8_t> code_panels(const CodeForm& f, int64_t n, int64_t kk) {
  const int64_t head = (1 + f.has_mins) * kPanel, record = 4 * head + f.group * kPanel * f.bits / 8;
  const int64_t records = (n + kPanel - 1) / kPanel * (kk / f.group);
  std::vector<uint8_t> out(records * record);
  std::mt19937 random(8);
  for (auto& b : out) b = static_cast<uint8_t>(random());
  for (int64_t r = 0; r < records; ++r) {
    auto scales = random_values(head, 9 + r);
    std::memcpy(&out[r * record], scales.data(), 4 * head);
  }
  return out;
}

// Tiles of 16, 8, 4, 2 and 1 token give the same bits, whatever multiplies them; and matrix tiles
// give those of VNNI.
TEST_P(KernelsTest, CodeRowsDoNotDependOnTheirNeighbours) {
  const int64_t t = 47, n = 40;
  for (int bits : {4, 8})
    for (int mins : {0, 1})
      for (auto [group, kk] :
           {std::pair<int64_t, int64_t>{16, 144}, {48, 144}, {32, 256}, {64, 256}, {256, 256}}) {
        const int64_t chunk = group % kChunk == 0 ? kChunk : 16, chunks = kk / chunk;
        CodeForm form{};
        form.bits = bits;
        form.zero = bits == 8 ? 128 : 7;
        form.has_mins = mins;
        form.group = group;
        auto panels = code_panels(form, n, kk);
        auto x = random_values(t * kk, 10);
        auto run = [&](const KernelTable& table, int64_t first, int64_t count) {
          std::vector<int8_t> codes(count * kk);
          std::vector<float> scales(count * chunks), lows(scales.size()), y(count * n);
          std::vector<int32_t> starts(scales.size());
          GemmArgs g = gemm_args(x, count, n, kk);
          g.xq = {codes.data(), scales.data(), starts.data(), lows.data()};
          g.chunk = chunk;
          g.form = form;
          g.panels = panels.data();
          g.y = y.data();
          table.quantize_rows(&x[first * kk], kk, count, kk, chunk, form.zero, g.xq);
          table.gemm_codes(&g);
          return y;
        };
        const auto all = run(k(), 0, t);
        for (int64_t r = 0; r < t; ++r)
          ASSERT_EQ(run(k(), r, 1), std::vector<float>(&all[r * n], &all[r * n] + n))
              << bits << " bits, groups of " << group << ", row " << r;
        for (const KernelTable* other : available_tables()) {
          if (!has_tiles(k()) || std::string_view(other->isa) != "avx512_vnni") continue;
          EXPECT_EQ(run(*other, 0, t), all) << bits << " bits, groups of " << group;
        }
      }
}

TEST_P(KernelsTest, QuantizedRowsDecodeWithinHalfAStep) {
  const int64_t kk = 96, chunks = 3;
  const int zero = 8;
  // Tiles of sixteen, eight, four, two and one token.
  for (int64_t t : {1, 3, 8, 31}) {
    auto x = random_values(t * kk, 8, 3);
    std::memset(x.data() + 32, 0, 32 * 4);  // a chunk of zeros has scale 0
    std::vector<int8_t> codes(t * kk);
    std::vector<float> scales(t * chunks), lows(t * chunks);
    std::vector<int32_t> starts(t * chunks);
    k().quantize_rows(x.data(), kk, t, kk, 32, zero,
                      {codes.data(), scales.data(), starts.data(), lows.data()});
    for (int64_t t0 = 0, tile = 0; t0 < t; t0 += tile) {
      tile = t - t0 >= 16 ? 16 : t - t0 >= 8 ? 8 : t - t0 >= 4 ? 4 : t - t0 >= 2 ? 2 : 1;
      for (int64_t r = 0; r < tile; ++r)
        for (int64_t c = 0; c < chunks; ++c) {
          int64_t at = t0 * chunks + c * tile + r;
          int sum = 0;
          for (int64_t i = c * 32; i < c * 32 + 32; ++i) {
            int code = codes[at * 32 + i % 32];
            ASSERT_NEAR(x[(t0 + r) * kk + i], code * scales[at], scales[at] * 0.5f + 1e-7f)
                << t << " tokens, token " << t0 + r << " column " << i;
            sum += code;
          }
          EXPECT_EQ(starts[at], -zero * sum);
          EXPECT_EQ(lows[at], scales[at] * static_cast<float>(sum));
        }
    }
    EXPECT_EQ(scales[t >= 16  ? 16
                     : t >= 8 ? 8
                     : t == 3 ? 2
                              : 1],
              0)
        << "the first token's second chunk";
  }
}

TEST_P(KernelsTest, CodesExpandToBf16AsTheirFloatsRound) {
  std::mt19937 random(11);
  constexpr float kTable[16] = {-1,   -0.7f, -0.5f, -0.4f, -0.3f, -0.2f, -0.1f, 0,
                                0.1f, 0.2f,  0.3f,  0.4f,  0.5f,  0.6f,  0.7f,  1};
  constexpr uint8_t kSteps[16] = {};
  for (int bits : {4, 8})
    for (bool mins : {false, true})
      for (bool halves : {false, true})
        for (const float* table : {static_cast<const float*>(nullptr), kTable}) {
          if (table != nullptr && bits == 8) continue;
          constexpr int64_t kGroup = 32, kColumns = 96;
          CodeForm f{bits, bits == 8 || table ? 128 : 8, mins, halves, kGroup, table, kSteps, 1};
          const int64_t scales = (halves ? 2 : 4) * kPanel * (1 + mins);
          const int64_t record = scales + kGroup * kPanel * bits / 8;
          std::vector<uint8_t> panel(static_cast<size_t>(record * kColumns / kGroup));
          for (auto& b : panel) b = uint8_t(random());
          for (int64_t g = 0; g < kColumns / kGroup; ++g)
            for (int64_t i = 0; i < kPanel * (1 + mins); ++i) {
              const float v = std::uniform_real_distribution<float>(-2, 2)(random);
              const f16 half = hone::to_f16(v);
              uint8_t* at = panel.data() + g * record + i * (halves ? 2 : 4);
              std::memcpy(at, halves ? static_cast<const void*>(&half) : &v, halves ? 2 : 4);
            }
          std::vector<float> floats(kColumns * kPanel);
          std::vector<uint16_t> rounded(floats.size());
          k().expand_codes(panel.data(), f, kColumns, floats.data());
          k().expand_codes_bf16(panel.data(), f, kColumns, rounded.data());
          for (size_t i = 0; i < floats.size(); ++i)
            ASSERT_EQ(rounded[i], hone::to_bf16(floats[i]).bits) << bits << " bits, at " << i;
        }
}

TEST_P(KernelsTest, PanelsOfBf16Turn) {
  constexpr int64_t kColumns = 48, kStride = 20 * kPanel;
  std::vector<uint16_t> panel(kColumns * kPanel), out(3 * kStride, 9);
  for (size_t i = 0; i < panel.size(); ++i) panel[i] = uint16_t(i * 40503u);
  k().transpose_bf16(panel.data(), kColumns, out.data(), kStride);
  for (int64_t c = 0; c < kColumns; ++c)
    for (int64_t r = 0; r < kPanel; ++r)
      ASSERT_EQ(out[c / kPanel * kStride + r * kPanel + c % kPanel], panel[c * kPanel + r]);
  EXPECT_EQ(out[kPanel * kPanel], 9) << "between the panels";
}

// A code panel of `rows` of codes below 16, with scales of 1, as kernel_table.h lays it out.
std::vector<uint8_t> nibble_panel(const std::vector<uint8_t>& codes, int64_t columns,
                                  int64_t group) {
  std::vector<uint8_t> out;
  const float one = 1;
  for (int64_t first = 0; first < columns; first += group) {
    for (int r = 0; r < kPanel; ++r) {
      const auto* bytes = reinterpret_cast<const uint8_t*>(&one);
      out.insert(out.end(), bytes, bytes + 4);
    }
    for (int64_t i = first; i < first + group; i += 8)
      for (int r = 0; r < kPanel; ++r)
        for (int j = 0; j < 4; ++j) {
          const uint8_t* at = codes.data() + r * columns + i + j;
          out.push_back(static_cast<uint8_t>(at[0] | at[4] << 4));
        }
  }
  return out;
}

// Whole activations whose chunks reach 127 are quantised exactly, so the sums are whole numbers;
// steps at both ends of a byte overflow a sum of two products in 16 bits.
TEST_P(KernelsTest, TablesGiveExactSumsWithEitherActivations) {
  const int64_t n = kPanel, columns = 192;
  std::mt19937_64 random(21);
  std::vector<uint8_t> codes(n * columns), steps(16);
  for (auto& c : codes) c = random() % 16;
  for (auto& s : steps) s = static_cast<uint8_t>(random());
  steps[3] = steps[4] = 255;
  steps[5] = steps[6] = 0;
  std::vector<float> table(16);
  for (int i = 0; i < 16; ++i) table[i] = 0.5f * static_cast<float>(steps[i] - 128);
  for (int64_t group : {16, 32, 64, 48})
    for (int64_t t : {1, 2, 3, 7, 8, 15}) {
      const int64_t chunk = group % kChunk == 0 ? kChunk : 16, chunks = columns / chunk;
      std::vector<float> x(t * columns), y(t * n), expected(t * n), w(n * columns);
      for (auto& v : x) v = random() % 3 == 0 ? 127.0f : static_cast<float>(random() % 255) - 127;
      for (int64_t i = 0; i < t * columns; i += chunk) x[i] = -127;
      for (int64_t i = 0; i < n * columns; ++i) w[i] = table[codes[i]];
      ref::gemm(x.data(), w.data(), nullptr, t, n, columns, expected.data());
      std::vector<int8_t> xq(t * columns);
      std::vector<float> scales(t * chunks), lows(t * chunks);
      std::vector<int32_t> starts(t * chunks);
      auto panel = nibble_panel(codes, columns, group);
      GemmArgs g{};
      g.panels = panel.data();
      g.x = x.data();
      g.ldx = g.k = columns;
      g.xq = {xq.data(), scales.data(), starts.data(), lows.data()};
      g.chunk = chunk;
      g.y = y.data();
      g.ldy = g.n = n;
      g.t = t;
      g.p1 = 1;
      g.form = {4, 128, 0, 0, group, table.data(), steps.data(), 0.5f};
      k().quantize_rows(x.data(), columns, t, columns, chunk, 128, g.xq);
      k().gemm_codes(&g);
      ASSERT_EQ(y, expected) << "int8, groups of " << group << ", " << t << " tokens";
      std::fill(y.begin(), y.end(), NAN);
      k().gemm_codes_f32(&g);
      ASSERT_EQ(y, expected) << "f32, groups of " << group << ", " << t << " tokens";
    }
}

TEST_P(KernelsTest, NormsAndActivationsEqualReference) {
  for (int64_t d : {1, 15, 64, 100}) {
    const int64_t rows = 4, n = rows * d;
    auto x = random_values(n, 13, 10), w = random_values(d, 14), b = random_values(d, 15);
    std::vector<float> y(n), e(n);
    k().rms_norm(x.data(), w.data(), 1, 1e-5f, rows, d, y.data());
    ref::rms_norm(x.data(), w.data(), 1, 1e-5f, rows, d, e.data());
    EXPECT_LT(relative_distance(y.data(), e.data(), n), 1e-6) << d;
    k().layer_norm(x.data(), w.data(), b.data(), 1e-5f, rows, d, y.data());
    ref::layer_norm(x.data(), w.data(), b.data(), 1e-5f, rows, d, e.data());
    EXPECT_LT(relative_distance(y.data(), e.data(), n), 2e-6) << d;
    auto g = random_values(n, 16, 20);
    k().silu_mul(g.data(), x.data(), n, y.data());
    for (int64_t i = 0; i < n; ++i) e[i] = ref::silu(g[i]) * x[i];
    EXPECT_LT(relative_distance(y.data(), e.data(), n), 1e-6);
    k().gelu_tanh(g.data(), n, y.data());
    for (int64_t i = 0; i < n; ++i)
      ASSERT_NEAR(y[i], ref::gelu_tanh(g[i]), 3e-6 * std::fabs(g[i]) + 1e-7);
    k().gelu_tanh_mul(g.data(), x.data(), n, y.data());
    for (int64_t i = 0; i < n; ++i) e[i] = ref::gelu_tanh(g[i]) * x[i];
    EXPECT_LT(relative_distance(y.data(), e.data(), n), 1e-5);
    EXPECT_NEAR(k().log_sum_exp(x.data(), n), ref::log_sum_exp(x.data(), n), 1e-5);
  }
}

TEST_P(KernelsTest, LogSumExpKeepsDigitsOverALargeVocabulary) {
  auto x = random_values(150001, 17, 3);
  EXPECT_NEAR(k().log_sum_exp(x.data(), x.size()), ref::log_sum_exp(x.data(), x.size()), 3e-6);
  std::vector<float> extreme(40, -1e30f);
  extreme[7] = 1e30f;
  EXPECT_FLOAT_EQ(k().log_sum_exp(extreme.data(), 40), 1e30f);
}

TEST_P(KernelsTest, SearchesOfLogitsEqualPlainLoops) {
  for (int64_t n : {1, 15, 16, 17, 64, 65, 3000}) {
    auto x = random_values(n, 21, 4);
    for (int64_t i = 5; i < n; i += 7) x[i] = i % 2 ? NAN : -INFINITY;
    const float top = 4, least = x[0] - 1, factor = 0.7f, below = x[0] + 0.5f;
    std::vector<float> w(n), maxima((n + kMaximaBlock - 1) / kMaximaBlock);
    std::vector<int32_t> found(n);
    k().block_maxima(x.data(), n, maxima.data());
    k().weights_at_least(x.data(), n, least, top, factor, w.data());
    int64_t count, expected_count = 0;
    double mass = k().mass_at_least(x.data(), w.data(), n, x[0], &count), expected_mass = 0;
    found.resize(k().find_between(x.data(), n, x[0], below, found.data()));
    std::vector<int32_t> expected_found;
    for (int64_t b = 0; b < std::ssize(maxima); ++b) {
      float best = -INFINITY;
      for (int64_t i = b * kMaximaBlock; i < std::min(n, (b + 1) * kMaximaBlock); ++i)
        if (x[i] > best) best = x[i];
      EXPECT_EQ(maxima[b], best) << n;
    }
    for (int64_t i = 0; i < n; ++i) {
      float weight = x[i] >= least ? std::exp((x[i] - top) * factor) : 0.0f;
      ASSERT_NEAR(w[i], weight, 4e-7f * weight) << n << " " << i;
      if (x[i] >= x[0]) expected_mass += w[i], ++expected_count;
      if (x[i] >= x[0] && x[i] < below) expected_found.push_back(static_cast<int32_t>(i));
    }
    EXPECT_EQ(count, expected_count) << n;
    EXPECT_NEAR(mass, expected_mass, 1e-5 * expected_mass) << n;
    EXPECT_EQ(found, expected_found) << n;
  }
}

TEST_P(KernelsTest, AccumulateTnEqualsReference) {
  const int64_t rows = 9, m = 20, n = 150;
  auto a = random_values(rows * m, 18), b = random_values(rows * n, 19),
       c = random_values(m * n, 20);
  auto expected = c;
  for (int64_t i = 2; i < m; ++i)
    for (int64_t j = 3; j < n; ++j)
      for (int64_t s = 0; s < rows; ++s) expected[i * n + j] += a[s * m + i] * b[s * n + j];
  k().accumulate_tn(a.data(), m, b.data(), n, rows, 2, m, 3, n, c.data(), n);
  EXPECT_LT(relative_distance(c.data(), expected.data(), m * n), 1e-6);
}

INSTANTIATE_TEST_SUITE_P(AllIsas, KernelsTest, ::testing::ValuesIn(testing::tested_tables()),
                         [](const auto& info) { return std::string(info.param->isa); });

}  // namespace
}  // namespace hone::kernels
