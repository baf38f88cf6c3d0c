#include "ops/dense.h"

#include <algorithm>
#include <cmath>

#include "base/threads.h"
#include "kernels/select.h"
#include "ops/tape.h"

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

// Rows whose parameter gradients one work item adds up; fixed, so that threads change no bit.
constexpr int64_t kRowsOfSum = 64;

// Runs body(first row, rows, sums of `wanted` vectors of d) over the rows in blocks, each with sums
// of its own, and adds these to the gradients of `to` in order.
template <typename F>
void sum_over_rows(int64_t rows, int64_t d, std::initializer_list<const Tensor*> to, F body) {
  const int64_t blocks = (rows + kRowsOfSum - 1) / kRowsOfSum;
  const auto n = static_cast<int64_t>(to.size());
  Tensor sums = Tensor::zeros({blocks, n, d}, DType::f32);
  float* all = sums.mutable_data<float>();
  parallel_for(blocks, 1, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; ++i)
      body(i * kRowsOfSum, std::min(kRowsOfSum, rows - i * kRowsOfSum), all + i * n * d);
  });
  int64_t which = 0;
  for (const Tensor* t : to) {
    if (t->requires_gradient()) {
      float* sum = gradient_of(*t).mutable_data<float>();
      for (int64_t i = 0; i < blocks; ++i) table().add(sum, all + (i * n + which) * d, d, sum);
    }
    ++which;
  }
}

// dx of a norm's rows; the gradients of its parameters are added to.
Tensor rms_norm_back(const Tensor& x, const Tensor& w, float offset, float eps, const Tensor& dy) {
  const int64_t d = w.numel();
  Tensor dx = like(x);
  float* out = dx.mutable_data<float>();
  sum_over_rows(x.numel() / d, d, {&w}, [&](int64_t r, int64_t n, float* sums) {
    table().rms_norm_backward(x.data<float>() + r * d, w.data<float>(), offset, eps,
                              dy.data<float>() + r * d, n, d, out + r * d,
                              w.requires_gradient() ? sums : nullptr);
  });
  return dx;
}
Tensor layer_norm_back(const Tensor& x, const Tensor& w, const Tensor& b, float eps,
                       const Tensor& dy) {
  const int64_t d = w.numel();
  Tensor dx = like(x);
  float* out = dx.mutable_data<float>();
  sum_over_rows(x.numel() / d, d, {&w, &b}, [&](int64_t r, int64_t n, float* sums) {
    table().layer_norm_backward(
        x.data<float>() + r * d, w.data<float>(), eps, dy.data<float>() + r * d, n, d, out + r * d,
        w.requires_gradient() ? sums : nullptr, b.requires_gradient() ? sums + d : nullptr);
  });
  return dx;
}

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
  if (recorded({&x, &w}))
    record(y, [=](const Tensor& dy) { add_gradient(x, rms_norm_back(x, w, offset, eps, dy)); });
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
  if (recorded({&x, &w, &b}))
    record(y, [=](const Tensor& dy) { add_gradient(x, layer_norm_back(x, w, b, eps, dy)); });
  return y;
}

SumAndNorm add_rms_norm(const Tensor& a, const Tensor& b, const Tensor& w, float offset,
                        float eps) {
  if (recorded({&a, &b, &w})) {
    Tensor sum = add(a, b);
    return {sum, rms_norm(sum, w, offset, eps)};
  }
  const float* weight = w.data<float>();
  return add_and(a, b, w.numel(), [&](const float* x, float* y) {
    table().rms_norm(x, weight, offset, eps, 1, w.numel(), y);
  });
}

SumAndNorm add_layer_norm(const Tensor& a, const Tensor& b, const Tensor& w, const Tensor& bias,
                          float eps) {
  if (recorded({&a, &b, &w, &bias})) {
    Tensor sum = add(a, b);
    return {sum, layer_norm(sum, w, bias, eps)};
  }
  const float* weight = w.data<float>();
  const float* shift = bias.empty_handle() ? nullptr : bias.data<float>();
  return add_and(a, b, w.numel(), [&](const float* x, float* y) {
    table().layer_norm(x, weight, shift, eps, 1, w.numel(), y);
  });
}

Tensor add(const Tensor& a, const Tensor& b) {
  HONE_ASSERT(a.numel() == b.numel());
  const float *p = a.data<float>(), *q = b.data<float>();
  Tensor y =
      elementwise(a, [&](int64_t i, int64_t n, float* out) { table().add(p + i, q + i, n, out); });
  if (recorded({&a, &b}))
    record(y, [a = a.hollow(), b = b.hollow()](const Tensor& dy) {
      // Each may take over what it gets.
      add_gradient(a, a.requires_gradient() && b.requires_gradient() ? dy.clone() : dy);
      add_gradient(b, dy);
    });
  return y;
}

void add_in_place(Tensor& a, const Tensor& b) {
  HONE_ASSERT(a.numel() == b.numel());
  float* p = a.mutable_data<float>();
  const float* q = b.data<float>();
  parallel_for(a.numel(), kGrain,
               [&](int64_t i, int64_t e) { table().add(p + i, q + i, e - i, p + i); });
}

Tensor gelu_tanh(const Tensor& x) {
  const float* p = x.data<float>();
  Tensor y =
      elementwise(x, [&](int64_t i, int64_t n, float* out) { table().gelu_tanh(p + i, n, out); });
  if (recorded({&x}))
    record(y, [=](const Tensor& dy) {
      const float *in = x.data<float>(), *g = dy.data<float>();
      add_gradient(x, elementwise(x, [&](int64_t i, int64_t n, float* out) {
                     table().gelu_tanh_backward(in + i, g + i, n, out);
                   }));
    });
  return y;
}

