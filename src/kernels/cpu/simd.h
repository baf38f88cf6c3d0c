// Sixteen float lanes, and 64 bytes, on every instruction set that a kernel is compiled for.
//
// The kernels' only vector vocabulary. Each source in this folder is compiled once per instruction
// set with HONE_ISA set to the name of its namespace; everything here is static in that namespace,
// so that no copy compiled for a newer CPU can be linked into code for an older one.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "kernels/kernel_table.h"

// Dots of bf16 pairs: compiled wherever a CPU may have them beside the instruction set.
#if defined(__AVX512VNNI__)
#define HONE_BF16_DOT 1
#endif

#define HONE_INLINE static inline __attribute__((always_inline))

namespace hone::kernels::HONE_ISA {

#if defined(__AVX512F__)

struct vf {
  __m512 v;
};  // 16 floats
struct vi {
  __m512i v;
};  // 16 int32, or 64 bytes

HONE_INLINE vf zero_f() { return {_mm512_setzero_ps()}; }
HONE_INLINE vf set_f(float x) { return {_mm512_set1_ps(x)}; }
HONE_INLINE vf load_f(const float* p) { return {_mm512_loadu_ps(p)}; }
HONE_INLINE void store_f(float* p, vf a) { _mm512_storeu_ps(p, a.v); }
HONE_INLINE vf add(vf a, vf b) { return {_mm512_add_ps(a.v, b.v)}; }
HONE_INLINE vf sub(vf a, vf b) { return {_mm512_sub_ps(a.v, b.v)}; }
HONE_INLINE vf mul(vf a, vf b) { return {_mm512_mul_ps(a.v, b.v)}; }
HONE_INLINE vf div(vf a, vf b) { return {_mm512_div_ps(a.v, b.v)}; }
HONE_INLINE vf fma(vf a, vf b, vf c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
HONE_INLINE vf max(vf a, vf b) { return {_mm512_max_ps(a.v, b.v)}; }
HONE_INLINE vf min(vf a, vf b) { return {_mm512_min_ps(a.v, b.v)}; }
HONE_INLINE vf load_bf16(const uint16_t* p) {
  __m512i x = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(x, 16))};
}
HONE_INLINE vf load_f16(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p))};
}
HONE_INLINE vf round_f(vf a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// 2^i for whole i in the normal range.
HONE_INLINE vf pow2i(vf whole) {
  __m512i e =
      _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(whole.v), _mm512_set1_epi32(127)), 23);
  return {_mm512_castsi512_ps(e)};
}
// a·2^i for whole i.
HONE_INLINE vf scale_exponent(vf a, vf i) { return {_mm512_scalef_ps(a.v, i.v)}; }
// Sixteen bytes as floats; the low and the high nibbles of sixteen bytes.
HONE_INLINE vf load_u8(const uint8_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)))};
}
HONE_INLINE void load_u4(const uint8_t* p, vf* low, vf* high) {
  __m512i x = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p));
  *low = {_mm512_cvtepi32_ps(_mm512_and_si512(x, _mm512_set1_epi32(15)))};
  *high = {_mm512_cvtepi32_ps(_mm512_srli_epi32(x, 4))};
}
// Lanes whose bit is clear become `other`.
HONE_INLINE vf select_bits(uint32_t bits, vf a, vf other) {
  return {_mm512_mask_blend_ps((__mmask16)bits, other.v, a.v)};
}
// The lanes where a ≥ b as bits; none where one of them is NaN.
HONE_INLINE uint32_t at_least(vf a, vf b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ); }
// Whole numbers of −128 … 127; of anything else some byte.
HONE_INLINE void store_bytes(int8_t* p, vf a) {
  _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a.v)));
}
HONE_INLINE float first_lane(vf a) { return _mm512_cvtss_f32(a.v); }

