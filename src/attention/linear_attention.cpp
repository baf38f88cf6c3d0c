#include "attention/linear_attention.h"

#include <algorithm>
#include <cmath>

#include "attention/linear_run.h"
#include "base/checked.h"
#include "ops/tape.h"

namespace hone {
namespace {

void check_rows(const Tensor& x, int64_t rows, int64_t columns, bool wanted, bool one_row,
                const char* name) {
  if (x.empty_handle()) {
    HONE_CHECK(!wanted, invalid_argument, "linear attention: {} is missing", name);
    return;
  }
  HONE_CHECK(x.dtype() == DType::f32 && x.rank() == 2 && x.dim(1) == columns &&
                 (x.dim(0) == rows || (one_row && x.dim(0) == 1)),
             invalid_argument, "linear attention: {} must be f32 [{}, {}], not {}", name, rows,
             columns, shape_string(x.shape()));
}

void check(const LinearAttentionSpec& s, const LinearAttentionInputs& in,
           const std::vector<LinearSpan>& spans) {
  HONE_CHECK(
      s.heads > 0 && s.qk_heads > 0 && s.heads % s.qk_heads == 0 && s.k_dim > 0 && s.v_dim > 0,
      invalid_argument,
      "linear attention: {} heads, {} of q and k, of {} and {}: expected sizes above 0, and "
      "heads to be a multiple of those of q and k",
      s.heads, s.qk_heads, s.k_dim, s.v_dim);
  const char* what = "linear attention";
  const int64_t t = in.q.empty_handle() ? 0 : in.q.dim(0);
  const int64_t channels = checked_mul(s.heads, s.k_dim, what);
  const Shape state = s.state_shape();
  checked_numel(state, what);
  check_rows(in.q, t, s.qk_heads * s.k_dim, true, false, "q");
  check_rows(in.k, t, s.qk_heads * s.k_dim, true, false, "k");
  check_rows(in.v, t, checked_mul(s.heads, s.v_dim, what), true, false, "v");
  const bool general = s.low_rank == LowRank::general;
  check_rows(in.g, t, s.decay == Decay::head ? s.heads : channels, s.decay != Decay::none, true,
             "g");
  check_rows(in.beta, t, s.heads, false, false, "beta");
  check_rows(in.a, t, channels, general, false, "a");
  check_rows(in.b, t, channels, general, false, "b");
  HONE_CHECK(in.u.empty_handle() || in.u.numel() == channels, invalid_argument,
             "linear attention: u must have {} values, not {}", channels,
             shape_string(in.u.shape()));
  HONE_CHECK((s.decay != Decay::none || in.g.empty_handle()) &&
                 (general || (in.a.empty_handle() && in.b.empty_handle())) &&
                 (s.reads_previous || in.u.empty_handle()),
             invalid_argument, "linear attention: an input that the spec has no use for is given");
  int64_t last = 0;
  for (const LinearSpan& x : spans) {
    HONE_CHECK(x.begin >= last && x.end >= x.begin && x.end <= t, invalid_argument,
               "linear attention: the span [{}, {}) of {} rows", x.begin, x.end, t);
    last = x.end;
    HONE_CHECK(
        x.state.empty_handle() || (x.state.dtype() == DType::f32 && x.state.shape() == state),
        invalid_argument, "linear attention: a state must be f32 {}, not {}", shape_string(state),
        shape_string(x.state.shape()));
  }
}

// v with a 1 behind each head's values.
Tensor with_ones(const Tensor& v, int64_t heads) {
  const int64_t rows = v.dim(0) * heads, d = v.dim(1) / heads;
  Tensor y = Tensor::empty({v.dim(0), heads * (d + 1)}, DType::f32);
  const float* p = v.data<float>();
  float* out = y.mutable_data<float>();
  for (int64_t r = 0; r < rows; ++r) {
    std::copy_n(p + r * d, d, out + r * (d + 1));
    out[r * (d + 1) + d] = 1;
  }
  if (recorded({&v}))
    record(y, [v = v.hollow(), rows, d](const Tensor& dy) {
      Tensor dv = Tensor::empty(v.shape(), DType::f32);
      for (int64_t r = 0; r < rows; ++r)
        std::copy_n(dy.data<float>() + r * (d + 1), d, dv.mutable_data<float>() + r * d);
      add_gradient(v, dv);
    });
  return y;
}

// Each head's values divided by the one behind them plus eps.
Tensor divided(const Tensor& x, int64_t heads, float eps) {
  const int64_t rows = x.dim(0) * heads, d = x.dim(1) / heads - 1;
  Tensor y = Tensor::empty({x.dim(0), heads * d}, DType::f32);
  const float* p = x.data<float>();
  float* out = y.mutable_data<float>();
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < d; ++i)
      out[r * d + i] = p[r * (d + 1) + i] / (p[r * (d + 1) + d] + eps);
  if (recorded({&x}))
    record(y, [x, y = y.detached(), rows, d, eps](const Tensor& dy) {
      Tensor dx = Tensor::empty(x.shape(), DType::f32);
      const float *p = x.data<float>(), *q = y.data<float>(), *g = dy.data<float>();
      float* to = dx.mutable_data<float>();
      for (int64_t r = 0; r < rows; ++r) {
        const float inverse = 1 / (p[r * (d + 1) + d] + eps);
        float sum = 0;
        for (int64_t i = 0; i < d; ++i) {
          to[r * (d + 1) + i] = g[r * d + i] * inverse;
          sum -= g[r * d + i] * q[r * d + i];
        }
        to[r * (d + 1) + d] = sum * inverse;
      }
      add_gradient(x, dx);
    });
  return y;
}

// The same without a divisor, v having the state's columns.
LinearAttentionInputs undivided(const LinearAttentionSpec& spec, const LinearAttentionInputs& in) {
  LinearAttentionInputs out = in;
  if (spec.normalised) out.v = with_ones(in.v, spec.heads);
  return out;
}
Tensor finished(const LinearAttentionSpec& spec, const Tensor& o) {
  return spec.normalised ? divided(o, spec.heads, spec.eps) : o;
}

}  // namespace

