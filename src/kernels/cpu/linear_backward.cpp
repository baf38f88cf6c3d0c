// Gradients of linear attention: a segment's chunks again, then backward from the last to the first
// (linear_chunk.h has the names).
//
// With dS behind a chunk: dU = M_uᵀ·dO + K̂·dS, dP = M_pᵀ·dO + B̂·dS, both through the transposed
// substitution; dS in front = D(16, 0)∘dS + Q̃ᵀ·dO + Ãᵀ·dR, dR being what flows to Ã·S. Pairs:
// d(r_t) = Σ_s m[t, s]·D∘w_s and d(w_s) = Σ_t m[t, s]·D∘r_t, by Horner's rule over the decays:
// nothing is divided here either. The logarithm of a decay gets what flows across it: from the
// state in front to the readers behind it, from the writers in front of it to the state behind, and
// between tokens, where dg_t = Σ_{t'≥t} (r∘dr − w∘dw)_{t'}; what a token reads of itself is left
// out, as it would cancel.
#include "kernels/cpu/linear_chunk.h"

namespace hone::kernels::HONE_ISA {
namespace {

struct Back {
  Chunk c;
  const LinearGradients* out;
  float *dstate, *across;                  // [K', V'], [V', K']
  int64_t ap;                              // between rows of `across`
  float *d_o, *du, *dr;                    // [16, V']: dO, dU, and what flows to Ã·S
  float* columns;                          // [V', 16]
  float *dq, *dk, *da, *db;                // [16, K']: of scale·q and, as readers, of a
  float *q_u, *q_p, *a_u, *a_p, *among;    // [16, 16]
  float self_u[kTokens], self_p[kTokens];  // the diagonals of q_u and q_p
  float* past;                             // [K']: what flows past the chunk, Σ D(16, 0)∘S∘dS
};

static Back back_in(const LinearGradients* g, float** scratch) {
  Back b;
  b.c = chunk_in(&g->of, scratch);
  b.out = g;
  const int64_t kp = b.c.kp, vp = b.c.vp;
  b.dstate = take(scratch, kp * b.c.sp);
  b.ap = apart(kp);
  b.across = take(scratch, vp * b.ap);
  float** v_rows[] = {&b.d_o, &b.du, &b.dr, &b.columns};
  for (float** r : v_rows) *r = take(scratch, kTokens * vp);
  float** k_rows[] = {&b.dq, &b.dk, &b.da, &b.db};
  for (float** r : k_rows) *r = take(scratch, kTokens * kp);
  float** squares[] = {&b.q_u, &b.q_p, &b.a_u, &b.a_p, &b.among};
  for (float** r : squares) *r = take(scratch, kTokens * kTokens);
  b.past = take(scratch, kp);
  return b;
}

// y_t += Σ_s m[t, s]·D(t, s)∘w_s over s ≤ t; kBefore: D(t−1, s), s < t. Sixteen channels from i on.
template <bool kBefore>
static void to_readers(const Chunk* c, const float* m, const float* writers, int64_t i, vf* y) {
  vf sum[kTokens];
  for (int t = 0; t < kTokens; ++t) sum[t] = zero_f();
  for (int s = 0; s < kTokens; ++s) {
    const vf d = load_f(c->d + s * c->kp + i), w = load_f(writers + s * c->kp + i);
    for (int t = s + kBefore; t < kTokens; ++t)
      sum[t] = fma(set_f(m[t * kTokens + s]), w, mul(sum[t], d));
  }
  for (int t = 0; t < kTokens; ++t) y[t] = add(y[t], sum[t]);
}
// x_s += Σ_t m[t, s]·D(t, s)∘r_t over t ≥ s; kBefore: D(t−1, s), t > s.
template <bool kBefore>
static void to_writers(const Chunk* c, const float* m, const float* readers, int64_t i, vf* x) {
  vf sum[kTokens];
  for (int s = 0; s < kTokens; ++s) sum[s] = zero_f();
  for (int t = kTokens - 1; t >= 0; --t) {
    const vf d = load_f(c->d + t * c->kp + i), r = load_f(readers + t * c->kp + i);
    for (int s = 0; s < t; ++s) {
      const vf e = set_f(m[t * kTokens + s]);
      sum[s] = kBefore ? fma(e, r, mul(sum[s], d)) : mul(fma(e, r, sum[s]), d);
    }
    if (!kBefore) sum[t] = fma(set_f(m[t * (kTokens + 1)]), r, sum[t]);
  }
  for (int s = 0; s < kTokens; ++s) x[s] = add(x[s], sum[s]);
}
HONE_INLINE void readers(const Chunk* c, bool before, const float* m, const float* w, int64_t i,
                         vf* y) {
  before ? to_readers<true>(c, m, w, i, y) : to_readers<false>(c, m, w, i, y);
}
HONE_INLINE void writers(const Chunk* c, bool before, const float* m, const float* r, int64_t i,
                         vf* x) {
  before ? to_writers<true>(c, m, r, i, x) : to_writers<false>(c, m, r, i, x);
}

HONE_INLINE float dot(const float* x, const float* y, int64_t n) {
  vf sum = zero_f();
  for (int64_t i = 0; i < n; i += kPanel) sum = fma(load_f(x + i), load_f(y + i), sum);
  return reduce_add(sum);
}

// dU and dR; writes dv and dβ.
static void values_back(Back* b, int64_t t0) {
  Chunk* c = &b->c;
  const LinearArgs* r = c->args;
  const int64_t kp = c->kp, vp = c->vp;
  const bool general = r->rank == kGeneralRank, delta = r->rank == kDeltaRank;
  product(kTokens, vp, kTokens, c->q_u, 1, kTokens, b->d_o, vp, b->du, vp, false);
  scaled_rows(c->k, c->behind, kp, c->x);
  times(c->x, kp, b->dstate, c->sp, vp, kp, b->du, true);
  if (general) {
    product(kTokens, vp, kTokens, c->q_p, 1, kTokens, b->d_o, vp, b->dr, vp, false);
    scaled_rows(c->b, c->behind, kp, c->x);
    times(c->x, kp, b->dstate, c->sp, vp, kp, b->dr, true);
    solve<true>(c->a_p, b->dr, vp);
    product(kTokens, vp, kTokens, c->a_u, 1, kTokens, b->dr, vp, b->du, vp, true);
  }
  if (delta) {
    for (int i = 0; i < kTokens * kTokens; ++i) b->among[i] = -c->a_u[i] * c->beta[i / kTokens];
    solve<true>(b->among, b->du, vp);
  }
  for (int64_t t = 0; t < c->tokens; ++t) {
    const float* du = b->du + t * vp;
    const vf beta = set_f(c->beta[t]);
    float* dv = b->out->dv + (t0 + t) * r->v_ld;
    for (int64_t i = 0; i < vp; i += kPanel)
      store_y(dv + i, mul(beta, load_f(du + i)), r->columns - i);
    if (b->out->dbeta) b->out->dbeta[(t0 + t) * r->beta_ld] = dot(c->y + t * vp, du, vp);
  }
  // P stands in Y with a minus.
  if (delta)
    for (int64_t t = 0; t < kTokens; ++t)
      for (int64_t i = 0; i < vp; i += kPanel)
        store_f(b->dr + t * vp + i, mul(set_f(-c->beta[t]), load_f(b->du + t * vp + i)));
}

// Gradients of the pairs and, through the states, of readers and writers; dS in front.
static void products_back(Back* b, const float* before) {
  Chunk* c = &b->c;
  const LinearArgs* r = c->args;
  const int64_t kp = c->kp, vp = c->vp;
  const bool general = r->rank == kGeneralRank, low_rank = r->rank != kNoRank;
  transpose(c->value, vp, kTokens, vp, b->columns, kTokens);
  times(b->d_o, vp, b->columns, kTokens, kTokens, vp, b->q_u, false);
  if (low_rank) times(b->dr, vp, b->columns, kTokens, kTokens, vp, b->a_u, false);
  if (general) {
    transpose(c->p, vp, kTokens, vp, b->columns, kTokens);
    times(b->d_o, vp, b->columns, kTokens, kTokens, vp, b->q_p, false);
    times(b->dr, vp, b->columns, kTokens, kTokens, vp, b->a_p, false);
  }
  for (int t = 0; t < kTokens; ++t) {
    const int at = t * (kTokens + 1);
    b->self_u[t] = b->q_u[at];
    b->self_p[t] = b->q_p[at];
    b->q_u[at] = b->q_p[at] = b->a_u[at] = 0;
  }
  transpose(before, c->sp, kp, vp, b->across, b->ap);
  times(b->d_o, vp, b->across, b->ap, kp, vp, b->dq, false);
  if (low_rank) times(b->dr, vp, b->across, b->ap, kp, vp, b->da, false);
  transpose(b->dstate, c->sp, kp, vp, b->across, b->ap);
  times(c->value, vp, b->across, b->ap, kp, vp, b->dk, false);
  if (general) times(c->p, vp, b->across, b->ap, kp, vp, b->db, false);
  const float* decay = c->through + (kTokens - 1) * kp;
  for (int64_t i = 0; i < kp; ++i)
    b->past[i] = decay[i] * dot(before + i * c->sp, b->dstate + i * c->sp, vp);
  scaled_rows(c->q, r->reads_previous ? c->before : c->through, kp, c->x);
  transposed_times(c->x, kp, b->d_o, vp, b->dstate, c->sp, false, decay);
  if (!low_rank) return;
  scaled_rows(c->a, general ? c->before : c->through, kp, c->x);
  transposed_times(c->x, kp, b->dr, vp, b->dstate, c->sp, true);
}

// What sixteen channels from i on get, but for what a token reads of itself; dg: what flows to the
// logarithms of their decays.
static void channels_back(Back* b, int64_t i, vf* dq, vf* dk, vf* da, vf* db, vf* dg) {
  const Chunk* c = &b->c;
  const LinearArgs* r = c->args;
  const bool previous = r->reads_previous, general = r->rank == kGeneralRank,
             low_rank = r->rank != kNoRank;
  auto of = [&](const float* x, int t) { return load_f(x + t * c->kp + i); };
  vf dk_pairs[kTokens], db_pairs[kTokens], past = load_f(b->past + i);
  for (int t = 0; t < kTokens; ++t) {
    dq[t] = mul(of(b->dq, t), of(previous ? c->before : c->through, t));
    da[t] = low_rank ? mul(of(b->da, t), of(general ? c->before : c->through, t)) : zero_f();
    dk[t] = mul(of(b->dk, t), of(c->behind, t));
    db[t] = general ? mul(of(b->db, t), of(c->behind, t)) : zero_f();
    dk_pairs[t] = db_pairs[t] = zero_f();
    dg[t] = past;
    past = fma(of(c->k, t), dk[t], past);
    if (general) past = fma(of(c->b, t), db[t], past);
  }
  readers(c, previous, b->q_u, c->k, i, dq);
  writers(c, previous, b->q_u, c->q, i, dk_pairs);
  if (low_rank) {
    readers(c, general, b->a_u, c->k, i, da);
    writers(c, general, b->a_u, c->a, i, dk_pairs);
  }
  if (general) {
    readers(c, previous, b->q_p, c->b, i, dq);
    writers(c, previous, b->q_p, c->q, i, db_pairs);
    readers(c, true, b->a_p, c->b, i, da);
    writers(c, true, b->a_p, c->a, i, db_pairs);
  }
  vf run = zero_f();
  for (int t = kTokens - 1; t >= 0; --t) {
    const int q_at = t + (previous ? 1 : 0), a_at = t + (general ? 1 : 0);
    if (q_at < kTokens) run = fma(of(c->q, q_at), dq[q_at], run);
    if (low_rank && a_at < kTokens) run = fma(of(c->a, a_at), da[a_at], run);
    run = sub(run, mul(of(c->k, t), dk_pairs[t]));
    if (general) run = sub(run, mul(of(c->b, t), db_pairs[t]));
    dg[t] = add(dg[t], run);
    dk[t] = add(dk[t], dk_pairs[t]);
    db[t] = add(db[t], db_pairs[t]);
  }
}

HONE_INLINE void add_y(float* to, vf x, int64_t valid) {
  store_y(to, add(load_y(to, valid), x), valid);
}

static void rows_back(Back* b, int64_t t0) {
  const Chunk* c = &b->c;
  const LinearArgs* r = c->args;
  const LinearGradients* out = b->out;
  vf dq[kTokens], dk[kTokens], da[kTokens], db[kTokens], dg[kTokens], dg_head[kTokens];
  for (int t = 0; t < kTokens; ++t) dg_head[t] = zero_f();
  for (int64_t i = 0; i < c->kp; i += kPanel) {
    const int64_t valid = r->k_dim - i;
    channels_back(b, i, dq, dk, da, db, dg);
    // The weight of what a token reads of itself.
    const vf own = !r->reads_previous ? set_f(1) : r->u ? load_y(r->u + i, valid) : zero_f();
    for (int64_t t = 0; t < c->tokens; ++t) {
      const int64_t qk = (t0 + t) * r->qk_ld + i, ab = (t0 + t) * r->ab_ld + i;
      if (r->rank == kDeltaRank) dk[t] = add(dk[t], da[t]);
      const vf q = load_f(c->q + t * c->kp + i), k = load_f(c->k + t * c->kp + i);
      const vf m = set_f(b->self_u[t]);
      dq[t] = fma(m, mul(own, k), dq[t]);
      dk[t] = fma(m, mul(own, q), dk[t]);
      if (out->du) add_y(out->du + i, mul(m, mul(q, k)), valid);
      if (r->rank == kGeneralRank && !r->reads_previous) {
        dq[t] = fma(set_f(b->self_p[t]), load_f(c->b + t * c->kp + i), dq[t]);
        db[t] = fma(set_f(b->self_p[t]), q, db[t]);
      }
      add_y(out->dq + qk, mul(set_f(r->scale), dq[t]), valid);
      add_y(out->dk + qk, dk[t], valid);
      if (r->rank == kGeneralRank) {
        store_y(out->da + ab, da[t], valid);
        store_y(out->db + ab, db[t], valid);
      }
      if (out->dg && r->decay == kChannelDecay)
        store_y(out->dg + (t0 + t) * out->dg_ld + i, dg[t], valid);
      dg_head[t] = add(dg_head[t], dg[t]);
    }
  }
  if (out->dg && r->decay == kHeadDecay)
    for (int64_t t = 0; t < c->tokens; ++t) out->dg[(t0 + t) * out->dg_ld] = reduce_add(dg_head[t]);
}

}  // namespace

void linear_backward(const LinearGradients* g) {
  const LinearArgs* r = &g->of;
  float* scratch = r->scratch;
  Back b = back_in(g, &scratch);
  const int64_t size = b.c.kp * b.c.sp, chunks = (r->tokens + kTokens - 1) / kTokens;
  float* states[kLinearSegment / kTokens];
  for (int64_t i = 0; i < chunks; ++i) states[i] = take(&scratch, size);
  auto tokens_of = [&](int64_t i) {
    return r->tokens - i * kTokens < kTokens ? r->tokens - i * kTokens : (int64_t)kTokens;
  };
  load_state(r->state, r->state_ld, r->k_dim, r->columns, states[0]);
  load_state(g->dstate, r->columns, r->k_dim, r->columns, b.dstate);
  for (int64_t i = 0; i < chunks; ++i) {
    chunk_values(&b.c, i * kTokens, tokens_of(i), states[i]);
    if (i + 1 == chunks) break;
    memcpy(states[i + 1], states[i], sizeof(float) * (size_t)size);
    chunk_state(&b.c, states[i + 1]);
  }
  for (int64_t i = chunks - 1; i >= 0; --i) {
    const int64_t t0 = i * kTokens, tokens = tokens_of(i);
    if (i + 1 < chunks) chunk_values(&b.c, t0, tokens, states[i]);
    gather(g->d_o + t0 * r->o_ld, r->o_ld, tokens, r->columns, 1, b.d_o);
    values_back(&b, t0);
    products_back(&b, states[i]);
    rows_back(&b, t0);
  }
  store_state(b.dstate, r->k_dim, r->columns, g->dstate, r->columns);
}

}  // namespace hone::kernels::HONE_ISA
