// The small layers against their formulas in double.
#include <numeric>

#include "nn/mlp.h"
#include "testing.h"

namespace hone {
namespace {

using testing::random_tensor;
using testing::relative_distance;

// ---- Rope -----------------------------------------------------------------------------------

TEST(Rope, PlainFrequenciesFallGeometrically) {
  Rope rope(64, 10000, {});
  ASSERT_EQ(rope.frequencies().size(), 32u);
  EXPECT_EQ(rope.frequencies()[0], 1);
  for (int i = 0; i < 32; ++i)
    EXPECT_NEAR(rope.frequencies()[i] * std::pow(10000.0, i / 32.0), 1, 1e-6);
}

TEST(Rope, LinearScalingDividesEveryFrequency) {
  RopeScaling s;
  s.kind = RopeScaling::Kind::linear;
  s.factor = 8;
  Rope plain(32, 1e6f, {}), scaled(32, 1e6f, s);
  for (size_t i = 0; i < 16; ++i)
    EXPECT_FLOAT_EQ(scaled.frequencies()[i] * 8, plain.frequencies()[i]);
}

// Llama 3.1: what turns more than high_freq_factor times within the original context stays, what
// turns less than low_freq_factor times is slowed by the whole factor, between them linearly in
// the number of turns.
TEST(Rope, Llama3ScalingFollowsTheNumberOfTurns) {
  RopeScaling s;
  s.kind = RopeScaling::Kind::llama3;
  s.factor = 8;
  s.low_freq_factor = 1;
  s.high_freq_factor = 4;
  s.original_context = 8192;
  Rope plain(128, 500000, {}), scaled(128, 500000, s);
  int kept = 0, slowed = 0, between = 0;
  for (size_t i = 0; i < 64; ++i) {
    double f = plain.frequencies()[i], turns = 8192 * f / (2 * M_PI);
    double share = std::clamp((turns - 1) / (4 - 1), 0.0, 1.0);
    double expected = f * share + f / 8 * (1 - share);
    EXPECT_NEAR(scaled.frequencies()[i] / expected, 1, 1e-5) << i;
    (share == 1 ? kept : share == 0 ? slowed : between)++;
  }
  EXPECT_GT(kept, 10);
  EXPECT_GT(slowed, 10);
  EXPECT_GT(between, 3);
}

TEST(Rope, DividesByExplicitDivisors) {
  Rope rope(8, 100, {}), plain(8, 100, {});
  std::vector<float> divisors = {1, 2, 4, 32};
  rope.divide_frequencies(divisors);
  for (size_t i = 0; i < 4; ++i)
    EXPECT_FLOAT_EQ(rope.frequencies()[i] * divisors[i], plain.frequencies()[i]);
  EXPECT_THROW(rope.divide_frequencies(std::vector<float>{1, 2}), Error);
}

// Pairs (i, i + dim/2) turn as complex numbers; values behind `dim` and other heads' stay apart.
TEST(Rope, TurnsPairsOfEachHeadByPositionTimesFrequency) {
  const int64_t heads = 3, head_dim = 10;
  for (int64_t dim : {10, 6}) {
    Rope rope(dim, 100, {});
    std::vector<int64_t> positions = {0, 1, 5, 1000};
    Tensor x = random_tensor({4, heads * head_dim}, 1), y = x.clone();
    rope.apply(y, head_dim, positions);
    for (int64_t t = 0; t < 4; ++t)
      for (int64_t h = 0; h < heads; ++h) {
        const float* a = x.data<float>() + (t * heads + h) * head_dim;
        const float* b = y.data<float>() + (t * heads + h) * head_dim;
        for (int64_t i = 0; i < dim / 2; ++i) {
          double angle = double(positions[t]) * std::pow(100.0, -2.0 * double(i) / double(dim));
          double re = a[i], im = a[i + dim / 2];
          EXPECT_NEAR(b[i], re * std::cos(angle) - im * std::sin(angle), 2e-4);
          EXPECT_NEAR(b[i + dim / 2], re * std::sin(angle) + im * std::cos(angle), 2e-4);
        }
        for (int64_t i = dim; i < head_dim; ++i) EXPECT_EQ(b[i], a[i]);
      }
  }
}

// ---- Norms ----------------------------------------------------------------------------------

TEST(Norm, RmsEqualsItsFormulaWithOffset) {
  for (float offset : {0.0f, 1.0f})
    for (int64_t d : {1, 7, 64, 100}) {
      Norm norm;
      norm.weight = random_tensor({d}, 1);
      norm.offset = offset;
      norm.eps = 0.01f;
      Tensor x = random_tensor({3, d}, 2, 0.1f), y = norm.forward(x);
      ASSERT_EQ(y.shape(), x.shape());
      std::vector<float> expected;
      for (int64_t t = 0; t < 3; ++t) {
        const float* row = x.data<float>() + t * d;
        double squares = 0;
        for (int64_t i = 0; i < d; ++i) squares += double{row[i]} * row[i];
        for (int64_t i = 0; i < d; ++i)
          expected.push_back(static_cast<float>(row[i] / std::sqrt(squares / double(d) + 0.01) *
                                                (double{norm.weight.data<float>()[i]} + offset)));
      }
      EXPECT_LT(relative_distance(y.data<float>(), expected.data(), 3 * d), 1e-6) << d;
    }
}

TEST(Norm, LayerNormEqualsItsFormulaWithAndWithoutBias) {
  for (bool bias : {true, false})
    for (int64_t d : {2, 7, 64, 100}) {
      Norm norm;
      norm.kind = Norm::Kind::layer;
      norm.weight = random_tensor({d}, 1);
      if (bias) norm.bias = random_tensor({d}, 3);
      norm.eps = 0.01f;
      Tensor x = random_tensor({3, d}, 2), y = norm.forward(x);
      std::vector<float> expected;
      for (int64_t t = 0; t < 3; ++t) {
        const float* row = x.data<float>() + t * d;
        double mean = 0, variance = 0;
        for (int64_t i = 0; i < d; ++i) mean += row[i] / double(d);
        for (int64_t i = 0; i < d; ++i) variance += (row[i] - mean) * (row[i] - mean) / double(d);
        for (int64_t i = 0; i < d; ++i)
          expected.push_back(static_cast<float>((row[i] - mean) / std::sqrt(variance + 0.01) *
                                                    norm.weight.data<float>()[i] +
                                                (bias ? norm.bias.data<float>()[i] : 0)));
      }
      EXPECT_LT(relative_distance(y.data<float>(), expected.data(), 3 * d), 1e-6) << d;
    }
}

// q and k norms: the rows are heads.
TEST(Norm, OfASumEqualsTheSumAndItsNorm) {
  for (Norm::Kind kind : {Norm::Kind::rms, Norm::Kind::layer}) {
    Norm norm;
    norm.kind = kind;
    norm.weight = random_tensor({20}, 1);
    if (kind == Norm::Kind::layer) norm.bias = random_tensor({20}, 2);
    Tensor a = random_tensor({5, 20}, 3), b = random_tensor({5, 20}, 4), sum = ops::add(a, b);
    Tensor expected = norm.forward(sum);
    ops::SumAndNorm both = norm.forward_sum(a, b);
    EXPECT_EQ(0, std::memcmp(both.sum.raw(), sum.raw(), 400));
    EXPECT_EQ(0, std::memcmp(both.norm.raw(), expected.raw(), 400));
  }
}

TEST(Norm, WorksOnEachHeadOfAWiderRow) {
  Norm norm;
  norm.weight = random_tensor({8}, 1);
  Tensor x = random_tensor({2, 24}, 2), whole = norm.forward(x);
  Tensor heads = norm.forward(x.reshape({6, 8}));
  EXPECT_EQ(0, std::memcmp(whole.raw(), heads.raw(), static_cast<size_t>(whole.byte_size())));
}

// ---- Linear, Embedding, Mlp -----------------------------------------------------------------

std::vector<float> product(const Tensor& x, const Tensor& w, const Tensor& bias) {
  std::vector<float> y;
  int64_t n = w.dim(0), k = w.dim(1);
  for (int64_t t = 0; t < x.dim(0); ++t)
    for (int64_t i = 0; i < n; ++i) {
      double sum = bias.empty_handle() ? 0 : bias.data<float>()[i];
      for (int64_t c = 0; c < k; ++c)
        sum += double{x.data<float>()[t * k + c]} * w.data<float>()[i * k + c];
      y.push_back(static_cast<float>(sum));
    }
  return y;
}

TEST(Linear, MultipliesAndAddsItsBias) {
  Tensor w = random_tensor({21, 13}, 1), b = random_tensor({21}, 2), x = random_tensor({5, 13}, 3);
  for (const Tensor& bias : {b, Tensor()}) {
    Linear l("a.b", float_weight(w), bias);
    EXPECT_EQ(l.out_features(), 21);
    EXPECT_EQ(l.in_features(), 13);
    Tensor y = l.forward(LinearInput(x), Activations::f32);
    EXPECT_LT(relative_distance(y.data<float>(), product(x, w, bias).data(), y.numel()), 1e-6);
  }
}

TEST(Linear, ANewWeightReplacesThePackedOne) {
  Tensor w = random_tensor({8, 16}, 1), v = random_tensor({8, 16}, 2),
         x = random_tensor({1, 16}, 3);
  Linear l("a", float_weight(w), {});
  l.forward(LinearInput(x), Activations::f32);
  l.set_weight(float_weight(v));
  Tensor y = l.forward(LinearInput(x), Activations::f32);
  EXPECT_LT(relative_distance(y.data<float>(), product(x, v, {}).data(), 8), 1e-6);
  l.pack(false);
  EXPECT_FALSE(l.weight().defined());
  Tensor again = l.forward(LinearInput(x), Activations::f32);
  EXPECT_EQ(0, std::memcmp(y.raw(), again.raw(), 32));
}

TEST(Linear, RefusesWhatIsNoMatrix) {
  EXPECT_THROW(Linear("a", float_weight(random_tensor({4}, 1)), {}), Error);
  EXPECT_THROW(Linear("a", float_weight(random_tensor({4, 2}, 1)), random_tensor({3}, 1)), Error);
  EXPECT_THROW(Linear("a", float_weight(Tensor::zeros({0, 2}, DType::f32)), {}), Error);
}

TEST(Embedding, GivesTheRowsAndRefusesOtherIds) {
  Tensor table = random_tensor({5, 3}, 1);
  Embedding e("embed", float_weight(table));
  std::vector<int32_t> ids = {4, 0, 4};
  Tensor y = e.forward(ids);
  for (int64_t i = 0; i < 3; ++i)
    EXPECT_EQ(0, std::memcmp(y.rows(i, i + 1).raw(), table.rows(ids[i], ids[i] + 1).raw(), 12));
  for (int32_t bad : {-1, 5, INT32_MAX, INT32_MIN})
    EXPECT_THROW(e.forward(std::vector<int32_t>{bad}), Error) << bad;
}

TEST(Mlp, GatesAndActivatesAsItSays) {
  Tensor g = random_tensor({12, 6}, 1), u = random_tensor({12, 6}, 2),
         d = random_tensor({6, 12}, 3);
  Tensor x = random_tensor({4, 6}, 4);
  auto silu = [](double v) { return v / (1 + std::exp(-v)); };
  auto gelu = [](double v) {
    return 0.5 * v * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
  };
  auto expect = [&](bool gated, Mlp::Activation a) {
    Mlp mlp;
    mlp.activation = a;
    if (gated) mlp.gate = Linear("g", float_weight(g), {});
    mlp.up = Linear("u", float_weight(u), {});
    mlp.down = Linear("d", float_weight(d), {});
    std::vector<float> gate = product(x, g, {}), h = product(x, u, {});
    for (size_t i = 0; i < h.size(); ++i) {
      double in = gated ? gate[i] : h[i];
      double active = a == Mlp::Activation::silu ? silu(in) : gelu(in);
      h[i] = static_cast<float>(gated ? active * h[i] : active);
    }
    std::vector<float> expected = product(Tensor::from(h, {4, 12}), d, {});
    Tensor inner = mlp.expand(LinearInput(x), Activations::f32);
    Tensor y = mlp.down.forward(LinearInput(inner), Activations::f32);
    EXPECT_LT(relative_distance(y.data<float>(), expected.data(), y.numel()), 2e-6);
  };
  expect(true, Mlp::Activation::silu);
  expect(true, Mlp::Activation::gelu_tanh);
  expect(false, Mlp::Activation::gelu_tanh);
}

// A score depends on the distance alone, wherever it is taken.
TEST(Rope, UnboundedHoldsFarPositions) {
  const Rope near(32, 10000, {}), far = near.unbounded();
  const Tensor x = testing::random_tensor({1, 32}, 1), y = testing::random_tensor({1, 32}, 2);
  auto score = [&](const Rope& rope, int64_t q, int64_t k) {
    Tensor a = x.clone(), b = y.clone();
    rope.apply(a, 32, std::vector<int64_t>{q});
    rope.apply(b, 32, std::vector<int64_t>{k});
    return std::inner_product(a.data<float>(), a.data<float>() + 32, b.data<float>(), 0.0);
  };
  const double expected = score(near, 77, 0);
  EXPECT_NEAR(score(far, 77, 0), expected, 1e-5);
  for (int64_t at : {int64_t{1} << 20, int64_t{1} << 26, int64_t{1} << 31}) {
    EXPECT_NEAR(score(far, at + 77, at), expected, 1e-5) << at;
    EXPECT_GT(std::abs(score(near, at + 77, at) - expected), 1e-4) << "f32 would do at " << at;
  }
}

}  // namespace
}  // namespace hone
