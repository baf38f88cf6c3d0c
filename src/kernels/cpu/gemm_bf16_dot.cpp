// Products of bf16 panels with activations rounded to bf16, by dots of pairs: twice the operations
// of f32 multiply-adds on CPUs where these dots are fast, half of them on others, so that they run
// only where they were measured to be faster (machine.h).
//
// As in gemm.cpp a tile of tokens × panels keeps its sums in registers over a block of K and parks
// them in y between blocks: the same steps for one token as for many. A panel's rows k and k + 1
// lie in one vector; one permutation brings the two values of each output together. The
// instruction rounds each sum of two products and takes denormals as zeros.
#include "kernels/cpu/tiles.h"

namespace hone::kernels::HONE_ISA {

#if defined(HONE_BF16_DOT) && !defined(HONE_TILES)  // with tiles gemm_bf16_tiles.cpp
namespace {

constexpr int64_t kBlockK = 2048;
constexpr int kTokens = 6, kWide = 4;

#define HONE_DOT_TARGET __attribute__((target("avx512bf16")))

template <int kTokens, int kWide>
HONE_DOT_TARGET static void dot_tile(const GemmArgs* g, const uint16_t* panel, int64_t p,
                                     int64_t t0, int64_t k0, int64_t k1) {
  alignas(64) static constexpr uint16_t kPairs[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                      21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                      11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i pairs = _mm512_load_si512(kPairs);
  vf acc[kTokens][kWide];
  for (int t = 0; t < kTokens; ++t)
    for (int w = 0; w < kWide; ++w) {
      const int64_t c = (p + w) * kPanel, valid = g->n - c;
      if (k0 > 0 || g->accumulate)
        acc[t][w] = load_y(g->y + (t0 + t) * g->ldy + c, valid);
      else
        acc[t][w] = g->bias ? load_y(g->bias + c, valid) : zero_f();
    }
  const uint16_t* x = g->xb + t0 * g->ldx;
  for (int64_t k = k0; k < k1; k += 2) {
    __m512i wv[kWide];
    for (int w = 0; w < kWide; ++w)
      wv[w] = _mm512_permutexvar_epi16(pairs, _mm512_loadu_si512(panel + (w * g->k + k) * kPanel));
    for (int t = 0; t < kTokens; ++t) {
      int32_t two;
      memcpy(&two, x + t * g->ldx + k, 4);
      const __m512i xv = _mm512_set1_epi32(two);
      for (int w = 0; w < kWide; ++w)
        acc[t][w].v = _mm512_dpbf16_ps(acc[t][w].v, (__m512bh)xv, (__m512bh)wv[w]);
    }
  }
  for (int t = 0; t < kTokens; ++t)
    for (int w = 0; w < kWide; ++w) {
      const int64_t c = (p + w) * kPanel;
      store_y(g->y + (t0 + t) * g->ldy + c, acc[t][w], g->n - c);
    }
}

template <int kWide>
static void dot_tokens(const GemmArgs* g, const uint16_t* panel, int64_t p, int64_t k0,
                       int64_t k1) {
  int64_t t = 0;
  for (; t + kTokens <= g->t; t += kTokens) dot_tile<kTokens, kWide>(g, panel, p, t, k0, k1);
  for (; t + 2 <= g->t; t += 2) dot_tile<2, kWide>(g, panel, p, t, k0, k1);
  for (; t < g->t; ++t) dot_tile<1, kWide>(g, panel, p, t, k0, k1);
}

}  // namespace

void gemm_bf16_dot(const GemmArgs* g) {
  const uint16_t* base = (const uint16_t*)g->panels;
  for (int64_t p = g->p0; p < g->p1;) {
    const uint16_t* panel = base + (p - g->p0) * g->k * kPanel;
    const bool wide = p + kWide <= g->p1;
    for (int64_t k0 = 0; k0 < g->k; k0 += kBlockK) {
      const int64_t k1 = k0 + kBlockK < g->k ? k0 + kBlockK : g->k;
      if (wide)
        dot_tokens<kWide>(g, panel, p, k0, k1);
      else
        dot_tokens<1>(g, panel, p, k0, k1);
    }
    p += wide ? kWide : 1;
  }
}
#endif

}  // namespace hone::kernels::HONE_ISA
