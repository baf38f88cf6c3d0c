// What this instruction set can do at most: loops of one operation on registers, and a pass over
// memory. `hone bench --machine` times them.
#include "kernels/cpu/simd.h"
#include "kernels/cpu/tiles.h"

#define HONE_KEEP(x) __asm__ volatile("" : "+v"(x))

namespace hone::kernels::HONE_ISA {
namespace {

// Independent sums: more than latency × throughput of any multiply-add so far.
constexpr int kSums = 12;

#if defined(__AVX512F__)
HONE_INLINE void keep(vf& x) { HONE_KEEP(x.v); }
HONE_INLINE void keep(vi& x) { HONE_KEEP(x.v); }
#elif defined(__AVX2__)
HONE_INLINE void keep(vf& x) {
  HONE_KEEP(x.a);
  HONE_KEEP(x.b);
}
HONE_INLINE void keep(vi& x) {
  HONE_KEEP(x.a);
  HONE_KEEP(x.b);
}
#else
HONE_INLINE void keep(vf& x) { __asm__ volatile("" : "+m"(x)); }
HONE_INLINE void keep(vi& x) { __asm__ volatile("" : "+m"(x)); }
#endif

// The sums of vectors that take two registers would not fit beside each other.
#if defined(__AVX512F__)
constexpr int kPairs = kSums;
#else
constexpr int kPairs = kSums / 2;
#endif

void fma_f32(int64_t rounds) {
  vf sum[kPairs], a = set_f(0.5f), b = set_f(0.25f);
  for (vf& s : sum) s = set_f(1);
  keep(a);
  keep(b);
  for (int64_t r = 0; r < rounds; ++r) {
    keep(a);  // nothing is known before the loop runs
    for (vf& s : sum) s = fma(s, a, b);
  }
  for (vf& s : sum) keep(s);
}

void dot_int8(int64_t rounds) {
  vi sum[kPairs], a = set_i(0x01020304), b = set_i(0x01010101);
  for (vi& s : sum) s = set_i(1);
  keep(a);
  keep(b);
  for (int64_t r = 0; r < rounds; ++r) {
    for (vi& s : sum) {
      keep(a);  // an emulated dot product must do all of its work for each
      s = dot8(s, a, b);
    }
  }
  for (vi& s : sum) keep(s);
}

#if defined(__AVX512VNNI__)
__attribute__((target("avx512bf16"))) void dot_bf16(int64_t rounds) {
  __m512 sum[kSums];
  __m512bh a = (__m512bh)_mm512_setzero_si512(), b = a;
  for (__m512& s : sum) s = _mm512_set1_ps(1);
  HONE_KEEP(a);
  HONE_KEEP(b);
  for (int64_t r = 0; r < rounds; ++r) {
    HONE_KEEP(a);
    for (__m512& s : sum) s = _mm512_dpbf16_ps(s, a, b);
  }
  for (__m512& s : sum) HONE_KEEP(s);
}

__attribute__((target("avx512fp16"))) void fma_f16(int64_t rounds) {
  __m512h sum[kSums], a = _mm512_setzero_ph(), b = a;
  for (__m512h& s : sum) s = _mm512_set1_ph((_Float16)1);
  HONE_KEEP(a);
  HONE_KEEP(b);
  for (int64_t r = 0; r < rounds; ++r) {
    HONE_KEEP(a);
    for (__m512h& s : sum) s = _mm512_fmadd_ph(s, a, b);
  }
  for (__m512h& s : sum) HONE_KEEP(s);
}
#endif

#ifdef HONE_TILES
// Four independent sums, as many as the registers hold beside two operands for each pair.
HONE_INLINE void configure_peak() {
  TileShapes shapes;
  for (int i = 0; i < 8; ++i) set_shape(shapes, i, kTileRows, kTileBytes);
  configure_tiles(shapes);
  zero_tile<0>(), zero_tile<1>(), zero_tile<2>(), zero_tile<3>();
  zero_tile<4>(), zero_tile<5>(), zero_tile<6>(), zero_tile<7>();
}

void tile_int8(int64_t rounds) {
  configure_peak();
  for (int64_t r = 0; r < rounds; ++r)
    multiply_bytes<0, 4, 6>(), multiply_bytes<1, 4, 7>(), multiply_bytes<2, 5, 6>(),
        multiply_bytes<3, 5, 7>();
  release_tiles();
}

void tile_bf16(int64_t rounds) {
  configure_peak();
  for (int64_t r = 0; r < rounds; ++r)
    multiply_bf16<0, 4, 6>(), multiply_bf16<1, 4, 7>(), multiply_bf16<2, 5, 6>(),
        multiply_bf16<3, 5, 7>();
  release_tiles();
}
#endif

}  // namespace

extern const PeakLoop kPeaks[];
const PeakLoop kPeaks[] = {
    {"fp32 FMA", kAnyCpu, kPairs * 16 * 2, fma_f32},
    {"int8 dot", kAnyCpu, kPairs * 64 * 2, dot_int8},
#if defined(__AVX512VNNI__)
    {"bf16 dot", kAvx512Bf16, kSums * 32 * 2, dot_bf16},
    {"fp16 FMA", kAvx512Fp16, kSums * 32 * 2, fma_f16},
#endif
#ifdef HONE_TILES
    {"int8 tiles", kAnyCpu, 4 * 16 * 16 * 64 * 2, tile_int8},
    {"bf16 tiles", kAnyCpu, 4 * 16 * 16 * 32 * 2, tile_bf16},
#endif
    {nullptr, 0, 0, nullptr},
};

// Reads `bytes` (a multiple of 256), fetched 4 KB ahead.
void read_memory(const void* from, int64_t bytes) {
  const uint8_t* p = (const uint8_t*)from;
  vi sum[4] = {zero_i(), zero_i(), zero_i(), zero_i()};
  for (int64_t i = 0; i < bytes; i += 256) {
    for (int j = 0; j < 4; ++j) {
      __builtin_prefetch(p + i + j * 64 + 4096, 0, 2);
      vi x = load_i(p + i + j * 64);
      sum[j] = either(sum[j], x);
    }
  }
  for (vi& s : sum) keep(s);
}

}  // namespace hone::kernels::HONE_ISA
