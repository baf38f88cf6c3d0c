// Matrix tiles: Intel's AMX, or the same arithmetic in plain loops.
//
// Eight registers of up to 16 rows of 64 bytes, and products of two of them: of signed by unsigned
// bytes into int32, of bf16 pairs into f32. A thread configures their shapes before it uses them,
// and releases them after, so that the system has less to save when it switches threads. The plain
// loops follow the instructions' definitions ("Intel 64 and IA-32 Architectures Software
// Developer's Manual", volume 2) step by step, roundings included; they are compiled for tests
// only, so that what is built on tiles is tested on CPUs that have none. Either way the rest of the
// code may use AVX-512: no CPU has tiles without.
#pragma once

#include "kernels/cpu/simd.h"

#if defined(__AMX_INT8__) && defined(__AMX_BF16__)
#define HONE_TILES 1
#elif defined(HONE_PLAIN_TILES)
#define HONE_TILES 2
#endif

#ifdef HONE_TILES
namespace hone::kernels::HONE_ISA {

constexpr int kTileRows = 16, kTileBytes = 64;

// As the instruction that configures reads it.
struct TileShapes {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t bytes[16] = {};  // of a row
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileShapes) == 64);

// Two rows [2][16] of bf16 to pairs [16][2].
HONE_INLINE void store_row_pair(uint16_t* out, const uint16_t* rows) {
  const __m512i halves = _mm512_loadu_si512(rows);
  const __m512i first = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(halves));
  const __m512i second = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(halves, 1));
  _mm512_storeu_si512(out, _mm512_or_si512(first, _mm512_slli_epi32(second, 16)));
}

// Up to 32 rows of a panel of bf16, `have` of them, to pairs of rows, zeros behind them, as a tile
// product wants its right operand: [16][16][2].
HONE_INLINE void pair_rows(const uint16_t* rows, int64_t have, uint16_t* out) {
  for (int k = 0; k < 2 * kTileRows; k += 2, rows += 2 * kPanel, out += 2 * kPanel) {
    if (k + 2 <= have) {
      store_row_pair(out, rows);
      continue;
    }
    memset(out, 0, 4 * kPanel);
    for (int r = 0; k < have && r < kPanel; ++r) out[2 * r] = rows[r];
  }
}

HONE_INLINE void set_shape(TileShapes& s, int tile, int64_t rows, int64_t bytes) {
  s.rows[tile] = (uint8_t)rows;
  s.bytes[tile] = (uint16_t)bytes;
}

#if HONE_TILES == 1

// Not the compiler's intrinsics: those of GCC 12 do not say that a load reads memory.
HONE_INLINE void configure_tiles(const TileShapes& s) {
  __asm__ volatile("ldtilecfg %0" : : "m"(s) : "memory");
}
HONE_INLINE void release_tiles() { __asm__ volatile("tilerelease" : : : "memory"); }
template <int kTile>
HONE_INLINE void zero_tile() {
  __asm__ volatile("tilezero %%tmm%c0" : : "i"(kTile));
}
// Rows `stride` bytes apart.
template <int kTile>
HONE_INLINE void load_tile(const void* p, int64_t stride) {
  __asm__ volatile("tileloadd (%0,%1), %%tmm%c2" : : "r"(p), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
HONE_INLINE void store_tile(void* p, int64_t stride) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1)" : : "r"(p), "r"(stride), "i"(kTile) : "memory");
}
// c[m][n] += Σ_k Σ_j a[m].byte[4k+j] (signed) · b[k].byte[4n+j] (unsigned), int32
template <int c, int a, int b>
HONE_INLINE void multiply_bytes() {
  __asm__ volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(c), "i"(a), "i"(b));
}
// c[m][n] += Σ_k a[m].bf16[2k]·b[k].bf16[2n] + Σ_k a[m].bf16[2k+1]·b[k].bf16[2n+1]: two sums over
// k = 0, 1 …, in f32 with fused multiply-adds; subnormal operands and results count as zeros.
template <int c, int a, int b>
HONE_INLINE void multiply_bf16() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(c), "i"(a), "i"(b));
}

