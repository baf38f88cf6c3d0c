#include "attention/relative.h"

#include <algorithm>
#include <cmath>

#include "base/checked.h"
#include "base/error.h"
#include "base/threads.h"
#include "ops/tape.h"

namespace hone {

Tensor sinusoids(int64_t distances, int64_t width) {
  HONE_ASSERT(width % 2 == 0);
  Tensor t = Tensor::empty({distances, width}, DType::f32);
  float* out = t.mutable_data<float>();
  for (int64_t d = 0; d < distances; ++d)
    for (int64_t i = 0; i < width / 2; ++i) {
      const double angle = double(d) * std::pow(10000.0, -2.0 * double(i) / double(width));
      out[d * width + i] = static_cast<float>(std::sin(angle));
      out[d * width + width / 2 + i] = static_cast<float>(std::cos(angle));
    }
  return t;
}

namespace {

// Of each row of a batch: the place of its own key, which is the number of those in front.
std::vector<int64_t> own_keys(int64_t rows, const std::vector<AttentionSpan>& spans,
                              int64_t distances) {
  std::vector<int64_t> own(static_cast<size_t>(rows), -1);
  for (const AttentionSpan& s : spans) {
    const int64_t keys = s.k_end - s.k_begin, queries = s.q_end - s.q_begin;
    HONE_ASSERT(keys >= queries && keys <= distances && s.q_end <= rows);
    for (int64_t i = 0; i < queries; ++i) own[size_t(s.q_begin + i)] = keys - queries + i;
  }
  return own;
}

// [heads·K, distances]: r with its rows from the last to the first, as columns, so that what a row
// of the bias takes lies side by side.
std::vector<float> reversed_columns(const Tensor& r) {
  const int64_t n = r.dim(0), width = r.dim(1);
  std::vector<float> out(static_cast<size_t>(r.numel()));
  const float* in = r.data<float>();
  for (int64_t d = 0; d < n; ++d)
    for (int64_t c = 0; c < width; ++c) out[size_t(c * n + n - 1 - d)] = in[d * width + c];
  return out;
}

}  // namespace

Tensor relative_bias(const Tensor& q, const Tensor& r, int64_t heads, float scale,
                     const std::vector<AttentionSpan>& spans) {
  const int64_t rows = q.dim(0), width = q.dim(1), size = width / heads, distances = r.dim(0);
  HONE_ASSERT(r.dim(1) == width && heads * size == width);
  const std::vector<int64_t> own = own_keys(rows, spans, distances);
  int64_t keys = 0;
  for (const AttentionSpan& s : spans) keys = std::max(keys, s.k_end - s.k_begin);
  checked_mul(checked_mul(heads, rows, "relative bias"), 4 * keys, "relative bias");
  Tensor y = Tensor::zeros({heads, rows, keys}, DType::f32);
  const std::vector<float> by = reversed_columns(r);
  float* out = y.mutable_data<float>();
  const float* from = q.data<float>();
  parallel_for(heads * rows, 8, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; ++i) {
      const int64_t h = i / rows, t = i % rows, last = own[size_t(t)];
      float* to = out + i * keys;
      for (int64_t c = h * size; c < (h + 1) * size; ++c) {
        const float f = scale * from[t * width + c];
        const float* p = by.data() + c * distances + (distances - 1 - last);
        for (int64_t j = 0; j <= last; ++j) to[j] += f * p[j];
      }
    }
  });
  if (!recorded({&q, &r})) return y;
  record(y, [q, r, own, heads, scale, keys](const Tensor& dy) {
    const int64_t rows = q.dim(0), width = q.dim(1), size = width / heads;
    const float *g = dy.data<float>(), *x = q.data<float>(), *w = r.data<float>();
    Tensor dq = Tensor::zeros(q.shape(), DType::f32), dr = Tensor::zeros(r.shape(), DType::f32);
    float *to_q = dq.mutable_data<float>(), *to_r = dr.mutable_data<float>();
    // A head's columns belong to one thread, which goes through the rows in order.
    parallel_for(heads, 1, [&](int64_t b, int64_t e) {
      for (int64_t h = b; h < e; ++h)
        for (int64_t t = 0; t < rows; ++t)
          for (int64_t j = 0; j <= own[size_t(t)]; ++j) {
            const float f = scale * g[(h * rows + t) * keys + j];
            const int64_t at_q = t * width + h * size;
            const int64_t at_r = (own[size_t(t)] - j) * width + h * size;
            for (int64_t c = 0; c < size; ++c) {
              to_q[at_q + c] += f * w[at_r + c];
              to_r[at_r + c] += f * x[at_q + c];
            }
          }
    });
    add_gradient(q, dq);
    add_gradient(r, dr);
  });
  return y;
}

}  // namespace hone
