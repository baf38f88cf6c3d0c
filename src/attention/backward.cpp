// Softmax attention without a cache, and its gradients (Dao 2023, FlashAttention-2).
//
// Forward keeps q, k, v, the result o and each row's log Σ exp. Backward goes through the tiles
// that the pattern shows again: scores S = scale·Q·Kᵀ with all that the spec adds, P = exp(S − log
// sum), Z = dropout's factors, and from dP = Z∘(dO·Vᵀ) and Δ = Σ dO·O less the log sum's own
// gradient, dS = P∘(dP − Δ), which is the bias's gradient, and scale·dS through the soft cap; then
// dV += (P∘Z)ᵀ·dO, dK += dSᵀ·Q, dQ += dS·K. A sink gets −Σ exp(sink − log sum)·Δ. One work item is
// one kv head of one sequence, or all where they share a bias, whose tiles run in order: threads
// change no bit. Limits: ten operations for each pair and channel, all in products of float panels;
// q and dO of one head are copied into rows that lie together.
#include <algorithm>
#include <cmath>
#include <vector>

#include "attention/attention.h"
#include "attention/terms.h"
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

// Rows of q or dO: a line more than the channels need, so that the lines of a column lie in
// different sets of the cache.
int64_t row_stride(int64_t width) { return round_up(width, kPanel) + kPanel; }

// Buffers of one thread.
struct BackwardWorkspace {
  std::vector<float> k_panels, v_panels, k_rows, s, dp, dk, dv;
  std::vector<float> q, grad, delta, log_sum, slope;  // of all queries of a head
  std::vector<int64_t> query, bias_offset;
  std::vector<uint64_t> masks, keep;
  std::vector<size_t> next;  // of each block of queries, its first run that is not behind the tile
};

