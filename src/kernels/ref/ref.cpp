#include "kernels/ref/ref.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace hone::kernels::ref {

void gemm(const float* x, const float* w, const float* bias, int64_t t, int64_t n, int64_t k,
          float* y) {
  for (int64_t i = 0; i < t; ++i)
    for (int64_t j = 0; j < n; ++j) {
      double sum = bias ? bias[j] : 0;
      for (int64_t c = 0; c < k; ++c) sum += double{x[i * k + c]} * w[j * k + c];
      y[i * n + j] = static_cast<float>(sum);
    }
}

void attention_row(const float* q, const float* k, const float* v, const bool* seen, int64_t keys,
                   int64_t d, int64_t dv, float scale, float softcap, float* o,
                   const RowTerms& terms) {
  std::vector<double> s(static_cast<size_t>(keys));
  double top = -INFINITY;
  for (int64_t j = 0; j < keys; ++j) {
    if (!seen[j]) continue;
    for (int64_t c = 0; c < d; ++c) s[j] += double{q[c]} * k[j * d + c];
    s[j] *= scale;
    if (terms.before_cap) s[j] += terms.before_cap[j];
    if (softcap > 0) s[j] = softcap * std::tanh(s[j] / softcap);
    if (terms.behind_cap) s[j] += terms.behind_cap[j];
    top = std::max(top, s[j]);
  }
  double total = 0;
  std::vector<double> sum(static_cast<size_t>(dv));
  for (int64_t j = 0; j < keys; ++j) {
    if (!seen[j]) continue;
    double p = std::exp(s[j] - top);
    total += p;
    if (terms.factor) p *= terms.factor[j];
    for (int64_t c = 0; c < dv; ++c) sum[c] += p * v[j * dv + c];
  }
  for (int64_t c = 0; c < dv; ++c) o[c] = total > 0 ? static_cast<float>(sum[c] / total) : 0.0f;
}

void rms_norm(const float* x, const float* w, float offset, float eps, int64_t rows, int64_t d,
              float* y) {
  for (int64_t r = 0; r < rows; ++r, x += d, y += d) {
    double squares = 0;
    for (int64_t i = 0; i < d; ++i) squares += double{x[i]} * x[i];
    double inverse = 1 / std::sqrt(squares / double(d) + eps);
    for (int64_t i = 0; i < d; ++i)
      y[i] = static_cast<float>(x[i] * inverse * (double{w[i]} + offset));
  }
}

void layer_norm(const float* x, const float* w, const float* b, float eps, int64_t rows, int64_t d,
                float* y) {
  for (int64_t r = 0; r < rows; ++r, x += d, y += d) {
    double mean = 0, squares = 0;
    for (int64_t i = 0; i < d; ++i) mean += x[i] / double(d);
    for (int64_t i = 0; i < d; ++i) squares += (x[i] - mean) * (x[i] - mean);
    double inverse = 1 / std::sqrt(squares / double(d) + eps);
    for (int64_t i = 0; i < d; ++i)
      y[i] = static_cast<float>((x[i] - mean) * inverse * w[i] + (b ? b[i] : 0));
  }
}

float silu(float x) { return static_cast<float>(x / (1 + std::exp(-double{x}))); }

float gelu_tanh(float x) {
  double u = std::sqrt(2 / M_PI) * (x + 0.044715 * double{x} * x * x);
  return static_cast<float>(0.5 * x * (1 + std::tanh(u)));
}

float log_sum_exp(const float* x, int64_t n) {
  double top = *std::max_element(x, x + n), sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp(x[i] - top);
  return static_cast<float>(top + std::log(sum));
}

}  // namespace hone::kernels::ref
