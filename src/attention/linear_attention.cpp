#include "attention/linear_attention.h"

#include <algorithm>
#include <cmath>

#include "base/checked.h"
#include "base/threads.h"

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

}  // namespace

Tensor linear_attend(const LinearAttentionSpec& spec, const LinearAttentionInputs& in,
                     std::vector<LinearSpan>& spans, LinearForm) {
  check(spec, in, spans);
  for (const LinearSpan& s : spans) HONE_ASSERT(!s.state.empty_handle());
  const int64_t kd = spec.k_dim, vd = spec.v_dim, columns = spec.state_columns();
  Tensor o = Tensor::zeros({in.q.dim(0), spec.heads * vd}, DType::f32);
  parallel_for(std::ssize(spans) * spec.heads, 1, [&](int64_t first, int64_t last) {
    std::vector<double> p(columns), r(columns);
    for (int64_t item = first; item < last; ++item) {
      LinearSpan& span = spans[item / spec.heads];
      const int64_t h = item % spec.heads, qh = h / (spec.heads / spec.qk_heads);
      float* s = span.state.mutable_data<float>() + h * kd * columns;
      for (int64_t t = span.begin; t < span.end; ++t) {
        const float* q = in.q.data<float>() + (t * spec.qk_heads + qh) * kd;
        const float* k = in.k.data<float>() + (t * spec.qk_heads + qh) * kd;
        const float* v = in.v.data<float>() + (t * spec.heads + h) * vd;
        const float beta =
            in.beta.empty_handle() ? 1.0f : in.beta.data<float>()[t * spec.heads + h];
        auto decay = [&](int64_t i) {
          if (spec.decay == Decay::none) return 1.0f;
          const int64_t row = in.g.dim(0) == 1 ? 0 : t;
          const int64_t at = (row * spec.heads + h) * (spec.decay == Decay::head ? 1 : kd) +
                             (spec.decay == Decay::head ? 0 : i);
          return std::exp(in.g.data<float>()[at]);
        };
        const bool general = spec.low_rank == LowRank::general;
        std::fill(p.begin(), p.end(), 0.0);
        std::fill(r.begin(), r.end(), 0.0);
        for (int64_t i = 0; i < kd; ++i) {
          const double read = general ? in.a.data<float>()[(t * spec.heads + h) * kd + i]
                              : spec.low_rank == LowRank::delta ? double{k[i]} * decay(i)
                                                                : 0.0;
          for (int64_t j = 0; j < columns; ++j) p[j] += read * s[i * columns + j];
        }
        for (int64_t i = 0; i < kd; ++i) {
          const double d = decay(i),
                       write = general ? in.b.data<float>()[(t * spec.heads + h) * kd + i]
                               : spec.low_rank == LowRank::delta ? -beta * double{k[i]}
                                                                 : 0.0;
          const double u = in.u.empty_handle() ? 0.0 : in.u.data<float>()[h * kd + i];
          for (int64_t j = 0; j < columns; ++j) {
            float& x = s[i * columns + j];
            const double kv = double{k[i]} * beta * (j < vd ? v[j] : 1.0f);
            if (spec.reads_previous) r[j] += q[i] * (x + u * kv);
            x = static_cast<float>(d * x + write * p[j] + kv);
            if (!spec.reads_previous) r[j] += double{q[i]} * x;
          }
        }
        float* out = o.mutable_data<float>() + (t * spec.heads + h) * vd;
        const double over = spec.normalised ? 1 / (spec.scale * r[vd] + spec.eps) : 1.0;
        for (int64_t j = 0; j < vd; ++j) out[j] = static_cast<float>(spec.scale * r[j] * over);
      }
    }
  });
  return o;
}

LinearAttentionResult linear_attention(const LinearAttentionSpec& spec,
                                       const LinearAttentionInputs& in,
                                       const std::vector<LinearSpan>& spans, LinearForm form) {
  std::vector<LinearSpan> own = spans;
  for (LinearSpan& s : own)
    s.state =
        s.state.empty_handle() ? Tensor::zeros(spec.state_shape(), DType::f32) : s.state.clone();
  LinearAttentionResult result{linear_attend(spec, in, own, form), {}};
  for (LinearSpan& s : own) result.states.push_back(s.state);
  return result;
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
