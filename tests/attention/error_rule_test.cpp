// FlashAttention's own rule for errors, on its grid of head sizes, head ratios, lengths and
// options: against a reference in double, the largest error may be twice (of gradients, three
// times) that of a plain f32 implementation that holds all scores. Where scores are of some tens,
// gradients may have √d/2 roundings of the log sum on top, as sums of d products carry: backward
// makes the scores again, with roundings of their own, against a log sum in f32. The rule was made
// for halves, where these do not show. FlashAttention's inputs that overflow a softmax without
// maxima, and its check for races by repetition.
#include "base/threads.h"
#include "gradients.h"
#include "plain_attention.h"

namespace hone {
namespace {

using namespace testing;

// O and the gradients of Σ O∘dO, all scores at once, in arithmetic of type T.
template <typename T>
struct Whole {
  std::vector<T> o, dq, dk, dv;

  Whole(const AttentionSpec& s, int64_t sq, int64_t sk, const Tensor& q, const Tensor& k,
        const Tensor& v, const Tensor& grad)
      : o(grad.numel()), dq(q.numel()), dk(k.numel()), dv(v.numel()) {
    for (int64_t h = 0; h < s.heads; ++h)
      for (int64_t i = 0; i < sq; ++i) row(s, sq, sk, h, i, q, k, v, grad);
  }

