// One chunk of linear attention: sixteen tokens of one head by matrix products.
//
// With d_t = e^{g_t} and D(t, s) = d_{s+1}∘…∘d_t, the chunk's tokens read the state S in front of
// it, and each other:
//   P = Ã·S + A_u·U + A_p·P      what a_t (delta: k_t) finds in the state
//   Y = v, delta: v − P;  U = β·Y
//   O = Q̃·S + M_u·U + M_p·P
//   S ← D(16, 0)·S + K̂ᵀ·U + B̂ᵀ·P
// where a reader r_t, q or a, of a writer w_s, k or b, is the matrix Σ_i r_t[i]·D(·, s)[i]·w_s[i],
// triangular. Products of decays stand in for exponents of differences: nothing is divided, so that
// nothing overflows, whatever the decay. (Yang et al. 2024, "Gated Linear Attention" and
// "Parallelizing Linear Transformers with the Delta Rule"; solved by substitution, without the
// inverse.) All operands are padded to whole vectors with zeros, missing tokens decay by 1 and read
// and write nothing.
#pragma once

#include "kernels/cpu/simd.h"
#include "kernels/linear_attention.h"

namespace hone::kernels::HONE_ISA {

constexpr int kTokens = kLinearTokens;

HONE_INLINE int64_t padded(int64_t n) { return (n + kPanel - 1) / kPanel * kPanel; }
// Floats between the rows of a matrix of many rows: an odd number of cache lines, so that a few
// columns of all rows do not share the same sets of a cache.
HONE_INLINE int64_t apart(int64_t n) { return padded(n) / kPanel % 2 ? padded(n) : padded(n) + 16; }

#if defined(__AVX512F__)
constexpr int kProductWide = 2, kProductRows = 8;
#else
constexpr int kProductWide = 1, kProductRows = 4;
#endif

template <int kRows, int kWide>
static void product_tile(const float* a, int64_t ar, int64_t as, const float* b, int64_t ldb,
                         int64_t depth, const float* rate, bool add_to, float* c, int64_t ldc) {
  vf acc[kRows][kWide];
  for (int r = 0; r < kRows; ++r)
    for (int w = 0; w < kWide; ++w) {
      acc[r][w] = rate || add_to ? load_f(c + r * ldc + w * kPanel) : zero_f();
      if (rate) acc[r][w] = mul(acc[r][w], set_f(rate[r]));
    }
  for (int64_t s = 0; s < depth; ++s, a += as, b += ldb) {
    vf v[kWide];
    for (int w = 0; w < kWide; ++w) v[w] = load_f(b + w * kPanel);
    for (int r = 0; r < kRows; ++r) {
      const vf e = set_f(a[r * ar]);
      for (int w = 0; w < kWide; ++w) acc[r][w] = fma(e, v[w], acc[r][w]);
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int w = 0; w < kWide; ++w) store_f(c + r * ldc + w * kPanel, acc[r][w]);
}

// c[rows, n] = Σ_s a[r·ar + s·as]·b[s, n], added to c, or to rate[r]·c, where asked; rows are a
// multiple of 8, n of 16. Sums run over s in order.
static void product(int64_t rows, int64_t n, int64_t depth, const float* a, int64_t ar, int64_t as,
                    const float* b, int64_t ldb, float* c, int64_t ldc, bool add_to,
                    const float* rate = nullptr) {
  int64_t j = 0;
  for (; j + kProductWide * kPanel <= n; j += kProductWide * kPanel)
    for (int64_t r = 0; r < rows; r += kProductRows)
      product_tile<kProductRows, kProductWide>(a + r * ar, ar, as, b + j, ldb, depth,
                                               rate ? rate + r : rate, add_to, c + r * ldc + j,
                                               ldc);
  for (; j < n; j += kPanel)
    for (int64_t r = 0; r < rows; r += 8)
      product_tile<8, 1>(a + r * ar, ar, as, b + j, ldb, depth, rate ? rate + r : rate, add_to,
                         c + r * ldc + j, ldc);
}
// c[16, n] (+)= a[16, depth]·b[depth, n].
HONE_INLINE void times(const float* a, int64_t lda, const float* b, int64_t ldb, int64_t n,
                       int64_t depth, float* c, bool add_to) {
  product(kTokens, n, depth, a, lda, 1, b, ldb, c, n, add_to);
}
// c[rows, n] (+)= a[16, rows]ᵀ·b[16, n].
HONE_INLINE void transposed_times(const float* a, int64_t rows, const float* b, int64_t n, float* c,
                                  int64_t ldc, bool add_to, const float* rate = nullptr) {
  product(rows, n, kTokens, a, 1, rows, b, n, c, ldc, add_to, rate);
}

// x_t += Σ_{s<t} m[t, s]·x_s, from the first on; and its transpose, x_s += Σ_{t>s} m[t, s]·x_t,
// from the last on. x is [16, n].
template <bool kUpper, int kWide>
static void solve_columns(const float* m, float* x, int64_t n) {
  for (int i = 1; i < kTokens; ++i) {
    const int t = kUpper ? kTokens - 1 - i : i;
    vf sum[kWide];
    for (int w = 0; w < kWide; ++w) sum[w] = load_f(x + t * n + w * kPanel);
    for (int j = 0; j < i; ++j) {
      const int s = kUpper ? kTokens - 1 - j : j;
      const vf e = set_f(kUpper ? m[s * kTokens + t] : m[t * kTokens + s]);
      for (int w = 0; w < kWide; ++w) sum[w] = fma(e, load_f(x + s * n + w * kPanel), sum[w]);
    }
    for (int w = 0; w < kWide; ++w) store_f(x + t * n + w * kPanel, sum[w]);
  }
}
template <bool kUpper>
static void solve(const float* m, float* x, int64_t n) {
  int64_t j = 0;
  for (; j + 4 * kPanel <= n; j += 4 * kPanel) solve_columns<kUpper, 4>(m, x + j, n);
  for (; j < n; j += kPanel) solve_columns<kUpper, 1>(m, x + j, n);
}

// out[n, rows] = in[rows, n]; both multiples of 16.
HONE_INLINE void transpose(const float* in, int64_t ld, int64_t rows, int64_t n, float* out,
                           int64_t out_ld) {
  for (int64_t r = 0; r < rows; r += kPanel)
    for (int64_t j = 0; j < n; j += kPanel)
      transpose_block(in + r * ld + j, ld, out + j * out_ld + r, out_ld);
}

// Has what the next chunk reads fetched while this one is computed: rows of heads lie too far apart
// for the CPU to foresee.
HONE_INLINE void fetch_rows(const float* x, int64_t ld, int64_t tokens, int64_t n) {
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t i = 0; i < n; i += kPanel) __builtin_prefetch(x + t * ld + i, 0, 2);
}

// out[16, padded(n)] = factor·x[tokens, n].
HONE_INLINE void gather(const float* x, int64_t ld, int64_t tokens, int64_t n, float factor,
                        float* out) {
  const int64_t np = padded(n);
  for (int64_t t = 0; t < kTokens; ++t)
    for (int64_t i = 0; i < np; i += kPanel)
      store_f(out + t * np + i,
              t < tokens && i < n ? mul(set_f(factor), load_y(x + t * ld + i, n - i)) : zero_f());
}

// out[16, n] = x∘f.
HONE_INLINE void scaled_rows(const float* x, const float* f, int64_t n, float* out) {
  for (int64_t i = 0; i < kTokens * n; i += kPanel)
    store_f(out + i, mul(load_f(x + i), load_f(f + i)));
}

// The next n floats of a scratch. Some lines lie between its parts: loads would wait for stores to
// others that are a multiple of 4 KB away.
HONE_INLINE float* take(float** scratch, int64_t n) {
  float* p = *scratch;
  *scratch += n + 5 * kPanel;
  return p;
}

struct Chunk {
  const LinearArgs* args;
  int64_t kp, vp, sp, tokens;        // K', V', between rows of a state
  float *q, *k, *a, *b;              // [16, K']: scale·q; a is k for the delta rule
  float* d;                          // [16, K']: decays
  float *before, *through, *behind;  // [16, K']: D(t−1, 0), D(t, 0), D(16, t)
  float *beta, *v, *y, *value, *p;   // [16]; [16, V']: v, Y, U, P
  float *q_u, *q_p, *a_u, *a_p;      // [16, 16]: M_u, M_p, A_u, A_p; delta: A_u of k with k
  float *k_t, *b_t, *walk;           // [K', 16], [K', 16], 2·[K', 16]
  float *x, *z;                      // [16, K']: for one product
};

static Chunk chunk_in(const LinearArgs* args, float** scratch) {
  Chunk c;
  c.args = args;
  c.kp = padded(args->k_dim);
  c.vp = padded(args->columns);
  c.sp = apart(args->columns);
  c.tokens = 0;
  float** rows[] = {&c.q,       &c.k,      &c.a,   &c.b,   &c.d, &c.before,
                    &c.through, &c.behind, &c.k_t, &c.b_t, &c.x, &c.z};
  for (float** r : rows) *r = take(scratch, kTokens * c.kp);
  c.walk = take(scratch, 2 * kTokens * c.kp);
  float** columns[] = {&c.v, &c.y, &c.value, &c.p};
  for (float** r : columns) *r = take(scratch, kTokens * c.vp);
  float** squares[] = {&c.q_u, &c.q_p, &c.a_u, &c.a_p};
  for (float** r : squares) *r = take(scratch, kTokens * kTokens);
  c.beta = take(scratch, kTokens);
  return c;
}

HONE_INLINE vf decay_of(const LinearArgs* r, int64_t t, int64_t i, int64_t valid) {
  if (r->decay == kNoDecay) return set_f(1);
  const float* g = r->g + t * r->g_ld;
  return exp_f(r->decay == kHeadDecay ? set_f(g[0]) : load_y(g + i, valid));
}

// The decays of the tokens and their running products, for sixteen channels from i on.
static void decay_channels(Chunk* c, int64_t t0, int64_t i) {
  const LinearArgs* r = c->args;
  vf run = set_f(1);
  for (int64_t t = 0; t < kTokens; ++t) {
    const int64_t at = t * c->kp + i;
    const vf d = t < c->tokens ? decay_of(r, t0 + t, i, r->k_dim - i) : set_f(1);
    store_f(c->d + at, d);
    store_f(c->before + at, run);
    run = mul(run, d);
    store_f(c->through + at, run);
  }
  run = set_f(1);
  for (int64_t t = kTokens - 1; t >= 0; --t) {
    store_f(c->behind + t * c->kp + i, run);
    run = mul(run, load_f(c->d + t * c->kp + i));
  }
}
static void prepare_decays(Chunk* c, int64_t t0) {
  decay_channels(c, t0, 0);
  float* all[] = {c->d, c->before, c->through, c->behind};
  for (int64_t i = kPanel; i < c->kp; i += kPanel) {
    if (c->args->decay == kChannelDecay)
      decay_channels(c, t0, i);
    else
      for (float* x : all)
        for (int64_t t = 0; t < kTokens; ++t) store_f(x + t * c->kp + i, load_f(x + t * c->kp));
  }
}

// Decays that all channels share: plain products of readers with writers, times D(t, s), a number.
static void pairs_by_head(Chunk* c) {
  const LinearArgs* r = c->args;
  const bool general = r->rank == kGeneralRank;
  times(c->q, c->kp, c->k_t, kTokens, kTokens, r->k_dim, c->q_u, false);
  if (r->rank != kNoRank) times(c->a, c->kp, c->k_t, kTokens, kTokens, r->k_dim, c->a_u, false);
  if (general) {
    times(c->q, c->kp, c->b_t, kTokens, kTokens, r->k_dim, c->q_p, false);
    times(c->a, c->kp, c->b_t, kTokens, kTokens, r->k_dim, c->a_p, false);
  }
  // Lane s is D(t, s).
  vf run = zero_f();
  for (int t = 0; t < kTokens; ++t) {
    const vf before = run;
    run = select_bits(1u << t, set_f(1), mul(run, set_f(c->d[t * c->kp])));
    const vf read = r->reads_previous ? before : run;
    const vf strict = select_bits((1u << t) - 1, general ? before : run, zero_f());
    auto decay = [&](float* m, vf by) {
      store_f(m + t * kTokens, mul(load_f(m + t * kTokens), by));
    };
    decay(c->q_u, read);
    if (r->rank != kNoRank) decay(c->a_u, strict);
    if (general) {
      decay(c->q_p, read);
      decay(c->a_p, strict);
    }
  }
}

// Each channel has decays of its own: lane s of `walk` holds w_s∘D(t, s), one token after the
// other.
template <int kRank, bool kPrevious>
static void pairs_by_channel(Chunk* c) {
  constexpr bool kGeneral = kRank == kGeneralRank;
  float *walk_k = c->walk, *walk_b = c->walk + c->kp * kTokens;
  memset(c->walk, 0, sizeof(float) * (size_t)(2 * c->kp * kTokens));
  for (int t = 0; t < kTokens; ++t) {
    const float *q = c->q + t * c->kp, *a = c->a + t * c->kp, *d = c->d + t * c->kp;
    // Even and odd channels apart: sums of their own do not wait for each other.
    vf q_u[2], q_p[2], a_u[2], a_p[2];
    for (int h = 0; h < 2; ++h) q_u[h] = q_p[h] = a_u[h] = a_p[h] = zero_f();
    for (int64_t i = 0; i < c->kp; i += 2)
      for (int h = 0; h < 2; ++h) {
        const int64_t at = (i + h) * kTokens;
        const vf qi = set_f(q[i + h]), ai = set_f(a[i + h]), di = set_f(d[i + h]);
        vf k = load_f(walk_k + at), b = kGeneral ? load_f(walk_b + at) : zero_f();
        if (kPrevious) q_u[h] = fma(qi, k, q_u[h]);
        if (kPrevious && kGeneral) q_p[h] = fma(qi, b, q_p[h]);
        if (kGeneral) {
          a_u[h] = fma(ai, k, a_u[h]);
          a_p[h] = fma(ai, b, a_p[h]);
        }
        k = mul(k, di);
        if (kRank == kDeltaRank) a_u[h] = fma(ai, k, a_u[h]);
        k = select_bits(1u << t, load_f(c->k_t + at), k);
        store_f(walk_k + at, k);
        if (!kPrevious) q_u[h] = fma(qi, k, q_u[h]);
        if (kGeneral) {
          b = select_bits(1u << t, load_f(c->b_t + at), mul(b, di));
          store_f(walk_b + at, b);
          if (!kPrevious) q_p[h] = fma(qi, b, q_p[h]);
        }
      }
    store_f(c->q_u + t * kTokens, add(q_u[0], q_u[1]));
    if (kRank != kNoRank) store_f(c->a_u + t * kTokens, add(a_u[0], a_u[1]));
    if (kGeneral) {
      store_f(c->q_p + t * kTokens, add(q_p[0], q_p[1]));
      store_f(c->a_p + t * kTokens, add(a_p[0], a_p[1]));
    }
  }
}

static void prepare_pairs(Chunk* c) {
  const LinearArgs* r = c->args;
  transpose(c->k, c->kp, kTokens, c->kp, c->k_t, kTokens);
  if (r->rank == kGeneralRank) transpose(c->b, c->kp, kTokens, c->kp, c->b_t, kTokens);
  if (r->decay != kChannelDecay)
    pairs_by_head(c);
  else if (r->rank == kNoRank)
    r->reads_previous ? pairs_by_channel<kNoRank, true>(c) : pairs_by_channel<kNoRank, false>(c);
  else if (r->rank == kDeltaRank)
    r->reads_previous ? pairs_by_channel<kDeltaRank, true>(c)
                      : pairs_by_channel<kDeltaRank, false>(c);
  else
    r->reads_previous ? pairs_by_channel<kGeneralRank, true>(c)
                      : pairs_by_channel<kGeneralRank, false>(c);
  if (!r->u) return;
  for (int64_t t = 0; t < c->tokens; ++t) {
    vf bonus = zero_f();
    for (int64_t i = 0; i < c->kp && i < r->k_dim; i += kPanel) {
      const int64_t at = t * c->kp + i;
      bonus = fma(mul(load_f(c->q + at), load_y(r->u + i, r->k_dim - i)), load_f(c->k + at), bonus);
    }
    c->q_u[t * (kTokens + 1)] = reduce_add(bonus);
  }
}

static void fetch_next(const LinearArgs* r, int64_t t0) {
  const int64_t tokens = r->tokens - t0 < kTokens ? r->tokens - t0 : kTokens;
  fetch_rows(r->q + t0 * r->qk_ld, r->qk_ld, tokens, r->k_dim);
  fetch_rows(r->k + t0 * r->qk_ld, r->qk_ld, tokens, r->k_dim);
  fetch_rows(r->v + t0 * r->v_ld, r->v_ld, tokens, r->columns);
  if (r->decay == kChannelDecay) fetch_rows(r->g + t0 * r->g_ld, r->g_ld, tokens, r->k_dim);
  if (r->rank != kGeneralRank) return;
  fetch_rows(r->a + t0 * r->ab_ld, r->ab_ld, tokens, r->k_dim);
  fetch_rows(r->b + t0 * r->ab_ld, r->ab_ld, tokens, r->k_dim);
}

// Y, U and P of up to 16 tokens from token t0 on, for the state in front of them.
static void chunk_values(Chunk* c, int64_t t0, int64_t tokens, const float* state) {
  const LinearArgs* r = c->args;
  const int64_t kp = c->kp, vp = c->vp, row = t0 * r->qk_ld;
  c->tokens = tokens;
  gather(r->q + row, r->qk_ld, tokens, r->k_dim, r->scale, c->q);
  gather(r->k + row, r->qk_ld, tokens, r->k_dim, 1, c->k);
  gather(r->v + t0 * r->v_ld, r->v_ld, tokens, r->columns, 1, c->v);
  const bool general = r->rank == kGeneralRank;
  if (general) {
    gather(r->a + t0 * r->ab_ld, r->ab_ld, tokens, r->k_dim, 1, c->a);
    gather(r->b + t0 * r->ab_ld, r->ab_ld, tokens, r->k_dim, 1, c->b);
  } else {
    memcpy(c->a, c->k, sizeof(float) * (size_t)(kTokens * kp));
  }
  for (int64_t t = 0; t < kTokens; ++t)
    c->beta[t] = t >= tokens ? 0 : r->beta ? r->beta[(t0 + t) * r->beta_ld] : 1;
  fetch_next(r, t0 + tokens);
  prepare_decays(c, t0);
  prepare_pairs(c);
  memcpy(c->y, c->v, sizeof(float) * (size_t)(kTokens * vp));
  if (r->rank == kDeltaRank) {
    float among[kTokens * kTokens];
    for (int i = 0; i < kTokens * kTokens; ++i) among[i] = -c->a_u[i] * c->beta[i % kTokens];
    scaled_rows(c->a, c->through, kp, c->x);
    times(c->x, kp, state, c->sp, vp, r->k_dim, c->p, false);
    for (int64_t i = 0; i < kTokens * vp; i += kPanel)
      store_f(c->y + i, sub(load_f(c->y + i), load_f(c->p + i)));
    solve<false>(among, c->y, vp);
  }
  for (int64_t t = 0; t < kTokens; ++t)
    for (int64_t i = 0; i < vp; i += kPanel)
      store_f(c->value + t * vp + i, mul(set_f(c->beta[t]), load_f(c->y + t * vp + i)));
  if (!general) return;
  scaled_rows(c->a, c->before, kp, c->x);
  times(c->x, kp, state, c->sp, vp, r->k_dim, c->p, false);
  times(c->a_u, kTokens, c->value, vp, vp, kTokens, c->p, true);
  solve<false>(c->a_p, c->p, vp);
}

// The state behind the chunk, in place.
static void chunk_state(Chunk* c, float* state) {
  scaled_rows(c->k, c->behind, c->kp, c->x);
  transposed_times(c->x, c->kp, c->value, c->vp, state, c->sp, false,
                   c->through + (kTokens - 1) * c->kp);
  if (c->args->rank != kGeneralRank) return;
  scaled_rows(c->b, c->behind, c->kp, c->x);
  transposed_times(c->x, c->kp, c->p, c->vp, state, c->sp, true);
}

// A state, rows ld apart, to and from one that is padded.
HONE_INLINE void load_state(const float* from, int64_t ld, int64_t rows, int64_t n, float* to) {
  for (int64_t r = 0; r < padded(rows); ++r)
    for (int64_t i = 0; i < padded(n); i += kPanel)
      store_f(to + r * apart(n) + i, r < rows ? load_y(from + r * ld + i, n - i) : zero_f());
}
HONE_INLINE void store_state(const float* from, int64_t rows, int64_t n, float* to, int64_t ld) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < n; i += kPanel)
      store_y(to + r * ld + i, load_f(from + r * apart(n) + i), n - i);
}

}  // namespace hone::kernels::HONE_ISA
