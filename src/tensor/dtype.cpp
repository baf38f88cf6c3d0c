#include "tensor/dtype.h"

#include <cmath>

namespace hone {
namespace {

// One rounding for every small float format with `e` exponent bits and `m` mantissa bits: returns
// sign-less bits, round to nearest even, subnormals included. The largest exponent field is used
// for finite values only where `finite_top` (E4M3FN).
uint32_t round_magnitude(float magnitude, int m, int bias) {
  if (magnitude == 0) return 0;
  int exponent = 0;
  std::frexp(magnitude, &exponent);  // magnitude in [2^(exponent-1), 2^exponent)
  int e = exponent - 1;
  if (e < 1 - bias) e = 1 - bias;  // subnormal: the spacing of the smallest normal binade
  // In units of the last place; exact, because scaling by a power of two is.
  double units = std::ldexp(static_cast<double>(magnitude), m - e);
  auto rounded = static_cast<uint64_t>(std::nearbyint(units));
  // Adding the mantissa to the exponent field lets a carry move to the next binade.
  int64_t field =
      (static_cast<int64_t>(e + bias) << m) + static_cast<int64_t>(rounded) - (int64_t{1} << m);
  return static_cast<uint32_t>(field < 0 ? 0 : field);
}

}  // namespace

f16 to_f16(float x) {
  uint32_t u = std::bit_cast<uint32_t>(x);
  uint32_t sign = (u >> 16) & 0x8000u;
  uint32_t a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return {static_cast<uint16_t>(sign | 0x7e00u)};
  if (a >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};  // rounds to infinity
  if (a < 0x38800000u) {
    // Subnormal: adding 0.5 aligns the mantissa so that the hardware rounds it to even.
    float f = std::bit_cast<float>(a) + 0.5f;
    return {static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(f) - 0x3f000000u))};
  }
  uint32_t rounded = a + 0xfffu + ((a >> 13) & 1u) - 0x38000000u;
  return {static_cast<uint16_t>(sign | (rounded >> 13))};
}

bf16 to_bf16(float x) {
  uint32_t u = std::bit_cast<uint32_t>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((u >> 16) | 0x40u)};
  return {static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}

f8_e4m3 to_f8_e4m3(float x) {
  uint8_t sign = std::signbit(x) ? 0x80 : 0;
  if (std::isnan(x)) return {static_cast<uint8_t>(sign | 0x7f)};
  uint32_t bits = round_magnitude(std::fmin(std::fabs(x), 448.0f), 3, 7);
  return {static_cast<uint8_t>(sign | bits)};
}

f8_e5m2 to_f8_e5m2(float x) {
  uint8_t sign = std::signbit(x) ? 0x80 : 0;
  if (std::isnan(x)) return {static_cast<uint8_t>(sign | 0x7f)};
  uint32_t bits = round_magnitude(std::fmin(std::fabs(x), 57344.0f), 2, 15);
  return {static_cast<uint8_t>(sign | bits)};
}

float round_tf32(float x) {
  uint32_t u = std::bit_cast<uint32_t>(x);
  if ((u & 0x7f800000u) == 0x7f800000u) return x;
  return std::bit_cast<float>((u + 0x1000u) & ~0x1fffu);
}

float to_f32(f16 x) {
  uint32_t sign = uint32_t{x.bits & 0x8000u} << 16;
  uint32_t magnitude = x.bits & 0x7fffu;
  if (magnitude >= 0x7c00u)
    return std::bit_cast<float>(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
  if (magnitude < 0x400u) {
    float f = static_cast<float>(magnitude) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(f));
  }
  return std::bit_cast<float>(sign | ((magnitude << 13) + 0x38000000u));
}

float to_f32(f8_e4m3 x) {
  int e = (x.bits >> 3) & 15, m = x.bits & 7;
  float a = e == 15 && m == 7 ? std::nanf("")
            : e == 0          ? std::ldexp(static_cast<float>(m), -9)
                              : std::ldexp(static_cast<float>(8 + m), e - 10);
  return x.bits & 0x80 ? -a : a;
}

float to_f32(f8_e5m2 x) {
  // E5M2 is the upper byte of a binary16.
  return to_f32(f16{static_cast<uint16_t>(uint16_t{x.bits} << 8)});
}

std::string_view dtype_name(DType t) {
  static constexpr std::string_view kNames[] = {"f32", "f64", "f16", "bf16", "f8_e4m3", "f8_e5m2",
                                                "i8",  "u8",  "i16", "i32",  "i64"};
  return kNames[static_cast<int>(t)];
}

bool is_float(DType t) { return t <= DType::f8_e5m2; }

}  // namespace hone
