#include "ops/linalg.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/random.h"
#include "base/threads.h"
#include "kernels/select.h"

namespace hone::ops {
namespace {

constexpr int64_t kBlock = 64;
constexpr int64_t kUpdateStrip = 24;

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
    parallel_for(k - e, kUpdateStrip, [&](int64_t i0, int64_t i1) {
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

double dot(const double* a, const double* b, int64_t n) {
  // Eight sums, so that the additions do not wait for each other.
  double part[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int j = 0; j < 8; ++j) part[j] += a[i + j] * b[i + j];
  for (; i < n; ++i) part[0] += a[i] * b[i];
  return ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]));
}

// x −= 2·u·(u·x) for a unit vector u.
void reflect(double* x, const double* u, int64_t n) {
  double t = 2 * dot(x, u, n);
  for (int64_t i = 0; i < n; ++i) x[i] -= t * u[i];
}

// v / ‖v‖, after adding sign(v₀)·‖v‖ to v₀: the reflection that takes v to the first axis.
void make_reflector(double* v, int64_t n) {
  v[0] += std::copysign(std::sqrt(dot(v, v, n)), v[0]);
  double norm = std::sqrt(dot(v, v, n));
  for (int64_t i = 0; i < n; ++i) v[i] = norm > 0 ? v[i] / norm : 0;
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

Tensor random_orthogonal(int64_t n, uint64_t seed, bool keep_mean) {
  HONE_ASSERT(n > 0);
  // To keep the mean: `swap` exchanges the direction of ones with the first axis, and everything
  // between two swaps leaves the first axis alone.
  const int64_t first = keep_mean ? 1 : 0;
  std::vector<double> swap(static_cast<size_t>(n), 1);
  make_reflector(swap.data(), n);
  std::vector<std::vector<double>> reflectors;
  std::vector<double> sign(static_cast<size_t>(n), 1);
  for (int64_t k = first; k < n; ++k) {
    std::vector<double> v(static_cast<size_t>(n - k));
    for (int64_t i = 0; i < n - k; ++i)
      v[i] = random_normal(seed, static_cast<uint64_t>(k * n + i));
    sign[k] = v[0] > 0 ? -1 : 1;
    make_reflector(v.data(), n - k);
    reflectors.push_back(std::move(v));
  }
  Tensor q = Tensor::empty({n, n}, DType::f32);
  float* out = q.mutable_data<float>();
  parallel_for(n, 4, [&](int64_t r0, int64_t r1) {
    std::vector<double> x(static_cast<size_t>(n));
    for (int64_t r = r0; r < r1; ++r) {
      std::fill(x.begin(), x.end(), 0.0);
      x[r] = 1;
      if (keep_mean) reflect(x.data(), swap.data(), n);
      for (int64_t k = first; k < n; ++k) reflect(&x[k], reflectors[k - first].data(), n - k);
      for (int64_t i = 0; i < n; ++i) x[i] *= sign[i];
      if (keep_mean) reflect(x.data(), swap.data(), n);
      for (int64_t i = 0; i < n; ++i) out[r * n + i] = static_cast<float>(x[i]);
    }
  });
  return q;
}

namespace {

// Makes the rows of u [count, n] orthonormal, in order (modified Gram-Schmidt); what is dependent
// becomes zeros.
void orthonormalise(std::vector<double>& u, int64_t n) {
  auto dot = [n](const double* a, const double* b) {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
    return sum;
  };
  double* const end = u.data() + u.size();
  for (double* row = u.data(); row < end; row += n) {
    const double before = dot(row, row);
    for (const double* other = u.data(); other < row; other += n) {
      const double part = dot(other, row);
      for (int64_t i = 0; i < n; ++i) row[i] -= part * other[i];
    }
    const double left = dot(row, row);
    const double factor = left > 1e-24 * before ? 1 / std::sqrt(left) : 0;
    for (int64_t i = 0; i < n; ++i) row[i] *= factor;
  }
}

}  // namespace

std::vector<double> principal_directions(std::span<const double> h, int64_t n, int64_t count,
                                         uint64_t seed) {
  constexpr int kMost = 200;
  constexpr double kEnough = 1e-8;  // of what is kept, from one step to the next
  HONE_ASSERT(std::ssize(h) == n * n && count <= n);
  std::vector<double> u(static_cast<size_t>(n * count));
  for (size_t i = 0; i < u.size(); ++i) u[i] = random_uniform(seed, i) - 0.5;
  orthonormalise(u, n);
  double kept = -1;
  for (int step = 0; step < kMost; ++step) {
    std::vector<double> next(u.size());
    parallel_for(count, 1, [&](int64_t b, int64_t e) {
      for (int64_t at = b * n; at < e * n; ++at) {
        const double *row = &h[at % n * n], *from = &u[at / n * n];
        double sum = 0;
        for (int64_t j = 0; j < n; ++j) sum += row[j] * from[j];
        next[at] = sum;
      }
    });
    double keeps = 0;
    for (size_t i = 0; i < u.size(); ++i) keeps += u[i] * next[i];
    orthonormalise(next, n);
    u = std::move(next);
    if (std::abs(keeps - kept) <= kEnough * std::abs(keeps)) break;
    kept = keeps;
  }
  return u;
}

std::vector<std::complex<double>> principal_direction(std::span<const std::complex<double>> h,
                                                      int64_t count) {
  using Complex = std::complex<double>;
  const auto n = static_cast<size_t>(count);
  HONE_ASSERT(h.size() == n * n);
  // The column of the largest diagonal has a part of it, unless all is zero.
  size_t most = 0;
  for (size_t i = 1; i < n; ++i)
    if (h[i * n + i].real() > h[most * n + most].real()) most = i;
  std::vector<Complex> u(n);
  for (size_t i = 0; i < n; ++i) u[i] = h[i * n + most];
  for (int step = 0;; ++step) {
    double norm = 0;
    for (const Complex& x : u) norm += std::norm(x);
    if (norm == 0) return std::vector<Complex>(n, 1 / std::sqrt(double(n)));
    for (Complex& x : u) x /= std::sqrt(norm);
    if (step == 300) return u;
    std::vector<Complex> next(n);
    for (size_t i = 0; i < n; ++i)
      for (size_t j = 0; j < n; ++j) next[i] += h[i * n + j] * u[j];
    u = std::move(next);
  }
}

}  // namespace hone::ops
