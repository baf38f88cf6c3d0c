// What optimizers need of lanes beyond simd.h: arithmetic on bits, rounding to 16-bit floats (to
// the nearest or at random), and sums of squares in double. Lanes of −1 and 0 are truths.
#pragma once

#include "kernels/cpu/simd.h"

namespace hone::kernels::HONE_ISA {

#if defined(__AVX512F__)

struct vd {
  __m512d a, b;
};  // 16 doubles

HONE_INLINE vf sqrt_f(vf a) { return {_mm512_sqrt_ps(a.v)}; }
HONE_INLINE vi bits_of(vf a) { return {_mm512_castps_si512(a.v)}; }
HONE_INLINE vf of_bits(vi a) { return {_mm512_castsi512_ps(a.v)}; }
HONE_INLINE vi both(vi a, vi b) { return {_mm512_and_si512(a.v, b.v)}; }
HONE_INLINE vi first_not_second(vi a, vi b) { return {_mm512_andnot_si512(b.v, a.v)}; }
// Whether any bit is set.
HONE_INLINE bool any_of(vi a) { return _mm512_test_epi32_mask(a.v, a.v) != 0; }
HONE_INLINE vi differing(vi a, vi b) { return {_mm512_xor_si512(a.v, b.v)}; }
HONE_INLINE vi product_i(vi a, vi b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
template <int n>
HONE_INLINE vi shift_right(vi a) {
  return {_mm512_srli_epi32(a.v, n)};
}
template <int n>
HONE_INLINE vi shift_left(vi a) {
  return {_mm512_slli_epi32(a.v, n)};
}
// Towards zero.
HONE_INLINE vi to_int(vf a) { return {_mm512_cvttps_epi32(a.v)}; }
HONE_INLINE vi where_greater(vi a, vi b) {
  return {_mm512_movm_epi32(_mm512_cmpgt_epi32_mask(a.v, b.v))};
}
HONE_INLINE vi where_equal(vf a, vf b) {
  return {_mm512_movm_epi32(_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ))};
}
HONE_INLINE vi where_at_least(vf a, vf b) {
  return {_mm512_movm_epi32(_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ))};
}
// The low 16 or 8 bits of each lane.
HONE_INLINE void store_u16(uint16_t* p, vi a) {
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(a.v));
}
HONE_INLINE void store_u8(uint8_t* p, vi a) {
  _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8(a.v));
}
HONE_INLINE vi load_u16(const uint16_t* p) {
  return {_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p))};
}
HONE_INLINE vi f16_bits(vf a) {
  return {_mm512_cvtepu16_epi32(_mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT))};
}
HONE_INLINE vd zero_d() { return {_mm512_setzero_pd(), _mm512_setzero_pd()}; }
HONE_INLINE vd add_squares(vd sum, vf x) {
  __m512d a = _mm512_cvtps_pd(_mm512_castps512_ps256(x.v));
  __m512d b = _mm512_cvtps_pd(_mm512_extractf32x8_ps(x.v, 1));
  return {_mm512_fmadd_pd(a, a, sum.a), _mm512_fmadd_pd(b, b, sum.b)};
}
HONE_INLINE void store_d(double* p, vd x) {
  _mm512_storeu_pd(p, x.a);
  _mm512_storeu_pd(p + 8, x.b);
}

#elif defined(__AVX2__)

struct vd {
  __m256d v[4];
};

