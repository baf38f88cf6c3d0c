#include "ops/between.h"

#include <algorithm>

#include "base/threads.h"
#include "ops/tape.h"

namespace hone::ops {
namespace {

constexpr int64_t kGrain = 1 << 14;

// y[i] = f(i) for all elements of `shape`.
template <typename F>
Tensor each(const Shape& shape, F f) {
  Tensor y = Tensor::empty(shape, DType::f32);
  float* out = y.mutable_data<float>();
  parallel_for(y.numel(), kGrain, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; ++i) out[i] = f(i);
  });
  return y;
}

// dx, of as many rows as `like` has: a parameter that served all rows gets their sum, in order.
void add_rows(const Tensor& like, const Tensor& dx) {
  if (like.numel() == dx.numel()) {
    add_gradient(like, dx);
    return;
  }
  float* sum = gradient_of(like).mutable_data<float>();
  const float* d = dx.data<float>();
  for (int64_t i = 0; i < dx.numel(); ++i) sum[i % like.numel()] += d[i];
}

}  // namespace

Tensor lerp(const Tensor& a, const Tensor& b, const Tensor& c) {
  const int64_t n = c.numel();
  HONE_ASSERT(a.numel() == b.numel() && a.numel() % n == 0);
  const float *p = a.data<float>(), *q = b.data<float>(), *f = c.data<float>();
  Tensor y = each(a.shape(), [=](int64_t i) { return p[i] + (q[i] - p[i]) * f[i % n]; });
  if (recorded({&a, &b, &c}))
    record(y, [a, b, c, n](const Tensor& dy) {
      const float *g = dy.data<float>(), *f = c.data<float>();
      const float *p = a.data<float>(), *q = b.data<float>();
      if (a.requires_gradient())
        add_gradient(a, each(a.shape(), [=](int64_t i) { return g[i] * (1 - f[i % n]); }));
      if (b.requires_gradient())
        add_gradient(b, each(b.shape(), [=](int64_t i) { return g[i] * f[i % n]; }));
      if (c.requires_gradient())
        add_rows(c, each(a.shape(), [=](int64_t i) { return g[i] * (q[i] - p[i]); }));
    });
  return y;
}

Tensor head_sums(const Tensor& x, int64_t heads) {
  const int64_t rows = x.dim(0), n = x.numel() / (rows * heads);
  HONE_ASSERT(x.numel() == rows * heads * n);
  const float* p = x.data<float>();
  Tensor y = each({rows, heads}, [=](int64_t i) {
    float sum = 0;
    for (int64_t j = 0; j < n; ++j) sum += p[i * n + j];
    return sum;
  });
  if (recorded({&x}))
    record(y, [x = x.hollow(), n](const Tensor& dy) {
      const float* g = dy.data<float>();
      add_gradient(x, each(x.shape(), [=](int64_t i) { return g[i / n]; }));
    });
  return y;
}

}  // namespace hone::ops