// x[keys, width], rows ld apart, as panels of 16 keys [4][width][16]; keys that are missing are 0.
void key_panels(const float* x, int64_t ld, int64_t keys, int64_t width, std::vector<float>& out) {
  out.assign(static_cast<size_t>(kPageKeys * width), 0.0f);
  for (int64_t first = 0; first < keys; first += kPanel) {
    float* to = out.data() + first * width;
    const int64_t lanes = std::min<int64_t>(kPanel, keys - first);
    for (int64_t c = 0; c < width; ++c)
      for (int64_t j = 0; j < lanes; ++j) to[c * kPanel + j] = x[(first + j) * ld + c];
  }
}
// The same as panels of 16 channels [⌈width/16⌉][64][16].
void channel_panels(const float* x, int64_t ld, int64_t keys, int64_t width,
                    std::vector<float>& out) {
  out.assign(static_cast<size_t>(kPageKeys * round_up(width, kPanel)), 0.0f);
  for (int64_t j = 0; j < keys; ++j)
    for (int64_t c = 0; c < width; c += kPanel)
      std::copy_n(x + j * ld + c, std::min<int64_t>(kPanel, width - c),
                  out.data() + (c / kPanel * kPageKeys + j) * kPanel);
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

// Of the first query, from the first key on.
int64_t start_of(const AttentionSpec& spec, const AttentionSpan& s) {
  return spec.top_left ? 0 : s.k_end - s.k_begin - (s.q_end - s.q_begin);
}

class Backward {
 public:
  Backward(const AttentionSpec& spec, const AttentionTerms& terms, const Tensor& q, const Tensor& k,
           const Tensor& v, const Tensor& o, const Tensor& log_sum, const Tensor& grad,
           const Tensor& grad_sum)
      : spec_(spec),
        terms_(terms),
        dropout_(terms),
        bias_rows_(terms.bias),
        q_(q.data<float>()),
        k_(k.data<float>()),
        v_(v.data<float>()),
        o_(o.data<float>()),
        log_sum_(log_sum.data<float>()),
        do_(grad.data<float>()),
        dsum_(grad_sum.empty_handle() ? nullptr : grad_sum.data<float>()),
        dq(Tensor::zeros(q.shape(), DType::f32)),
        dk(Tensor::zeros(k.shape(), DType::f32)),
        dv(Tensor::zeros(v.shape(), DType::f32)) {
    if (terms.bias.requires_gradient()) dbias = Tensor::zeros(terms.bias.shape(), DType::f32);
  }

  void run(const std::vector<AttentionSpan>& spans) {
    const int64_t heads = spec_.heads, n = std::ssize(spans);
    std::vector<std::vector<std::vector<TileRun>>> plans(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) plans[i] = plan(spans[i]);
    std::vector<double> sinks(static_cast<size_t>(n * heads));
    // A bias that the heads share takes their gradients in their order.
    const bool together = !dbias.empty_handle() && dbias.dim(0) == 1;
    const int64_t items = together ? 1 : spec_.kv_heads, each = spec_.kv_heads / items;
    parallel_for(n * items, 1, [&](int64_t b, int64_t e) {
      for (int64_t i = b * each; i < e * each; ++i) {
        const int64_t span = i / spec_.kv_heads;
        if (spans[span].q_end > spans[span].q_begin)
          head_group(spans[span], span, plans[span], i % spec_.kv_heads,
                     sinks.data() + span * heads);
      }
    });
    if (!terms_.sinks.requires_gradient()) return;
    dsinks = Tensor::zeros(terms_.sinks.shape(), DType::f32);
    for (int64_t h = 0; h < heads; ++h) {
      double sum = 0;
      for (int64_t i = 0; i < n; ++i) sum += sinks[i * heads + h];
      dsinks.mutable_data<float>()[h] = static_cast<float>(sum);
    }
  }

 private:
  using Plan = std::vector<std::vector<TileRun>>;  // of each block of kRows queries

  Plan plan(const AttentionSpan& s) const {
    const int64_t queries = s.q_end - s.q_begin, start = start_of(spec_, s);
    Plan plan(static_cast<size_t>(ceil_div(queries, kRows)));
    parallel_for(std::ssize(plan), 16, [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; ++i)
        plan[i] = spec_.pattern.tile_runs(
            start + i * kRows, start + std::min(queries, (i + 1) * kRows), s.k_end - s.k_begin);
    });
    return plan;
  }

  // `sinks`: what the span gives to the gradient of each head's sink.
  void head_group(const AttentionSpan& s, int64_t span, const Plan& plan, int64_t kv_head,
                  double* sinks) {
    static thread_local BackwardWorkspace w;
    const int64_t group = spec_.heads / spec_.kv_heads;
    for (int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
      gather(s, h, w);
      if (!terms_.sinks.empty_handle()) {
        const double sink = terms_.sinks.data<float>()[h];
        for (size_t i = 0; i < w.delta.size(); ++i)
          sinks[h] -= std::exp(sink - w.log_sum[i]) * w.delta[i];
      }
      w.next.assign(plan.size(), 0);
      for (int64_t tile = 0; tile * kPageKeys < s.k_end - s.k_begin; ++tile)
        keys(s, span, plan, h, kv_head, tile, w);
    }
  }

  // One head's queries and gradients, and what is known of each row.
  void gather(const AttentionSpan& s, int64_t h, BackwardWorkspace& w) const {
    const int64_t n = s.q_end - s.q_begin, d = spec_.k_dim, e = spec_.v_dim;
    const int64_t ldq = row_stride(d), ldo = row_stride(e), start = start_of(spec_, s);
    w.q.resize(static_cast<size_t>(n * ldq));
    w.grad.resize(static_cast<size_t>(n * ldo));
    for (auto* x : {&w.delta, &w.log_sum}) x->resize(static_cast<size_t>(n));
    for (auto* x : {&w.query, &w.bias_offset}) x->resize(static_cast<size_t>(n));
    w.slope.assign(static_cast<size_t>(n), spec_.alibi.slopes.empty() ? 0 : spec_.alibi.slopes[h]);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t row = s.q_begin + i, at = row * spec_.heads + h;
      std::copy_n(q_ + at * d, d, w.q.data() + i * ldq);
      const float *grad = do_ + at * e, *o = o_ + at * e;
      std::copy_n(grad, e, w.grad.data() + i * ldo);
      double sum = 0;
      for (int64_t c = 0; c < e; ++c) sum += double{grad[c]} * o[c];
      w.delta[i] = static_cast<float>(sum - (dsum_ == nullptr ? 0 : dsum_[at]));
      w.log_sum[i] = log_sum_[at];
      w.query[i] = start + i;
      w.bias_offset[i] = bias_rows_.offset(h, row);
    }
  }

  // One tile of keys against all queries of one head that need it.
  void keys(const AttentionSpan& s, int64_t span, const Plan& plan, int64_t h, int64_t kv_head,
            int64_t tile, BackwardWorkspace& w) {
    const int64_t kd = spec_.kv_heads * spec_.k_dim, vd = spec_.kv_heads * spec_.v_dim;
    const int64_t row = s.k_begin + tile * kPageKeys;
    const int64_t count = std::min<int64_t>(kPageKeys, s.k_end - row);
    bool packed = false;
    for (size_t block = 0; block < plan.size(); ++block) {
      const std::vector<TileRun>& runs = plan[block];
      size_t& next = w.next[block];
      while (next < runs.size() && runs[next].last <= tile) ++next;
      if (next == runs.size() || runs[next].first > tile) continue;
      if (!packed)
        pack(k_ + row * kd + kv_head * spec_.k_dim, v_ + row * vd + kv_head * spec_.v_dim, count,
             w);
      packed = true;
      queries(s, span, h, static_cast<int64_t>(block) * kRows, tile, count, runs[next].kind, w);
    }
    if (!packed) return;
    float* out_k = dk.mutable_data<float>() + row * kd + kv_head * spec_.k_dim;
    float* out_v = dv.mutable_data<float>() + row * vd + kv_head * spec_.v_dim;
    for (int64_t r = 0; r < count; ++r) {
      table().add(out_k + r * kd, w.dk.data() + r * spec_.k_dim, spec_.k_dim, out_k + r * kd);
      table().add(out_v + r * vd, w.dv.data() + r * spec_.v_dim, spec_.v_dim, out_v + r * vd);
    }
  }

  void pack(const float* k, const float* v, int64_t count, BackwardWorkspace& w) const {
    const int64_t kd = spec_.kv_heads * spec_.k_dim, vd = spec_.kv_heads * spec_.v_dim;
    key_panels(k, kd, count, spec_.k_dim, w.k_panels);
    key_panels(v, vd, count, spec_.v_dim, w.v_panels);
    channel_panels(k, kd, count, spec_.k_dim, w.k_rows);
    w.dk.assign(static_cast<size_t>(kPageKeys * spec_.k_dim), 0.0f);
    w.dv.assign(static_cast<size_t>(kPageKeys * spec_.v_dim), 0.0f);
  }

  // Which keys of the tile the rows [i, i + n) see, and which survive dropout.
  void mask(int64_t span, int64_t h, int64_t i, int64_t n, int64_t key, int64_t count,
            TileKind kind, BackwardWorkspace& w) const {
    w.masks.assign(static_cast<size_t>(n),
                   count == kPageKeys ? ~uint64_t{0} : (uint64_t{1} << count) - 1);
    w.keep.resize(dropout_.active() ? static_cast<size_t>(n) : 0);
    for (int64_t r = 0; r < n; ++r) {
      if (kind == TileKind::partial) w.masks[r] &= spec_.pattern.mask(w.query[i + r], key);
      if (!terms_.bias.empty_handle())
        w.masks[r] &= visible_bits(terms_.bias.data<float>() + w.bias_offset[i + r] + key, count);
      if (dropout_.active()) w.keep[r] = dropout_.keep(span, h, w.query[i + r], key);
    }
  }

  // Queries [i, i + kRows) of the span against a tile of `count` keys.
  void queries(const AttentionSpan& s, int64_t span, int64_t h, int64_t i, int64_t tile,
               int64_t count, TileKind kind, BackwardWorkspace& w) {
    const int64_t n = std::min(kRows, s.q_end - s.q_begin - i), key = tile * kPageKeys;
    const int64_t d = spec_.k_dim, e = spec_.v_dim, ldq = row_stride(d), ldo = row_stride(e);
    const float *q = w.q.data() + i * ldq, *grad = w.grad.data() + i * ldo;
    mask(span, h, i, n, key, count, kind, w);
    w.s.resize(static_cast<size_t>(kRows * kPageKeys));
    w.dp.resize(w.s.size());
    product(q, ldq, n, d, w.k_panels.data(), kPageKeys, w.s.data(), kPageKeys, false);
    product(grad, ldo, n, e, w.v_panels.data(), kPageKeys, w.dp.data(), kPageKeys, false);
    kernels::AttentionGradients a{};
    a.s = w.s.data();
    a.dp = w.dp.data();
    a.mask = w.masks.data();
    a.log_sum = w.log_sum.data() + i;
    a.delta = w.delta.data() + i;
    a.rows = n;
    a.scale = spec_.scale;
    a.softcap = spec_.softcap;
    a.terms.slope = spec_.alibi.slopes.empty() ? nullptr : w.slope.data();
    a.terms.query = w.query.data() + i;
    a.terms.alibi_signed = spec_.alibi.is_signed;
    a.terms.alibi_first = spec_.alibi.before_cap;
    a.terms.bias = terms_.bias.empty_handle() ? nullptr : terms_.bias.data<float>();
    a.terms.bias_offset = w.bias_offset.data() + i;
    a.terms.keys = s.k_end - s.k_begin;
    a.terms.keep_factor = dropout_.factor();
    a.key = key;
    a.keep = dropout_.active() ? w.keep.data() : nullptr;
    a.dbias = dbias.empty_handle() ? nullptr : dbias.mutable_data<float>();
    table().attention_gradients(&a);
    table().accumulate_tn(w.s.data(), kPageKeys, grad, ldo, n, 0, kPageKeys, 0, e, w.dv.data(), e);
    table().accumulate_tn(w.dp.data(), kPageKeys, q, ldq, n, 0, kPageKeys, 0, d, w.dk.data(), d);
    const int64_t qd = spec_.heads * d;
    product(w.dp.data(), kPageKeys, n, kPageKeys, w.k_rows.data(), d,
            dq.mutable_data<float>() + (s.q_begin + i) * qd + h * d, qd, true);
  }

  const AttentionSpec& spec_;
  const AttentionTerms& terms_;
  const AttentionDropout dropout_;
  const BiasRows bias_rows_;
  const float *q_, *k_, *v_, *o_, *log_sum_, *do_, *dsum_;  // the last: null = zeros

 public:
  Tensor dq, dk, dv, dbias, dsinks;  // the last two: an empty handle = not wanted
};

