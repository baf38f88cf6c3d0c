// Row and element operations: norms, activations, addition, log-sum-exp.
#include "kernels/cpu/simd.h"

namespace hone::kernels::HONE_ISA {
namespace {

HONE_INLINE float root(float x) { return __builtin_sqrtf(x); }

HONE_INLINE vf silu(vf x) { return div(x, add(set_f(1), exp_f(sub(zero_f(), x)))); }
// 0.5·x·(1 + tanh(√(2/π)(x + 0.044715·x³))) = x·σ(2u): the sigmoid form does not cancel.
HONE_INLINE vf gelu_tanh_of(vf x) {
  vf u = mul(set_f(0.7978845608028654f), fma(mul(mul(x, x), x), set_f(0.044715f), x));
  return div(x, add(set_f(1), exp_f(mul(set_f(-2), u))));
}

}  // namespace

void rms_norm(const float* x, const float* w, float offset, float eps, int64_t rows, int64_t d,
              float* y) {
  for (int64_t r = 0; r < rows; ++r, x += d, y += d) {
    vf squares = zero_f();
    each_vector(d, [&](int64_t i, int64_t n) {
      vf v = load_n(x + i, n);
      squares = fma(v, v, squares);
    });
    vf inverse = set_f(1.0f / root(reduce_add(squares) / (float)d + eps));
    each_vector(d, [&](int64_t i, int64_t n) {
      vf scaled = mul(load_n(x + i, n), inverse);
      store_n(y + i, mul(scaled, add(load_n(w + i, n), set_f(offset))), n);
    });
  }
}

void layer_norm(const float* x, const float* w, const float* b, float eps, int64_t rows, int64_t d,
                float* y) {
  for (int64_t r = 0; r < rows; ++r, x += d, y += d) {
    vf sum = zero_f();
    each_vector(d, [&](int64_t i, int64_t n) { sum = add(sum, load_n(x + i, n)); });
    float mean = reduce_add(sum) / (float)d;
    float squares = 0;
    vf sq = zero_f();
    each_vector(d, [&](int64_t i, int64_t n) {
      if (n < 16) {
        for (int64_t j = 0; j < n; ++j) squares += (x[i + j] - mean) * (x[i + j] - mean);
        return;
      }
      vf c = sub(load_f(x + i), set_f(mean));
      sq = fma(c, c, sq);
    });
    vf inverse = set_f(1.0f / root((reduce_add(sq) + squares) / (float)d + eps));
    each_vector(d, [&](int64_t i, int64_t n) {
      vf c = mul(sub(load_n(x + i, n), set_f(mean)), inverse);
      vf bias = b ? load_n(b + i, n) : zero_f();
      store_n(y + i, add(mul(c, load_n(w + i, n)), bias), n);
    });
  }
}

void silu_mul(const float* gate, const float* up, int64_t n, float* y) {
  each_vector(n, [&](int64_t i, int64_t m) {
    store_n(y + i, mul(silu(load_n(gate + i, m)), load_n(up + i, m)), m);
  });
}
void gelu_tanh_mul(const float* gate, const float* up, int64_t n, float* y) {
  each_vector(n, [&](int64_t i, int64_t m) {
    store_n(y + i, mul(gelu_tanh_of(load_n(gate + i, m)), load_n(up + i, m)), m);
  });
}
void gelu_tanh(const float* x, int64_t n, float* y) {
  each_vector(n, [&](int64_t i, int64_t m) { store_n(y + i, gelu_tanh_of(load_n(x + i, m)), m); });
}
void add(const float* a, const float* b, int64_t n, float* y) {
  each_vector(
      n, [&](int64_t i, int64_t m) { store_n(y + i, add(load_n(a + i, m), load_n(b + i, m)), m); });
}

float log_sum_exp(const float* x, int64_t n) {
  float top = x[0];
  vf best = set_f(x[0]);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) best = max(best, load_f(x + i));
  top = reduce_max(best);
  for (int64_t j = i; j < n; ++j) top = x[j] > top ? x[j] : top;
  vf sum = zero_f();
  double total = 0;
  // Vector partial sums of 4096 terms at most: 150 000 float additions would lose digits.
  int64_t j = 0;
  while (j + 16 <= n) {
    sum = zero_f();
    for (int64_t end = j + 4096; j + 16 <= n && j < end; j += 16)
      sum = add(sum, exp_f(sub(load_f(x + j), set_f(top))));
    total += (double)reduce_add(sum);
  }
  for (; j < n; ++j) total += (double)first_lane(exp_f(set_f(x[j] - top)));
  return top + (float)__builtin_log(total);
}

}  // namespace hone::kernels::HONE_ISA