HONE_INLINE vi zero_i() { return {_mm512_setzero_si512()}; }
HONE_INLINE vi set_i(int32_t x) { return {_mm512_set1_epi32(x)}; }
HONE_INLINE vi load_i(const void* p) { return {_mm512_loadu_si512(p)}; }
HONE_INLINE void store_i(void* p, vi a) { _mm512_storeu_si512(p, a.v); }
HONE_INLINE vi low_nibbles(vi a) { return {_mm512_and_si512(a.v, _mm512_set1_epi8(15))}; }
HONE_INLINE vi high_nibbles(vi a) {
  return {_mm512_and_si512(_mm512_srli_epi32(a.v, 4), _mm512_set1_epi8(15))};
}
HONE_INLINE vi either(vi a, vi b) { return {_mm512_or_si512(a.v, b.v)}; }
HONE_INLINE vi sum_i(vi a, vi b) { return {_mm512_add_epi32(a.v, b.v)}; }
HONE_INLINE vf to_float(vi a) { return {_mm512_cvtepi32_ps(a.v)}; }
// Byte j of every 32-bit lane, as a float.
template <int j>
HONE_INLINE vf byte_to_float(vi a) {
  return {
      _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(a.v, 8 * j), _mm512_set1_epi32(255)))};
}
// table[byte j of every 32-bit lane]; bytes are 0…15.
template <int j>
HONE_INLINE vf byte_lookup(vi a, vf table) {
  return {_mm512_permutexvar_ps(_mm512_srli_epi32(a.v, 8 * j), table.v)};
}
// table[each byte]; bytes are 0…15, and so many bytes are the table.
HONE_INLINE vi load_table(const uint8_t* p) {
  return {_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)p))};
}
HONE_INLINE vi lookup_bytes(vi a, vi table) { return {_mm512_shuffle_epi8(table.v, a.v)}; }
// acc[i] += Σ_j u[4i+j]·s[4i+j] with u unsigned bytes up to 15 (dot4) or 255 (dot8), s signed.
#if defined(__AVX512VNNI__)
HONE_INLINE vi dot4(vi acc, vi u, vi s) { return {_mm512_dpbusd_epi32(acc.v, u.v, s.v)}; }
HONE_INLINE vi dot8(vi acc, vi u, vi s) { return {_mm512_dpbusd_epi32(acc.v, u.v, s.v)}; }
#else
HONE_INLINE vi dot4(vi acc, vi u, vi s) {
  __m512i pairs = _mm512_maddubs_epi16(u.v, s.v);
  return {_mm512_add_epi32(acc.v, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))};
}
HONE_INLINE vi dot8(vi acc, vi u, vi s) {
  // Even and odd bytes apart: maddubs would saturate.
  __m512i ue = _mm512_and_si512(u.v, _mm512_set1_epi16(255)), uo = _mm512_srli_epi16(u.v, 8);
  __m512i se = _mm512_srai_epi16(_mm512_slli_epi16(s.v, 8), 8), so = _mm512_srai_epi16(s.v, 8);
  __m512i sum = _mm512_add_epi32(_mm512_madd_epi16(ue, se), _mm512_madd_epi16(uo, so));
  return {_mm512_add_epi32(acc.v, sum)};
}
#endif

#elif defined(__AVX2__)

struct vf {
  __m256 a, b;
};
struct vi {
  __m256i a, b;
};

HONE_INLINE vf zero_f() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
HONE_INLINE vf set_f(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
HONE_INLINE vf load_f(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
HONE_INLINE void store_f(float* p, vf x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
HONE_INLINE vf add(vf x, vf y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
HONE_INLINE vf sub(vf x, vf y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
HONE_INLINE vf mul(vf x, vf y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
HONE_INLINE vf div(vf x, vf y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
HONE_INLINE vf fma(vf x, vf y, vf z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
HONE_INLINE vf max(vf x, vf y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
HONE_INLINE vf min(vf x, vf y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
HONE_INLINE __m256 half_bf16(const uint16_t* p) {
  __m256i x = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16));
}
HONE_INLINE vf load_bf16(const uint16_t* p) { return {half_bf16(p), half_bf16(p + 8)}; }
HONE_INLINE vf load_f16(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)),
          _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8)))};
}
HONE_INLINE vf round_f(vf x) {
  constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.a, mode), _mm256_round_ps(x.b, mode)};
}
HONE_INLINE __m256 half_pow2i(__m256 w) {
  return _mm256_castsi256_ps(
      _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(w), _mm256_set1_epi32(127)), 23));
}
HONE_INLINE vf pow2i(vf w) { return {half_pow2i(w.a), half_pow2i(w.b)}; }
HONE_INLINE vf scale_exponent(vf a, vf i) { return mul(a, pow2i(i)); }
HONE_INLINE __m256i half_u8(const uint8_t* p) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p));
}
HONE_INLINE vf load_u8(const uint8_t* p) {
  return {_mm256_cvtepi32_ps(half_u8(p)), _mm256_cvtepi32_ps(half_u8(p + 8))};
}
HONE_INLINE void load_u4(const uint8_t* p, vf* low, vf* high) {
  __m256i x = half_u8(p), y = half_u8(p + 8);
  const __m256i m = _mm256_set1_epi32(15);
  *low = {_mm256_cvtepi32_ps(_mm256_and_si256(x, m)), _mm256_cvtepi32_ps(_mm256_and_si256(y, m))};
  *high = {_mm256_cvtepi32_ps(_mm256_srli_epi32(x, 4)),
           _mm256_cvtepi32_ps(_mm256_srli_epi32(y, 4))};
}
HONE_INLINE __m256 half_select(uint32_t bits, __m256 x, __m256 other) {
  const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  __m256i on = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)bits), lane), lane);
  return _mm256_blendv_ps(other, x, _mm256_castsi256_ps(on));
}
HONE_INLINE vf select_bits(uint32_t bits, vf x, vf other) {
  return {half_select(bits & 255, x.a, other.a), half_select((bits >> 8) & 255, x.b, other.b)};
}
HONE_INLINE uint32_t at_least(vf x, vf y) {
  return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(x.a, y.a, _CMP_GE_OQ)) |
         (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(x.b, y.b, _CMP_GE_OQ)) << 8;
}
HONE_INLINE void store_bytes(int8_t* p, vf x) {
  __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b));
  words = _mm256_permute4x64_epi64(words, 0xd8);  // the lanes of a, then those of b
  _mm_storeu_si128((__m128i*)p, _mm_packs_epi16(_mm256_castsi256_si128(words),
                                                _mm256_extracti128_si256(words, 1)));
}
HONE_INLINE float first_lane(vf x) { return _mm256_cvtss_f32(x.a); }

