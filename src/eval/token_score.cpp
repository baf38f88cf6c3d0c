#include "eval/token_score.h"

#include <algorithm>
#include <cmath>

#include "base/threads.h"
#include "ops/dense.h"

namespace hone {
namespace {

// KL(reference ‖ candidate) = Σ p_ref·(log p_ref − log p).
double divergence(const float* r, double r_lse, const float* c, double c_lse, int64_t v) {
  double kl = 0;
  for (int64_t i = 0; i < v; ++i) {
    double log_p = r[i] - r_lse;
    // Terms below e^-25·25 cannot reach the last printed digit.
    if (log_p < -25) continue;
    kl += std::exp(log_p) * (log_p - (c[i] - c_lse));
  }
  return std::max(kl, 0.0);
}

bool same_argmax(const float* a, const float* b, int64_t v) {
  return std::max_element(a, a + v) - a == std::max_element(b, b + v) - b;
}

double quantile(std::vector<double>& sorted, double q) {
  if (sorted.empty()) return std::numeric_limits<double>::quiet_NaN();
  double at = q * static_cast<double>(sorted.size() - 1);
  auto low = static_cast<size_t>(at);
  size_t high = std::min(low + 1, sorted.size() - 1);
  return sorted[low] + (at - static_cast<double>(low)) * (sorted[high] - sorted[low]);
}

}  // namespace

void score_rows(const Tensor& logits, const Tensor* reference, const int32_t* target,
                TokenScore* out) {
  int64_t v = logits.dim(1);
  const float* c = logits.data<float>();
  const float* r = reference ? reference->data<float>() : nullptr;
  parallel_for(logits.dim(0), 1, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; ++i) {
      const float* row = c + i * v;
      double lse = ops::log_sum_exp(row, v);
      out[i].nll = lse - row[target[i]];
      if (r == nullptr) continue;
      const float* ref = r + i * v;
      double ref_lse = ops::log_sum_exp(ref, v);
      out[i].reference_nll = ref_lse - ref[target[i]];
      out[i].kl = divergence(ref, ref_lse, row, lse, v);
      out[i].same_top = same_argmax(ref, row, v);
    }
  });
}

Perplexity summarise(const std::vector<TokenScore>& scores, int64_t bytes, bool reference) {
  Perplexity p;
  auto n = static_cast<double>(scores.size());
  double sum = 0, squares = 0;
  for (const TokenScore& s : scores) {
    sum += s.nll;
    squares += s.nll * s.nll;
  }
  p.tokens = static_cast<int64_t>(scores.size());
  p.nll = sum / n;
  p.perplexity = std::exp(p.nll);
  double variance = n > 1 ? std::max(0.0, (squares - sum * sum / n) / (n - 1)) : 0;
  p.standard_error = p.perplexity * std::sqrt(variance / n);
  p.bits_per_byte = bytes > 0 ? sum / (std::log(2.0) * static_cast<double>(bytes)) : 0;
  if (!reference) return p;
  std::vector<double> kl;
  double ref = 0, same = 0, dp2 = 0, top = 0;
  for (const TokenScore& s : scores) {
    kl.push_back(s.kl);
    ref += s.reference_nll;
    same += s.same_top;
    double dp = std::exp(-s.nll) - std::exp(-s.reference_nll);
    dp2 += dp * dp;
    top = std::max(top, std::fabs(dp));
  }
  p.reference_perplexity = std::exp(ref / n);
  double total = 0;
  for (double k : kl) total += k;
  p.kl_mean = total / n;
  std::sort(kl.begin(), kl.end());
  p.kl_median = quantile(kl, 0.5);
  p.kl_p99 = quantile(kl, 0.99);
  p.top1_agreement = same / n;
  p.rms_dp = std::sqrt(dp2 / n);
  p.max_dp = top;
  return p;
}

}  // namespace hone