HONE_INLINE vf sqrt_f(vf x) { return {_mm256_sqrt_ps(x.a), _mm256_sqrt_ps(x.b)}; }
HONE_INLINE vi bits_of(vf x) { return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }
HONE_INLINE vf of_bits(vi x) { return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }
HONE_INLINE vi both(vi x, vi y) { return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)}; }
HONE_INLINE vi first_not_second(vi x, vi y) {
  return {_mm256_andnot_si256(y.a, x.a), _mm256_andnot_si256(y.b, x.b)};
}
HONE_INLINE bool any_of(vi x) {
  const __m256i both = _mm256_or_si256(x.a, x.b);
  return !_mm256_testz_si256(both, both);
}
HONE_INLINE vi differing(vi x, vi y) {
  return {_mm256_xor_si256(x.a, y.a), _mm256_xor_si256(x.b, y.b)};
}
HONE_INLINE vi product_i(vi x, vi y) {
  return {_mm256_mullo_epi32(x.a, y.a), _mm256_mullo_epi32(x.b, y.b)};
}
template <int n>
HONE_INLINE vi shift_right(vi x) {
  return {_mm256_srli_epi32(x.a, n), _mm256_srli_epi32(x.b, n)};
}
template <int n>
HONE_INLINE vi shift_left(vi x) {
  return {_mm256_slli_epi32(x.a, n), _mm256_slli_epi32(x.b, n)};
}
HONE_INLINE vi to_int(vf x) { return {_mm256_cvttps_epi32(x.a), _mm256_cvttps_epi32(x.b)}; }
HONE_INLINE vi where_greater(vi x, vi y) {
  return {_mm256_cmpgt_epi32(x.a, y.a), _mm256_cmpgt_epi32(x.b, y.b)};
}
HONE_INLINE vi where_equal(vf x, vf y) {
  return bits_of({_mm256_cmp_ps(x.a, y.a, _CMP_EQ_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_EQ_OQ)});
}
HONE_INLINE vi where_at_least(vf x, vf y) {
  return bits_of({_mm256_cmp_ps(x.a, y.a, _CMP_GE_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_GE_OQ)});
}
HONE_INLINE __m256i low_words(vi x) {
  const __m256i m = _mm256_set1_epi32(0xffff);
  __m256i words = _mm256_packus_epi32(_mm256_and_si256(x.a, m), _mm256_and_si256(x.b, m));
  return _mm256_permute4x64_epi64(words, 0xd8);  // the lanes of a, then those of b
}
HONE_INLINE void store_u16(uint16_t* p, vi x) { _mm256_storeu_si256((__m256i*)p, low_words(x)); }
HONE_INLINE void store_u8(uint8_t* p, vi x) {
  __m256i words = low_words(both(x, set_i(255)));
  _mm_storeu_si128((__m128i*)p, _mm_packus_epi16(_mm256_castsi256_si128(words),
                                                 _mm256_extracti128_si256(words, 1)));
}
HONE_INLINE vi load_u16(const uint16_t* p) {
  return {_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)),
          _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)(p + 8)))};
}
HONE_INLINE vi f16_bits(vf x) {
  return {_mm256_cvtepu16_epi32(_mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT)),
          _mm256_cvtepu16_epi32(_mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT))};
}
HONE_INLINE vd zero_d() {
  return {{_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd()}};
}
HONE_INLINE vd add_squares(vd sum, vf x) {
  const __m128 quarter[4] = {_mm256_castps256_ps128(x.a), _mm256_extractf128_ps(x.a, 1),
                             _mm256_castps256_ps128(x.b), _mm256_extractf128_ps(x.b, 1)};
  for (int i = 0; i < 4; ++i) {
    __m256d d = _mm256_cvtps_pd(quarter[i]);
    sum.v[i] = _mm256_fmadd_pd(d, d, sum.v[i]);
  }
  return sum;
}
HONE_INLINE void store_d(double* p, vd x) {
  for (int i = 0; i < 4; ++i) _mm256_storeu_pd(p + 4 * i, x.v[i]);
}

#else  // baseline

struct vd {
  double v[16];
};