HONE_INLINE vi zero_i() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
HONE_INLINE vi set_i(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
HONE_INLINE vi load_i(const void* p) {
  const __m256i* q = (const __m256i*)p;
  return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
}
HONE_INLINE void store_i(void* p, vi x) {
  __m256i* q = (__m256i*)p;
  _mm256_storeu_si256(q, x.a);
  _mm256_storeu_si256(q + 1, x.b);
}
HONE_INLINE vi low_nibbles(vi x) {
  const __m256i m = _mm256_set1_epi8(15);
  return {_mm256_and_si256(x.a, m), _mm256_and_si256(x.b, m)};
}
HONE_INLINE vi high_nibbles(vi x) {
  const __m256i m = _mm256_set1_epi8(15);
  return {_mm256_and_si256(_mm256_srli_epi32(x.a, 4), m),
          _mm256_and_si256(_mm256_srli_epi32(x.b, 4), m)};
}
HONE_INLINE vi either(vi x, vi y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
HONE_INLINE vi sum_i(vi x, vi y) {
  return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
}
HONE_INLINE vf to_float(vi x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
template <int j>
HONE_INLINE vf byte_to_float(vi x) {
  const __m256i m = _mm256_set1_epi32(255);
  return {_mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(x.a, 8 * j), m)),
          _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(x.b, 8 * j), m))};
}
HONE_INLINE __m256 half_lookup(__m256i i, vf t) {
  __m256 lo = _mm256_permutevar8x32_ps(t.a, i), hi = _mm256_permutevar8x32_ps(t.b, i);
  return _mm256_blendv_ps(lo, hi, _mm256_castsi256_ps(_mm256_slli_epi32(i, 28)));
}
template <int j>
HONE_INLINE vf byte_lookup(vi x, vf t) {
  return {half_lookup(_mm256_srli_epi32(x.a, 8 * j), t),
          half_lookup(_mm256_srli_epi32(x.b, 8 * j), t)};
}
HONE_INLINE vi load_table(const uint8_t* p) {
  __m256i t = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)p));
  return {t, t};
}
HONE_INLINE vi lookup_bytes(vi x, vi t) {
  return {_mm256_shuffle_epi8(t.a, x.a), _mm256_shuffle_epi8(t.b, x.b)};
}
HONE_INLINE __m256i half_dot4(__m256i acc, __m256i u, __m256i s) {
  return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(u, s), _mm256_set1_epi16(1)));
}
HONE_INLINE vi dot4(vi acc, vi u, vi s) {
  return {half_dot4(acc.a, u.a, s.a), half_dot4(acc.b, u.b, s.b)};
}
HONE_INLINE __m256i half_dot8(__m256i acc, __m256i u, __m256i s) {
  __m256i ue = _mm256_and_si256(u, _mm256_set1_epi16(255)), uo = _mm256_srli_epi16(u, 8);
  __m256i se = _mm256_srai_epi16(_mm256_slli_epi16(s, 8), 8), so = _mm256_srai_epi16(s, 8);
  return _mm256_add_epi32(acc,
                          _mm256_add_epi32(_mm256_madd_epi16(ue, se), _mm256_madd_epi16(uo, so)));
}
HONE_INLINE vi dot8(vi acc, vi u, vi s) {
  return {half_dot8(acc.a, u.a, s.a), half_dot8(acc.b, u.b, s.b)};
}