namespace {

using Gated = void (*)(const float*, const float*, int64_t, float*);
using GatedBackward = void (*)(const float*, const float*, const float*, int64_t, float*, float*);

Tensor gated(const Tensor& gate, const Tensor& up, Gated forward, GatedBackward backward) {
  HONE_ASSERT(gate.numel() == up.numel());
  const float *g = gate.data<float>(), *u = up.data<float>();
  Tensor y =
      elementwise(up, [&](int64_t i, int64_t n, float* out) { forward(g + i, u + i, n, out); });
  if (recorded({&gate, &up}))
    record(y, [=](const Tensor& dy) {
      Tensor dgate = like(gate), dup = like(up);
      const float *pg = gate.data<float>(), *pu = up.data<float>(), *pd = dy.data<float>();
      float *og = dgate.mutable_data<float>(), *ou = dup.mutable_data<float>();
      parallel_for(gate.numel(), kGrain, [&](int64_t b, int64_t e) {
        backward(pg + b, pu + b, pd + b, e - b, og + b, ou + b);
      });
      add_gradient(gate, dgate);
      add_gradient(up, dup);
    });
  return y;
}

}  // namespace

Tensor silu_mul(const Tensor& gate, const Tensor& up) {
  return gated(gate, up, table().silu_mul, table().silu_mul_backward);
}
Tensor gelu_tanh_mul(const Tensor& gate, const Tensor& up) {
  return gated(gate, up, table().gelu_tanh_mul, table().gelu_tanh_mul_backward);
}

Tensor scale(const Tensor& x, float s) {
  const float* p = x.data<float>();
  Tensor y = elementwise(x, [&](int64_t i, int64_t n, float* out) {
    for (int64_t j = 0; j < n; ++j) out[j] = p[i + j] * s;
  });
  if (recorded({&x}))
    record(y, [x = x.hollow(), s](const Tensor& dy) { add_gradient(x, scale(dy, s)); });
  return y;
}

void softcap_in_place(Tensor& x, float s) {
  float* p = x.mutable_data<float>();
  parallel_for(x.numel(), kGrain, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; ++i) p[i] = s * std::tanh(p[i] / s);
  });
  if (!recorded({&x})) return;
  Tensor y = x.detached();
  record(y, [x = x.hollow(), y = x.detached(), s](const Tensor& dy) {
    const float *v = y.data<float>(), *g = dy.data<float>();
    add_gradient(x, elementwise(y, [&](int64_t i, int64_t n, float* out) {
                   for (int64_t j = i; j < i + n; ++j)
                     out[j - i] = g[j] * (1 - (v[j] / s) * (v[j] / s));
                 }));
  });
  x = y;
}

float log_sum_exp(const float* x, int64_t n) { return table().log_sum_exp(x, n); }

namespace {
// Rows in blocks that the second-level cache holds; a strip of the result is one work item.
constexpr int64_t kRowBlock = 128, kStrip = 24, kColumns = 256, kNarrow = 64;
}  // namespace

void accumulate_product(const Tensor& dy, const Tensor& x, Tensor& dw) {
  const int64_t rows = x.dim(0), n = dy.dim(1), k = x.dim(1);
  HONE_ASSERT(dy.dim(0) == rows && dw.numel() == n * k);
  if (k < kNarrow && n > k) {
    // Vectors run along the columns of the result: a narrow one is made the other way round.
    Tensor turned = Tensor::zeros({k, n}, DType::f32);
    accumulate_product(x, dy, turned);
    const float* from = turned.data<float>();
    float* to = dw.mutable_data<float>();
    parallel_for(n, 256, [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; ++i)
        for (int64_t j = 0; j < k; ++j) to[i * k + j] += from[j * n + i];
    });
    return;
  }
  const float *a = dy.data<float>(), *b = x.data<float>();
  float* out = dw.mutable_data<float>();
  // A low rank gives few strips of rows: strips of columns too.
  const int64_t strips = (n + kStrip - 1) / kStrip, width = strips < 8 ? kColumns : k;
  const int64_t wide = (k + width - 1) / width;
  for (int64_t s = 0; s < rows; s += kRowBlock)
    parallel_for(strips * wide, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t i0 = i / wide * kStrip, j0 = i % wide * width;
        table().accumulate_tn(a + s * n, n, b + s * k, k, std::min(kRowBlock, rows - s), i0,
                              std::min(n, i0 + kStrip), j0, std::min(k, j0 + width), out, k);
      }
    });
}

void accumulate_columns(const Tensor& dy, Tensor& db) {
  const int64_t rows = dy.dim(0), n = dy.dim(1);
  HONE_ASSERT(db.numel() == n);
  const float* in = dy.data<float>();
  float* out = db.mutable_data<float>();
  parallel_for(n, 256, [&](int64_t b, int64_t e) {
    for (int64_t r = 0; r < rows; ++r) table().add(out + b, in + r * n + b, e - b, out + b);
  });
}

void accumulate_gram(const Tensor& x, Tensor& h) {
  int64_t d = h.dim(0), rows = x.dim(0);
  HONE_ASSERT(h.rank() == 2 && h.dim(1) == d && x.rank() == 2 && x.dim(1) == d);
  const float* in = x.data<float>();
  float* out = h.mutable_data<float>();
  for (int64_t s = 0; s < rows; s += kRowBlock) {
    int64_t count = std::min(kRowBlock, rows - s);
    parallel_for(d, kStrip, [&](int64_t b, int64_t e) {
      table().accumulate_tn(in + s * d, d, in + s * d, d, count, b, e, b, d, out, d);
    });
  }
}

}  // namespace hone::ops
