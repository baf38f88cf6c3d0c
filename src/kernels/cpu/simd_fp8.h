// 8-bit floats, OCP E4M3 and E5M2, as f32: every finite code exactly, subnormals included.
//
// Both go through the hardware's f16. E5M2 is its upper byte. E4M3's magnitude stands seven bits
// higher in an f16, where the exponent's bias is larger by eight: the f16 is the value times 2^-8,
// its subnormals are E4M3's, and the factor is left to the caller (kUnit). E4M3's NaN comes out as
// 480.
#pragma once

#include "kernels/cpu/simd.h"

namespace hone::kernels::HONE_ISA {

#if defined(__AVX512F__)

HONE_INLINE void f16_to_float(__m512i h, vf* x, vf* y) {
  *x = {_mm512_cvtph_ps(_mm512_castsi512_si256(h))};
  *y = {_mm512_cvtph_ps(_mm512_extracti64x4_epi64(h, 1))};
}
HONE_INLINE __m256i load_32(const uint8_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
// 32 codes.
HONE_INLINE void load_e4m3(const uint8_t* p, vf* x, vf* y) {
  // The sign, extended, fills two bits; the second belongs to the exponent.
  __m512i h = _mm512_slli_epi16(_mm512_cvtepi8_epi16(load_32(p)), 7);
  f16_to_float(_mm512_and_si512(h, _mm512_set1_epi16((short)0xbfff)), x, y);
}
HONE_INLINE void load_e5m2(const uint8_t* p, vf* x, vf* y) {
  f16_to_float(_mm512_slli_epi16(_mm512_cvtepu8_epi16(load_32(p)), 8), x, y);
}

#elif defined(__AVX2__)

HONE_INLINE vf f16_to_float(__m256i h) {
  return {_mm256_cvtph_ps(_mm256_castsi256_si128(h)),
          _mm256_cvtph_ps(_mm256_extracti128_si256(h, 1))};
}
HONE_INLINE vf half_e4m3(const uint8_t* p) {
  __m256i h = _mm256_slli_epi16(_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p)), 7);
  return f16_to_float(_mm256_and_si256(h, _mm256_set1_epi16((short)0xbfff)));
}
HONE_INLINE vf half_e5m2(const uint8_t* p) {
  return f16_to_float(
      _mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)p)), 8));
}
HONE_INLINE void load_e4m3(const uint8_t* p, vf* x, vf* y) {
  *x = half_e4m3(p);
  *y = half_e4m3(p + kPanel);
}
HONE_INLINE void load_e5m2(const uint8_t* p, vf* x, vf* y) {
  *x = half_e5m2(p);
  *y = half_e5m2(p + kPanel);
}

#else

HONE_INLINE void load_e4m3(const uint8_t* p, vf* x, vf* y) {
  for (int i = 0; i < 2 * kPanel; ++i)
    (i < kPanel ? x : y)->v[i % kPanel] =
        half_to_float((uint16_t)((p[i] & 0x80u) << 8 | (p[i] & 0x7fu) << 7));
}
HONE_INLINE void load_e5m2(const uint8_t* p, vf* x, vf* y) {
  for (int i = 0; i < 2 * kPanel; ++i)
    (i < kPanel ? x : y)->v[i % kPanel] = half_to_float((uint16_t)(p[i] << 8));
}

#endif

// How a kernel reads 32 codes, and what it then multiplies with.
struct E4m3 {
  static constexpr float kUnit = 256;
  HONE_INLINE void load(const uint8_t* p, vf* x, vf* y) { load_e4m3(p, x, y); }
};
struct E5m2 {
  static constexpr float kUnit = 1;
  HONE_INLINE void load(const uint8_t* p, vf* x, vf* y) { load_e5m2(p, x, y); }
};

}  // namespace hone::kernels::HONE_ISA
