// Products with float panels, and sums over rows.
//
// Register tiles of kTokens × kWide panels. A tile keeps its sums in registers over a block of K
// and parks them in y between blocks, so the order over k is always 0 … K−1: the same steps for one
// token as for many. Limits: operations, 16 multiply-adds per vector FMA; below about 8 tokens the
// weight bytes.
#include "kernels/cpu/simd.h"
#include "kernels/cpu/tiles.h"

namespace hone::kernels::HONE_ISA {
namespace {

// K is walked in blocks so that the panels of one tile stay in the second-level cache.
constexpr int64_t kBlockK = 1024;

template <typename L, int kTokens, int kWide>
static void float_tile(const GemmArgs* g, const typename L::T* panel, int64_t p, int64_t t0,
                       int64_t k0, int64_t k1) {
  vf acc[kTokens][kWide];
  int64_t col = p * kPanel;
  for (int t = 0; t < kTokens; ++t)
    for (int w = 0; w < kWide; ++w) {
      int64_t c = col + w * kPanel, valid = g->n - c;
      if (k0 > 0 || g->accumulate)
        acc[t][w] = load_y(g->y + (t0 + t) * g->ldy + c, valid);
      else
        acc[t][w] = g->bias ? load_y(g->bias + c, valid) : zero_f();
    }
  const float* x = g->x + t0 * g->ldx;
  for (int64_t k = k0; k < k1; ++k) {
    vf wv[kWide];
    for (int w = 0; w < kWide; ++w) wv[w] = L::load(panel + (w * g->k + k) * kPanel);
    for (int t = 0; t < kTokens; ++t) {
      vf xv = set_f(x[t * g->ldx + k]);
      for (int w = 0; w < kWide; ++w) acc[t][w] = fma(xv, wv[w], acc[t][w]);
    }
  }
  for (int t = 0; t < kTokens; ++t)
    for (int w = 0; w < kWide; ++w) {
      int64_t c = col + w * kPanel;
      store_y(g->y + (t0 + t) * g->ldy + c, acc[t][w], g->n - c);
    }
}

#if defined(__AVX512F__)
constexpr int kFloatTokens = 6, kFloatWide = 4;
#elif defined(__AVX2__)
constexpr int kFloatTokens = 6, kFloatWide = 1;
#else
constexpr int kFloatTokens = 4, kFloatWide = 1;
#endif

template <typename L, int kWide>
static void float_tokens(const GemmArgs* g, const typename L::T* panel, int64_t p, int64_t k0,
                         int64_t k1) {
  int64_t t = 0;
  for (; t + kFloatTokens <= g->t; t += kFloatTokens)
    float_tile<L, kFloatTokens, kWide>(g, panel, p, t, k0, k1);
  for (; t + 2 <= g->t; t += 2) float_tile<L, 2, kWide>(g, panel, p, t, k0, k1);
  for (; t < g->t; ++t) float_tile<L, 1, kWide>(g, panel, p, t, k0, k1);
}

template <typename L>
static void gemm_float(const GemmArgs* g) {
  typedef typename L::T T;
  const T* base = (const T*)g->panels;
  int64_t p = g->p0;
  for (; p + kFloatWide <= g->p1; p += kFloatWide)
    for (int64_t k0 = 0; k0 < g->k; k0 += kBlockK) {
      int64_t k1 = k0 + kBlockK < g->k ? k0 + kBlockK : g->k;
      float_tokens<L, kFloatWide>(g, base + (p - g->p0) * g->k * kPanel, p, k0, k1);
    }
  // One panel is narrower: as many bytes in a longer block, so that x is read in longer runs.
  constexpr int64_t kLong = kBlockK * kFloatWide;
  for (; p < g->p1; ++p)
    for (int64_t k0 = 0; k0 < g->k; k0 += kLong) {
      int64_t k1 = k0 + kLong < g->k ? k0 + kLong : g->k;
      float_tokens<L, 1>(g, base + (p - g->p0) * g->k * kPanel, p, k0, k1);
    }
}

}  // namespace

void gemm_f32(const GemmArgs* g) { gemm_float<F32>(g); }
#ifndef HONE_TILES  // else gemm_bf16.cpp
void gemm_bf16(const GemmArgs* g) { gemm_float<B16>(g); }
#endif
void gemm_f16(const GemmArgs* g) { gemm_float<H16>(g); }

namespace {

template <typename L>
HONE_INLINE void transpose_all(const typename L::T* panel, int64_t k, float* out, int64_t stride) {
  for (int64_t i = 0; i < k; i += kPanel, out += stride) {
    alignas(64) float block[kPanel * kPanel];
    for (int r = 0; r < kPanel; ++r) store_f(block + r * kPanel, L::load(panel + (i + r) * kPanel));
    transpose_block(block, kPanel, out, kPanel);
  }
}

}  // namespace

void transpose_panel(const void* panel, FloatType type, int64_t k, float* out, int64_t stride) {
  if (type == kF32)
    transpose_all<F32>((const float*)panel, k, out, stride);
  else if (type == kBf16)
    transpose_all<B16>((const uint16_t*)panel, k, out, stride);
  else
    transpose_all<H16>((const uint16_t*)panel, k, out, stride);
}

// 8×8 blocks: pairs of rows are interleaved three times.
static void transpose_words(const uint16_t* in, uint16_t* out) {
  typedef uint16_t w8 __attribute__((vector_size(16)));
  const w8 low = {0, 8, 1, 9, 2, 10, 3, 11}, high = {4, 12, 5, 13, 6, 14, 7, 15};
  w8 a[8], b[8];
  for (int r = 0; r < 8; ++r) memcpy(&a[r], in + r * kPanel, 16);
  // After a step, row r is interleaved with row r + 4: of rows 0, 1 … come rows 0, 4, 1, 5 …
  auto step = [&](const w8* from, w8* to) {
    for (int r = 0; r < 4; ++r) {
      to[2 * r] = __builtin_shuffle(from[r], from[r + 4], low);
      to[2 * r + 1] = __builtin_shuffle(from[r], from[r + 4], high);
    }
  };
  step(a, b);
  step(b, a);
  step(a, b);
  for (int r = 0; r < 8; ++r) memcpy(out + r * kPanel, &b[r], 16);
}

void transpose_bf16(const uint16_t* panel, int64_t k, uint16_t* out, int64_t stride) {
  for (int64_t i = 0; i < k; i += kPanel, panel += kPanel * kPanel, out += stride)
    for (int r = 0; r < kPanel; r += 8)
      for (int c = 0; c < kPanel; c += 8)
        transpose_words(panel + r * kPanel + c, out + c * kPanel + r);
}

namespace {

// c[kRows][kWide panels] += the sum over all rows of a and b; of the last panel only `cols` columns
// exist.
template <int kRows, int kWide, bool kPart>
static void tn_tile(const float* a, int64_t lda, const float* b, int64_t ldb, int64_t rows,
                    int64_t cols, float* c, int64_t ldc) {
  const int64_t valid = kPart ? cols : kPanel;
  vf acc[kRows][kWide];
  for (int i = 0; i < kRows; ++i)
    for (int j = 0; j < kWide; ++j) acc[i][j] = load_y(c + i * ldc + j * kPanel, valid);
  for (int64_t s = 0; s < rows; ++s, a += lda, b += ldb) {
    vf v[kWide];
    for (int j = 0; j < kWide; ++j) v[j] = load_y(b + j * kPanel, valid);
    for (int i = 0; i < kRows; ++i) {
      vf e = set_f(a[i]);
      for (int j = 0; j < kWide; ++j) acc[i][j] = fma(e, v[j], acc[i][j]);
    }
  }
  for (int i = 0; i < kRows; ++i)
    for (int j = 0; j < kWide; ++j) store_y(c + i * ldc + j * kPanel, acc[i][j], valid);
}

// All m rows of c. The rows of b that a tile reads are the larger part: they stay in the cache from
// tile to tile.
template <int kWide, bool kPart = false>
static void tn_panels(const float* a, int64_t lda, const float* b, int64_t ldb, int64_t rows,
                      int64_t m, int64_t cols, float* c, int64_t ldc) {
  int64_t i = 0;
  auto tiles = [&]<int kRows>() {
    for (; i + kRows <= m; i += kRows)
      tn_tile<kRows, kWide, kPart>(a + i, lda, b, ldb, rows, cols, c + i * ldc, ldc);
  };
  tiles.template operator()<6>();
  tiles.template operator()<4>();
  tiles.template operator()<2>();
  tiles.template operator()<1>();
}

}  // namespace

void accumulate_tn(const float* a, int64_t lda, const float* b, int64_t ldb, int64_t rows,
                   int64_t i0, int64_t i1, int64_t j0, int64_t j1, float* c, int64_t ldc) {
  const int64_t m = i1 - i0;
  a += i0;
  c += i0 * ldc;
  int64_t j = j0;
  for (; j + 4 * kPanel <= j1; j += 4 * kPanel)
    tn_panels<4>(a, lda, b + j, ldb, rows, m, kPanel, c + j, ldc);
  for (; j + 2 * kPanel <= j1; j += 2 * kPanel)
    tn_panels<2>(a, lda, b + j, ldb, rows, m, kPanel, c + j, ldc);
  if (j + kPanel <= j1) {
    tn_panels<1>(a, lda, b + j, ldb, rows, m, kPanel, c + j, ldc);
    j += kPanel;
  }
  if (j < j1) tn_panels<1, true>(a, lda, b + j, ldb, rows, m, j1 - j, c + j, ldc);
}

}  // namespace hone::kernels::HONE_ISA