#else  // baseline: plain loops over sixteen lanes, for any compiler to vectorise as it can

struct vf {
  float v[16];
};
struct vi {
  int32_t v[16];
};

#define HONE_LANES for (int i = 0; i < 16; ++i)
HONE_INLINE vf set_f(float x) {
  vf r;
  HONE_LANES r.v[i] = x;
  return r;
}
HONE_INLINE vf zero_f() { return set_f(0); }
HONE_INLINE vf load_f(const float* p) {
  vf r;
  HONE_LANES r.v[i] = p[i];
  return r;
}
HONE_INLINE void store_f(float* p, vf a) { HONE_LANES p[i] = a.v[i]; }
HONE_INLINE vf add(vf a, vf b) {
  HONE_LANES a.v[i] += b.v[i];
  return a;
}
HONE_INLINE vf sub(vf a, vf b) {
  HONE_LANES a.v[i] -= b.v[i];
  return a;
}
HONE_INLINE vf mul(vf a, vf b) {
  HONE_LANES a.v[i] *= b.v[i];
  return a;
}
HONE_INLINE vf div(vf a, vf b) {
  HONE_LANES a.v[i] /= b.v[i];
  return a;
}
HONE_INLINE vf fma(vf a, vf b, vf c) {
  HONE_LANES c.v[i] += a.v[i] * b.v[i];
  return c;
}
HONE_INLINE vf max(vf a, vf b) {
  HONE_LANES a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
  return a;
}
HONE_INLINE vf min(vf a, vf b) {
  HONE_LANES a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i];
  return a;
}
HONE_INLINE float bits_f(uint32_t u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}
HONE_INLINE vf load_bf16(const uint16_t* p) {
  vf r;
  HONE_LANES r.v[i] = bits_f((uint32_t)p[i] << 16);
  return r;
}
HONE_INLINE float half_to_float(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000u) << 16, m = h & 0x7fffu;
  if (m >= 0x7c00u) return bits_f(sign | 0x7f800000u | ((m & 0x3ffu) << 13));
  if (m < 0x400u) {
    float f = (float)m * 0x1p-24f;
    return sign ? -f : f;
  }
  return bits_f(sign | ((m << 13) + 0x38000000u));
}
HONE_INLINE vf load_f16(const uint16_t* p) {
  vf r;
  HONE_LANES r.v[i] = half_to_float(p[i]);
  return r;
}
HONE_INLINE vf round_f(vf a) {
  HONE_LANES a.v[i] = __builtin_rintf(a.v[i]);
  return a;
}
HONE_INLINE vf pow2i(vf a) {
  HONE_LANES a.v[i] = bits_f((uint32_t)((int32_t)a.v[i] + 127) << 23);
  return a;
}
HONE_INLINE vf scale_exponent(vf a, vf i) { return mul(a, pow2i(i)); }
HONE_INLINE vf load_u8(const uint8_t* p) {
  vf r;
  HONE_LANES r.v[i] = (float)p[i];
  return r;
}
HONE_INLINE void load_u4(const uint8_t* p, vf* low, vf* high) {
  HONE_LANES low->v[i] = (float)(p[i] & 15);
  HONE_LANES high->v[i] = (float)(p[i] >> 4);
}
HONE_INLINE vf select_bits(uint32_t bits, vf a, vf o) {
  HONE_LANES a.v[i] = (bits >> i) & 1 ? a.v[i] : o.v[i];
  return a;
}
HONE_INLINE uint32_t at_least(vf a, vf b) {
  uint32_t bits = 0;
  HONE_LANES bits |= (uint32_t)(a.v[i] >= b.v[i]) << i;
  return bits;
}
HONE_INLINE void store_bytes(int8_t* p, vf a) {
  HONE_LANES p[i] = a.v[i] >= -128 && a.v[i] <= 127 ? (int8_t)a.v[i] : 0;
}
HONE_INLINE float first_lane(vf a) { return a.v[0]; }
HONE_INLINE vi set_i(int32_t x) {
  vi r;
  HONE_LANES r.v[i] = x;
  return r;
}
HONE_INLINE vi zero_i() { return set_i(0); }
HONE_INLINE vi load_i(const void* p) {
  vi r;
  memcpy(&r, p, 64);
  return r;
}
HONE_INLINE void store_i(void* p, vi a) { memcpy(p, &a, 64); }
HONE_INLINE vi low_nibbles(vi a) {
  HONE_LANES a.v[i] &= 0x0f0f0f0f;
  return a;
}
HONE_INLINE vi high_nibbles(vi a) {
  HONE_LANES a.v[i] = (int32_t)(((uint32_t)a.v[i] >> 4) & 0x0f0f0f0fu);
  return a;
}
HONE_INLINE vi sum_i(vi a, vi b) {
  HONE_LANES a.v[i] = (int32_t)((uint32_t)a.v[i] + (uint32_t)b.v[i]);  // wraps
  return a;
}
HONE_INLINE vi either(vi a, vi b) {
  HONE_LANES a.v[i] |= b.v[i];
  return a;
}
HONE_INLINE vf to_float(vi a) {
  vf r;
  HONE_LANES r.v[i] = (float)a.v[i];
  return r;
}
template <int j>
HONE_INLINE vf byte_to_float(vi a) {
  vf r;
  HONE_LANES r.v[i] = (float)(((uint32_t)a.v[i] >> (8 * j)) & 255u);
  return r;
}
template <int j>
HONE_INLINE vf byte_lookup(vi a, vf t) {
  vf r;
  HONE_LANES r.v[i] = t.v[((uint32_t)a.v[i] >> (8 * j)) & 15u];
  return r;
}
HONE_INLINE vi load_table(const uint8_t* p) {
  vi r = zero_i();
  memcpy(&r, p, 16);
  return r;
}
HONE_INLINE vi lookup_bytes(vi a, vi t) {
  const uint8_t* table = (const uint8_t*)&t;
  HONE_LANES {
    uint32_t x = (uint32_t)a.v[i];
    a.v[i] = (int32_t)((uint32_t)table[x & 15u] | (uint32_t)table[(x >> 8) & 15u] << 8 |
                       (uint32_t)table[(x >> 16) & 15u] << 16 | (uint32_t)table[x >> 24] << 24);
  }
  return a;
}
HONE_INLINE vi dot8(vi acc, vi u, vi s) {
  HONE_LANES {
    uint32_t x = (uint32_t)u.v[i], y = (uint32_t)s.v[i];
    for (int j = 0; j < 4; ++j)
      acc.v[i] += (int32_t)((x >> (8 * j)) & 255u) * (int8_t)((y >> (8 * j)) & 255u);
  }
  return acc;
}
HONE_INLINE vi dot4(vi acc, vi u, vi s) { return dot8(acc, u, s); }
#undef HONE_LANES

