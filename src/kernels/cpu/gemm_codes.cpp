// Products with code panels: int8 activations with integer weights.
//
// A tile is one panel × kTokens tokens. The activations of a tile lie together (kernel_table.h), so
// that one pointer walks them; of sixteen tokens they are operands of matrix tiles (tiles.h) as
// they lie. A chunk's products are summed exactly in int32, beginning with what the weights' zero
// point takes off; then scale·sum is added to a float lane: the same steps for one token as for
// many. Where a weight's group has several chunks, the token's scale is applied chunk by chunk and
// the group's once. Limits: 64 multiply-adds per VNNI dot; of ten operations of a chunk that
// compete for the same units, eight are dots. Below about 8 tokens the weight bytes; the hardware's
// own prefetch was faster than any by software.
#include "kernels/cpu/simd.h"
#include "kernels/cpu/tiles.h"

namespace hone::kernels::HONE_ISA {
namespace {

HONE_INLINE int64_t scale_bytes(CodeForm f) {
  return (f.scale_is_f16 ? 32 : 64) * (1 + f.has_mins);
}
HONE_INLINE int64_t record_bytes(CodeForm f) {
  return scale_bytes(f) + f.group * kPanel * f.bits / 8;
}
HONE_INLINE vf load_scale(const uint8_t* p, int index, CodeForm f) {
  if (f.scale_is_f16) return load_f16((const uint16_t*)p + index * kPanel);
  return load_f((const float*)p + index * kPanel);
}

constexpr int kAhead = 2048;  // bytes

// The exact sums of one chunk of kTokens tokens × 16 rows, by dots of vectors. x is the first of
// these tokens' codes, `at` the chunk's.
template <int kTokens, int kBits, int kColumns>
struct VectorSums {
  static constexpr int kCount = kTokens;
  // A lone token's dots would wait for each other: two sums, exact in any order.
  static constexpr int kSums = kTokens <= 2 ? 2 : 1;
  vi sums[kTokens][kSums];
};

template <int kTokens, int kBits, int kColumns>
HONE_INLINE void sum_chunk(VectorSums<kTokens, kBits, kColumns>& s, const uint8_t* at,
                           const int8_t* x, const int32_t* start) {
  constexpr int kSums = VectorSums<kTokens, kBits, kColumns>::kSums;
  for (int t = 0; t < kTokens; ++t) {
    s.sums[t][0] = set_i(start[t]);
    if (kSums == 2) s.sums[t][kSums - 1] = zero_i();
  }
#pragma GCC unroll 8
  for (int k = 0; k < kColumns; k += 32 / kBits, at += 64) {
    vi codes = load_i(at);
    if constexpr (kBits == 4) {
      vi lo = low_nibbles(codes), hi = high_nibbles(codes);
      for (int t = 0; t < kTokens; ++t)
        s.sums[t][0] = dot4(s.sums[t][0], lo, set_bytes(x + t * kColumns + k));
      for (int t = 0; t < kTokens; ++t) {
        vi& sum = s.sums[t][kSums - 1];
        sum = dot4(sum, hi, set_bytes(x + t * kColumns + k + 4));
      }
    } else {
      for (int t = 0; t < kTokens; ++t) {
        vi& sum = s.sums[t][k / 4 % kSums];
        sum = dot8(sum, codes, set_bytes(x + t * kColumns + k));
      }
    }
  }
}

template <int kTokens, int kBits, int kColumns>
HONE_INLINE vi sum_of(const VectorSums<kTokens, kBits, kColumns>& s, int t) {
  constexpr int kSums = VectorSums<kTokens, kBits, kColumns>::kSums;
  return kSums == 2 ? sum_i(s.sums[t][0], s.sums[t][1 % kSums]) : s.sums[t][0];
}

#ifdef HONE_TILES
// The same of sixteen tokens by one product of matrix tiles: the tokens' codes, as they lie, are
// the left operand, and the panel's 8-bit units the right one; 4-bit codes are widened to those.
template <int kBits, int kColumns>
struct TileSums {
  static constexpr int kCount = kTileRows;
  alignas(64) uint8_t wide[kColumns * kPanel];
  alignas(64) int32_t sums[kTileRows][kPanel];
  const int32_t* start;
};

HONE_INLINE void configure_sums(int columns) {
  TileShapes shapes;
  set_shape(shapes, 0, kTileRows, 4 * kPanel);
  set_shape(shapes, 1, kTileRows, columns);
  set_shape(shapes, 2, columns / 4, 4 * kPanel);
  configure_tiles(shapes);
}

template <int kBits, int kColumns>
HONE_INLINE void sum_chunk(TileSums<kBits, kColumns>& s, const uint8_t* at, const int8_t* x,
                           const int32_t* start) {
  if constexpr (kBits == 4) {
    for (int unit = 0; unit < kColumns / 8; ++unit) {
      vi codes = load_i(at + 64 * unit);
      store_i(s.wide + 128 * unit, low_nibbles(codes));
      store_i(s.wide + 128 * unit + 64, high_nibbles(codes));
    }
    at = s.wide;
  }
  zero_tile<0>();
  load_tile<1>(x, kColumns);
  load_tile<2>(at, 64);
  multiply_bytes<0, 1, 2>();
  store_tile<0>(s.sums, 64);
  s.start = start;
}

template <int kBits, int kColumns>
HONE_INLINE vi sum_of(const TileSums<kBits, kColumns>& s, int t) {
  return sum_i(load_i(s.sums[t]), set_i(s.start[t]));
}
#endif

// Without being told so, GCC does not unroll sixteen rounds early enough for registers.
#define HONE_TOKENS _Pragma("GCC unroll 16") for (int t = 0; t < kTokens; ++t)

// The tokens [offset, offset + kTokens) of the tile of kTile tokens that begins at t0.
template <typename Sums, int kTile, int kBits, int kColumns, bool kOneChunk>
static void code_tile(const GemmArgs* g, const uint8_t* panel, int64_t p, int64_t t0, int offset) {
  constexpr int kTokens = Sums::kCount;
  const CodeForm f = g->form;
  const int64_t chunks = g->k / kColumns, per_group = f.group / kColumns;
  const int64_t col = p * kPanel, valid = g->n - col;
  vf acc[kTokens];
  HONE_TOKENS acc[t] = g->bias ? load_y(g->bias + col, valid) : zero_f();
  const int8_t* x = g->xq.codes + t0 * g->k + offset * kColumns;
  const float* xscale = g->xq.scales + t0 * chunks + offset;
  const int32_t* start = g->xq.starts + t0 * chunks + offset;
  const float* low = g->xq.lows + t0 * chunks + offset;
  const uint8_t* at = panel;
  const int64_t header = scale_bytes(f);
  constexpr int kCodeBytes = kColumns * kPanel * kBits / 8;  // of a chunk
  for (const uint8_t* end = at + record_bytes(f) * (g->k / f.group); at < end;) {
    vf scale = load_scale(at, 0, f), least = f.has_mins ? load_scale(at, 1, f) : zero_f();
    at += header;
    vf part[kTokens];
    HONE_TOKENS part[t] = set_f(0);
    for (int64_t i = 0; i < (kOneChunk ? 1 : per_group); ++i, at += kCodeBytes) {
      // The first tile finds the panel in memory: too many operations for the reads to run ahead on
      // their own. (One or two tokens have few, and the hardware's prefetch is better.)
      if (kTokens >= 4 && t0 + offset == 0)
        for (int b = 0; b < kCodeBytes; b += 64) __builtin_prefetch(at + b + kAhead, 0, 3);
      Sums sums;
      sum_chunk(sums, at, x, start);
      HONE_TOKENS {
        vf sum = to_float(sum_of(sums, t));
        if constexpr (kOneChunk)
          acc[t] = fma(sum, mul(scale, set_f(xscale[t])), acc[t]);
        else
          part[t] = fma(sum, set_f(xscale[t]), part[t]);
        if (f.has_mins) acc[t] = fma(least, set_f(low[t]), acc[t]);
      }
      x += kTile * kColumns;
      xscale += kTile;
      start += kTile;
      low += kTile;
    }
    if constexpr (!kOneChunk) HONE_TOKENS acc[t] = fma(scale, part[t], acc[t]);
  }
  HONE_TOKENS store_y(g->y + (t0 + offset + t) * g->ldy + col, acc[t], valid);
}

#undef HONE_TOKENS

// As many tokens as the sums of a tile have registers.
#if defined(__AVX512F__)
constexpr int kAtOnce = 8;
#else
constexpr int kAtOnce = 4;
#endif

// The panels of a part stay in the second-level cache while the tokens pass over them, and the
// codes of eight tokens in the first while the panels pass.
template <int kTile, int kBits, int kColumns, bool kOneChunk>
static void panels_of_tile(const GemmArgs* g, int64_t bytes, int64_t t0) {
  constexpr int kPass = kTile < 8 ? kTile : 8;
  constexpr int kTokens = kPass < kAtOnce ? kPass : kAtOnce;
  typedef VectorSums<kTokens, kBits, kColumns> Sums;
  for (int first = 0; first < kTile; first += kPass)
    for (int64_t p = g->p0; p < g->p1; ++p) {
      const uint8_t* panel = (const uint8_t*)g->panels + (p - g->p0) * bytes;
      for (int offset = first; offset < first + kPass; offset += kTokens)
        code_tile<Sums, kTile, kBits, kColumns, kOneChunk>(g, panel, p, t0, offset);
    }
}

// All tiles of sixteen tokens.
template <int kBits, int kColumns, bool kOneChunk>
static void panels_of_sixteens(const GemmArgs* g, int64_t bytes) {
#ifdef HONE_TILES
  if (g->t < kTileRows) return;
  configure_sums(kColumns);
  for (int64_t t = 0; t + 16 <= g->t; t += 16)
    for (int64_t p = g->p0; p < g->p1; ++p)
      code_tile<TileSums<kBits, kColumns>, 16, kBits, kColumns, kOneChunk>(
          g, (const uint8_t*)g->panels + (p - g->p0) * bytes, p, t, 0);
  release_tiles();
#else
  for (int64_t t = 0; t + 16 <= g->t; t += 16)
    panels_of_tile<16, kBits, kColumns, kOneChunk>(g, bytes, t);
#endif
}

template <int kBits, int kColumns, bool kOneChunk>
static void code_panels(const GemmArgs* g) {
  const int64_t bytes = record_bytes(g->form) * (g->k / g->form.group);
  panels_of_sixteens<kBits, kColumns, kOneChunk>(g, bytes);
  int64_t t = g->t / 16 * 16;
  for (; t + 8 <= g->t; t += 8) panels_of_tile<8, kBits, kColumns, kOneChunk>(g, bytes, t);
  for (; t + 4 <= g->t; t += 4) panels_of_tile<4, kBits, kColumns, kOneChunk>(g, bytes, t);
  for (; t + 2 <= g->t; t += 2) panels_of_tile<2, kBits, kColumns, kOneChunk>(g, bytes, t);
  for (; t < g->t; ++t) panels_of_tile<1, kBits, kColumns, kOneChunk>(g, bytes, t);
}

template <int kBits>
static void code_gemm(const GemmArgs* g) {
  if (g->chunk == 16 && g->form.group == 16)
    code_panels<kBits, 16, true>(g);
  else if (g->chunk == 16)
    code_panels<kBits, 16, false>(g);
  else if (g->form.group == kChunk)
    code_panels<kBits, kChunk, true>(g);
  else
    code_panels<kBits, kChunk, false>(g);
}

// One token's chunk.
HONE_INLINE void quantize_chunk(const float* in, int64_t columns, int zero, int8_t* codes,
                                float* scale, int32_t* start, float* low) {
  vf top = zero_f();
  for (int64_t i = 0; i < columns; i += 16) {
    vf v = load_f(in + i);
    top = max(top, max(v, sub(zero_f(), v)));
  }
  float step = reduce_max(top) / 127.0f;
  // Steps whose inverse overflows stand for zeros.
  if (step < 0x1p-126f) step = 0;
  vf inverse = set_f(step > 0 ? 1.0f / step : 0.0f), total = zero_f();
  for (int64_t i = 0; i < columns; i += 16) {
    vf q = round_f(mul(load_f(in + i), inverse));
    total = add(total, q);
    store_bytes(codes + i, q);
  }
  float sum = reduce_add(total);  // of whole numbers: exact
  // Infinities and NaN of the input come out as NaN.
  if (!(sum >= -32768 && sum <= 32767 && step <= 0x1p+121f)) {
    step = __builtin_nanf("");
    sum = 0;
  }
  *scale = step;
  *start = -zero * (int32_t)sum;
  *low = step * sum;
}

template <bool kTable>
static void expand(const uint8_t* at, CodeForm f, int64_t k, float* out) {
  vf table = f.table ? load_f(f.table) : zero_f(), zero = set_f((float)f.zero);
  for (int64_t g = 0; g < k; g += f.group) {
    vf scale = load_scale(at, 0, f), low = f.has_mins ? load_scale(at, 1, f) : zero_f();
    const uint8_t* codes = at + scale_bytes(f);
    at += record_bytes(f);
    for (int64_t i = 0; i < f.group; codes += 64) {
      for (int half = 0; half < (f.bits == 4 ? 2 : 1); ++half, i += 4, out += 4 * kPanel) {
        vi u = load_i(codes);
        if (f.bits == 4) u = half ? high_nibbles(u) : low_nibbles(u);
#define HONE_EXPAND(j)                                                          \
  {                                                                             \
    vf q = kTable ? byte_lookup<j>(u, table) : sub(byte_to_float<j>(u), zero);  \
    store_f(out + j * kPanel, f.has_mins ? fma(scale, q, low) : mul(scale, q)); \
  }
        HONE_EXPAND(0) HONE_EXPAND(1) HONE_EXPAND(2) HONE_EXPAND(3)
#undef HONE_EXPAND
      }
    }
  }
}

}  // namespace

void gemm_codes(const GemmArgs* g) {
  if (g->form.bits == 4)
    code_gemm<4>(g);
  else
    code_gemm<8>(g);
}

void expand_codes(const void* panel, CodeForm form, int64_t k, float* out) {
  if (form.table)
    expand<true>((const uint8_t*)panel, form, k, out);
  else
    expand<false>((const uint8_t*)panel, form, k, out);
}

void quantize_rows(const float* x, int64_t ldx, int64_t t, int64_t k, int64_t chunk, int zero,
                   QuantizedRows out) {
  const int64_t chunks = k / chunk;
  for (int64_t t0 = 0, tile = 16; t0 < t; t0 += tile) {
    while (tile > t - t0) tile /= 2;
    for (int64_t r = 0; r < tile; ++r)
      for (int64_t c = 0; c < chunks; ++c) {
        int64_t at = t0 * chunks + c * tile + r;
        quantize_chunk(x + (t0 + r) * ldx + c * chunk, chunk, zero, out.codes + at * chunk,
                       out.scales + at, out.starts + at, out.lows + at);
      }
  }
}

}  // namespace hone::kernels::HONE_ISA