#define HONE_LANES for (int i = 0; i < 16; ++i)
HONE_INLINE vf sqrt_f(vf a) {
  HONE_LANES a.v[i] = __builtin_sqrtf(a.v[i]);
  return a;
}
HONE_INLINE vi bits_of(vf a) {
  vi r;
  memcpy(&r, &a, 64);
  return r;
}
HONE_INLINE vf of_bits(vi a) {
  vf r;
  memcpy(&r, &a, 64);
  return r;
}
HONE_INLINE vi both(vi a, vi b) {
  HONE_LANES a.v[i] &= b.v[i];
  return a;
}
HONE_INLINE vi first_not_second(vi a, vi b) {
  HONE_LANES a.v[i] &= ~b.v[i];
  return a;
}
HONE_INLINE bool any_of(vi a) {
  int32_t any = 0;
  HONE_LANES any |= a.v[i];
  return any != 0;
}
HONE_INLINE vi differing(vi a, vi b) {
  HONE_LANES a.v[i] ^= b.v[i];
  return a;
}
HONE_INLINE vi product_i(vi a, vi b) {
  HONE_LANES a.v[i] = (int32_t)((uint32_t)a.v[i] * (uint32_t)b.v[i]);
  return a;
}
template <int n>
HONE_INLINE vi shift_right(vi a) {
  HONE_LANES a.v[i] = (int32_t)((uint32_t)a.v[i] >> n);
  return a;
}
template <int n>
HONE_INLINE vi shift_left(vi a) {
  HONE_LANES a.v[i] = (int32_t)((uint32_t)a.v[i] << n);
  return a;
}
HONE_INLINE vi to_int(vf a) {
  vi r;
  HONE_LANES r.v[i] = a.v[i] >= -0x1p31f && a.v[i] < 0x1p31f ? (int32_t)a.v[i] : INT32_MIN;
  return r;
}
HONE_INLINE vi where_greater(vi a, vi b) {
  HONE_LANES a.v[i] = a.v[i] > b.v[i] ? -1 : 0;
  return a;
}
HONE_INLINE vi where_equal(vf a, vf b) {
  vi r;
  HONE_LANES r.v[i] = a.v[i] == b.v[i] ? -1 : 0;
  return r;
}
HONE_INLINE vi where_at_least(vf a, vf b) {
  vi r;
  HONE_LANES r.v[i] = a.v[i] >= b.v[i] ? -1 : 0;
  return r;
}
HONE_INLINE void store_u16(uint16_t* p, vi a) { HONE_LANES p[i] = (uint16_t)a.v[i]; }
HONE_INLINE void store_u8(uint8_t* p, vi a) { HONE_LANES p[i] = (uint8_t)a.v[i]; }
HONE_INLINE vi load_u16(const uint16_t* p) {
  vi r;
  HONE_LANES r.v[i] = p[i];
  return r;
}
HONE_INLINE uint32_t one_f16_bits(uint32_t u) {
  const uint32_t a = u & 0x7fffffffu, sign = (u >> 16) & 0x8000u;
  if (a > 0x7f800000u) return sign | 0x7e00u;
  if (a >= 0x477ff000u) return sign | 0x7c00u;
  if (a < 0x38800000u) {  // subnormal: in this sum the last place is f16's unit
    const float sum = bits_f(a) + 0.5f;
    uint32_t s;
    memcpy(&s, &sum, 4);
    return sign | (s - 0x3f000000u);
  }
  return sign | ((a - 0x38000000u + 0xfffu + ((a >> 13) & 1u)) >> 13);
}
HONE_INLINE vi f16_bits(vf x) {
  vi a = bits_of(x);
  HONE_LANES a.v[i] = (int32_t)one_f16_bits((uint32_t)a.v[i]);
  return a;
}
HONE_INLINE vd zero_d() {
  vd r;
  HONE_LANES r.v[i] = 0;
  return r;
}
HONE_INLINE vd add_squares(vd sum, vf x) {
  HONE_LANES sum.v[i] += (double)x.v[i] * (double)x.v[i];
  return sum;
}
HONE_INLINE void store_d(double* p, vd x) { HONE_LANES p[i] = x.v[i]; }
#undef HONE_LANES

#endif