#endif

// The same tree on every instruction set: lane i with lane i+8, then i+4, i+2, i+1.
#if defined(__AVX2__)
#if defined(__AVX512F__)
HONE_INLINE __m256 lower(vf x) { return _mm512_castps512_ps256(x.v); }
HONE_INLINE __m256 upper(vf x) { return _mm512_extractf32x8_ps(x.v, 1); }
#else
HONE_INLINE __m256 lower(vf x) { return x.a; }
HONE_INLINE __m256 upper(vf x) { return x.b; }
#endif
HONE_INLINE float reduce_add(vf x) {
  __m256 eight = _mm256_add_ps(lower(x), upper(x));
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
HONE_INLINE float reduce_max(vf x) {
  __m256 eight = _mm256_max_ps(lower(x), upper(x));
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
#else
HONE_INLINE float reduce_add(vf a) {
  for (int step = 8; step > 0; step /= 2)
    for (int i = 0; i < step; ++i) a.v[i] += a.v[i + step];
  return a.v[0];
}
HONE_INLINE float reduce_max(vf a) {
  for (int step = 8; step > 0; step /= 2)
    for (int i = 0; i < step; ++i) a.v[i] = a.v[i] > a.v[i + step] ? a.v[i] : a.v[i + step];
  return a.v[0];
}
#endif
HONE_INLINE vi set_bytes(const void* four) {
  int32_t x;
  memcpy(&x, four, 4);
  return set_i(x);
}

// e^x: x = n·ln 2 + r, a degree-6 polynomial in r; within 2 ulp, tiny below −87, finite up to 88,
// NaN for NaN.
HONE_INLINE vf exp_f(vf x) {
  x = min(set_f(88.37f), max(set_f(-87.33f), x));  // the second of the two where one is NaN
  vf n = round_f(mul(x, set_f(1.44269504088896341f)));
  n = min(n, set_f(127));
  vf r = fma(n, set_f(-0.693359375f), x);
  r = fma(n, set_f(2.12194440e-4f), r);
  vf p = set_f(1.0f / 720);
  p = fma(p, r, set_f(1.0f / 120));
  p = fma(p, r, set_f(1.0f / 24));
  p = fma(p, r, set_f(1.0f / 6));
  p = fma(p, r, set_f(0.5f));
  p = fma(p, r, set_f(1));
  p = fma(p, r, set_f(1));
  return mul(p, pow2i(n));
}
// 2^x for x ≤ 0, within 2 ulp; 1 at 0, NaN for NaN, and below −125 the smallest that it gives or
// less. x = n + r with |r| ≤ 1/2; a degree-5 minimax polynomial in r.
HONE_INLINE vf exp2_f(vf x) {
  x = max(set_f(-125), x);  // the second of the two where one is NaN
  const vf n = round_f(x), r = sub(x, n);
  vf p = set_f(0x1.5bba14p-10f);
  p = fma(p, r, set_f(0x1.3cea88p-7f));
  p = fma(p, r, set_f(0x1.c6b752p-5f));
  p = fma(p, r, set_f(0x1.ebf9bcp-3f));
  p = fma(p, r, set_f(0x1.62e42ap-1f));
  p = fma(p, r, set_f(1));
  return scale_exponent(p, n);
}
// tanh x = 1 − 2/(e^{2x}+1); near 0 the cancellation leaves an absolute error of 1e-7.
HONE_INLINE vf tanh_f(vf x) {
  vf e = exp_f(mul(set_f(2), x));
  return sub(set_f(1), div(set_f(2), add(e, set_f(1))));
}
// The first n (< 16) lanes from p, the others 0; and their store. (The mask tells the compiler.)
HONE_INLINE vf load_part(const float* p, int64_t n) {
  float t[16] = {0};
  memcpy(t, p, (size_t)(n & 15) * 4);
  return load_f(t);
}
HONE_INLINE void store_part(float* p, vf a, int64_t n) {
  float t[16];
  store_f(t, a);
  memcpy(p, t, (size_t)(n & 15) * 4);
}

// Calls body(offset, lanes) over n elements; the last call may have fewer than 16 lanes.
template <typename F>
HONE_INLINE void each_vector(int64_t n, F body) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) body(i, (int64_t)16);
  if (i < n) body(i, n - i);
}
HONE_INLINE vf load_n(const float* p, int64_t n) { return n == 16 ? load_f(p) : load_part(p, n); }
HONE_INLINE void store_n(float* p, vf a, int64_t n) {
  if (n == 16)
    store_f(p, a);
  else
    store_part(p, a, n);
}

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

