// attention() without a cache, and its gradients, against the definition in double.
#include "attention/attention.h"
#include "base/threads.h"
#include "gradients.h"

namespace hone {
namespace {

using namespace testing;

AttentionSpec spec(int64_t heads, int64_t kv_heads, int64_t k_dim, int64_t v_dim,
                   Pattern pattern = Pattern::causal()) {
  AttentionSpec s;
  s.heads = heads;
  s.kv_heads = kv_heads;
  s.k_dim = k_dim;
  s.v_dim = v_dim;
  s.scale = 0.9f / std::sqrt(static_cast<float>(k_dim));
  s.pattern = pattern;
  return s;
}

Doubles plain(const AttentionSpec& s, const std::vector<AttentionSpan>& spans, const Doubles& q,
              const Doubles& k, const Doubles& v) {
  const int64_t group = s.heads / s.kv_heads;
  Doubles o(q.size() / s.k_dim * s.v_dim);
  for (const AttentionSpan& x : spans)
    for (int64_t i = x.q_begin; i < x.q_end; ++i)
      for (int64_t h = 0; h < s.heads; ++h) {
        const int64_t p = x.k_end - x.k_begin - (x.q_end - i);
        double total = 0;
        Doubles sum(s.v_dim);
        for (int64_t j = x.k_begin; j < x.k_end; ++j) {
          if (!s.pattern.sees(p, j - x.k_begin)) continue;
          double score = 0;
          for (int64_t c = 0; c < s.k_dim; ++c)
            score +=
                q[(i * s.heads + h) * s.k_dim + c] * k[(j * s.kv_heads + h / group) * s.k_dim + c];
          score *= s.scale;
          if (s.softcap > 0) score = s.softcap * std::tanh(score / s.softcap);
          total += std::exp(score);
          for (int64_t c = 0; c < s.v_dim; ++c)
            sum[c] += std::exp(score) * v[(j * s.kv_heads + h / group) * s.v_dim + c];
        }
        for (int64_t c = 0; c < s.v_dim; ++c)
          o[(i * s.heads + h) * s.v_dim + c] = total > 0 ? sum[c] / total : 0;
      }
  return o;
}

void expect_attention(const AttentionSpec& s, const std::vector<AttentionSpan>& spans) {
  const int64_t t = spans.back().q_end, keys = spans.back().k_end;
  expect_gradients(
      [&](const std::vector<Tensor>& x) { return attention(s, x[0], x[1], x[2], spans); },
      [&](const std::vector<Doubles>& x) { return plain(s, spans, x[0], x[1], x[2]); },
      {random_tensor({t, s.heads * s.k_dim}, 1), random_tensor({keys, s.kv_heads * s.k_dim}, 2),
       random_tensor({keys, s.kv_heads * s.v_dim}, 3)},
      1e-5);
}

TEST(AttentionBackward, HeadRatiosAndSizes) {
  for (auto [heads, kv_heads, k, v] :
       {std::tuple(2, 2, 4, 4), {4, 2, 3, 5}, {3, 1, 8, 2}, {1, 1, 17, 20}})
    expect_attention(spec(heads, kv_heads, k, v), {{0, 9, 0, 9}});
}

TEST(AttentionBackward, LengthsAroundATile) {
  for (int64_t n : {1, 64, 65, 100}) expect_attention(spec(2, 1, 2, 2), {{0, n, 0, n}});
}

TEST(AttentionBackward, Patterns) {
  const Pattern c = Pattern::causal();
  for (const Pattern& p : {Pattern(), c & Pattern::window(5), c & !Pattern::prefix(2),
                           c & (Pattern::window(9) | Pattern::prefix(3)), Pattern::window(7)})
    expect_attention(spec(2, 1, 3, 3, p), {{0, 70, 0, 70}});
}

TEST(AttentionBackward, Softcap) {
  AttentionSpec s = spec(2, 1, 4, 4);
  s.scale = 1.5f;
  s.softcap = 2;
  expect_attention(s, {{0, 20, 0, 20}});
}

// Packed sequences do not see each other; queries behind keys of their own (a prefix).
TEST(AttentionBackward, SeveralSequences) {
  expect_attention(spec(2, 1, 3, 3), {{0, 7, 0, 7}, {7, 20, 7, 20}, {20, 21, 20, 21}});
  expect_attention(spec(2, 1, 3, 3), {{0, 7, 0, 12}, {7, 20, 12, 30}});
}

TEST(AttentionBackward, ThreadsChangeNoBit) {
  const AttentionSpec s = spec(4, 2, 16, 16);
  const std::vector<AttentionSpan> spans{{0, 90, 0, 90}, {90, 230, 90, 230}};
  std::vector<std::vector<float>> first;
  for (int threads : {1, 2}) {
    set_threads(threads);
    Tensor q = random_tensor({230, 64}, 1), k = random_tensor({230, 32}, 2),
           v = random_tensor({230, 32}, 3);
    for (Tensor* t : {&q, &k, &v}) t->require_gradient();
    Tape tape;
    Tensor o = attention(s, q, k, v, spans);
    tape.backward(o, random_tensor({230, 64}, 4));
    std::vector<std::vector<float>> now;
    for (const Tensor* t : {&q, &k, &v})
      now.emplace_back(t->gradient().data<float>(), t->gradient().data<float>() + t->numel());
    if (first.empty()) first = now;
    EXPECT_EQ(now, first);
  }
  set_threads(0);
}

}  // namespace
}  // namespace hone
