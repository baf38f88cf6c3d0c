// Attention of some query rows over a list of key tiles, with an online softmax (FlashAttention,
// Dao et al. 2022): O(1) memory in the number of keys.
//
// The rows are the query heads that share one kv head, times consecutive positions; a tile's K and
// V are read once for all of them. A tile goes through three stages: scores of all rows, two panels
// of keys at a time, which stay in the first-level cache; softmax, row by row; products with V, one
// group of 32 columns at a time. Scores are in base 2, log2 e being folded into the queries. For
// more than a few rows, pages that are not f32 are expanded once. Scales and mins of coded pages
// are folded into the queries and the probabilities, so that codes are multiplied as they are.
//
// Tiles come in a fixed absolute order and each row's sums run over its own tiles only: a row's
// result does not depend on which other rows stand beside it. A row that sees no key gives zeros.
//
// Between the steps of its products a call may fetch other memory into the second-level cache, for
// work behind it that would wait for that (POD-Attention, Kamath et al. 2024, on one core).
//
// Limit: operations. Of a row and tile, 8·(D + Dv) are multiply-adds on vectors, about 60 softmax.
#include "kernels/cpu/scores.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/simd_fp8.h"

namespace hone::kernels::HONE_ISA {
namespace {

constexpr float kMinusInfinity = -__builtin_inff();
constexpr float kLog2E = 1.44269504088896341f;
constexpr int kKeyVectors = kPageKeys / kPanel;
// Up to so many rows read other pages than f32 as they are.
constexpr int kDirectRows = 8;

HONE_INLINE int64_t padded(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// Two vectors of a page: dimension i of the keys of two panels, or 32 values of one key. A page's
// panel pairs, and its value groups, begin `pair` and `group` bytes apart.
template <typename L>
struct FloatPage {
  typedef typename L::T T;
  HONE_INLINE int64_t pair_bytes(int64_t d) { return 2 * d * kPanel * (int64_t)sizeof(T); }
  HONE_INLINE int64_t group_bytes() { return kPageKeys * kValueGroup * (int64_t)sizeof(T); }
  HONE_INLINE void keys(const uint8_t* pair, int64_t d, int64_t i, vf* x, vf* y) {
    const T* at = (const T*)pair + i * kPanel;
    *x = L::load(at);
    *y = L::load(at + d * kPanel);
  }
  HONE_INLINE void values(const uint8_t* group, int64_t j, vf* x, vf* y) {
    const T* at = (const T*)group + j * kValueGroup;
    *x = L::load(at);
    *y = L::load(at + kPanel);
  }
};
struct Int8Page {
  HONE_INLINE int64_t pair_bytes(int64_t d) { return 2 * d * kPanel; }
  HONE_INLINE int64_t group_bytes() { return kPageKeys * kValueGroup; }
  HONE_INLINE void keys(const uint8_t* pair, int64_t d, int64_t i, vf* x, vf* y) {
    *x = load_u8(pair + i * kPanel);
    *y = load_u8(pair + (d + i) * kPanel);
  }
  HONE_INLINE void values(const uint8_t* group, int64_t j, vf* x, vf* y) {
    *x = load_u8(group + j * kValueGroup);
    *y = load_u8(group + j * kValueGroup + kPanel);
  }
};
struct Int4Page {
  HONE_INLINE int64_t pair_bytes(int64_t d) { return d * kPanel; }
  HONE_INLINE int64_t group_bytes() { return kPageKeys * kPanel; }
  HONE_INLINE void keys(const uint8_t* pair, int64_t, int64_t i, vf* x, vf* y) {
    load_u4(pair + i * kPanel, x, y);
  }
  HONE_INLINE void values(const uint8_t* group, int64_t j, vf* x, vf* y) {
    load_u4(group + j * kPanel, x, y);
  }
};

template <typename L>
struct Fp8Page {
  HONE_INLINE int64_t pair_bytes(int64_t d) { return 2 * d * kPanel; }
  HONE_INLINE int64_t group_bytes() { return kPageKeys * kValueGroup; }
  HONE_INLINE void keys(const uint8_t* pair, int64_t, int64_t i, vf* x, vf* y) {
    L::load(pair + i * 2 * kPanel, x, y);
  }
  HONE_INLINE void values(const uint8_t* group, int64_t j, vf* x, vf* y) {
    L::load(group + j * kValueGroup, x, y);
  }
};

// A tile as the stages read it.
struct Tile {
  const uint8_t *k, *v;                 // floats or codes
  const uint16_t *k_scales, *v_scales;  // f16, mins behind them; null where there are none
  float k_scale, v_scale;               // of all codes; 1 where there is none
};

// Fetches a part of the next tile into the second-level cache while this one is multiplied: the
// hardware's own prefetch ends with each page of memory.
struct Ahead {
  const uint8_t* at;
  int64_t lines, step;  // 64 bytes each; lines a row
  HONE_INLINE void fetch(Ahead& a) {
    for (int64_t i = 0; i < a.step && a.lines > 0; ++i, --a.lines, a.at += 64)
      __builtin_prefetch(a.at, 0, 2);
  }
};

// What one loop fetches of a queue.
struct Lines {
  const uint8_t* at;
  int64_t n;
};
HONE_INLINE Lines take_lines(FetchQueue* f, int64_t most) {
  if (f->runs == 0) return {0, 0};
  const int64_t left = f->run->lines - f->done, n = left < most ? left : most;
  const Lines lines = {(const uint8_t*)f->run->at + 64 * f->done, n};
  f->done += n;
  if (n == left) {
    ++f->run;
    --f->runs;
    f->done = 0;
  }
  return lines;
}
template <int64_t Every, typename F>
HONE_INLINE void fetch_and_step(FetchQueue* f, int64_t n, F step) {
  const Lines lines = take_lines(f, n / Every);
  int64_t i = 0;
  for (int64_t l = 0; l < lines.n; ++l) {
    __builtin_prefetch(lines.at + 64 * l, 0, 2);
    for (int64_t j = 0; j < Every; ++j, ++i) step(i);
  }
  for (; i < n; ++i) step(i);
}
// step(i) for i in [0, n), with a line fetched in front of every few: a core waits where more lines
// are on their way than it can count, so requests are spread over the arithmetic.
template <typename F>
HONE_INLINE void each_step(FetchQueue* f, int64_t n, F step) {
  if (!f)
    for (int64_t i = 0; i < n; ++i) step(i);
  else if (f->every == kFetchOften)
    fetch_and_step<kFetchOften>(f, n, step);
  else
    fetch_and_step<kFetchSeldom>(f, n, step);
}

// What one call works with.
struct Work {
  const AttentionArgs* a;
  int64_t rows, d, dp, groups;
  float* q;        // [rows][dp], scaled
  float* q_tile;   // the same with the scales of the tile's channels; or q
  float* bias;     // [rows], what the mins of the channels add to each score
  float* s;        // [rows][kPageKeys], scores and then probabilities
  float* s_group;  // the same with the scales of a value group; or s
  float* factor;   // [rows], for what was summed before
  float* sums;     // [rows][16], of probabilities
  float *k, *v;    // an expanded tile
  Ahead next_k, next_v;
  int64_t key;           // of the tile's first
  const uint64_t* keep;  // [rows] of the tile; or null
};

// s[r][two panels] = q_r · K + bias_r for R rows.
template <typename P, int R>
static void scores(const Work& w, int64_t r0, int pair, const uint8_t* keys) {
  const float* q = w.q_tile + r0 * w.dp;
  const int64_t d = w.d, dp = w.dp;
  vf acc[R][2];
  for (int r = 0; r < R; ++r) acc[r][0] = acc[r][1] = set_f(w.bias[r0 + r]);
  each_step(w.a->fetch, d, [&](int64_t i) {
    vf x, y;
    P::keys(keys, d, i, &x, &y);
    for (int r = 0; r < R; ++r) {
      vf e = set_f(q[r * dp + i]);
      acc[r][0] = fma(e, x, acc[r][0]);
      acc[r][1] = fma(e, y, acc[r][1]);
    }
  });
  float* s = w.s + r0 * kPageKeys + pair * 2 * kPanel;
  for (int r = 0; r < R; ++r)
    for (int h = 0; h < 2; ++h) store_f(s + r * kPageKeys + h * kPanel, acc[r][h]);
}

// o[r][32 columns] = o·factor + p·V for R rows.
template <typename P, int R>
static void accumulate(const Work& w, int64_t r0, int64_t group, const uint8_t* values) {
  const float* p = w.s_group + r0 * kPageKeys;
  float* o = w.a->part.o + r0 * w.groups * kValueGroup + group * kValueGroup;
  const int64_t stride = w.groups * kValueGroup;
  vf acc[R][2];
  for (int r = 0; r < R; ++r)
    for (int h = 0; h < 2; ++h)
      acc[r][h] =
          fma(load_f(o + r * stride + h * kPanel), set_f(w.factor[r0 + r]), set_f(w.bias[r0 + r]));
  each_step(w.a->fetch, kPageKeys, [&](int64_t j) {
    vf x, y;
    P::values(values, (int)j, &x, &y);
    for (int r = 0; r < R; ++r) {
      vf e = set_f(p[r * kPageKeys + j]);
      acc[r][0] = fma(e, x, acc[r][0]);
      acc[r][1] = fma(e, y, acc[r][1]);
    }
  });
  for (int r = 0; r < R; ++r)
    for (int h = 0; h < 2; ++h) store_f(o + r * stride + h * kPanel, acc[r][h]);
}

constexpr uint64_t kAll = ~(uint64_t)0;

HONE_INLINE vf masked(uint64_t mask, int i, vf v, vf other) {
  return select_bits((uint32_t)(mask >> (i * kPanel)) & 0xffffu, v, other);
}

// Scores in base 2 of one row with all that is added to them.
HONE_INLINE void add_terms(const Work& w, int64_t r, vf* v) {
  const ScoreTerms& t = w.a->terms;
  const float softcap = w.a->softcap;
  for (int i = 0; i < kKeyVectors; ++i) {
    const int64_t key = w.key + i * kPanel;
    if (softcap > 0) {
      if (t.slope && t.alibi_first) v[i] = add(v[i], alibi(t, r, key));
      v[i] = mul(tanh_f(div(v[i], set_f(softcap))), set_f(softcap * kLog2E));
    }
    if (t.slope && !(softcap > 0 && t.alibi_first))
      v[i] = fma(alibi(t, r, key), set_f(kLog2E), v[i]);
    if (t.bias) v[i] = fma(bias(t, r, key), set_f(kLog2E), v[i]);
  }
}

// Completes and masks the scores, and moves each row's maximum; factor becomes 2^(old − new
// maximum). Row by row in three sweeps, so that no step waits for the step before it.
static void find_tops(Work& w, const uint64_t* mask) {
  const bool changed = w.a->softcap > 0 || w.a->terms.slope || w.a->terms.bias;
  float* top = w.a->part.top;
  for (int64_t r = 0; r < w.rows; ++r) {
    float* s = w.s + r * kPageKeys;
    Ahead::fetch(w.next_k);
    vf v[kKeyVectors];
    for (int i = 0; i < kKeyVectors; ++i) v[i] = load_f(s + i * kPanel);
    if (changed) add_terms(w, r, v);
    if (changed || mask[r] != kAll)
      for (int i = 0; i < kKeyVectors; ++i) {
        v[i] = masked(mask[r], i, v[i], set_f(kMinusInfinity));
        store_f(s + i * kPanel, v[i]);
      }
    const float old = top[r], best = reduce_max(max(max(v[0], v[1]), max(v[2], v[3])));
    // Not "best > old": a NaN stays.
    const float m = best < old || mask[r] == 0 ? old : best;
    top[r] = m;
    w.factor[r] = m == old ? 0.0f : old - m;
  }
  for (int64_t r = 0; r < w.rows; r += kPanel) store_f(w.factor + r, exp2_f(load_f(w.factor + r)));
}

// Scores to probabilities, which are added to the sums; then dropout. A row that sees nothing of
// this tile gets zeros: adding them leaves its sums bit for bit.
static void exponentiate(Work& w, const uint64_t* mask) {
  const float* top = w.a->part.top;
  for (int64_t r = 0; r < w.rows; ++r) {
    float *s = w.s + r * kPageKeys, *sums = w.sums + r * kPanel;
    const vf m = set_f(top[r]);
    Ahead::fetch(w.next_v);
    vf p[kKeyVectors];
    for (int i = 0; i < kKeyVectors; ++i) p[i] = exp2_f(sub(load_f(s + i * kPanel), m));
    if (mask[r] != kAll)
      for (int i = 0; i < kKeyVectors; ++i) p[i] = masked(mask[r], i, p[i], zero_f());
    vf sum = add(add(p[0], p[1]), add(p[2], p[3]));
    store_f(sums, fma(load_f(sums), set_f(w.factor[r]), sum));
    if (w.keep)
      for (int i = 0; i < kKeyVectors; ++i)
        p[i] = masked(w.keep[r], i, mul(p[i], set_f(w.a->terms.keep_factor)), zero_f());
    for (int i = 0; i < kKeyVectors; ++i) store_f(s + i * kPanel, p[i]);
  }
}

// y[i] = x[i]·scale[i], and returns Σ x[i]·min[i].
HONE_INLINE float rescale(const float* x, const uint16_t* scales, const uint16_t* mins, int64_t n,
                          float* y) {
  vf total = zero_f();
  for (int64_t i = 0; i < n; i += kPanel) {
    vf v = load_f(x + i);
    store_f(y + i, mul(v, load_f16(scales + i)));
    total = fma(v, load_f16(mins + i), total);
  }
  return reduce_add(total);
}

// y = x·scale.
HONE_INLINE void times(const float* x, float scale, int64_t n, float* y) {
  for (int64_t i = 0; i < n; i += kPanel) store_f(y + i, mul(load_f(x + i), set_f(scale)));
}

HONE_INLINE uint64_t seen_by(const uint64_t* mask, int64_t r0, int64_t count) {
  uint64_t any = 0;
  for (int64_t r = r0; r < r0 + count; ++r) any |= mask[r];
  return any;
}

// Calls body<R>(r0, keys) for blocks of R rows of which some see keys of the tile: as many at once
// as the sums have registers.
template <typename F>
HONE_INLINE void each_block(int64_t rows, const uint64_t* mask, F body) {
  int64_t r = 0;
#if defined(__AVX512F__)
  for (; r + 8 <= rows; r += 8)
    if (uint64_t keys = seen_by(mask, r, 8)) body.template operator()<8>(r, keys);
  for (; r + 4 <= rows; r += 4)
    if (uint64_t keys = seen_by(mask, r, 4)) body.template operator()<4>(r, keys);
#endif
  for (; r + 2 <= rows; r += 2)
    if (uint64_t keys = seen_by(mask, r, 2)) body.template operator()<2>(r, keys);
  for (; r < rows; ++r)
    if (mask[r] != 0) body.template operator()<1>(r, mask[r]);
}

template <typename P>
static void attend_tile(Work& w, const Tile& tile, const uint64_t* mask) {
  float* const coded_q = w.q_tile;
  float* const coded_s = w.s_group;
  for (int64_t r = 0; r < w.rows; ++r) w.bias[r] = 0;
  if (tile.k_scales != 0)
    for (int64_t r = 0; r < w.rows; ++r)
      w.bias[r] =
          rescale(w.q + r * w.dp, tile.k_scales, tile.k_scales + w.dp, w.dp, coded_q + r * w.dp);
  else if (tile.k_scale != 1)
    times(w.q, tile.k_scale, w.rows * w.dp, coded_q);
  else
    w.q_tile = w.q;
  for (int pair = 0; pair < kKeyVectors / 2; ++pair)
    each_block(w.rows, mask, [&]<int R>(int64_t r0, uint64_t keys) {
      if (keys >> (pair * 2 * kPanel) & 0xffffffffu)
        scores<P, R>(w, r0, pair, tile.k + pair * P::pair_bytes(w.d));
    });
  find_tops(w, mask);
  exponentiate(w, mask);
  for (int64_t r = 0; r < w.rows; ++r) w.bias[r] = 0;
  if (tile.v_scales == 0 && tile.v_scale != 1)
    times(w.s, tile.v_scale, w.rows * kPageKeys, coded_s);
  else if (tile.v_scales == 0)
    w.s_group = w.s;
  for (int64_t g = 0; g < w.groups; ++g) {
    if (tile.v_scales != 0) {
      const uint16_t* scales = tile.v_scales + g * kPageKeys;
      for (int64_t r = 0; r < w.rows; ++r)
        w.bias[r] = rescale(w.s + r * kPageKeys, scales, scales + w.groups * kPageKeys, kPageKeys,
                            coded_s + r * kPageKeys);
    }
    each_block(w.rows, mask, [&]<int R>(int64_t r0, uint64_t) {
      accumulate<P, R>(w, r0, g, tile.v + g * P::group_bytes());
    });
  }
  w.q_tile = coded_q;
  w.s_group = coded_s;
}

// The same tile with floats, or codes as floats.
template <typename P>
static Tile expand(const Work& w, Tile t) {
  for (int pair = 0; pair < kKeyVectors / 2; ++pair) {
    const uint8_t* from = t.k + pair * P::pair_bytes(w.d);
    float* to = w.k + pair * 2 * w.d * kPanel;
    for (int64_t i = 0; i < w.d; ++i) {
      vf x, y;
      P::keys(from, w.d, i, &x, &y);
      store_f(to + i * kPanel, x);
      store_f(to + (w.d + i) * kPanel, y);
    }
  }
  for (int64_t g = 0; g < w.groups; ++g)
    for (int j = 0; j < kPageKeys; ++j) {
      vf x, y;
      P::values(t.v + g * P::group_bytes(), j, &x, &y);
      float* to = w.v + (g * kPageKeys + j) * kValueGroup;
      store_f(to, x);
      store_f(to + kPanel, y);
    }
  t.k = (const uint8_t*)w.k;
  t.v = (const uint8_t*)w.v;
  return t;
}

template <typename P>
static void attend(Work& w, const Tile& tile, const uint64_t* mask) {
  if (w.rows > kDirectRows)
    attend_tile<FloatPage<F32>>(w, expand<P>(w, tile), mask);
  else
    attend_tile<P>(w, tile, mask);
}

// Where the parts of a tile stand (kernel_table.h).
static Tile open_tile(const KvTile& t, int64_t dp, int64_t groups) {
  const uint8_t *k = (const uint8_t*)t.k, *v = (const uint8_t*)t.v;
  if (t.form == kKvInt8 || t.form == kKvInt4)
    return {k + 4 * dp, v + 4 * groups * kPageKeys, (const uint16_t*)k, (const uint16_t*)v, 1, 1};
  if (t.form != kKvE4m3 && t.form != kKvE5m2) return {k, v, 0, 0, 1, 1};
  const float unit = t.form == kKvE4m3 ? E4m3::kUnit : E5m2::kUnit;
  return {k + kScaleBytes, v + kScaleBytes, 0, 0, *(const float*)k * unit, *(const float*)v * unit};
}

// Bits of one key or value; grids of codes come on top of these.
static int64_t bits_of(int form) {
  switch (form) {
    case kKvF32:
      return 32;
    case kKvBf16:
    case kKvF16:
      return 16;
    case kKvInt4:
      return 4;
    default:
      return 8;
  }
}

static void begin(Work& w) {
  const AttentionArgs* a = w.a;
  const float scale = a->softcap > 0 ? a->scale : a->scale * kLog2E;
  for (int64_t r = 0; r < w.rows; ++r) {
    const float* from = a->q + a->q_offset[r];
    for (int64_t i = 0; i < w.dp; i += kPanel) {
      vf v = i + kPanel <= w.d ? load_f(from + i) : load_part(from + i, w.d - i);
      store_f(w.q + r * w.dp + i, mul(v, set_f(scale)));
    }
    a->part.top[r] = kMinusInfinity;
    store_f(w.sums + r * kPanel, zero_f());
    for (int64_t c = 0; c < w.groups * kValueGroup; c += kPanel)
      store_f(a->part.o + r * w.groups * kValueGroup + c, zero_f());
  }
}

}  // namespace

void attention(const AttentionArgs* a) {
  Work w;
  w.a = a;
  w.rows = a->rows;
  w.d = a->d;
  w.dp = padded(a->d, kPanel);
  w.groups = padded(a->dv, kValueGroup) / kValueGroup;
  float* free = a->scratch;
  auto take = [&](int64_t n) {
    float* p = free;
    free += n;
    return p;
  };
  w.q = take(w.rows * w.dp);
  w.q_tile = take(w.rows * w.dp);
  w.s = take(w.rows * kPageKeys);
  w.s_group = take(w.rows * kPageKeys);
  w.sums = take(w.rows * kPanel);
  w.bias = take(padded(w.rows, kPanel));
  w.factor = take(padded(w.rows, kPanel));
  w.k = take(kPageKeys * w.dp);
  w.v = take(kPageKeys * w.groups * kValueGroup);
  if (a->first == 0) begin(w);
  for (int64_t i = a->first; i < a->tiles; ++i) {
    const uint64_t* mask = a->masks + i * a->rows;
    if (!seen_by(mask, 0, w.rows)) continue;
    Tile tile = open_tile(a->tile[i], w.dp, w.groups);
    w.key = a->tile_key ? a->tile_key[i] : 0;
    w.keep = a->keep ? a->keep + i * a->rows : 0;
    w.next_k = w.next_v = {0, 0, 0};
    if (i + 1 < a->tiles + a->more && w.rows > kDirectRows) {
      // Cache lines of the page's keys and values; grids of codes come on top of these.
      const int64_t bits = bits_of(a->tile[i + 1].form);
      const int64_t k = kPageKeys * w.d * bits / 512;
      const int64_t v = kPageKeys * w.groups * kValueGroup * bits / 512;
      w.next_k = {(const uint8_t*)a->tile[i + 1].k, k, (k + w.rows - 1) / w.rows};
      w.next_v = {(const uint8_t*)a->tile[i + 1].v, v, (v + w.rows - 1) / w.rows};
    }
    switch (a->tile[i].form) {
      case kKvF32:
        attend_tile<FloatPage<F32>>(w, tile, mask);
        break;
      case kKvBf16:
        attend<FloatPage<B16>>(w, tile, mask);
        break;
      case kKvF16:
        attend<FloatPage<H16>>(w, tile, mask);
        break;
      case kKvInt8:
        attend<Int8Page>(w, tile, mask);
        break;
      case kKvE4m3:
        attend<Fp8Page<E4m3>>(w, tile, mask);
        break;
      case kKvE5m2:
        attend<Fp8Page<E5m2>>(w, tile, mask);
        break;
      default:
        attend<Int4Page>(w, tile, mask);
    }
  }
  for (int64_t r = 0; r < w.rows; ++r) a->part.sum[r] = reduce_add(load_f(w.sums + r * kPanel));
}

void attention_merge(int64_t rows, int64_t dv, AttentionPart into, AttentionPart from) {
  const int64_t width = padded(dv, kValueGroup);
  for (int64_t r = 0; r < rows; ++r) {
    if (from.top[r] == kMinusInfinity) continue;
    float top = into.top[r] > from.top[r] ? into.top[r] : from.top[r];
    vf old = exp2_f(set_f(into.top[r] - top)), more = exp2_f(set_f(from.top[r] - top));
    into.top[r] = top;
    into.sum[r] = into.sum[r] * first_lane(old) + from.sum[r] * first_lane(more);
    float *o = into.o + r * width, *p = from.o + r * width;
    for (int64_t c = 0; c < width; c += kPanel)
      store_f(o + c, fma(load_f(p + c), more, mul(load_f(o + c), old)));
  }
}

void attention_finish(int64_t rows, int64_t dv, AttentionPart part, const int64_t* o_offset,
                      float* o) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* from = part.o + r * padded(dv, kValueGroup);
    // Not "sum > 0": a NaN must come out as one.
    const vf inverse = set_f(part.sum[r] == 0 ? 0.0f : 1.0f / part.sum[r]);
    for (int64_t c = 0; c < dv; c += kPanel)
      store_y(o + o_offset[r] + c, mul(load_f(from + c), inverse), dv - c);
  }
}

}  // namespace hone::kernels::HONE_ISA
