// Softmax attention without a cache, and its gradients (Dao 2023, FlashAttention-2).
//
// Forward keeps q, k, v, the result o and each row's log Σ exp. Backward goes through the tiles
// that the pattern shows again: scores S = scale·Q·Kᵀ, P = exp(S − log sum), and from dP = dO·Vᵀ
// and Δ = Σ dO·O, dS = P∘(dP − Δ)·scale; then dV += Pᵀ·dO, dK += dSᵀ·Q, dQ += dS·K. One work item
// is one kv head of one sequence, whose tiles run in order: threads change no bit. Limits: ten
// operations for each pair and channel, all in products of float panels.
#include <algorithm>
#include <vector>

#include "attention/attention.h"
#include "base/checked.h"
#include "base/threads.h"
#include "kernels/select.h"
#include "ops/tape.h"

namespace hone {
namespace {

using kernels::kPageKeys;
using kernels::kPanel;
using kernels::table;

constexpr int64_t kRows = 96;  // queries of one tile

// Buffers of one thread.
struct Workspace {
  std::vector<float> k_panels, v_panels, k_rows, s, dp, dk, dv, delta, log_sum;
  std::vector<uint64_t> masks;
};

// x[keys, width], rows ld apart, as panels of 16 keys [4][width][16]; keys that are missing are 0.
void key_panels(const float* x, int64_t ld, int64_t keys, int64_t width, std::vector<float>& out) {
  out.assign(static_cast<size_t>(kPageKeys * width), 0.0f);
  for (int64_t j = 0; j < keys; ++j) {
    float* to = out.data() + j / kPanel * width * kPanel + j % kPanel;
    for (int64_t c = 0; c < width; ++c) to[c * kPanel] = x[j * ld + c];
  }
}
// The same as panels of 16 channels [⌈width/16⌉][64][16].
void channel_panels(const float* x, int64_t ld, int64_t keys, int64_t width,
                    std::vector<float>& out) {
  out.assign(static_cast<size_t>(kPageKeys * round_up(width, kPanel)), 0.0f);
  for (int64_t j = 0; j < keys; ++j)
    for (int64_t c = 0; c < width; ++c)
      out[(c / kPanel * kPageKeys + j) * kPanel + c % kPanel] = x[j * ld + c];
}

// y[t, n] (+)= x[t, k]·panels.
void product(const float* x, int64_t ldx, int64_t t, int64_t k, const float* panels, int64_t n,
             float* y, int64_t ldy, bool add) {
  kernels::GemmArgs g{};
  g.panels = panels;
  g.x = x;
  g.ldx = ldx;
  g.y = y;
  g.ldy = ldy;
  g.t = t;
  g.n = n;
  g.k = k;
  g.p1 = ceil_div(n, int64_t{kPanel});
  g.accumulate = add;
  table().gemm_f32(&g);
}

class Backward {
 public:
  Backward(const AttentionSpec& spec, const Tensor& q, const Tensor& k, const Tensor& v,
           const Tensor& o, const Tensor& log_sum, const Tensor& grad)
      : spec_(spec),
        q_(q.data<float>()),
        k_(k.data<float>()),
        v_(v.data<float>()),
        o_(o.data<float>()),
        log_sum_(log_sum.data<float>()),
        do_(grad.data<float>()),
        dq(Tensor::zeros(q.shape(), DType::f32)),
        dk(Tensor::zeros(k.shape(), DType::f32)),
        dv(Tensor::zeros(v.shape(), DType::f32)) {}

  void run(const AttentionSpan& s, int64_t kv_head) {
    static thread_local Workspace w;
    const int64_t keys = s.k_end - s.k_begin;
    const int64_t kd = spec_.kv_heads * spec_.k_dim, vd = spec_.kv_heads * spec_.v_dim;
    for (int64_t j = 0; j < keys; j += kPageKeys) {
      const int64_t count = std::min<int64_t>(kPageKeys, keys - j), row = s.k_begin + j;
      const float* k = k_ + row * kd + kv_head * spec_.k_dim;
      const float* v = v_ + row * vd + kv_head * spec_.v_dim;
      key_panels(k, kd, count, spec_.k_dim, w.k_panels);
      key_panels(v, vd, count, spec_.v_dim, w.v_panels);
      channel_panels(k, kd, count, spec_.k_dim, w.k_rows);
      w.dk.assign(static_cast<size_t>(kPageKeys * spec_.k_dim), 0.0f);
      w.dv.assign(static_cast<size_t>(kPageKeys * spec_.v_dim), 0.0f);
      for (int64_t i = 0; i < s.q_end - s.q_begin; i += kRows)
        queries(s, kv_head, i, std::min(s.q_end - s.q_begin, i + kRows), j, count, w);
      float* out_k = dk.mutable_data<float>() + row * kd + kv_head * spec_.k_dim;
      float* out_v = dv.mutable_data<float>() + row * vd + kv_head * spec_.v_dim;
      for (int64_t r = 0; r < count; ++r) {
        std::copy_n(w.dk.data() + r * spec_.k_dim, spec_.k_dim, out_k + r * kd);
        std::copy_n(w.dv.data() + r * spec_.v_dim, spec_.v_dim, out_v + r * vd);
      }
    }
  }

