#include "attention/compressive_memory.h"

#include "base/error.h"
#include "base/threads.h"
#include "ops/tape.h"

namespace hone {
namespace {

constexpr float kEps = 1e-6f;  // beside σ(q)·z, which is 0 for an empty memory

struct Sizes {
  int64_t heads, k, v, rows;
  Sizes(const Tensor& memory, const Tensor& x, int64_t begin, int64_t end)
      : heads(memory.dim(0)), k(memory.dim(1)), v(memory.dim(2) - 1), rows(end - begin) {
    HONE_ASSERT(x.dim(1) == heads * k && begin >= 0 && begin <= end && end <= x.dim(0));
  }
};

float dot(const float* a, const float* b, int64_t n) {
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace

Tensor read_memory(const Tensor& q, int64_t begin, int64_t end, const Tensor& memory) {
  const Sizes n(memory, q, begin, end);
  Tensor y = Tensor::zeros({n.rows, n.heads * n.v}, DType::f32);
  Tensor sums = Tensor::empty({n.rows, n.heads}, DType::f32);  // σ(q)·z + eps
  const float *x = q.data<float>() + begin * q.dim(1), *m = memory.data<float>();
  float *out = y.mutable_data<float>(), *sum = sums.mutable_data<float>();
  parallel_for(n.rows * n.heads, 16, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; ++i) {
      const float* of = m + i % n.heads * n.k * (n.v + 1);
      float *to = out + i * n.v, total = kEps;
      for (int64_t c = 0; c < n.k; ++c) {
        const float f = x[i * n.k + c], *row = of + c * (n.v + 1);
        for (int64_t j = 0; j < n.v; ++j) to[j] += f * row[j];
        total += f * row[n.v];
      }
      for (int64_t j = 0; j < n.v; ++j) to[j] /= total;
      sum[i] = total;
    }
  });
  if (!recorded({&q, &memory})) return y;
  record(y, [q, memory, y = y.detached(), sums, n, begin](const Tensor& dy) {
    const float *x = q.data<float>() + begin * q.dim(1), *m = memory.data<float>();
    const float *o = y.data<float>(), *g = dy.data<float>(), *sum = sums.data<float>();
    Tensor dm = Tensor::zeros(memory.shape(), DType::f32);
    float* to_m = dm.mutable_data<float>();
    float* to_q = nullptr;
    if (q.requires_gradient()) to_q = gradient_of(q).mutable_data<float>() + begin * q.dim(1);
    parallel_for(n.heads, 1, [&](int64_t b, int64_t e) {
      for (int64_t h = b; h < e; ++h)
        for (int64_t i = h; i < n.rows * n.heads; i += n.heads) {
          const float *go = g + i * n.v, inverse = 1 / sum[i];
          const float of_sum = -inverse * dot(go, o + i * n.v, n.v);
          for (int64_t c = 0; c < n.k; ++c) {
            const int64_t at = (h * n.k + c) * (n.v + 1);
            if (to_q != nullptr)
              to_q[i * n.k + c] += inverse * dot(go, m + at, n.v) + of_sum * m[at + n.v];
            const float f = x[i * n.k + c];
            for (int64_t j = 0; j < n.v; ++j) to_m[at + j] += f * inverse * go[j];
            to_m[at + n.v] += f * of_sum;
          }
        }
    });
    add_gradient(memory, dm);
  });
  return y;
}

Tensor write_memory(const Tensor& memory, const Tensor& k, int64_t begin, int64_t end,
                    const Tensor& v) {
  const Sizes n(memory, k, begin, end);
  HONE_ASSERT(v.dim(0) == n.rows && v.dim(1) == n.heads * n.v);
  Tensor y = memory.clone();
  float* to = y.mutable_data<float>();
  const float *x = k.data<float>() + begin * k.dim(1), *from = v.data<float>();
  parallel_for(n.heads * n.k, 16, [&](int64_t b, int64_t e) {
    for (int64_t r = b; r < e; ++r)
      for (int64_t t = 0; t < n.rows; ++t) {
        const float f = x[t * n.heads * n.k + r], *row = from + (t * n.heads + r / n.k) * n.v;
        for (int64_t j = 0; j < n.v; ++j) to[r * (n.v + 1) + j] += f * row[j];
        to[r * (n.v + 1) + n.v] += f;
      }
  });
  if (!recorded({&memory, &k, &v})) return y;
  record(y, [memory = memory.hollow(), k, v, n, begin](const Tensor& dy) {
    const float *g = dy.data<float>(), *x = k.data<float>() + begin * k.dim(1);
    const float* from = v.data<float>();
    Tensor dv = Tensor::zeros(v.shape(), DType::f32);
    float *to_v = dv.mutable_data<float>(), *to_k = nullptr;
    if (k.requires_gradient()) to_k = gradient_of(k).mutable_data<float>() + begin * k.dim(1);
    parallel_for(n.rows * n.heads, 16, [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; ++i)
        for (int64_t c = 0; c < n.k; ++c) {
          const float* row = g + (i % n.heads * n.k + c) * (n.v + 1);
          if (to_k != nullptr) to_k[i * n.k + c] += dot(row, from + i * n.v, n.v) + row[n.v];
          const float f = x[i * n.k + c];
          for (int64_t j = 0; j < n.v; ++j) to_v[i * n.v + j] += f * row[j];
        }
    });
    add_gradient(v, dv);
    add_gradient(memory, dy);
  });
  return y;
}

}  // namespace hone
