// Scalar types of tensors, their sizes and names, and the conversions between float formats.
//
// visit_dtype is the only switch over types: code that depends on the scalar type is a template
// called through it.
#pragma once

#include <bit>
#include <cstdint>
#include <string_view>

#include "base/error.h"

namespace hone {

enum class DType : uint8_t { f32, f64, f16, bf16, f8_e4m3, f8_e5m2, i8, u8, i16, i32, i64 };

// IEEE binary16, bfloat16, OCP FP8 E4M3FN (no infinities, max 448) and E5M2: storage types.
struct f16 {
  uint16_t bits;
};
struct bf16 {
  uint16_t bits;
};
struct f8_e4m3 {
  uint8_t bits;
};
struct f8_e5m2 {
  uint8_t bits;
};

/// Small IEEE-like floats with kMantissa mantissa bits: the bits without sign of the nearest to the
/// f32 magnitude with bits `a`, ties to even, subnormals included; what is beyond the range runs on
/// into the next exponent.
template <int kMantissa, int kBias>
constexpr uint32_t round_magnitude(uint32_t a) {
  constexpr int kShift = 23 - kMantissa;
  constexpr uint32_t kRebias = uint32_t{127 - kBias} << 23;
  // Subnormal: in this sum the unit of the small float is the f32's last place, so that the
  // addition rounds to it.
  constexpr uint32_t kUnitLast = kRebias + (uint32_t{kShift + 1} << 23);
  if (a < kRebias + (1u << 23)) {
    float sum = std::bit_cast<float>(a) + std::bit_cast<float>(kUnitLast);
    return std::bit_cast<uint32_t>(sum) - kUnitLast;
  }
  return (a - kRebias + (1u << (kShift - 1)) - 1 + ((a >> kShift) & 1)) >> kShift;
}

/// The value of such bits: finite, whatever the format's largest exponent stands for.
/// Returns an f32's bits.
template <int kMantissa, int kBias>
constexpr uint32_t expand_magnitude(uint32_t magnitude) {
  constexpr uint32_t kRebias = uint32_t{127 - kBias} << 23;
  constexpr auto kUnit = std::bit_cast<float>(kRebias - (uint32_t{kMantissa - 1} << 23));
  auto subnormal =
      std::bit_cast<uint32_t>(static_cast<float>(static_cast<int32_t>(magnitude)) * kUnit);
  uint32_t normal = (magnitude << (23 - kMantissa)) + kRebias;
  uint32_t is_subnormal = 0u - (magnitude < (1u << kMantissa));  // a mask: no branch to mispredict
  return (subnormal & is_subnormal) | (normal & ~is_subnormal);
}

/// Round to nearest, ties to even; overflow gives infinity; NaN stays NaN (quiet).
inline f16 to_f16(float x) {
  uint32_t u = std::bit_cast<uint32_t>(x), a = u & 0x7fffffffu;
  uint32_t bits = a > 0x7f800000u    ? 0x7e00u
                  : a >= 0x477ff000u ? 0x7c00u  // from 65520 on
                                     : round_magnitude<10, 15>(a);
  return {static_cast<uint16_t>((u >> 16 & 0x8000u) | bits)};
}
inline bf16 to_bf16(float x) {
  uint32_t u = std::bit_cast<uint32_t>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((u >> 16) | 0x40u)};
  return {static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}
/// Round to nearest even; values beyond the largest finite one saturate to it (the convention of
/// checkpoints: "clamp before the cast"); NaN gives NaN.
inline f8_e4m3 to_f8_e4m3(float x) {
  uint32_t u = std::bit_cast<uint32_t>(x), a = u & 0x7fffffffu;
  uint32_t bits = a > 0x7f800000u    ? 0x7fu
                  : a >= 0x43e00000u ? 0x7eu  // 448
                                     : round_magnitude<3, 7>(a);
  return {static_cast<uint8_t>((u >> 24 & 0x80u) | bits)};
}
inline f8_e5m2 to_f8_e5m2(float x) {
  uint32_t u = std::bit_cast<uint32_t>(x), a = u & 0x7fffffffu;
  uint32_t bits = a > 0x7f800000u    ? 0x7fu
                  : a >= 0x47600000u ? 0x7bu  // 57344
                                     : round_magnitude<2, 15>(a);
  return {static_cast<uint8_t>((u >> 24 & 0x80u) | bits)};
}
/// tf32 (1-8-10 bits) kept in a float: round to nearest, ties away; infinities and NaN unchanged.
float round_tf32(float x);

inline float to_f32(f16 x) {
  uint32_t magnitude = x.bits & 0x7fffu, sign = uint32_t{x.bits & 0x8000u} << 16;
  if (magnitude - 0x400u < 0x7800u) [[likely]]  // neither subnormal nor infinity nor NaN
    return std::bit_cast<float>(((magnitude << 13) + 0x38000000u) | sign);
  uint32_t bits = expand_magnitude<10, 15>(magnitude);
  if (magnitude >= 0x7c00u) bits += 0x38000000u;
  return std::bit_cast<float>(bits | sign);
}
inline float to_f32(bf16 x) { return std::bit_cast<float>(uint32_t{x.bits} << 16); }
inline float to_f32(f8_e4m3 x) {
  uint32_t magnitude = x.bits & 0x7fu, sign = uint32_t{x.bits & 0x80u} << 24;
  uint32_t bits = expand_magnitude<3, 7>(magnitude);
  if (magnitude == 0x7fu) bits = 0x7fc00000u;
  return std::bit_cast<float>(bits | sign);
}
/// E5M2 is the upper byte of a binary16.
inline float to_f32(f8_e5m2 x) { return to_f32(f16{static_cast<uint16_t>(uint16_t{x.bits} << 8)}); }

/// Calls f with a value-initialised object of the scalar type that `t` names.
template <typename F>
decltype(auto) visit_dtype(DType t, F&& f) {
  switch (t) {
    case DType::f32:
      return f(float{});
    case DType::f64:
      return f(double{});
    case DType::f16:
      return f(f16{});
    case DType::bf16:
      return f(bf16{});
    case DType::f8_e4m3:
      return f(f8_e4m3{});
    case DType::f8_e5m2:
      return f(f8_e5m2{});
    case DType::i8:
      return f(int8_t{});
    case DType::u8:
      return f(uint8_t{});
    case DType::i16:
      return f(int16_t{});
    case DType::i32:
      return f(int32_t{});
    case DType::i64:
      return f(int64_t{});
  }
  fail(ErrorKind::internal, "unknown scalar type {}", static_cast<int>(t));
}

template <typename T>
struct dtype_of;
template <>
struct dtype_of<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct dtype_of<double> {
  static constexpr DType value = DType::f64;
};
template <>
struct dtype_of<f16> {
  static constexpr DType value = DType::f16;
};
template <>
struct dtype_of<bf16> {
  static constexpr DType value = DType::bf16;
};
template <>
struct dtype_of<f8_e4m3> {
  static constexpr DType value = DType::f8_e4m3;
};
template <>
struct dtype_of<f8_e5m2> {
  static constexpr DType value = DType::f8_e5m2;
};
template <>
struct dtype_of<int8_t> {
  static constexpr DType value = DType::i8;
};
template <>
struct dtype_of<uint8_t> {
  static constexpr DType value = DType::u8;
};
template <>
struct dtype_of<int16_t> {
  static constexpr DType value = DType::i16;
};
template <>
struct dtype_of<int32_t> {
  static constexpr DType value = DType::i32;
};
template <>
struct dtype_of<int64_t> {
  static constexpr DType value = DType::i64;
};

/// Bytes of one element.
inline int64_t dtype_size(DType t) {
  return visit_dtype(t, [](auto x) { return int64_t{sizeof(x)}; });
}
/// "f32", "bf16", "f8_e4m3", ...
std::string_view dtype_name(DType t);
bool is_float(DType t);

}  // namespace hone