#else

struct TileRegister {
  int rows, bytes;
  uint8_t row[kTileRows][kTileBytes];
};
static thread_local TileRegister g_tiles[8];

HONE_INLINE void configure_tiles(const TileShapes& s) {
  for (int i = 0; i < 8; ++i) {
    memset(&g_tiles[i], 0, sizeof(TileRegister));
    g_tiles[i].rows = s.rows[i];
    g_tiles[i].bytes = s.bytes[i];
  }
}
HONE_INLINE void release_tiles() { configure_tiles(TileShapes()); }
template <int kTile>
HONE_INLINE void zero_tile() {
  memset(g_tiles[kTile].row, 0, sizeof g_tiles[kTile].row);
}
template <int kTile>
HONE_INLINE void load_tile(const void* p, int64_t stride) {
  zero_tile<kTile>();
  for (int r = 0; r < g_tiles[kTile].rows; ++r)
    memcpy(g_tiles[kTile].row[r], (const uint8_t*)p + r * stride, (size_t)g_tiles[kTile].bytes);
}
template <int kTile>
HONE_INLINE void store_tile(void* p, int64_t stride) {
  for (int r = 0; r < g_tiles[kTile].rows; ++r)
    memcpy((uint8_t*)p + r * stride, g_tiles[kTile].row[r], (size_t)g_tiles[kTile].bytes);
}
// Where not, the instruction faults; here the product is missing.
HONE_INLINE bool shapes_fit(const TileRegister& c, const TileRegister& a, const TileRegister& b) {
  return c.rows == a.rows && c.bytes == b.bytes && a.bytes == 4 * b.rows && c.rows > 0;
}
template <int c, int a, int b>
HONE_INLINE void multiply_bytes() {
  const TileRegister &ta = g_tiles[a], &tb = g_tiles[b];
  if (!shapes_fit(g_tiles[c], ta, tb)) return;
  for (int m = 0; m < g_tiles[c].rows; ++m) {
    int32_t sums[kTileRows];
    memcpy(sums, g_tiles[c].row[m], sizeof sums);
    for (int k = 0; k < ta.bytes / 4; ++k)
      for (int n = 0; n < g_tiles[c].bytes / 4; ++n)
        for (int j = 0; j < 4; ++j) sums[n] += (int8_t)ta.row[m][4 * k + j] * tb.row[k][4 * n + j];
    memcpy(g_tiles[c].row[m], sums, sizeof sums);
  }
}
HONE_INLINE float no_subnormal(float x) { return __builtin_fabsf(x) < 0x1p-126f ? 0.0f : x; }
HONE_INLINE float bf16_at(const uint8_t* p) {
  uint32_t bits = (uint32_t)p[0] << 16 | (uint32_t)p[1] << 24;
  float f;
  memcpy(&f, &bits, 4);
  return no_subnormal(f);
}
template <int c, int a, int b>
HONE_INLINE void multiply_bf16() {
  const TileRegister &ta = g_tiles[a], &tb = g_tiles[b];
  if (!shapes_fit(g_tiles[c], ta, tb)) return;
  for (int m = 0; m < g_tiles[c].rows; ++m) {
    float sums[kTileRows], pair[2][kTileRows] = {};
    memcpy(sums, g_tiles[c].row[m], sizeof sums);
    for (int k = 0; k < ta.bytes / 4; ++k)
      for (int j = 0; j < 2; ++j) {
        const float x = bf16_at(ta.row[m] + 4 * k + 2 * j);
        for (int n = 0; n < g_tiles[c].bytes / 4; ++n)
          pair[j][n] =
              no_subnormal(__builtin_fmaf(x, bf16_at(tb.row[k] + 4 * n + 2 * j), pair[j][n]));
      }
    for (int n = 0; n < g_tiles[c].bytes / 4; ++n)
      sums[n] = no_subnormal(no_subnormal(sums[n]) + no_subnormal(pair[0][n] + pair[1][n]));
    memcpy(g_tiles[c].row[m], sums, sizeof sums);
  }
}

#endif

}  // namespace hone::kernels::HONE_ISA
#endif
