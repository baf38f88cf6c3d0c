// The oracle of every other kernel: plain loops, double accumulators, no layout tricks.
#pragma once

#include <cstdint>

namespace hone::kernels::ref {

/// y[T, N] = x[T, K]·w[N, K]ᵀ + bias[N] (bias may be null).
void gemm(const float* x, const float* w, const float* bias, int64_t t, int64_t n, int64_t k,
          float* y);
/// What attention_row adds to and takes from a row's keys, [keys] each; null = nothing.
struct RowTerms {
  const float* before_cap = nullptr;
  const float* behind_cap = nullptr;
  const float* factor = nullptr;  ///< of each probability, dropout's; the sum takes them all
};
/// One query row q[D] over `keys` rows of K [keys, D] and V [keys, Dv]; seen[j] tells whether key j
/// takes part. A row that sees nothing gives zeros.
void attention_row(const float* q, const float* k, const float* v, const bool* seen, int64_t keys,
                   int64_t d, int64_t dv, float scale, float softcap, float* o,
                   const RowTerms& terms = {});
void rms_norm(const float* x, const float* w, float offset, float eps, int64_t rows, int64_t d,
              float* y);
/// b may be null.
void layer_norm(const float* x, const float* w, const float* b, float eps, int64_t rows, int64_t d,
                float* y);
float silu(float x);
float gelu_tanh(float x);
float log_sum_exp(const float* x, int64_t n);

}  // namespace hone::kernels::ref