void check(const AttentionSpec& spec, const Tensor& q, const Tensor& k, const Tensor& v,
           const std::vector<AttentionSpan>& spans, const AttentionTerms& terms) {
  check_spec(spec);
  HONE_CHECK(q.rank() == 2 && k.rank() == 2 && v.rank() == 2 &&
                 q.dim(1) == spec.heads * spec.k_dim && k.dim(1) == spec.kv_heads * spec.k_dim &&
                 v.dim(1) == spec.kv_heads * spec.v_dim && k.dim(0) == v.dim(0),
             invalid_argument, "attention: expected q [T, {}], k [S, {}] and v [S, {}]",
             spec.heads * spec.k_dim, spec.kv_heads * spec.k_dim, spec.kv_heads * spec.v_dim);
  int64_t keys = 0;
  for (const AttentionSpan& s : spans) {
    HONE_CHECK(0 <= s.q_begin && s.q_begin <= s.q_end && s.q_end <= q.dim(0) && 0 <= s.k_begin &&
                   s.k_begin <= s.k_end && s.k_end <= k.dim(0) && s.first >= 0,
               invalid_argument,
               "attention: a span of queries {}..{} and keys {}..{}: there are {} and {}",
               s.q_begin, s.q_end, s.k_begin, s.k_end, q.dim(0), k.dim(0));
    HONE_CHECK(s.first == 0 || (terms.bias.empty_handle() && terms.dropout == 0), unsupported,
               "attention: keys that begin at position {} with a bias or dropout", s.first);
    keys = std::max(keys, s.k_end - s.k_begin);
  }
  check_terms(spec, terms, q.dim(0), keys);
}