// truth ? a : b
HONE_INLINE vi choose(vi truth, vi a, vi b) {
  return either(both(truth, a), first_not_second(b, truth));
}
HONE_INLINE vf magnitude(vf x) { return of_bits(both(bits_of(x), set_i(0x7fffffff))); }
// The square of a float is exact in double, so that the sums have the same bits on every
// instruction set, fused or not.
HONE_INLINE double reduce_add_d(vd x) {
  double t[16];
  store_d(t, x);
  for (int step = 8; step > 0; step /= 2)
    for (int i = 0; i < step; ++i) t[i] += t[i + step];
  return t[0];
}
// How many truths have been added up, each as −1.
HONE_INLINE int64_t count_of(vi minus) {
  int32_t t[16];
  store_i(t, minus);
  int64_t n = 0;
  for (int i = 0; i < 16; ++i) n -= t[i];
  return n;
}

// Random bits of counters i, i+1, … i+15 under a key: two rounds of a 32-bit mixer (shifts and odd
// multipliers of C. Wellons's lowbias32), the halves of the key between them.
HONE_INLINE vi mix_bits(vi x) {
  x = product_i(differing(x, shift_right<16>(x)), set_i(0x7feb352d));
  x = product_i(differing(x, shift_right<15>(x)), set_i((int32_t)0x846ca68bu));
  return differing(x, shift_right<16>(x));
}
HONE_INLINE vi random_bits(uint64_t key, uint32_t i) {
  alignas(64) static constexpr int32_t kLanes[16] = {0, 1, 2,  3,  4,  5,  6,  7,
                                                     8, 9, 10, 11, 12, 13, 14, 15};
  vi counter = sum_i(load_i(kLanes), set_i((int32_t)i));
  vi x = mix_bits(differing(counter, set_i((int32_t)(uint32_t)key)));
  return mix_bits(sum_i(x, set_i((int32_t)(uint32_t)(key >> 32))));
}

// bf16 bits: the upper half of an f32, after half a unit (ties to even), or a random part of a
// unit, has been added to its lower half. A NaN stays one, and so do infinities.
HONE_INLINE vi bf16_bits(vf x, vi addend) {
  const vi u = bits_of(x);
  const vi nan = where_greater(both(u, set_i(0x7fffffff)), set_i(0x7f800000));
  const vi quiet = either(u, set_i(0x400000));
  return shift_right<16>(choose(nan, quiet, sum_i(u, addend)));
}
HONE_INLINE vi bf16_nearest(vf x) {
  return bf16_bits(x, sum_i(set_i(0x7fff), both(shift_right<16>(bits_of(x)), set_i(1))));
}
HONE_INLINE vi bf16_stochastic(vf x, vi random) {
  return bf16_bits(x, both(random, set_i(0xffff)));
}
// f16 bits: with a random part of a unit added to the magnitude and what is below the unit cut off,
// the conversion is exact. The unit of subnormals, 2⁻²⁴, is added as a number.
HONE_INLINE vi f16_stochastic(vf x, vi random) {
  const vi u = bits_of(x), a = both(u, set_i(0x7fffffff)), sign = differing(u, a);
  const vi normal = first_not_second(sum_i(a, both(random, set_i(0x1fff))), set_i(0x1fff));
  const vf part = mul(to_float(both(random, set_i(0xffff))), set_f(0x1p-16f));
  // Whole units; only lanes below 2^-14, that is 1024 units, are taken.
  const vf units = to_float(to_int(add(mul(of_bits(a), set_f(0x1p24f)), part)));
  const vi small = bits_of(mul(units, set_f(0x1p-24f)));
  vi y = choose(where_greater(set_i(0x38800000), a), small, normal);
  y = choose(where_greater(a, set_i(0x7f7fffff)), a, y);  // infinities and NaN
  return f16_bits(of_bits(either(y, sign)));
}

}  // namespace hone::kernels::HONE_ISA
