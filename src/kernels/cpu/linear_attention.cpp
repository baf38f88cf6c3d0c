// Linear attention forward: token by token, and by chunks of sixteen.
//
// Token by token, a tile of columns of the state stays in the first-level cache while some tokens
// pass over it. Each element takes the same steps whether one token comes or many: state rows in
// order, S ← fma(k, u, d·S) and o ← fma(q, S, o), so that decode and prefill agree bit for bit. The
// pass that a token makes also sums what the next one's low-rank term finds. Limits: 2 to 5
// multiply-adds and multiplications for an element of the state and a token; a state's bytes in
// decode. By chunks (linear_chunk.h): 2 to 4 multiply-adds, in products.
#include "kernels/cpu/linear_chunk.h"

namespace hone::kernels::HONE_ISA {
namespace {

// What tokens do to the rows of the state, of up to 16 tokens.
struct Rows {
  float *q, *k, *d, *a;  // [16, K']
  const float* b;        // rows b_ld apart
  int64_t b_ld, kp;
  float beta[kTokens], bonus[kTokens];
};

static void prepare_rows(const LinearArgs* r, int64_t t0, int64_t tokens, float* scratch,
                         Rows* rows) {
  const int64_t kp = padded(r->k_dim);
  float** parts[] = {&rows->q, &rows->k, &rows->d, &rows->a};
  for (float** p : parts) *p = take(&scratch, kTokens * kp);
  rows->kp = kp;
  rows->b = r->b ? r->b + t0 * r->ab_ld : nullptr;
  rows->b_ld = r->ab_ld;
  for (int64_t t = 0; t < tokens; ++t) {
    const float *q = r->q + (t0 + t) * r->qk_ld, *k = r->k + (t0 + t) * r->qk_ld;
    vf bonus = zero_f();
    for (int64_t i = 0; i < kp; i += kPanel) {
      const int64_t at = t * kp + i, valid = r->k_dim - i;
      const vf qi = mul(set_f(r->scale), load_y(q + i, valid)), ki = load_y(k + i, valid);
      const vf d = decay_of(r, t0 + t, i, valid);
      store_f(rows->q + at, qi);
      store_f(rows->k + at, ki);
      store_f(rows->d + at, d);
      if (r->rank == kDeltaRank) store_f(rows->a + at, mul(ki, d));
      if (r->rank == kGeneralRank)
        store_f(rows->a + at, load_y(r->a + (t0 + t) * r->ab_ld + i, valid));
      if (r->u) bonus = fma(mul(qi, load_y(r->u + i, valid)), ki, bonus);
    }
    rows->bonus[t] = reduce_add(bonus);
    rows->beta[t] = r->beta ? r->beta[(t0 + t) * r->beta_ld] : 1;
  }
}

// kTogether tokens over kWide vectors of columns of the state. `found` is Sᵀ·a of the first token
// (kRank ≠ kNoRank); it becomes that of the token behind them, if there is one (a_next).
template <int kRank, bool kDecays, bool kPrevious, int kTogether, int kWide>
static void pass(const LinearArgs* r, const Rows* rows, int64_t t0, int64_t t, int64_t j,
                 int64_t valid, const float* a_next, vf* found) {
  vf u[kTogether][kWide], o[kTogether][kWide], next[kWide];
  for (int n = 0; n < kTogether; ++n)
    for (int w = 0; w < kWide; ++w) {
      vf v = load_y(r->v + (t0 + t + n) * r->v_ld + j + w * kPanel, valid - w * kPanel);
      if (kRank == kDeltaRank) v = sub(v, found[w]);
      u[n][w] = mul(set_f(rows->beta[t + n]), v);
      o[n][w] = kPrevious ? mul(set_f(rows->bonus[t + n]), u[n][w]) : zero_f();
    }
  for (int w = 0; w < kWide; ++w) next[w] = zero_f();
  const float *q = rows->q + t * rows->kp, *k = rows->k + t * rows->kp, *d = rows->d + t * rows->kp;
  const float* b = kRank == kGeneralRank ? rows->b + t * rows->b_ld : nullptr;
  float* s = r->state + j;
  for (int64_t i = 0; i < r->k_dim; ++i, s += r->state_ld) {
    vf x[kWide];
    for (int w = 0; w < kWide; ++w) x[w] = load_y(s + w * kPanel, valid - w * kPanel);
    for (int n = 0; n < kTogether; ++n) {
      const int64_t at = n * rows->kp + i;
      const vf qi = set_f(q[at]), ki = set_f(k[at]), di = set_f(kDecays ? d[at] : 1);
      const vf bi = set_f(kRank == kGeneralRank ? b[i] : 0);
      for (int w = 0; w < kWide; ++w) {
        if (kPrevious) o[n][w] = fma(qi, x[w], o[n][w]);
        if (kDecays) x[w] = mul(di, x[w]);
        if (kRank == kGeneralRank) x[w] = fma(bi, found[w], x[w]);
        x[w] = fma(ki, u[n][w], x[w]);
        if (!kPrevious) o[n][w] = fma(qi, x[w], o[n][w]);
      }
    }
    for (int w = 0; w < kWide; ++w) {
      if (kRank != kNoRank && a_next) next[w] = fma(set_f(a_next[i]), x[w], next[w]);
      store_y(s + w * kPanel, x[w], valid - w * kPanel);
    }
  }
  for (int n = 0; n < kTogether; ++n)
    for (int w = 0; w < kWide; ++w)
      store_y(r->o + (t0 + t + n) * r->o_ld + j + w * kPanel, o[n][w], valid - w * kPanel);
  if (kRank != kNoRank)
    for (int w = 0; w < kWide; ++w) found[w] = next[w];
}

#if defined(__AVX512F__)
constexpr int kPassWide = 4, kPassTokens = 2;
#else
constexpr int kPassWide = 1, kPassTokens = 2;
#endif

// All tokens over kWide vectors of columns.
template <int kRank, bool kDecays, bool kPrevious, int kWide>
static void tile(const LinearArgs* r, const Rows* rows, int64_t t0, int64_t tokens, int64_t j) {
  const int64_t valid = r->columns - j;
  vf found[kWide];
  int64_t t = 0;
  if (kRank == kNoRank) {
    for (; t + kPassTokens <= tokens; t += kPassTokens)
      pass<kRank, kDecays, kPrevious, kPassTokens, kWide>(r, rows, t0, t, j, valid, nullptr, found);
  } else {
    for (int w = 0; w < kWide; ++w) found[w] = zero_f();
    for (int64_t i = 0; i < r->k_dim; ++i)
      for (int w = 0; w < kWide; ++w) {
        const float* s = r->state + i * r->state_ld + j + w * kPanel;
        found[w] = fma(set_f(rows->a[i]), load_y(s, valid - w * kPanel), found[w]);
      }
  }
  for (; t < tokens; ++t)
    pass<kRank, kDecays, kPrevious, 1, kWide>(
        r, rows, t0, t, j, valid, t + 1 < tokens ? rows->a + (t + 1) * rows->kp : nullptr, found);
}

template <int kRank, bool kDecays, bool kPrevious>
static void recurrent(const LinearArgs* r) {
  for (int64_t t0 = 0; t0 < r->tokens; t0 += kTokens) {
    const int64_t tokens = r->tokens - t0 < kTokens ? r->tokens - t0 : kTokens;
    Rows rows;
    prepare_rows(r, t0, tokens, r->scratch, &rows);
    fetch_next(r, t0 + tokens);
    int64_t j = 0;
    for (; j + kPassWide * kPanel <= r->columns; j += kPassWide * kPanel)
      tile<kRank, kDecays, kPrevious, kPassWide>(r, &rows, t0, tokens, j);
    for (; j < r->columns; j += kPanel) tile<kRank, kDecays, kPrevious, 1>(r, &rows, t0, tokens, j);
  }
}

template <int kRank>
static void recurrent_of(const LinearArgs* r) {
  if (r->decay == kNoDecay)
    r->reads_previous ? recurrent<kRank, false, true>(r) : recurrent<kRank, false, false>(r);
  else
    r->reads_previous ? recurrent<kRank, true, true>(r) : recurrent<kRank, true, false>(r);
}

}  // namespace

void linear_recurrent(const LinearArgs* given) {
  LinearArgs r = *given;
  // Many tokens work on a copy whose rows lie well in a cache.
  const bool copy = r.tokens > kTokens / 2;
  if (copy) {
    r.state = take(&r.scratch, padded(r.k_dim) * apart(r.columns));
    r.state_ld = apart(r.columns);
    load_state(given->state, given->state_ld, r.k_dim, r.columns, r.state);
  }
  if (r.rank == kNoRank)
    recurrent_of<kNoRank>(&r);
  else if (r.rank == kDeltaRank)
    recurrent_of<kDeltaRank>(&r);
  else
    recurrent_of<kGeneralRank>(&r);
  if (copy) store_state(r.state, r.k_dim, r.columns, given->state, given->state_ld);
}

void linear_chunked(const LinearArgs* r) {
  float* scratch = r->scratch;
  float* state = take(&scratch, padded(r->k_dim) * apart(r->columns));
  Chunk c = chunk_in(r, &scratch);
  float* o = take(&scratch, kTokens * c.vp);
  load_state(r->state, r->state_ld, r->k_dim, r->columns, state);
  for (int64_t t0 = 0; t0 < r->tokens; t0 += kTokens) {
    const int64_t tokens = r->tokens - t0 < kTokens ? r->tokens - t0 : kTokens;
    chunk_values(&c, t0, tokens, state);
    scaled_rows(c.q, r->reads_previous ? c.before : c.through, c.kp, c.x);
    times(c.x, c.kp, state, c.sp, c.vp, r->k_dim, o, false);
    times(c.q_u, kTokens, c.value, c.vp, c.vp, kTokens, o, true);
    if (r->rank == kGeneralRank) times(c.q_p, kTokens, c.p, c.vp, c.vp, kTokens, o, true);
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t j = 0; j < r->columns; j += kPanel)
        store_y(r->o + (t0 + t) * r->o_ld + j, load_f(o + t * c.vp + j), r->columns - j);
    chunk_state(&c, state);
  }
  store_state(state, r->k_dim, r->columns, r->state, r->state_ld);
}

}  // namespace hone::kernels::HONE_ISA