Tensor linear_attend(const LinearAttentionSpec& spec, const LinearAttentionInputs& in,
                     std::vector<LinearSpan>& spans, LinearForm form) {
  check(spec, in, spans);
  TapePause pause;
  const LinearAttentionInputs own = undivided(spec, in);
  std::vector<LinearRun> runs;
  for (LinearSpan& s : spans) {
    HONE_ASSERT(!s.state.empty_handle());
    runs.push_back({s.begin, s.end, s.state.mutable_data<float>(), nullptr});
  }
  return finished(spec, run_linear(spec, own, runs, form));
}

LinearAttentionResult linear_attention(const LinearAttentionSpec& spec,
                                       const LinearAttentionInputs& in,
                                       const std::vector<LinearSpan>& spans, LinearForm form) {
  check(spec, in, spans);
  LinearAttentionResult r = undivided_attention(spec, undivided(spec, in), spans, form);
  r.o = finished(spec, r.o);
  return r;
}

namespace {

LinearAttentionSpec plain(int64_t heads, int64_t qk_heads, int64_t k_dim, int64_t v_dim,
                          float scale) {
  LinearAttentionSpec s;
  s.heads = heads;
  s.qk_heads = qk_heads;
  s.k_dim = k_dim;
  s.v_dim = v_dim;
  s.scale = scale;
  return s;
}
float root_scale(int64_t k_dim) { return 1 / std::sqrt(static_cast<float>(k_dim)); }

}  // namespace

LinearAttentionSpec katharopoulos(int64_t heads, int64_t k_dim, int64_t v_dim, bool normalised) {
  LinearAttentionSpec s = plain(heads, heads, k_dim, v_dim, 1);
  s.normalised = normalised;
  return s;
}

LinearAttentionSpec retnet(int64_t heads, int64_t k_dim, int64_t v_dim) {
  LinearAttentionSpec s = plain(heads, heads, k_dim, v_dim, root_scale(k_dim));
  s.decay = Decay::head;
  return s;
}

Tensor retnet_decay(int64_t heads) {
  Tensor g = Tensor::empty({1, heads}, DType::f32);
  for (int64_t h = 0; h < heads; ++h)
    g.mutable_data<float>()[h] = static_cast<float>(std::log1p(-std::exp2(-5.0 - double(h))));
  return g;
}

LinearAttentionSpec mamba2(int64_t heads, int64_t groups, int64_t state_size, int64_t head_size) {
  LinearAttentionSpec s = plain(heads, groups, state_size, head_size, 1);
  s.decay = Decay::head;
  return s;
}

LinearAttentionSpec gla(int64_t heads, int64_t k_dim, int64_t v_dim) {
  LinearAttentionSpec s = plain(heads, heads, k_dim, v_dim, root_scale(k_dim));
  s.decay = Decay::channel;
  return s;
}

LinearAttentionSpec delta_net(int64_t heads, int64_t k_dim, int64_t v_dim) {
  LinearAttentionSpec s = plain(heads, heads, k_dim, v_dim, root_scale(k_dim));
  s.low_rank = LowRank::delta;
  return s;
}

LinearAttentionSpec gated_delta_net(int64_t heads, int64_t qk_heads, int64_t k_dim, int64_t v_dim) {
  LinearAttentionSpec s = plain(heads, qk_heads, k_dim, v_dim, root_scale(k_dim));
  s.decay = Decay::head;
  s.low_rank = LowRank::delta;
  return s;
}

LinearAttentionSpec rwkv6(int64_t heads, int64_t head_size) {
  LinearAttentionSpec s = plain(heads, heads, head_size, head_size, 1);
  s.decay = Decay::channel;
  s.reads_previous = true;
  return s;
}

LinearAttentionSpec rwkv7(int64_t heads, int64_t head_size) {
  LinearAttentionSpec s = plain(heads, heads, head_size, head_size, 1);
  s.decay = Decay::channel;
  s.low_rank = LowRank::general;
  return s;
}

}  // namespace hone
