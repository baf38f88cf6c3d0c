// Products with packed weights: float panels, and integer code panels with int8 activations.
//
// Register tiles of kTokens × kWide panels. A float tile keeps its sums in registers over a block
// of K and parks them in y between blocks, so the order over k is always 0 … K−1. An integer tile
// sums one chunk exactly in int32, then adds scale·sum to a float lane: the same steps for one
// token as for many. Limits: operations, 16 multiply-adds per vector FMA (64 per VNNI dot); below
// about 8 tokens the weight bytes.
#include "kernels/cpu/simd.h"

namespace hone::kernels::HONE_ISA {
namespace {

// K is walked in blocks so that the panels of one tile stay in the second-level cache.
constexpr int64_t kBlockK = 1024;

struct F32 {
  typedef float T;
  HONE_INLINE vf load(const float* p) { return load_f(p); }
};
struct B16 {
  typedef uint16_t T;
  HONE_INLINE vf load(const uint16_t* p) { return load_bf16(p); }
};
struct H16 {
  typedef uint16_t T;
  HONE_INLINE vf load(const uint16_t* p) { return load_f16(p); }
};

// Up to 16 columns of y, of which `valid` exist.
HONE_INLINE vf load_y(const float* p, int64_t valid) {
  return valid >= kPanel ? load_f(p) : load_part(p, valid);
}
HONE_INLINE void store_y(float* p, vf a, int64_t valid) {
  if (valid >= kPanel)
    store_f(p, a);
  else
    store_part(p, a, valid);
}

template <typename L, int kTokens, int kWide>
static void float_tile(const GemmArgs* g, const typename L::T* panel, int64_t p, int64_t t0,
                       int64_t k0, int64_t k1) {
  vf acc[kTokens][kWide];
  int64_t col = p * kPanel;
  for (int t = 0; t < kTokens; ++t)
    for (int w = 0; w < kWide; ++w) {
      int64_t c = col + w * kPanel, valid = g->n - c;
      if (k0 > 0)
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
  for (; p < g->p1; ++p)
    for (int64_t k0 = 0; k0 < g->k; k0 += kBlockK) {
      int64_t k1 = k0 + kBlockK < g->k ? k0 + kBlockK : g->k;
      float_tokens<L, 1>(g, base + (p - g->p0) * g->k * kPanel, p, k0, k1);
    }
}

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

// One panel × kTokens tokens. kBits: 4 or 8.
template <int kTokens, int kBits>
static void code_tile(const GemmArgs* g, const uint8_t* panel, int64_t p, int64_t t0) {
  const CodeForm f = g->form;
  const int64_t chunk = g->chunk, chunks = g->k / chunk, record = record_bytes(f);
  const int64_t per_group = f.group / chunk;
  const int64_t col = p * kPanel, valid = g->n - col;
  vf acc[kTokens];
  for (int t = 0; t < kTokens; ++t) acc[t] = g->bias ? load_y(g->bias + col, valid) : zero_f();
  const int8_t* xq = g->xq + t0 * g->k;
  const float* xs = g->xscale + t0 * chunks;
  const int32_t* xsum = g->xsum + t0 * chunks;
  const uint8_t* at = panel;
  for (int64_t group = 0, c = 0; group * f.group < g->k; ++group) {
    vf scale = load_scale(at, 0, f), low = f.has_mins ? load_scale(at, 1, f) : zero_f();
    const uint8_t* codes = at + scale_bytes(f);
    at += record;
    for (int64_t i = 0; i < per_group; ++i, ++c) {
      vi sum[kTokens];
      for (int t = 0; t < kTokens; ++t) sum[t] = set_i(-f.zero * xsum[t * chunks + c]);
      const int8_t* xc = xq + c * chunk;
      if constexpr (kBits == 4) {
        for (int64_t k = 0; k < chunk; k += 8, codes += 64) {
          vi both = load_i(codes), lo = low_nibbles(both), hi = high_nibbles(both);
          for (int t = 0; t < kTokens; ++t) {
            sum[t] = dot4(sum[t], lo, set_bytes(xc + t * g->k + k));
            sum[t] = dot4(sum[t], hi, set_bytes(xc + t * g->k + k + 4));
          }
        }
      } else {
        for (int64_t k = 0; k < chunk; k += 4, codes += 64) {
          vi u = load_i(codes);
          for (int t = 0; t < kTokens; ++t) sum[t] = dot8(sum[t], u, set_bytes(xc + t * g->k + k));
        }
      }
      for (int t = 0; t < kTokens; ++t) {
        float s = xs[t * chunks + c];
        acc[t] = fma(to_float(sum[t]), mul(scale, set_f(s)), acc[t]);
        if (f.has_mins) acc[t] = fma(low, set_f(s * (float)xsum[t * chunks + c]), acc[t]);
      }
    }
  }
  for (int t = 0; t < kTokens; ++t) store_y(g->y + (t0 + t) * g->ldy + col, acc[t], valid);
}

#if defined(__AVX512F__)
constexpr int kCodeTokens = 8;
#else
constexpr int kCodeTokens = 4;
#endif

template <int kBits>
static void code_panels(const GemmArgs* g) {
  const int64_t bytes = record_bytes(g->form) * (g->k / g->form.group);
  for (int64_t p = g->p0; p < g->p1; ++p) {
    const uint8_t* panel = (const uint8_t*)g->panels + (p - g->p0) * bytes;
    int64_t t = 0;
    for (; t + kCodeTokens <= g->t; t += kCodeTokens) code_tile<kCodeTokens, kBits>(g, panel, p, t);
    for (; t + 2 <= g->t; t += 2) code_tile<2, kBits>(g, panel, p, t);
    for (; t < g->t; ++t) code_tile<1, kBits>(g, panel, p, t);
  }
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

void gemm_f32(const GemmArgs* g) { gemm_float<F32>(g); }
void gemm_bf16(const GemmArgs* g) { gemm_float<B16>(g); }
void gemm_f16(const GemmArgs* g) { gemm_float<H16>(g); }

void gemm_codes(const GemmArgs* g) {
  if (g->form.bits == 4)
    code_panels<4>(g);
  else
    code_panels<8>(g);
}

void expand_codes(const void* panel, CodeForm form, int64_t k, float* out) {
  if (form.table)
    expand<true>((const uint8_t*)panel, form, k, out);
  else
    expand<false>((const uint8_t*)panel, form, k, out);
}

void quantize_rows(const float* x, int64_t ldx, int64_t t, int64_t k, int64_t chunk, int8_t* codes,
                   float* scales, int32_t* sums) {
  for (int64_t r = 0; r < t; ++r)
    for (int64_t c = 0; c < k / chunk; ++c) {
      const float* in = x + r * ldx + c * chunk;
      vf top = zero_f();
      for (int64_t i = 0; i < chunk; i += 16) {
        vf v = load_f(in + i);
        top = max(top, max(v, sub(zero_f(), v)));
      }
      float amax = reduce_max(top), scale = amax / 127.0f;
      float inverse = scale > 0 ? 1.0f / scale : 0.0f;
      int32_t sum = 0;
      int8_t* out = codes + r * k + c * chunk;
      for (int64_t i = 0; i < chunk; i += 16) {
        float q[16];
        store_f(q, round_f(mul(load_f(in + i), set_f(inverse))));
        for (int j = 0; j < 16; ++j) {
          out[i + j] = (int8_t)q[j];
          sum += out[i + j];
        }
      }
      scales[r * (k / chunk) + c] = scale;
      sums[r * (k / chunk) + c] = sum;
    }
}

namespace {

constexpr int kTnRows = 6, kTnCols = 4;

// One tile of c: m ≤ 6 rows, `cols` ≤ 64 columns.
template <bool kFull>
static void tn_tile(const float* a, int64_t lda, const float* b, int64_t ldb, int64_t rows,
                    int64_t m, int64_t cols, float* c, int64_t ldc) {
  const int64_t wide = kFull ? kTnCols : (cols + kPanel - 1) / kPanel;
  vf acc[kTnRows][kTnCols];
  for (int i = 0; i < kTnRows; ++i)
    for (int j = 0; j < kTnCols; ++j)
      acc[i][j] =
          i < m && j < wide ? load_y(c + i * ldc + j * kPanel, cols - j * kPanel) : zero_f();
  for (int64_t s = 0; s < rows; ++s, a += lda, b += ldb) {
    vf v[kTnCols];
    for (int j = 0; j < kTnCols; ++j)
      v[j] = kFull      ? load_f(b + j * kPanel)
             : j < wide ? load_y(b + j * kPanel, cols - j * kPanel)
                        : zero_f();
    for (int i = 0; i < kTnRows; ++i) {
      if (!kFull && i >= m) break;
      vf e = set_f(a[i]);
      for (int j = 0; j < kTnCols; ++j) acc[i][j] = fma(e, v[j], acc[i][j]);
    }
  }
  for (int i = 0; i < m; ++i)
    for (int j = 0; j < wide; ++j) store_y(c + i * ldc + j * kPanel, acc[i][j], cols - j * kPanel);
}

}  // namespace

void accumulate_tn(const float* a, int64_t lda, const float* b, int64_t ldb, int64_t rows,
                   int64_t i0, int64_t i1, int64_t j0, int64_t j1, float* c, int64_t ldc) {
  for (int64_t i = i0; i < i1; i += kTnRows)
    for (int64_t j = j0; j < j1; j += kPanel * kTnCols) {
      int64_t m = i1 - i < kTnRows ? i1 - i : kTnRows;
      int64_t cols = j1 - j < kPanel * kTnCols ? j1 - j : kPanel * kTnCols;
      float* at = c + i * ldc + j;
      if (m == kTnRows && cols == kPanel * kTnCols)
        tn_tile<true>(a + i, lda, b + j, ldb, rows, m, cols, at, ldc);
      else
        tn_tile<false>(a + i, lda, b + j, ldb, rows, m, cols, at, ldc);
    }
}

}  // namespace hone::kernels::HONE_ISA
