// Products with code panels: int8 activations with integer weights, and f32 activations with the
// values that codes stand for.
//
// A tile is one panel × kTokens tokens. The activations of a tile lie together (kernel_table.h), so
// that one pointer walks them; of sixteen tokens they are operands of matrix tiles (tiles.h) as
// they lie. A chunk's products are summed exactly in int32, beginning with what the weights' zero
// point takes off; then scale·sum is added to a float lane: the same steps for one token as for
// many. Where a weight's group has several chunks, the token's scale is applied chunk by chunk and
// the group's once. Limits: 64 multiply-adds per VNNI dot; of ten operations of a chunk that
// compete for the same units, eight are dots. Below about 8 tokens the weight bytes; of one
// or two the hardware's own prefetch was faster than any by software.
#include "kernels/cpu/simd_bits.h"
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

// What a panel's code is: 4 bits, 4 bits that select one of the form's steps, a byte.
enum Codes { kNibbles, kSteps, kBytes };
template <Codes kCodes>
constexpr int kBitsOf = kCodes == kBytes ? 8 : 4;

template <Codes kCodes>
HONE_INLINE vi dot(vi acc, vi u, vi s) {
  return kCodes == kNibbles ? dot4(acc, u, s) : dot8(acc, u, s);
}

// The two halves of 64 bytes of 4-bit codes, as what is multiplied.
template <Codes kCodes>
HONE_INLINE void split_codes(vi codes, vi steps, vi* low, vi* high) {
  *low = low_nibbles(codes);
  *high = high_nibbles(codes);
  if (kCodes != kSteps) return;
  *low = lookup_bytes(*low, steps);
  *high = lookup_bytes(*high, steps);
}

// The exact sums of one chunk of kTokens tokens × 16 rows, by dots of vectors. x is the first of
// these tokens' codes, `at` the chunk's.
template <int kTokens, Codes kCodes, int kColumns>
struct VectorSums {
  static constexpr int kCount = kTokens;
  // A lone token's dots would wait for each other: two sums, exact in any order.
  static constexpr int kSums = kTokens <= 2 ? 2 : 1;
  vi sums[kTokens][kSums];
};

template <int kTokens, Codes kCodes, int kColumns>
HONE_INLINE void sum_chunk(VectorSums<kTokens, kCodes, kColumns>& s, const uint8_t* at, vi steps,
                           const int8_t* x, const int32_t* start) {
  constexpr int kSums = VectorSums<kTokens, kCodes, kColumns>::kSums;
  for (int t = 0; t < kTokens; ++t) {
    s.sums[t][0] = set_i(start[t]);
    if (kSums == 2) s.sums[t][kSums - 1] = zero_i();
  }
#pragma GCC unroll 8
  for (int k = 0; k < kColumns; k += 32 / kBitsOf<kCodes>, at += 64) {
    vi codes = load_i(at);
    if constexpr (kCodes != kBytes) {
      vi lo, hi;
      split_codes<kCodes>(codes, steps, &lo, &hi);
      for (int t = 0; t < kTokens; ++t)
        s.sums[t][0] = dot<kCodes>(s.sums[t][0], lo, set_bytes(x + t * kColumns + k));
      for (int t = 0; t < kTokens; ++t) {
        vi& sum = s.sums[t][kSums - 1];
        sum = dot<kCodes>(sum, hi, set_bytes(x + t * kColumns + k + 4));
      }
    } else {
      for (int t = 0; t < kTokens; ++t) {
        vi& sum = s.sums[t][k / 4 % kSums];
        sum = dot<kCodes>(sum, codes, set_bytes(x + t * kColumns + k));
      }
    }
  }
}

template <int kTokens, Codes kCodes, int kColumns>
HONE_INLINE vi sum_of(const VectorSums<kTokens, kCodes, kColumns>& s, int t) {
  constexpr int kSums = VectorSums<kTokens, kCodes, kColumns>::kSums;
  return kSums == 2 ? sum_i(s.sums[t][0], s.sums[t][1 % kSums]) : s.sums[t][0];
}

