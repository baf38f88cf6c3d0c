#include "ops/heads.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/checked.h"
#include "base/threads.h"
#include "kernels/select.h"
#include "ops/dense.h"
#include "ops/elementwise.h"
#include "ops/tape.h"

namespace hone::ops {
namespace {

constexpr int64_t kHeadGrain = 1 << 14;

// body(t) for all rows, of `width` elements each.
template <typename F>
void each_row(int64_t rows, int64_t width, F body) {
  parallel_for(rows, std::max<int64_t>(1, kHeadGrain / std::max<int64_t>(1, width)),
               [&](int64_t b, int64_t e) {
                 for (int64_t t = b; t < e; ++t) body(t);
               });
}

Tensor filled(int64_t n, float value) {
  return Tensor::from(std::vector<float>(static_cast<size_t>(n), value));
}

Tensor product_of(const Tensor& a, const Tensor& b) {
  Tensor y = Tensor::empty(a.shape(), DType::f32);
  const float *p = a.data<float>(), *q = b.data<float>();
  float* out = y.mutable_data<float>();
  each_row(a.numel(), 1, [&](int64_t i) { out[i] = p[i] * q[i]; });
  return y;
}

}  // namespace

Tensor mul(const Tensor& a, const Tensor& b) {
  HONE_ASSERT(a.shape() == b.shape());
  Tensor y = product_of(a, b);
  if (recorded({&a, &b}))
    record(y, [a, b](const Tensor& dy) {
      if (a.requires_gradient()) add_gradient(a, product_of(b, dy));
      if (b.requires_gradient()) add_gradient(b, product_of(a, dy));
    });
  return y;
}

Tensor scale_heads(const Tensor& x, const Tensor& s) {
  const int64_t rows = x.dim(0), heads = s.dim(1), d = x.dim(1) / heads;
  HONE_ASSERT(s.dim(0) == rows && x.dim(1) == heads * d);
  auto scaled = [d](const Tensor& in, const Tensor& by) {
    Tensor y = Tensor::empty(in.shape(), DType::f32);
    const float *p = in.data<float>(), *f = by.data<float>();
    float* out = y.mutable_data<float>();
    each_row(by.numel(), d, [&](int64_t r) {
      for (int64_t i = r * d; i < (r + 1) * d; ++i) out[i] = p[i] * f[r];
    });
    return y;
  };
  Tensor y = scaled(x, s);
  if (recorded({&x, &s}))
    record(y, [x = s.requires_gradient() ? x : x.hollow(), s, d, scaled](const Tensor& dy) {
      if (s.requires_gradient()) {
        Tensor ds = Tensor::empty(s.shape(), DType::f32);
        const float *p = x.data<float>(), *g = dy.data<float>();
        float* out = ds.mutable_data<float>();
        each_row(s.numel(), d, [&](int64_t r) {
          float sum = 0;
          for (int64_t i = r * d; i < (r + 1) * d; ++i) sum += p[i] * g[i];
          out[r] = sum;
        });
        add_gradient(s, ds);
      }
      if (x.requires_gradient()) add_gradient(x, scaled(dy, s));
    });
  return y;
}

Tensor head_sums(const Tensor& x, int64_t heads) {
  const int64_t rows = x.dim(0), n = x.numel() / (rows * heads);
  HONE_ASSERT(x.numel() == rows * heads * n);
  const float* p = x.data<float>();
  Tensor y = Tensor::empty({rows, heads}, DType::f32);
  float* out = y.mutable_data<float>();
  each_row(rows * heads, n, [&](int64_t i) {
    float sum = 0;
    for (int64_t j = 0; j < n; ++j) sum += p[i * n + j];
    out[i] = sum;
  });
  if (recorded({&x}))
    record(y, [x = x.hollow(), n](const Tensor& dy) {
      const float* g = dy.data<float>();
      Tensor dx = Tensor::empty(x.shape(), DType::f32);
      float* d = dx.mutable_data<float>();
      each_row(dy.numel(), n, [&](int64_t i) { std::fill_n(d + i * n, n, g[i]); });
      add_gradient(x, dx);
    });
  return y;
}

Tensor repeat_heads(const Tensor& x, int64_t heads, int64_t times) {
  const int64_t rows = x.dim(0), d = x.dim(1) / heads;
  HONE_ASSERT(x.dim(1) == heads * d && times > 0);
  Tensor y = Tensor::empty({rows, checked_mul(heads * times, d, "heads")}, DType::f32);
  const float* p = x.data<float>();
  float* out = y.mutable_data<float>();
  each_row(rows * heads, d * times, [&](int64_t r) {
    for (int64_t i = 0; i < times; ++i) std::copy_n(p + r * d, d, out + (r * times + i) * d);
  });
  if (recorded({&x}))
    record(y, [x = x.hollow(), heads, times, d](const Tensor& dy) {
      Tensor dx = Tensor::empty(x.shape(), DType::f32);
      const float* g = dy.data<float>();
      float* sum = dx.mutable_data<float>();
      each_row(x.dim(0) * heads, d * times, [&](int64_t r) {
        std::copy_n(g + r * times * d, d, sum + r * d);
        for (int64_t j = 1; j < times; ++j)
          for (int64_t i = 0; i < d; ++i) sum[r * d + i] += g[(r * times + j) * d + i];
      });
      add_gradient(x, dx);
    });
  return y;
}

Tensor l2_norm(const Tensor& x, int64_t dim, float eps) {
  // x/√(d·mean + eps) is 1/√d of an RMS norm with eps/d.
  const float inverse = 1 / std::sqrt(static_cast<float>(dim));
  return rms_norm(x, filled(dim, inverse), 0, eps / static_cast<float>(dim));
}

Tensor group_rms_norm(const Tensor& x, const Tensor& w, int64_t groups, float eps) {
  HONE_ASSERT(w.numel() % groups == 0);
  return scale_columns(rms_norm(x, filled(w.numel() / groups, 1), 0, eps), w);
}

Tensor group_norm(const Tensor& x, const Tensor& w, const Tensor& b, int64_t groups, float eps) {
  HONE_ASSERT(x.dim(1) % groups == 0);
  Tensor y = layer_norm(x, filled(x.dim(1) / groups, 1), {}, eps);
  if (!w.empty_handle()) y = scale_columns(y, w);
  return b.empty_handle() ? y : add_row(y, b, 1);
}

namespace {

// y[f] = x[d]·w[d, f], in runs that registers hold; each sum is in order.
void row_product(const float* x, const float* w, int64_t d, int64_t f, float* y) {
  constexpr int64_t kRun = 16;
  int64_t j = 0;
  for (; j + kRun <= f; j += kRun) {
    float sum[kRun] = {};
    for (int64_t i = 0; i < d; ++i)
      for (int64_t l = 0; l < kRun; ++l) sum[l] += x[i] * w[i * f + j + l];
    std::copy_n(sum, kRun, y + j);
  }
  for (; j < f; ++j) {
    y[j] = 0;
    for (int64_t i = 0; i < d; ++i) y[j] += x[i] * w[i * f + j];
  }
}

// What flows back through softmax_pairs(): dy of y, which x and w gave.
void softmax_pairs_back(const Tensor& x, const Tensor& w, const Tensor& y, const Tensor& dy) {
  const int64_t rows = x.dim(0), heads = w.dim(0), d = w.dim(1), f = w.dim(2);
  // Of the scores z = x·W: dz = p₊∘(dp₊ − p₊·dp₊) − p₋∘(dp₋ − p₋·dp₋).
  Tensor dz = Tensor::empty({rows, heads * f}, DType::f32);
  const bool wanted = x.requires_gradient();
  Tensor dx = wanted ? Tensor::zeros(x.shape(), DType::f32) : Tensor();
  const float *p = y.data<float>(), *g = dy.data<float>(), *by = w.data<float>();
  float *z = dz.mutable_data<float>(), *to = wanted ? dx.mutable_data<float>() : nullptr;
  each_row(rows * heads, d * f, [&](int64_t r) {
    const float *plus = p + r * 2 * f, *gplus = g + r * 2 * f;
    const float *minus = plus + f, *gminus = gplus + f;
    float up = 0, down = 0;
    for (int64_t j = 0; j < f; ++j) up += plus[j] * gplus[j], down += minus[j] * gminus[j];
    for (int64_t j = 0; j < f; ++j)
      z[r * f + j] = plus[j] * (gplus[j] - up) - minus[j] * (gminus[j] - down);
    for (int64_t i = 0; i < d && wanted; ++i)
      for (int64_t j = 0; j < f; ++j)
        to[r * d + i] += z[r * f + j] * by[(r % heads * d + i) * f + j];
  });
  if (wanted) add_gradient(x, dx);
  if (!w.requires_gradient()) return;
  float* sum = gradient_of(w).mutable_data<float>();
  parallel_for(heads, 1, [&](int64_t b, int64_t e) {
    for (int64_t h = b; h < e; ++h)
      kernels::table().accumulate_tn(x.data<float>() + h * d, heads * d, z + h * f, heads * f, rows,
                                     0, d, 0, f, sum + h * d * f, f);
  });
}

}  // namespace

Tensor softmax_pairs(const Tensor& x, const Tensor& w) {
  const int64_t rows = x.dim(0), heads = w.dim(0), d = w.dim(1), f = w.dim(2);
  HONE_ASSERT(x.dim(1) == heads * d);
  Tensor y = Tensor::empty({rows, heads * 2 * f}, DType::f32);
  const float *p = x.data<float>(), *q = w.data<float>();
  float* out = y.mutable_data<float>();
  const kernels::KernelTable& t = kernels::table();
  each_row(rows * heads, d * f, [&](int64_t r) {
    float *plus = out + r * 2 * f, *minus = plus + f;
    row_product(p + r * d, q + r % heads * d * f, d, f, plus);
    const auto [least, most] = std::minmax_element(plus, plus + f);
    const float low = *least, high = *most;
    t.weights_at_least(plus, f, -INFINITY, low, -1, minus);
    t.weights_at_least(plus, f, -INFINITY, high, 1, plus);
    float up = 0, down = 0;
    for (int64_t j = 0; j < f; ++j) up += plus[j], down += minus[j];
    for (int64_t j = 0; j < f; ++j) plus[j] /= up, minus[j] /= down;
  });
  if (recorded({&x, &w}))
    record(y, [x, w, y = y.detached()](const Tensor& dy) { softmax_pairs_back(x, w, y, dy); });
  return y;
}

}  // namespace hone::ops
