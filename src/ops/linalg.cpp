#include "ops/linalg.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/threads.h"
#include "kernels/select.h"

namespace hone::ops {
namespace {

constexpr int64_t kBlock = 64;
constexpr int64_t kStrip = 24;

// a holds J·H·J (J reverses the order) as its upper triangle, negated. Turns it into the upper
// triangular T with J·H·J = Tᵀ·T, row block by row block; the trailing update adds Tᵀ·T to the
// negated matrix. False where a pivot is not positive.
bool factor(std::vector<float>& a, int64_t k) {
  for (int64_t b = 0; b < k; b += kBlock) {
    int64_t e = std::min(k, b + kBlock);
    for (int64_t i = b; i < e; ++i) {
      float* row = &a[i * k];
      double pivot = -double{row[i]};
      if (!(pivot > 0) || !std::isfinite(pivot)) return false;
      auto inverse = static_cast<float>(1 / std::sqrt(pivot));
      for (int64_t j = i; j < k; ++j) row[j] = -row[j] * inverse;
      for (int64_t r = i + 1; r < e; ++r) {
        float factor = row[r];
        float* other = &a[r * k];
        for (int64_t j = r; j < k; ++j) other[j] += factor * row[j];
      }
    }
    parallel_for(k - e, kStrip, [&](int64_t i0, int64_t i1) {
      kernels::table().accumulate_tn(&a[b * k], k, &a[b * k], k, e - b, e + i0, e + i1, e + i0, k,
                                     a.data(), k);
    });
  }
  return true;
}

// x = t⁻¹ for a lower triangular t, by columns of x in parallel: row i of x is
// (e_i − Σ_{j<i} t[i, j]·x[j]) / t[i, i].
void invert_lower(const std::vector<float>& t, int64_t k, float* x) {
  constexpr int64_t kColumns = 64;
  parallel_for(k, kColumns, [&](int64_t c0, int64_t c1) {
    int64_t n = c1 - c0;
    std::vector<float> strip(static_cast<size_t>((k - c0) * n), 0.0f);
    std::vector<float> left(static_cast<size_t>(kBlock * (k - c0)));
    for (int64_t b = c0; b < k; b += kBlock) {
      int64_t e = std::min(k, b + kBlock), rows = e - b;
      // −t[b…e, c0…b] transposed, then one product for what comes from finished blocks.
      for (int64_t j = c0; j < b; ++j)
        for (int64_t i = b; i < e; ++i) left[(j - c0) * rows + i - b] = -t[i * k + j];
      float* out = &strip[(b - c0) * n];
      kernels::table().accumulate_tn(left.data(), rows, strip.data(), n, b - c0, 0, rows, 0, n, out,
                                     n);
      for (int64_t i = b; i < e; ++i) {
        float* row = &strip[(i - c0) * n];
        if (i < c1) row[i - c0] += 1;
        for (int64_t j = b; j < i; ++j) {
          float f = t[i * k + j];
          const float* from = &strip[(j - c0) * n];
          for (int64_t c = 0; c < n; ++c) row[c] -= f * from[c];
        }
        float inverse = 1 / t[i * k + i];
        for (int64_t c = 0; c < n; ++c) row[c] *= inverse;
      }
    }
    for (int64_t i = c0; i < k; ++i)
      std::memcpy(x + i * k + c0, &strip[(i - c0) * n], static_cast<size_t>(n) * 4);
  });
}

}  // namespace

Tensor inverse_cholesky_upper(const Tensor& h) {
  HONE_ASSERT(h.rank() == 2 && h.dim(0) == h.dim(1));
  int64_t k = h.dim(0);
  const float* in = h.data<float>();
  std::vector<float> a(static_cast<size_t>(k * k));
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = i; j < k; ++j) a[i * k + j] = -in[(k - 1 - j) * k + (k - 1 - i)];
  if (!factor(a, k)) return {};
  // H = R·Rᵀ with R = J·Tᵀ·J upper triangular, so U = R⁻¹ = J·(Tᵀ)⁻¹·J with Tᵀ lower triangular.
  std::vector<float> lower(static_cast<size_t>(k * k), 0.0f);
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = i; j < k; ++j) lower[j * k + i] = a[i * k + j];
  std::fill(a.begin(), a.end(), 0.0f);
  invert_lower(lower, k, a.data());
  Tensor u = Tensor::zeros({k, k}, DType::f32);
  float* out = u.mutable_data<float>();
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = i; j < k; ++j) out[i * k + j] = a[(k - 1 - i) * k + (k - 1 - j)];
  return u;
}

}  // namespace hone::ops