#ifdef HONE_TILES
// The same of sixteen tokens by one product of matrix tiles: the tokens' codes, as they lie, are
// the left operand, and the panel's 8-bit units the right one; 4-bit codes are widened to those.
template <Codes kCodes, int kColumns>
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

template <Codes kCodes, int kColumns>
HONE_INLINE void sum_chunk(TileSums<kCodes, kColumns>& s, const uint8_t* at, vi steps,
                           const int8_t* x, const int32_t* start) {
  if constexpr (kCodes != kBytes) {
    for (int unit = 0; unit < kColumns / 8; ++unit) {
      vi low, high;
      split_codes<kCodes>(load_i(at + 64 * unit), steps, &low, &high);
      store_i(s.wide + 128 * unit, low);
      store_i(s.wide + 128 * unit + 64, high);
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

template <Codes kCodes, int kColumns>
HONE_INLINE vi sum_of(const TileSums<kCodes, kColumns>& s, int t) {
  return sum_i(load_i(s.sums[t]), set_i(s.start[t]));
}
#endif

// Without being told so, GCC does not unroll sixteen rounds early enough for registers.
#define HONE_TOKENS _Pragma("GCC unroll 16") for (int t = 0; t < kTokens; ++t)

// The tokens [offset, offset + kTokens) of the tile of kTile tokens that begins at t0.
template <typename Sums, int kTile, Codes kCodes, int kColumns, bool kOneChunk>
static void code_tile(const GemmArgs* g, const uint8_t* panel, int64_t p, int64_t t0, int offset) {
  constexpr int kTokens = Sums::kCount;
  const CodeForm f = g->form;
  const vi steps = kCodes == kSteps ? load_table(f.steps) : zero_i();
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
  constexpr int kCodeBytes = kColumns * kPanel * kBitsOf<kCodes> / 8;  // of a chunk
  for (const uint8_t* end = at + record_bytes(f) * (g->k / f.group); at < end;) {
    vf scale = load_scale(at, 0, f), least = f.has_mins ? load_scale(at, 1, f) : zero_f();
    at += header;
    if (kCodes == kSteps) scale = mul(scale, set_f(f.unit));
    vf part[kTokens];
    HONE_TOKENS part[t] = set_f(0);
    for (int64_t i = 0; i < (kOneChunk ? 1 : per_group); ++i, at += kCodeBytes) {
      // The first tile finds the panel in memory: too many operations for the reads to run ahead on
      // their own. (One or two tokens have few, and the hardware's prefetch is better.)
      if (kTokens >= 4 && t0 + offset == 0)
        for (int b = 0; b < kCodeBytes; b += 64) __builtin_prefetch(at + b + kAhead, 0, 3);
      Sums sums;
      sum_chunk(sums, at, steps, x, start);
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
template <int kTile, Codes kCodes, int kColumns, bool kOneChunk>
static void panels_of_tile(const GemmArgs* g, int64_t bytes, int64_t t0) {
  constexpr int kPass = kTile < 8 ? kTile : 8;
  constexpr int kTokens = kPass < kAtOnce ? kPass : kAtOnce;
  typedef VectorSums<kTokens, kCodes, kColumns> Sums;
  for (int first = 0; first < kTile; first += kPass)
    for (int64_t p = g->p0; p < g->p1; ++p) {
      const uint8_t* panel = (const uint8_t*)g->panels + (p - g->p0) * bytes;
      for (int offset = first; offset < first + kPass; offset += kTokens)
        code_tile<Sums, kTile, kCodes, kColumns, kOneChunk>(g, panel, p, t0, offset);
    }
}

// All tiles of sixteen tokens.
template <Codes kCodes, int kColumns, bool kOneChunk>
static void panels_of_sixteens(const GemmArgs* g, int64_t bytes) {
#ifdef HONE_TILES
  if (g->t < kTileRows) return;
  configure_sums(kColumns);
  for (int64_t t = 0; t + 16 <= g->t; t += 16)
    for (int64_t p = g->p0; p < g->p1; ++p)
      code_tile<TileSums<kCodes, kColumns>, 16, kCodes, kColumns, kOneChunk>(
          g, (const uint8_t*)g->panels + (p - g->p0) * bytes, p, t, 0);
  release_tiles();
#else
  for (int64_t t = 0; t + 16 <= g->t; t += 16)
    panels_of_tile<16, kCodes, kColumns, kOneChunk>(g, bytes, t);
#endif
}

template <Codes kCodes, int kColumns, bool kOneChunk>
static void code_panels(const GemmArgs* g) {
  const int64_t bytes = record_bytes(g->form) * (g->k / g->form.group);
  panels_of_sixteens<kCodes, kColumns, kOneChunk>(g, bytes);
  int64_t t = g->t / 16 * 16;
  for (; t + 8 <= g->t; t += 8) panels_of_tile<8, kCodes, kColumns, kOneChunk>(g, bytes, t);
  for (; t + 4 <= g->t; t += 4) panels_of_tile<4, kCodes, kColumns, kOneChunk>(g, bytes, t);
  for (; t + 2 <= g->t; t += 2) panels_of_tile<2, kCodes, kColumns, kOneChunk>(g, bytes, t);
  for (; t < g->t; ++t) panels_of_tile<1, kCodes, kColumns, kOneChunk>(g, bytes, t);
}

template <Codes kCodes>
static void code_gemm(const GemmArgs* g) {
  if (g->chunk == 16 && g->form.group == 16)
    code_panels<kCodes, 16, true>(g);
  else if (g->chunk == 16)
    code_panels<kCodes, 16, false>(g);
  else if (g->form.group == kChunk)
    code_panels<kCodes, kChunk, true>(g);
  else
    code_panels<kCodes, kChunk, false>(g);
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
  // Infinities and NaN of the input come out as NaN, and so do chunks that reach 127·2^121.
  if (!(sum >= -32768 && sum <= 32767 && step <= 0x1p+121f)) {
    step = __builtin_nanf("");
    sum = 0;
  }
  *scale = step;
  *start = -zero * (int32_t)sum;
  *low = step * sum;
}

#if defined(__AVX512F__)
// A lookup is one instruction, fewer than a conversion takes. A lone token's sums wait for each
// other: two panels at once.
constexpr bool kLookUpNibbles = true;
constexpr int kExactWide = 2;
#else
constexpr bool kLookUpNibbles = false;
constexpr int kExactWide = 1;
#endif

// The values of kWide panels, column by column: sink(k, which panel, 16 rows).
template <Codes kCodes, int kWide, typename Sink>
HONE_INLINE void each_column(const uint8_t* at, CodeForm f, int64_t columns, Sink sink) {
  constexpr bool kLookUp = kCodes == kSteps || (kCodes == kNibbles && kLookUpNibbles);
  const int64_t panel = record_bytes(f) * (columns / f.group);
  float plain[16];
  for (int i = 0; i < 16; ++i) plain[i] = (float)(i - f.zero);
  const vf table = load_f(kCodes == kSteps ? f.table : plain), zero = set_f((float)f.zero);
  for (int64_t first = 0; first < columns; first += f.group) {
    vf scale[kWide], low[kWide];
    for (int w = 0; w < kWide; ++w) {
      scale[w] = load_scale(at + w * panel, 0, f);
      low[w] = f.has_mins ? load_scale(at + w * panel, 1, f) : zero_f();
    }
    const uint8_t* codes = at + scale_bytes(f);
    at += record_bytes(f);
    for (int64_t k = first; k < first + f.group; codes += 64) {
      for (int half = 0; half < (kCodes == kBytes ? 1 : 2); ++half, k += 4) {
        for (int w = 0; w < kWide; ++w) {
          vi u = load_i(codes + w * panel);
          if (kCodes != kBytes) u = half ? high_nibbles(u) : low_nibbles(u);
#define HONE_COLUMN(j)                                                          \
  {                                                                             \
    vf q = kLookUp ? byte_lookup<j>(u, table) : sub(byte_to_float<j>(u), zero); \
    sink(k + j, w, f.has_mins ? fma(scale[w], q, low[w]) : mul(scale[w], q));   \
  }
          HONE_COLUMN(0) HONE_COLUMN(1) HONE_COLUMN(2) HONE_COLUMN(3)
#undef HONE_COLUMN
        }
      }
    }
  }
}

HONE_INLINE void store_row(float* out, vf v) { store_f(out, v); }
HONE_INLINE void store_row(uint16_t* out, vf v) { store_u16(out, bf16_nearest(v)); }

template <Codes kCodes, typename T>
static void expand_as(const uint8_t* panel, CodeForm f, int64_t k, T* out) {
  each_column<kCodes, 1>(panel, f, k,
                         [=](int64_t i, int, vf v) { store_row(out + i * kPanel, v); });
}

// As expand and gemm_f32 would: the same values, and sums over k in the same order.
template <Codes kCodes, int kTokens, int kWide>
static void exact_tile(const GemmArgs* g, const uint8_t* panels, int64_t p, int64_t t0) {
  const float* x = g->x + t0 * g->ldx;
  const int64_t ldx = g->ldx;
  vf acc[kTokens][kWide];
  for (int t = 0; t < kTokens; ++t)
    for (int w = 0; w < kWide; ++w) {
      const int64_t col = (p + w) * kPanel;
      acc[t][w] = g->bias ? load_y(g->bias + col, g->n - col) : zero_f();
    }
  each_column<kCodes, kWide>(panels, g->form, g->k, [&](int64_t k, int w, vf v) {
    for (int t = 0; t < kTokens; ++t) acc[t][w] = fma(set_f(x[t * ldx + k]), v, acc[t][w]);
  });
  for (int t = 0; t < kTokens; ++t)
    for (int w = 0; w < kWide; ++w) {
      const int64_t col = (p + w) * kPanel;
      store_y(g->y + (t0 + t) * g->ldy + col, acc[t][w], g->n - col);
    }
}

template <Codes kCodes, int kTokens, int kWide>
static void exact_panels(const GemmArgs* g, int64_t t0) {
  const int64_t bytes = record_bytes(g->form) * (g->k / g->form.group);
  const uint8_t* at = (const uint8_t*)g->panels;
  int64_t p = g->p0;
  for (; p + kWide <= g->p1; p += kWide, at += kWide * bytes)
    exact_tile<kCodes, kTokens, kWide>(g, at, p, t0);
  for (; p < g->p1; ++p, at += bytes) exact_tile<kCodes, kTokens, 1>(g, at, p, t0);
}

template <Codes kCodes>
static void exact_gemm(const GemmArgs* g) {
  int64_t t = 0;
  for (; t + 4 <= g->t; t += 4) exact_panels<kCodes, 4, 1>(g, t);
  for (; t + 2 <= g->t; t += 2) exact_panels<kCodes, 2, kExactWide>(g, t);
  for (; t < g->t; ++t) exact_panels<kCodes, 1, kExactWide>(g, t);
}

HONE_INLINE Codes codes_of(CodeForm f) {
  return f.bits == 8 ? kBytes : f.table ? kSteps : kNibbles;
}

template <typename T>
static void expand(const uint8_t* panel, CodeForm form, int64_t k, T* out) {
  switch (codes_of(form)) {
    case kNibbles:
      return expand_as<kNibbles>(panel, form, k, out);
    case kSteps:
      return expand_as<kSteps>(panel, form, k, out);
    case kBytes:
      return expand_as<kBytes>(panel, form, k, out);
  }
}

}  // namespace

void gemm_codes(const GemmArgs* g) {
  switch (codes_of(g->form)) {
    case kNibbles:
      return code_gemm<kNibbles>(g);
    case kSteps:
      return code_gemm<kSteps>(g);
    case kBytes:
      return code_gemm<kBytes>(g);
  }
}

void gemm_codes_f32(const GemmArgs* g) {
  switch (codes_of(g->form)) {
    case kNibbles:
      return exact_gemm<kNibbles>(g);
    case kSteps:
      return exact_gemm<kSteps>(g);
    case kBytes:
      return exact_gemm<kBytes>(g);
  }
}

void expand_codes(const void* panel, CodeForm form, int64_t k, float* out) {
  expand((const uint8_t*)panel, form, k, out);
}
void expand_codes_bf16(const void* panel, CodeForm form, int64_t k, uint16_t* out) {
  expand((const uint8_t*)panel, form, k, out);
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