 private:
  // Queries [i0, i1) of the span against keys [j, j + count).
  void queries(const AttentionSpan& s, int64_t kv_head, int64_t i0, int64_t i1, int64_t j,
               int64_t count, Workspace& w) {
    const int64_t start = s.k_end - s.k_begin - (s.q_end - s.q_begin), n = i1 - i0;
    const TileKind kind = spec_.pattern.classify(start + i0, start + i1, j, j + count);
    if (kind == TileKind::empty) return;
    const uint64_t exist = count == kPageKeys ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
    w.masks.assign(static_cast<size_t>(n), exist);
    if (kind == TileKind::partial)
      for (int64_t i = 0; i < n; ++i) w.masks[i] &= spec_.pattern.mask(start + i0 + i, j);
    const int64_t group = spec_.heads / spec_.kv_heads, d = spec_.k_dim, e = spec_.v_dim;
    const int64_t qd = spec_.heads * d, od = spec_.heads * e, first = s.q_begin + i0;
    w.s.resize(static_cast<size_t>(kRows * kPageKeys));
    w.dp.resize(w.s.size());
    w.delta.resize(kRows);
    w.log_sum.resize(kRows);
    for (int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
      const float *q = q_ + first * qd + h * d, *grad = do_ + first * od + h * e;
      const float* o = o_ + first * od + h * e;
      for (int64_t i = 0; i < n; ++i) {
        float sum = 0;
        for (int64_t c = 0; c < e; ++c) sum += grad[i * od + c] * o[i * od + c];
        w.delta[i] = sum;
        w.log_sum[i] = log_sum_[(first + i) * spec_.heads + h];
      }
      product(q, qd, n, d, w.k_panels.data(), kPageKeys, w.s.data(), kPageKeys, false);
      product(grad, od, n, e, w.v_panels.data(), kPageKeys, w.dp.data(), kPageKeys, false);
      kernels::AttentionGradients a{w.s.data(),     w.dp.data(), w.masks.data(), w.log_sum.data(),
                                    w.delta.data(), n,           spec_.scale,    spec_.softcap};
      table().attention_gradients(&a);
      table().accumulate_tn(w.s.data(), kPageKeys, grad, od, n, 0, kPageKeys, 0, e, w.dv.data(), e);
      table().accumulate_tn(w.dp.data(), kPageKeys, q, qd, n, 0, kPageKeys, 0, d, w.dk.data(), d);
      product(w.dp.data(), kPageKeys, n, kPageKeys, w.k_rows.data(), d,
              dq.mutable_data<float>() + first * qd + h * d, qd, true);
    }
  }

  const AttentionSpec& spec_;
  const float *q_, *k_, *v_, *o_, *log_sum_, *do_;

 public:
  Tensor dq, dk, dv;
};

}  // namespace

Tensor attention(const AttentionSpec& spec, const Tensor& q, const Tensor& k, const Tensor& v,
                 const std::vector<AttentionSpan>& spans) {
  HONE_ASSERT(q.dim(1) == spec.heads * spec.k_dim && k.dim(1) == spec.kv_heads * spec.k_dim &&
              v.dim(1) == spec.kv_heads * spec.v_dim && k.dim(0) == v.dim(0));
  KvCache cache({{spec.kv_heads, spec.k_dim, spec.v_dim}});
  std::vector<KvSequence> sequences(spans.size());
  std::vector<SequenceSpan> cached;
  for (size_t i = 0; i < spans.size(); ++i) {
    const AttentionSpan& s = spans[i];
    const int64_t keys = s.k_end - s.k_begin, queries = s.q_end - s.q_begin;
    HONE_ASSERT(queries <= keys);
    cache.reserve(sequences[i], keys);
    cache.write(0, sequences[i], 0, keys, k.data<float>() + s.k_begin * k.dim(1),
                v.data<float>() + s.k_begin * v.dim(1));
    cached.push_back({s.q_begin, s.q_end, keys - queries, &sequences[i]});
  }
  const bool keep = recorded({&q, &k, &v});
  Tensor log_sum, o = attend(spec, q, cache, 0, cached, keep ? &log_sum : nullptr);
  if (!keep) return o;
  record(o, [=, o = o.detached()](const Tensor& grad) {
    Backward back(spec, q, k, v, o, log_sum, grad);
    parallel_for(std::ssize(spans) * spec.kv_heads, 1, [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; ++i) back.run(spans[i / spec.kv_heads], i % spec.kv_heads);
    });
    add_gradient(q, back.dq);
    add_gradient(k, back.dk);
    add_gradient(v, back.dv);
  });
  return o;
}

}  // namespace hone