// Rows that no span holds; of `sums`, null = not wanted.
void clear_others(const std::vector<AttentionSpan>& spans, Tensor& o,
                  std::initializer_list<Tensor*> sums) {
  std::vector<bool> held(static_cast<size_t>(o.dim(0)));
  for (const AttentionSpan& s : spans)
    std::fill(held.begin() + s.q_begin, held.begin() + s.q_end, true);
  for (int64_t r = 0; r < o.dim(0); ++r) {
    if (held[r]) continue;
    std::fill_n(o.mutable_data<float>() + r * o.dim(1), o.dim(1), 0.0f);
    for (Tensor* x : sums)
      if (x != nullptr) std::fill_n(x->mutable_data<float>() + r * x->dim(1), x->dim(1), -INFINITY);
  }
}

}  // namespace

Tensor attention(const AttentionSpec& spec, const Tensor& q, const Tensor& k, const Tensor& v,
                 const std::vector<AttentionSpan>& spans, const AttentionTerms& terms,
                 Tensor* log_sum, Tensor* top) {
  check(spec, q, k, v, spans, terms);
  KvCache cache({{spec.kv_heads, spec.k_dim, spec.v_dim}});
  std::vector<KvSequence> sequences(spans.size());
  std::vector<SequenceSpan> cached;
  for (size_t i = 0; i < spans.size(); ++i) {
    const AttentionSpan& s = spans[i];
    const int64_t keys = s.k_end - s.k_begin;
    sequences[i].pages.assign(
        1, std::vector(static_cast<size_t>(s.first / kPageKeys), KvSequence::kDropped));
    cache.reserve(sequences[i], s.first + keys);
    if (keys > 0)
      cache.write(0, sequences[i], s.first, keys, k.data<float>() + s.k_begin * k.dim(1),
                  v.data<float>() + s.k_begin * v.dim(1));
    cached.push_back(
        {s.q_begin, s.q_end, s.first + start_of(spec, s), &sequences[i], s.first + keys});
  }
  const bool keep = recorded({&q, &k, &v, &terms.bias, &terms.sinks});
  Tensor sums;
  Tensor* const wanted = keep || log_sum ? &sums : nullptr;
  Tensor o = attend(spec, q, cache, 0, cached, wanted, terms, top);
  clear_others(spans, o, {wanted, top});
  if (keep)
    record_all({&o, &sums}, [=, o = o.detached(),
                             sums = sums.detached()](const std::vector<Tensor>& grad) {
      const Tensor zeros = grad[0].empty_handle() ? Tensor::zeros(o.shape(), DType::f32) : grad[0];
      Backward back(spec, terms, q, k, v, o, sums, zeros, grad[1]);
      back.run(spans);
      add_gradient(q, back.dq);
      add_gradient(k, back.dk);
      add_gradient(v, back.dv);
      if (!back.dbias.empty_handle()) add_gradient(terms.bias, back.dbias);
      if (!back.dsinks.empty_handle()) add_gradient(terms.sinks, back.dsinks);
    });
  if (log_sum != nullptr) *log_sum = sums;
  return o;
}

}  // namespace hone
