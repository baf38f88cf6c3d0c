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

/// Round to nearest, ties to even; overflow gives infinity; NaN stays NaN (quiet).
f16 to_f16(float x);
bf16 to_bf16(float x);
/// Round to nearest even; values beyond the largest finite one saturate to it (the convention of
/// checkpoints: "clamp before the cast"); NaN gives NaN.
f8_e4m3 to_f8_e4m3(float x);
f8_e5m2 to_f8_e5m2(float x);
/// tf32 (1-8-10 bits) kept in a float: round to nearest, ties away; infinities and NaN unchanged.
float round_tf32(float x);

float to_f32(f16 x);
inline float to_f32(bf16 x) { return std::bit_cast<float>(uint32_t{x.bits} << 16); }
float to_f32(f8_e4m3 x);
float to_f32(f8_e5m2 x);

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
