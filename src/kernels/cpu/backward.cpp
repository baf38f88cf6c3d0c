// What gradients need of rows and elements: the derivatives of norms, activations, softmax and
// attention's scores, each beside the names of its forward kernel. Sums over rows are left to the
// caller's order: a kernel adds its rows, from first to last, to what is there.
#include "kernels/cpu/scores.h"
#include "kernels/cpu/simd.h"

namespace hone::kernels::HONE_ISA {
namespace {

HONE_INLINE float root(float x) { return __builtin_sqrtf(x); }
HONE_INLINE vf sigmoid(vf x) { return div(set_f(1), add(set_f(1), exp_f(sub(zero_f(), x)))); }

struct Derived {
  vf value, slope;
};
// s = x·σ(x), s' = σ(x)·(1 + x·(1 − σ(x))).
HONE_INLINE Derived silu(vf x) {
  vf s = sigmoid(x);
  return {mul(x, s), mul(s, fma(x, sub(set_f(1), s), set_f(1)))};
}
// g = x·σ(2u) with u = √(2/π)(x + 0.044715·x³), g' = σ + x·σ·(1 − σ)·2u'.
HONE_INLINE Derived gelu_tanh(vf x) {
  const vf two_c = set_f(2 * 0.7978845608028654f);
  vf x2 = mul(x, x);
  vf s = sigmoid(mul(two_c, mul(x, fma(x2, set_f(0.044715f), set_f(1)))));
  vf inner = mul(two_c, fma(x2, set_f(3 * 0.044715f), set_f(1)));
  return {mul(x, s), mul(s, fma(mul(x, sub(set_f(1), s)), inner, set_f(1)))};
}

template <Derived activation(vf)>
HONE_INLINE void gated(const float* gate, const float* up, const float* dy, int64_t n, float* dgate,
                       float* dup) {
  each_vector(n, [&](int64_t i, int64_t m) {
    Derived a = activation(load_n(gate + i, m));
    vf g = load_n(dy + i, m);
    store_n(dgate + i, mul(g, mul(load_n(up + i, m), a.slope)), m);
    store_n(dup + i, mul(g, a.value), m);
  });
}

HONE_INLINE void add_to(float* sum, vf v, int64_t n) { store_n(sum, add(load_n(sum, n), v), n); }

}  // namespace

// y = x·r·w' with r = 1/rms(x), w' = w + offset:
// dx = r·(w'·dy − x·r²·mean(x·w'·dy)), dw = Σ dy·x·r.
void rms_norm_backward(const float* x, const float* w, float offset, float eps, const float* dy,
                       int64_t rows, int64_t d, float* dx, float* dw) {
  for (int64_t row = 0; row < rows; ++row, x += d, dy += d, dx += d) {
    vf squares = zero_f(), dots = zero_f();
    each_vector(d, [&](int64_t i, int64_t n) {
      vf v = load_n(x + i, n);
      squares = fma(v, v, squares);
      vf g = mul(load_n(dy + i, n), add(load_n(w + i, n), set_f(offset)));
      dots = fma(v, g, dots);
    });
    const float r = 1.0f / root(reduce_add(squares) / (float)d + eps);
    const vf back = set_f(-r * r * reduce_add(dots) / (float)d), rate = set_f(r);
    each_vector(d, [&](int64_t i, int64_t n) {
      vf v = load_n(x + i, n), g = load_n(dy + i, n);
      vf gw = mul(g, add(load_n(w + i, n), set_f(offset)));
      store_n(dx + i, mul(rate, fma(v, back, gw)), n);
      if (dw) add_to(dw + i, mul(g, mul(v, rate)), n);
    });
  }
}

// y = (x − mean)·r·w + b: with c = (x − mean)·r, dx = r·(w·dy − mean(w·dy) − c·mean(c·w·dy)).
void layer_norm_backward(const float* x, const float* w, float eps, const float* dy, int64_t rows,
                         int64_t d, float* dx, float* dw, float* db) {
  const float inverse = 1.0f / (float)d;
  for (int64_t row = 0; row < rows; ++row, x += d, dy += d, dx += d) {
    vf sum = zero_f(), squares = zero_f(), sum_g = zero_f(), dots = zero_f();
    each_vector(d, [&](int64_t i, int64_t n) { sum = add(sum, load_n(x + i, n)); });
    const float mean = reduce_add(sum) * inverse;
    float rest = 0;
    each_vector(d, [&](int64_t i, int64_t n) {
      vf gw = mul(load_n(dy + i, n), load_n(w + i, n));
      sum_g = add(sum_g, gw);
      if (n < 16) {  // lanes that are not there must not count as −mean
        for (int64_t j = 0; j < n; ++j) rest += (x[i + j] - mean) * (x[i + j] - mean);
        vf c = sub(load_n(x + i, n), set_f(mean));
        dots = fma(c, gw, dots);
        return;
      }
      vf c = sub(load_f(x + i), set_f(mean));
      squares = fma(c, c, squares);
      dots = fma(c, gw, dots);
    });
    const float r = 1.0f / root((reduce_add(squares) + rest) * inverse + eps);
    const vf rate = set_f(r), mean_g = set_f(reduce_add(sum_g) * inverse);
    const vf back = set_f(-r * r * reduce_add(dots) * inverse);
    each_vector(d, [&](int64_t i, int64_t n) {
      vf c = sub(load_n(x + i, n), set_f(mean)), g = load_n(dy + i, n);
      vf gw = mul(g, load_n(w + i, n));
      store_n(dx + i, mul(rate, fma(c, back, sub(gw, mean_g))), n);
      if (dw) add_to(dw + i, mul(g, mul(c, rate)), n);
      if (db) add_to(db + i, g, n);
    });
  }
}

void silu_mul_backward(const float* gate, const float* up, const float* dy, int64_t n, float* dgate,
                       float* dup) {
  gated<silu>(gate, up, dy, n, dgate, dup);
}
void gelu_tanh_mul_backward(const float* gate, const float* up, const float* dy, int64_t n,
                            float* dgate, float* dup) {
  gated<gelu_tanh>(gate, up, dy, n, dgate, dup);
}
void gelu_tanh_backward(const float* x, const float* dy, int64_t n, float* dx) {
  each_vector(n, [&](int64_t i, int64_t m) {
    store_n(dx + i, mul(load_n(dy + i, m), gelu_tanh(load_n(x + i, m)).slope), m);
  });
}

void softmax_of(const float* x, int64_t n, float log_sum, float scale, float* y) {
  each_vector(n, [&](int64_t i, int64_t m) {
    store_n(y + i, mul(exp_f(sub(load_n(x + i, m), set_f(log_sum))), set_f(scale)), m);
  });
}

void attention_gradients(const AttentionGradients* a) {
  const ScoreTerms& t = a->terms;
  const vf scale = set_f(a->scale);
  for (int64_t r = 0; r < a->rows; ++r) {
    float *s = a->s + r * kPageKeys, *dp = a->dp + r * kPageKeys;
    const vf log_sum = set_f(a->log_sum[r]), delta = set_f(a->delta[r]);
    for (int i = 0; i < kPageKeys / kPanel; ++i) {
      const int64_t key = a->key + i * kPanel;
      vf score = mul(load_f(s + i * kPanel), scale), slope = scale;
      if (t.slope && t.alibi_first) score = add(score, alibi(t, r, key));
      if (a->softcap > 0) {
        vf c = tanh_f(div(score, set_f(a->softcap)));
        score = mul(c, set_f(a->softcap));
        slope = mul(scale, sub(set_f(1), mul(c, c)));
      }
      if (t.slope && !t.alibi_first) score = add(score, alibi(t, r, key));
      if (t.bias) score = add(score, bias(t, r, key));
      vf p = exp_f(sub(score, log_sum));
      p = select_bits((uint32_t)(a->mask[r] >> (i * kPanel)) & 0xffffu, p, zero_f());
      // The factor of dropout.
      const vf kept = a->keep ? select_bits((uint32_t)(a->keep[r] >> (i * kPanel)) & 0xffffu,
                                            set_f(t.keep_factor), zero_f())
                              : set_f(1);
      store_f(s + i * kPanel, mul(p, kept));
      vf ds = mul(p, sub(mul(load_f(dp + i * kPanel), kept), delta));
      if (a->dbias && key < t.keys) {
        float* to = a->dbias + t.bias_offset[r] + key;
        store_y(to, add(load_y(to, t.keys - key), ds), t.keys - key);
      }
      store_f(dp + i * kPanel, mul(ds, slope));
    }
  }
}

}  // namespace hone::kernels::HONE_ISA