typedef float f4 __attribute__((vector_size(16)));
HONE_INLINE f4 load_four(const float* p) {
  f4 v;
  memcpy(&v, p, 16);
  return v;
}
// out[16][16] = in[16][16] with rows and columns exchanged, by blocks of 4 × 4.
HONE_INLINE void transpose_block(const float* in, int64_t ld, float* out, int64_t out_ld) {
  typedef int i4 __attribute__((vector_size(16)));
  for (int r = 0; r < 16; r += 4)
    for (int c = 0; c < 16; c += 4) {
      f4 a = load_four(in + r * ld + c), b = load_four(in + (r + 1) * ld + c);
      f4 d = load_four(in + (r + 2) * ld + c), e = load_four(in + (r + 3) * ld + c);
      f4 ab0 = __builtin_shuffle(a, b, i4{0, 4, 1, 5}),
         ab1 = __builtin_shuffle(a, b, i4{2, 6, 3, 7});
      f4 de0 = __builtin_shuffle(d, e, i4{0, 4, 1, 5}),
         de1 = __builtin_shuffle(d, e, i4{2, 6, 3, 7});
      f4 y[4] = {
          __builtin_shuffle(ab0, de0, i4{0, 1, 4, 5}), __builtin_shuffle(ab0, de0, i4{2, 3, 6, 7}),
          __builtin_shuffle(ab1, de1, i4{0, 1, 4, 5}), __builtin_shuffle(ab1, de1, i4{2, 3, 6, 7})};
      for (int i = 0; i < 4; ++i) memcpy(out + (c + i) * out_ld + r, &y[i], 16);
    }
}

// Sixteen floats from storage of a float type.
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

}  // namespace hone::kernels::HONE_ISA
