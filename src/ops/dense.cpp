#include "ops/dense.h"

#include <algorithm>
#include <cmath>

#include "base/threads.h"
#include "kernels/select.h"

namespace hone::ops {
namespace {

using kernels::table;

// Elements that one work item of an element-wise loop handles.
constexpr int64_t kGrain = 1 << 14;

Tensor like(const Tensor& x) { return Tensor::empty(x.shape(), DType::f32); }

// Runs an element-wise kernel over [0, n) in ranges.
template <typename F>
Tensor elementwise(const Tensor& x, F kernel) {
  Tensor y = like(x);
  float* out = y.mutable_data<float>();
  parallel_for(x.numel(), kGrain, [&](int64_t b, int64_t e) { kernel(b, e - b, out + b); });
  return y;
}

int64_t row_grain(int64_t d) { return std::max<int64_t>(1, kGrain / std::max<int64_t>(d, 1)); }

// norm(sum rows, rows, result rows) behind the addition of some rows of d.
template <typename F>
SumAndNorm add_and(const Tensor& a, const Tensor& b, int64_t d, F norm) {
  HONE_ASSERT(d > 0 && a.numel() % d == 0 && a.numel() == b.numel());
  SumAndNorm out{like(a), like(a)};
  const float *p = a.data<float>(), *q = b.data<float>();
  float *sum = out.sum.mutable_data<float>(), *y = out.norm.mutable_data<float>();
  parallel_for(a.numel() / d, row_grain(d), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      table().add(p + r * d, q + r * d, d, sum + r * d);
      norm(sum + r * d, y + r * d);
    }
  });
  return out;
}

}  // namespace

Tensor rms_norm(const Tensor& x, const Tensor& w, float offset, float eps) {
  int64_t d = w.numel();
  HONE_ASSERT(d > 0 && x.numel() % d == 0);
  Tensor y = like(x);
  const float *in = x.data<float>(), *weight = w.data<float>();
  float* out = y.mutable_data<float>();
  parallel_for(x.numel() / d, row_grain(d), [&](int64_t b, int64_t e) {
    table().rms_norm(in + b * d, weight, offset, eps, e - b, d, out + b * d);
  });
  return y;
}

Tensor layer_norm(const Tensor& x, const Tensor& w, const Tensor& b, float eps) {
  int64_t d = w.numel();
  HONE_ASSERT(d > 0 && x.numel() % d == 0);
  Tensor y = like(x);
  const float *in = x.data<float>(), *weight = w.data<float>();
  const float* bias = b.empty_handle() ? nullptr : b.data<float>();
  float* out = y.mutable_data<float>();
  parallel_for(x.numel() / d, row_grain(d), [&](int64_t begin, int64_t end) {
    table().layer_norm(in + begin * d, weight, bias, eps, end - begin, d, out + begin * d);
  });
  return y;
}

SumAndNorm add_rms_norm(const Tensor& a, const Tensor& b, const Tensor& w, float offset,
                        float eps) {
  const float* weight = w.data<float>();
  return add_and(a, b, w.numel(), [&](const float* x, float* y) {
    table().rms_norm(x, weight, offset, eps, 1, w.numel(), y);
  });
}

SumAndNorm add_layer_norm(const Tensor& a, const Tensor& b, const Tensor& w, const Tensor& bias,
                          float eps) {
  const float* weight = w.data<float>();
  const float* shift = bias.empty_handle() ? nullptr : bias.data<float>();
  return add_and(a, b, w.numel(), [&](const float* x, float* y) {
    table().layer_norm(x, weight, shift, eps, 1, w.numel(), y);
  });
}

Tensor add(const Tensor& a, const Tensor& b) {
  HONE_ASSERT(a.numel() == b.numel());
  const float *p = a.data<float>(), *q = b.data<float>();
  return elementwise(a, [&](int64_t i, int64_t n, float* y) { table().add(p + i, q + i, n, y); });
}

Tensor gelu_tanh(const Tensor& x) {
  const float* p = x.data<float>();
  return elementwise(x, [&](int64_t i, int64_t n, float* y) { table().gelu_tanh(p + i, n, y); });
}

Tensor scale(const Tensor& x, float s) {
  const float* p = x.data<float>();
  return elementwise(x, [&](int64_t i, int64_t n, float* y) {
    for (int64_t j = 0; j < n; ++j) y[j] = p[i + j] * s;
  });
}

void softcap_in_place(Tensor& x, float s) {
  float* p = x.mutable_data<float>();
  parallel_for(x.numel(), kGrain, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; ++i) p[i] = s * std::tanh(p[i] / s);
  });
}

float log_sum_exp(const float* x, int64_t n) { return table().log_sum_exp(x, n); }

void accumulate_gram(const Tensor& x, Tensor& h) {
  int64_t d = h.dim(0), rows = x.dim(0);
  HONE_ASSERT(h.rank() == 2 && h.dim(1) == d && x.rank() == 2 && x.dim(1) == d);
  const float* in = x.data<float>();
  float* out = h.mutable_data<float>();
  // Rows of x in blocks that the second-level cache holds; a strip of h is one work item.
  constexpr int64_t kBlock = 128, kStrip = 24;
  for (int64_t s = 0; s < rows; s += kBlock) {
    int64_t count = std::min(kBlock, rows - s);
    parallel_for(d, kStrip, [&](int64_t b, int64_t e) {
      table().accumulate_tn(in + s * d, d, in + s * d, d, count, b, e, b, d, out, d);
    });
  }
}

}  // namespace hone::ops
