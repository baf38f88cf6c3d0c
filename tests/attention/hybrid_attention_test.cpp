// hybrid_attention(): the formula in double, values and all gradients; a window that sees all is
// softmax attention; bits of pieces.
#include "attention/hybrid_attention.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/threads.h"
#include "gradients.h"
#include "ops/dense.h"
#include "tensor/storage.h"

namespace hone {
namespace {

using namespace testing;

HybridAttentionSpec hybrid_spec(int64_t heads, int64_t kv_heads, int64_t window) {
  HybridAttentionSpec s;
  s.heads = heads;
  s.kv_heads = kv_heads;
  s.k_dim = 4;
  s.v_dim = 3;
  s.scale = 0.6f;
  s.window = window;
  s.features = 5;
  return s;
}

// q, k, v, both maps and the factor.
std::vector<Tensor> random_inputs(const HybridAttentionSpec& s, int64_t t) {
  return {random_tensor({t, s.heads * s.k_dim}, 1),
          random_tensor({t, s.kv_heads * s.k_dim}, 2),
          random_tensor({t, s.kv_heads * s.v_dim}, 3),
          random_tensor({s.heads, s.k_dim, s.features}, 4),
          random_tensor({s.heads, s.k_dim, s.features}, 5),
          random_tensor({s.heads}, 6)};
}
HybridAttentionInputs inputs_of(const std::vector<Tensor>& x) {
  return {x[0], x[1], x[2], x[3], x[4], x[5]};
}
RecurrentState no_state(const HybridAttentionSpec& s) {
  RecurrentState state;
  for (const Shape& shape : s.state_shapes()) state.push_back(Tensor::zeros(shape, DType::f32));
  return state;
}

Doubles features(const HybridAttentionSpec& s, const double* x, const double* w) {
  Doubles z(static_cast<size_t>(s.features)), y;
  for (int64_t j = 0; j < s.features; ++j)
    for (int64_t i = 0; i < s.k_dim; ++i) z[j] += x[i] * w[i * s.features + j];
  for (double sign : {1.0, -1.0}) {
    double sum = 0;
    for (double e : z) sum += std::exp(sign * e);
    for (double e : z) y.push_back(std::exp(sign * e) / sum);
  }
  return y;
}

// The definition of one sequence of `t` rows from row `first` on, key by key.
void plain_sequence(const HybridAttentionSpec& s, const std::vector<Doubles>& in, int64_t first,
                    int64_t t, Doubles& out) {
  auto dot = [](const double* a, const double* b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
    return sum;
  };
  for (int64_t i = 0; i < t; ++i)
    for (int64_t h = 0; h < s.heads; ++h) {
      const int64_t kv = h * s.kv_heads / s.heads;
      const double* q = &in[0][((first + i) * s.heads + h) * s.k_dim];
      auto key = [&](int64_t j) { return &in[1][((first + j) * s.kv_heads + kv) * s.k_dim]; };
      const int64_t size = s.k_dim * s.features;
      const Doubles of_q = features(s, q, &in[3][h * size]);
      double top = -INFINITY, total = 0;
      for (int64_t j = std::max<int64_t>(0, i - s.window + 1); j <= i; ++j)
        top = std::max(top, s.scale * dot(q, key(j), s.k_dim));
      double* o = &out[((first + i) * s.heads + h) * s.v_dim];
      for (int64_t j = 0; j <= i; ++j) {
        double weight =
            std::exp(s.scale * dot(q, key(j), s.k_dim) - top) / (1 + std::exp(-in[5][h]));
        if (j <= i - s.window)
          weight = dot(of_q.data(), features(s, key(j), &in[4][h * size]).data(), 2 * s.features);
        total += weight;
        for (int64_t c = 0; c < s.v_dim; ++c)
          o[c] += weight * in[2][((first + j) * s.kv_heads + kv) * s.v_dim + c];
      }
      for (int64_t c = 0; c < s.v_dim; ++c) o[c] /= total;
    }
}

TEST(HybridAttention, ValuesAndGradientsAreThoseOfTheFormula) {
  for (int64_t window : {1, 3, 8}) {
    SCOPED_TRACE(window);
    const HybridAttentionSpec s = hybrid_spec(4, 2, window);
    // Two sequences, of which one is short, and rows that none has.
    const std::vector<std::pair<int64_t, int64_t>> rows = {{1, 14}, {14, 16}};
    expect_gradients(
        [&](const std::vector<Tensor>& x) {
          std::vector<HybridSpan> spans;
          for (auto [b, e] : rows) spans.push_back({b, e, no_state(s)});
          return hybrid_attention(s, inputs_of(x), spans);
        },
        [&](const std::vector<Doubles>& x) {
          Doubles y(static_cast<size_t>(17 * s.heads * s.v_dim));
          for (auto [b, e] : rows) plain_sequence(s, x, b, e - b, y);
          return y;
        },
        random_inputs(s, 17));
  }
}

// Gradients of the second piece flow into the first through the carried state.
TEST(HybridAttention, GradientsFlowThroughCarriedStates) {
  const HybridAttentionSpec s = hybrid_spec(2, 1, 3);
  constexpr int64_t kFirst = 7, kAll = 15;
  expect_gradients(
      [&](const std::vector<Tensor>& x) {
        std::vector<HybridSpan> spans{{0, kFirst, no_state(s)}};
        const Tensor a = hybrid_attention(s, inputs_of(x), spans);
        spans[0].begin = kFirst;
        spans[0].end = kAll;
        const Tensor b = hybrid_attention(s, inputs_of(x), spans);
        return ops::add(a, b);
      },
      [&](const std::vector<Doubles>& x) {
        Doubles y(static_cast<size_t>(kAll * s.heads * s.v_dim));
        plain_sequence(s, x, 0, kAll, y);
        return y;
      },
      random_inputs(s, kAll));
}

TEST(HybridAttention, AWindowThatSeesAllIsSoftmaxAttention) {
  const HybridAttentionSpec s = hybrid_spec(4, 2, 50);
  const std::vector<Tensor> in = random_inputs(s, 50);
  std::vector<HybridSpan> spans{{0, 50, no_state(s)}};
  const Tensor y = hybrid_attention(s, inputs_of(in), spans);
  AttentionSpec softmax;
  softmax.heads = 4;
  softmax.kv_heads = 2;
  softmax.k_dim = s.k_dim;
  softmax.v_dim = s.v_dim;
  softmax.scale = s.scale;
  const Tensor expected = attention(softmax, in[0], in[1], in[2], {{0, 50, 0, 50}});
  EXPECT_LT(relative_distance(y.data<float>(), expected.data<float>(), y.numel()), 1e-6);
  // Also where the window counts next to nothing.
  std::vector<Tensor> faint = in;
  faint[5] = Tensor::from(std::vector<float>(4, -200.0f));
  std::vector<HybridSpan> again{{0, 50, no_state(s)}};
  const Tensor z = hybrid_attention(s, inputs_of(faint), again);
  EXPECT_LT(relative_distance(z.data<float>(), expected.data<float>(), z.numel()), 1e-6);
}

// Longer than the splits of attention()'s sums; a window that is no multiple of a page.
TEST(HybridAttention, PiecesAndThreadsChangeNoBit) {
  const HybridAttentionSpec s = hybrid_spec(4, 2, 70);
  constexpr int64_t kRows = 1200;
  const std::vector<Tensor> in = random_inputs(s, kRows);
  auto run = [&](int64_t step, bool in_place) {
    std::vector<HybridSpan> spans{{0, 0, no_state(s)}};
    Tensor y = Tensor::empty({kRows, s.heads * s.v_dim}, DType::f32);
    for (int64_t at = 0; at < kRows; at += step) {
      const int64_t end = std::min(kRows, at + step);
      HybridAttentionInputs x = inputs_of(in);
      x.q = x.q.rows(at, end);
      x.k = x.k.rows(at, end);
      x.v = x.v.rows(at, end);
      spans[0].begin = 0;
      spans[0].end = end - at;
      const Tensor part = hybrid_attention(s, x, spans, in_place);
      std::copy_n(part.data<float>(), part.numel(), y.mutable_data<float>() + at * y.dim(1));
    }
    return y;
  };
  const int before = thread_count();
  set_threads(1);
  const Tensor whole = run(kRows, false);
  set_threads(2);
  for (int64_t step : {1, 7, 64, 513})
    for (bool in_place : {false, true}) {
      const Tensor y = run(step, in_place);
      EXPECT_EQ(0, std::memcmp(y.raw(), whole.raw(), static_cast<size_t>(y.byte_size())))
          << step << " " << in_place;
    }
  set_threads(before);
}

// Twice the tokens take twice the memory, forward and backward.
TEST(HybridAttention, MemoryIsLinearInTheTokens) {
  const HybridAttentionSpec s = hybrid_spec(2, 1, 16);
  auto peak = [&](int64_t rows) {
    std::vector<Tensor> in = random_inputs(s, rows);
    for (Tensor& x : in) x.require_gradient();
    reset_storage_peak();
    const int64_t before = storage_peak();
    Tape tape;
    std::vector<HybridSpan> spans{{0, rows, no_state(s)}};
    const Tensor y = hybrid_attention(s, inputs_of(in), spans);
    tape.backward(y, random_tensor(y.shape(), 9));
    return static_cast<double>(storage_peak() - before);
  };
  peak(1024);
  const double one = peak(2048), two = peak(4096);
  EXPECT_LT(two, 2.2 * one);
  EXPECT_LT(two, 4096.0 * 4096 * 4);  // one head's scores
}

TEST(HybridAttention, RefusesWhatDoesNotFit) {
  const HybridAttentionSpec s = hybrid_spec(4, 2, 3);
  auto error = [&](size_t which, Shape shape) {
    std::vector<Tensor> in = random_inputs(s, 5);
    if (which < in.size()) in[which] = random_tensor(shape, 1);
    std::vector<HybridSpan> spans{{0, 5, no_state(s)}};
    if (which == 6) spans[0].state[1] = Tensor::zeros(shape, DType::f32);
    if (which == 7) spans[0].end = 6;
    if (which == 8) spans[0].state.pop_back();
    try {
      hybrid_attention(s, inputs_of(in), spans);
      return false;
    } catch (const Error& e) {
      return e.kind() == ErrorKind::invalid_argument;
    }
  };
  EXPECT_FALSE(error(9, {}));
  for (size_t which = 0; which < 7; ++which) EXPECT_TRUE(error(which, {3, 3})) << which;
  EXPECT_TRUE(error(7, {}));
  EXPECT_TRUE(error(8, {}));
}

}  // namespace
}  // namespace hone
