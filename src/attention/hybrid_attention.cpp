#include "attention/hybrid_attention.h"

#include <algorithm>
#include <cmath>

#include "attention/linear_attention.h"
#include "base/checked.h"
#include "base/threads.h"
#include "ops/heads.h"
#include "ops/tape.h"

namespace hone {
namespace {

enum StateTensor : size_t { kKeys, kValues, kSums, kCount };
constexpr int64_t kCountUnit = 1 << 20;

void check_shape(const Tensor& x, const Shape& shape, const char* name) {
  HONE_CHECK(x.dtype() == DType::f32 && x.shape() == shape, invalid_argument,
             "hybrid attention: {} must be f32 {}, not {}", name, shape_string(shape),
             shape_string(x.shape()));
}

void check(const HybridAttentionSpec& s, const HybridAttentionInputs& in,
           const std::vector<HybridSpan>& spans) {
  HONE_CHECK(s.heads > 0 && s.kv_heads > 0 && s.heads % s.kv_heads == 0 && s.k_dim > 0 &&
                 s.v_dim > 0 && s.window > 0 && s.features > 0,
             invalid_argument,
             "hybrid attention: {} heads, {} of keys and values, of {} and {}, a window of {} and "
             "{} features: expected sizes above 0, and heads to be a multiple of those of keys",
             s.heads, s.kv_heads, s.k_dim, s.v_dim, s.window, s.features);
  const int64_t t = in.q.rank() == 2 ? in.q.dim(0) : 0;
  check_shape(in.q, {t, checked_mul(s.heads, s.k_dim, "heads")}, "q");
  check_shape(in.k, {t, s.kv_heads * s.k_dim}, "k");
  check_shape(in.v, {t, checked_mul(s.kv_heads, s.v_dim, "heads")}, "v");
  check_shape(in.q_map, {s.heads, s.k_dim, s.features}, "the map of queries");
  check_shape(in.k_map, {s.heads, s.k_dim, s.features}, "the map of keys");
  check_shape(in.factor, {s.heads}, "the factor");
  const std::vector<Shape> shapes = s.state_shapes();
  int64_t last = 0;
  for (const HybridSpan& x : spans) {
    HONE_CHECK(x.begin >= last && x.end >= x.begin && x.end <= t && x.state.size() == shapes.size(),
               invalid_argument, "hybrid attention: the span [{}, {}) of {} rows", x.begin, x.end,
               t);
    last = x.end;
    for (size_t i = 0; i < shapes.size(); ++i) check_shape(x.state[i], shapes[i], "a state");
  }
}

// A span's rows behind those that its window holds: row i of both is old row i, or new row
// i − window.
struct Place {
  int64_t begin, rows;  // of the inputs
  int64_t count;        // tokens before
  int64_t held;         // of the window's rows, the last
  int64_t at;           // of its held and its own rows among all spans'
};

std::vector<Place> places_of(const std::vector<HybridSpan>& spans, int64_t window) {
  std::vector<Place> places;
  int64_t at = 0;
  for (const HybridSpan& s : spans) {
    const float* n = s.state[kCount].data<float>();
    const int64_t count = static_cast<int64_t>(n[0]) * kCountUnit + static_cast<int64_t>(n[1]);
    const int64_t held = std::min(count, window), rows = s.end - s.begin;
    places.push_back({s.begin, rows, count, held, at});
    at += held + rows;
  }
  return places;
}

struct Carried {
  Tensor joined;                // [Σ held + rows, W]: what a window's queries may see
  Tensor leaving;               // [T, W]: the row that leaves the window at each token, or zeros
  std::vector<Tensor> windows;  // of each span, behind its tokens
};

// One of keys and values, x [T, W], with what the windows held.
Carried carry(const Tensor& x, const std::vector<Place>& places, const std::vector<Tensor>& before,
              int64_t window) {
  const int64_t width = x.dim(1), spans = std::ssize(places);
  const int64_t rows =
      places.empty() ? 0 : places.back().at + places.back().held + places.back().rows;
  Carried c;
  c.joined = Tensor::empty({rows, width}, DType::f32);
  c.leaving = Tensor::zeros(x.shape(), DType::f32);
  for (int64_t i = 0; i < spans; ++i) {
    const Place& p = places[i];
    const float *own = x.data<float>() + p.begin * width, *old = before[i].data<float>();
    // Rows [first, first + count) of both, of `to`.
    auto take = [&](int64_t first, int64_t count, float* to) {
      const int64_t of_old = std::clamp<int64_t>(window - first, 0, count);
      to = std::copy_n(old + first * width, of_old * width, to);
      std::copy_n(own + (first + of_old - window) * width, (count - of_old) * width, to);
    };
    take(window - p.held, p.held + p.rows, c.joined.mutable_data<float>() + p.at * width);
    take(0, p.rows, c.leaving.mutable_data<float>() + p.begin * width);
    c.windows.push_back(Tensor::empty({window, width}, DType::f32));
    take(p.rows, window, c.windows.back().mutable_data<float>());
  }
  bool keep = recorded({&x});
  for (const Tensor& b : before) keep = keep || recorded({&b});
  if (!keep) return c;
  std::vector<Tensor*> results{&c.joined, &c.leaving};
  for (Tensor& w : c.windows) results.push_back(&w);
  std::vector<Tensor> states;
  for (const Tensor& b : before) states.push_back(b.hollow());
  record_all(results, [=, x = x.hollow()](const std::vector<Tensor>& grad) {
    Tensor dx = Tensor::zeros(x.shape(), DType::f32);
    for (int64_t i = 0; i < spans; ++i) {
      const Place& p = places[i];
      Tensor old = Tensor::zeros({window, width}, DType::f32);
      float *to_old = old.mutable_data<float>(),
            *to_own = dx.mutable_data<float>() + p.begin * width;
      auto give = [&](int64_t first, int64_t count, const Tensor& of, int64_t row) {
        if (of.empty_handle()) return;
        const float* from = of.data<float>() + row * width;
        for (int64_t r = first; r < first + count; ++r, from += width) {
          float* to = r < window ? to_old + r * width : to_own + (r - window) * width;
          for (int64_t j = 0; j < width; ++j) to[j] += from[j];
        }
      };
      give(window - p.held, p.held + p.rows, grad[0], p.at);
      give(0, p.rows, grad[1], p.begin);
      give(p.rows, window, grad[size_t(2 + i)], 0);
      add_gradient(states[i], old);
    }
    add_gradient(x, dx);
  });
  return c;
}

// Each head's values, repeated for the heads that read them, and a 1 behind them in rows that are
// there: [T, kv_heads·D] → [T, heads·(D + 1)].
Tensor counted(const Tensor& v, const HybridAttentionSpec& s, const std::vector<Place>& places) {
  const int64_t d = s.v_dim, group = s.heads / s.kv_heads, rows = v.dim(0);
  std::vector<float> there(static_cast<size_t>(rows));
  for (const Place& p : places)
    for (int64_t i = 0; i < p.rows; ++i) there[p.begin + i] = p.count + i >= s.window ? 1.0f : 0.0f;
  Tensor y = Tensor::empty({rows, s.heads * (d + 1)}, DType::f32);
  const float* from = v.data<float>();
  float* to = y.mutable_data<float>();
  parallel_for(rows, 64, [&](int64_t b, int64_t e) {
    for (int64_t r = b; r < e; ++r)
      for (int64_t h = 0; h < s.heads; ++h) {
        float* at = to + (r * s.heads + h) * (d + 1);
        std::copy_n(from + (r * s.kv_heads + h / group) * d, d, at);
        at[d] = there[r];
      }
  });
  if (recorded({&v}))
    record(y, [v = v.hollow(), s, d, group](const Tensor& dy) {
      Tensor dv = Tensor::zeros(v.shape(), DType::f32);
      const float* g = dy.data<float>();
      float* sum = dv.mutable_data<float>();
      parallel_for(v.dim(0), 64, [&](int64_t b, int64_t e) {
        for (int64_t r = b * s.heads; r < e * s.heads; ++r)
          for (int64_t i = 0; i < d; ++i) sum[r / group * d + i] += g[r * (d + 1) + i];
      });
      add_gradient(v, dv);
    });
  return y;
}

// What the window's attention gives.
struct Window {
  Tensor o, log_sum, top;
  std::vector<AttentionSpan> spans;
};

// Gradients of the largest scores: each is the score of one key. dtop [T, heads].
void add_top_gradient(const HybridAttentionSpec& s, const Tensor& q, const Tensor& k,
                      const std::vector<AttentionSpan>& spans, const Tensor& dtop) {
  const int64_t d = s.k_dim, group = s.heads / s.kv_heads;
  Tensor dq = Tensor::zeros(q.shape(), DType::f32), dk = Tensor::zeros(k.shape(), DType::f32);
  const float *qs = q.data<float>(), *ks = k.data<float>(), *g = dtop.data<float>();
  float *to_q = dq.mutable_data<float>(), *to_k = dk.mutable_data<float>();
  auto dot = [d](const float* a, const float* b) {
    float sum = 0;
    for (int64_t i = 0; i < d; ++i) sum += a[i] * b[i];
    return sum;
  };
  parallel_for(std::ssize(spans) * s.kv_heads, 1, [&](int64_t b, int64_t e) {
    for (int64_t item = b; item < e; ++item) {
      const AttentionSpan& x = spans[item / s.kv_heads];
      const int64_t kv = item % s.kv_heads;
      for (int64_t row = x.q_begin; row < x.q_end; ++row) {
        const int64_t own = x.k_end - (x.q_end - row);
        for (int64_t h = kv * group; h < (kv + 1) * group; ++h) {
          const float* from = qs + (row * s.heads + h) * d;
          auto key = [&](int64_t j) { return (j * s.kv_heads + kv) * d; };
          int64_t best = own;
          float most = dot(from, ks + key(own));
          for (int64_t j = std::max(x.k_begin, own - s.window + 1); j < own; ++j)
            if (const float score = dot(from, ks + key(j)); score > most) most = score, best = j;
          const float by = g[row * s.heads + h] * s.scale;
          for (int64_t i = 0; i < d; ++i) {
            to_q[(row * s.heads + h) * d + i] += by * ks[key(best) + i];
            to_k[key(best) + i] += by * from[i];
          }
        }
      }
    }
  });
  add_gradient(q, dq);
  add_gradient(k, dk);
}

// Of each row and head, what the sum of o is made of: γ·a, a = exp(log sum − top), and γ·a + d.
struct Masses {
  Tensor window, all;        // [T, heads]; 0 in rows that no span has
  std::vector<float> gamma;  // [heads]
};

// dy of combine()'s y flows back.
void combine_back(const HybridAttentionSpec& s, const Window& w, const Masses& masses,
                  const Tensor& far, const Tensor& factor, const Tensor& q, const Tensor& k,
                  const Tensor& y, const Tensor& dy) {
  const int64_t d = s.v_dim, heads = s.heads, rows = masses.all.numel();
  Tensor d_o = Tensor::zeros(y.shape(), DType::f32), d_far = Tensor::zeros(far.shape(), DType::f32);
  Tensor d_log = Tensor::zeros(masses.all.shape(), DType::f32), d_top = d_log.clone();
  const float *g = dy.data<float>(), *of = y.data<float>(), *near = w.o.data<float>();
  const float *mass = masses.window.data<float>(), *all = masses.all.data<float>();
  float *to_o = d_o.mutable_data<float>(), *to_far = d_far.mutable_data<float>();
  float *to_log = d_log.mutable_data<float>(), *to_top = d_top.mutable_data<float>();
  parallel_for(rows, 256, [&](int64_t b, int64_t e) {
    for (int64_t r = b; r < e; ++r) {
      if (all[r] == 0) continue;
      float of_mass = 0, of_far = 0;
      for (int64_t i = 0; i < d; ++i) {
        const float step = g[r * d + i] / all[r];
        to_o[r * d + i] = mass[r] * step;
        to_far[r * (d + 1) + i] = step;
        of_mass += step * (near[r * d + i] - of[r * d + i]);
        of_far -= step * of[r * d + i];
      }
      to_far[r * (d + 1) + d] = of_far;
      to_log[r] = of_mass * mass[r];
      to_top[r] = -to_log[r];
    }
  });
  if (factor.requires_gradient()) {
    // The window's mass is γ times something, and dγ = γ·(1 − γ)·dfactor.
    Tensor d_factor = Tensor::zeros(factor.shape(), DType::f32);
    for (int64_t h = 0; h < heads; ++h) {
      double sum = 0;
      for (int64_t r = h; r < rows; r += heads) sum += to_log[r];
      d_factor.mutable_data<float>()[h] = static_cast<float>(sum * (1 - masses.gamma[h]));
    }
    add_gradient(factor, d_factor);
  }
  if (q.requires_gradient() || k.requires_gradient()) add_top_gradient(s, q, k, w.spans, d_top);
  add_gradient(w.o, d_o);
  add_gradient(w.log_sum, d_log);
  add_gradient(far, d_far);
}

// (γ·a·o + n)/(γ·a + d), with [n, d] what linear attention gives; q and k are the window's.
Tensor combine(const HybridAttentionSpec& s, const Window& w, const Tensor& far,
               const Tensor& factor, const Tensor& q, const Tensor& k) {
  const int64_t d = s.v_dim, heads = s.heads;
  Masses masses{
      Tensor::zeros(w.top.shape(), DType::f32), Tensor::zeros(w.top.shape(), DType::f32), {}};
  for (int64_t h = 0; h < heads; ++h)
    // Never 0: a row all of whose keys are in the window has nothing else to be divided by.
    masses.gamma.push_back(std::max(1 / (1 + std::exp(-factor.data<float>()[h])), 1e-30f));
  Tensor y = Tensor::zeros(w.o.shape(), DType::f32);
  const float *o = w.o.data<float>(), *l = w.log_sum.data<float>(), *m = w.top.data<float>();
  const float* n = far.data<float>();
  float *mass = masses.window.mutable_data<float>(), *all = masses.all.mutable_data<float>();
  float* out = y.mutable_data<float>();
  parallel_for(w.top.numel(), 256, [&](int64_t b, int64_t e) {
    for (int64_t r = b; r < e; ++r) {
      if (m[r] == -INFINITY) continue;  // no span has it
      mass[r] = masses.gamma[r % heads] * std::exp(l[r] - m[r]);
      all[r] = mass[r] + n[r * (d + 1) + d];
      for (int64_t i = 0; i < d; ++i)
        out[r * d + i] = (mass[r] * o[r * d + i] + n[r * (d + 1) + i]) / all[r];
    }
  });
  if (recorded({&w.o, &w.log_sum, &far, &factor}))
    record(y, [=, y = y.detached()](const Tensor& dy) {
      combine_back(s, w, masses, far, factor, q, k, y, dy);
    });
  return y;
}

Window attend_window(const HybridAttentionSpec& s, const Tensor& q, const Tensor& k,
                     const Tensor& v, const std::vector<Place>& places) {
  AttentionSpec spec;
  spec.heads = s.heads;
  spec.kv_heads = s.kv_heads;
  spec.k_dim = s.k_dim;
  spec.v_dim = s.v_dim;
  spec.scale = s.scale;
  spec.pattern = Pattern::causal() & Pattern::window(s.window);
  Window w;
  for (const Place& p : places)
    w.spans.push_back({p.begin, p.begin + p.rows, p.at, p.at + p.held + p.rows, p.count - p.held});
  w.o = attention(spec, q, k, v, w.spans, {}, &w.log_sum, &w.top);
  return w;
}

// Σ φ(q)·φ(k)·[v, 1] over the keys that have left the window, their S in the spans' states.
Tensor attend_far(const HybridAttentionSpec& s, const HybridAttentionInputs& in,
                  const Tensor& leaving_k, const Tensor& leaving_v,
                  const std::vector<Place>& places, std::vector<HybridSpan>& spans, bool in_place) {
  LinearAttentionSpec spec;
  spec.heads = spec.qk_heads = s.heads;
  spec.k_dim = 2 * s.features;
  spec.v_dim = s.v_dim + 1;
  LinearAttentionInputs x;
  x.q = ops::softmax_pairs(in.q, in.q_map);
  x.k =
      ops::softmax_pairs(ops::repeat_heads(leaving_k, s.kv_heads, s.heads / s.kv_heads), in.k_map);
  x.v = counted(leaving_v, s, places);
  std::vector<LinearSpan> runs;
  bool keep = recorded({&x.q, &x.k, &x.v});
  for (const HybridSpan& p : spans) {
    runs.push_back({p.begin, p.end, p.state[kSums]});
    keep = keep || recorded({&p.state[kSums]});
  }
  if (in_place && !keep) return linear_attend(spec, x, runs);
  LinearAttentionResult result = linear_attention(spec, x, runs);
  for (size_t i = 0; i < spans.size(); ++i) spans[i].state[kSums] = result.states[i];
  return result.o;
}

}  // namespace

Tensor hybrid_attention(const HybridAttentionSpec& s, const HybridAttentionInputs& in,
                        std::vector<HybridSpan>& spans, bool in_place) {
  check(s, in, spans);
  const std::vector<Place> places = places_of(spans, s.window);
  auto carried = [&](const Tensor& x, size_t which) {
    std::vector<Tensor> before;
    for (const HybridSpan& p : spans) before.push_back(p.state[which]);
    Carried c = carry(x, places, before, s.window);
    for (size_t i = 0; i < spans.size(); ++i) spans[i].state[which] = c.windows[i];
    return c;
  };
  const Carried k = carried(in.k, kKeys), v = carried(in.v, kValues);
  const Window near = attend_window(s, in.q, k.joined, v.joined, places);
  const Tensor far = attend_far(s, in, k.leaving, v.leaving, places, spans, in_place);
  for (size_t i = 0; i < spans.size(); ++i) {
    const int64_t n = places[i].count + places[i].rows;
    spans[i].state[kCount] = Tensor::from(
        std::vector<float>{static_cast<float>(n / kCountUnit), static_cast<float>(n % kCountUnit)});
  }
  return combine(s, near, far, in.factor, in.q, k.joined);
}

}  // namespace hone