  void row(const AttentionSpec& s, int64_t sq, int64_t sk, int64_t h, int64_t i, const Tensor& q,
           const Tensor& k, const Tensor& v, const Tensor& grad) {
    const int64_t d = s.k_dim, e = s.v_dim, g = h / (s.heads / s.kv_heads), p = i + sk - sq;
    auto at = [](const Tensor& t, int64_t row, int64_t heads, int64_t head, int64_t width) {
      return t.data<float>() + (row * heads + head) * width;
    };
    const float *qi = at(q, i, s.heads, h, d), *gi = at(grad, i, s.heads, h, e);
    std::vector<T> score(sk), slope(sk, 1);
    T top = -INFINITY, total = 0, delta = 0;
    for (int64_t j = 0; j < sk; ++j) {
      const float* kj = at(k, j, s.kv_heads, g, d);
      T x = 0;
      for (int64_t c = 0; c < d; ++c) x += T(qi[c]) * T(kj[c]);
      x *= s.scale;
      if (s.softcap > 0) {
        const T t = std::tanh(x / s.softcap);
        x = s.softcap * t;
        slope[j] = 1 - t * t;
      }
      if (!s.alibi.slopes.empty()) x -= s.alibi.slopes[h] * std::fabs(T(j - p));
      score[j] = s.pattern.sees(p, j) ? x : -INFINITY;
      top = std::max(top, score[j]);
    }
    if (top == -INFINITY) return;
    for (T& x : score) total += x = std::exp(x - top);
    T* oi = &o[(i * s.heads + h) * e];
    for (int64_t j = 0; j < sk; ++j) {
      score[j] /= total;
      const float* vj = at(v, j, s.kv_heads, g, e);
      for (int64_t c = 0; score[j] != 0 && c < e; ++c) oi[c] += score[j] * vj[c];
    }
    for (int64_t c = 0; c < e; ++c) delta += oi[c] * gi[c];
    for (int64_t j = 0; j < sk; ++j) {
      if (score[j] == 0) continue;
      const float *kj = at(k, j, s.kv_heads, g, d), *vj = at(v, j, s.kv_heads, g, e);
      T dp = 0;
      for (int64_t c = 0; c < e; ++c) dp += T(gi[c]) * vj[c];
      const T ds = score[j] * (dp - delta) * slope[j] * s.scale;
      for (int64_t c = 0; c < e; ++c) dv[(j * s.kv_heads + g) * e + c] += score[j] * gi[c];
      for (int64_t c = 0; c < d; ++c) {
        dq[(i * s.heads + h) * d + c] += ds * kj[c];
        dk[(j * s.kv_heads + g) * d + c] += ds * qi[c];
      }
    }
  }
};

void expect_rule(const char* what, const Tensor& got, const std::vector<double>& exact,
                 const std::vector<float>& plain, double factor, double of_log_sum = 0) {
  double largest = 0, error = 0, of_plain = 0, rounding = 0;
  for (int64_t i = 0; i < got.numel(); ++i) {
    ASSERT_TRUE(std::isfinite(got.data<float>()[i])) << what;
    largest = std::max(largest, std::fabs(exact[i]));
    error = std::max(error, std::fabs(got.data<float>()[i] - exact[i]));
    of_plain = std::max(of_plain, std::fabs(plain[i] - exact[i]));
    const auto x = static_cast<float>(exact[i]), there = x + 0.3f, back = there - 0.3f;
    rounding = std::max(rounding, std::fabs(double{back} - x));
  }
  EXPECT_LE(error, factor * of_plain + 2 * rounding + of_log_sum * largest) << what;
}

void expect_rule(const AttentionSpec& s, int64_t sq, int64_t sk, float q_scale, float kv_scale) {
  SCOPED_TRACE(fmt::format("{} queries, {} keys, {}/{} heads of {}, {}, cap {}, ALiBi {}", sq, sk,
                           s.heads, s.kv_heads, s.k_dim, s.pattern.describe(), s.softcap,
                           s.alibi.slopes.size()));
  Tensor q = random_tensor({sq, s.heads * s.k_dim}, 1, q_scale);
  Tensor k = random_tensor({sk, s.kv_heads * s.k_dim}, 2, kv_scale);
  Tensor v = random_tensor({sk, s.kv_heads * s.v_dim}, 3, kv_scale);
  const Tensor grad = random_tensor({sq, s.heads * s.v_dim}, 4);
  const Whole<double> exact(s, sq, sk, q, k, v, grad);
  const Whole<float> plain(s, sq, sk, q, k, v, grad);
  for (Tensor* t : {&q, &k, &v}) t->require_gradient();
  Tape tape;
  Tensor sums, o = attention(s, q, k, v, {{0, sq, 0, sk}}, {}, &sums);
  tape.backward(o, grad.clone());
  const double unit = 0x1p-25 * std::sqrt(double(s.k_dim));
  double rounding = 0;
  for (int64_t i = 0; i < sums.numel(); ++i)
    if (std::isfinite(sums.data<float>()[i]))
      rounding = std::max(rounding, unit * std::fabs(sums.data<float>()[i]));
  if (rounding < unit * 10) rounding = 0;
  expect_rule("O", o, exact.o, plain.o, 2);
  expect_rule("dQ", q.gradient(), exact.dq, plain.dq, 3, rounding);
  expect_rule("dK", k.gradient(), exact.dk, plain.dk, 3, rounding);
  expect_rule("dV", v.gradient(), exact.dv, plain.dv, 3, rounding);
}

// Each size of head meets another ratio, pattern and pair of lengths; every option meets several.
TEST(AttentionErrorRule, HoldsOnTheGrid) {
  const int64_t sizes[] = {32, 40, 59, 64, 80, 96, 111, 128, 160, 192, 224, 256};
  const std::pair<int64_t, int64_t> lengths[] = {{113, 203}, {128, 217}, {113, 211}, {108, 256},
                                                 {256, 128}, {1, 239},   {3, 799},   {127, 512},
                                                 {1, 339},   {64, 300},  {16, 1000}};
  const std::pair<int64_t, int64_t> heads[] = {{2, 2}, {2, 1}, {4, 2}};
  const char* patterns[] = {"all", "causal", "band(50, 0)", "causal", "band(30, 20)"};
  for (size_t i = 0; i < 24; ++i) {
    const int64_t d = sizes[i % 12];
    auto [h, kv] = heads[i % 3];
    AttentionSpec s = attention_spec(h, kv, d, d, Pattern::parse(patterns[i % 5]));
    if (i % 4 == 1) s.softcap = 5;
    if (i % 3 == 2) s.alibi.slopes = alibi_slopes(h);
    auto [sq, sk] = lengths[i % 11];
    expect_rule(s, sq, sk, 1, 1);
  }
}

// Scores up to about 60: e^60 is beyond what sums without a maximum hold.
TEST(AttentionErrorRule, LargeScoresDoNotOverflow) {
  for (int64_t d : {64, 128})
    for (float softcap : {0.0f, 30.0f}) {
      AttentionSpec s = attention_spec(2, 1, d, d);
      s.softcap = softcap;
      expect_rule(s, 113, 203, 5, 3);
    }
}

TEST(AttentionErrorRule, RepeatedRunsGiveTheSameBits) {
  AttentionSpec s = attention_spec(4, 2, 16, 16);
  Tensor q = random_tensor({200, 64}, 1), k = random_tensor({200, 32}, 2);
  Tensor v = random_tensor({200, 32}, 3), sinks = random_tensor({4}, 5);
  const Tensor grad = random_tensor({200, 64}, 4);
  set_threads(0);
  std::vector<std::vector<float>> first;
  for (int i = 0; i < 250; ++i) {
    AttentionTerms terms;
    terms.sinks = sinks;
    for (Tensor* t : {&q, &k, &v, &terms.sinks}) t->require_gradient();
    Tape tape;
    Tensor o = attention(s, q, k, v, {{0, 70, 0, 70}, {70, 200, 70, 200}}, terms);
    tape.backward(o, grad.clone());
    std::vector<std::vector<float>> now;
    for (const Tensor& t : {o, q.gradient(), k.gradient(), v.gradient(), terms.sinks.gradient()})
      now.emplace_back(t.data<float>(), t.data<float>() + t.numel());
    if (first.empty()) first = now;
    ASSERT_EQ(now, first) << "run " << i;
  }
}

}  // namespace
}  // namespace hone
