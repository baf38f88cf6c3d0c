#include "tensor/dtype.h"

namespace hone {
float round_tf32(float x) {
  uint32_t u = std::bit_cast<uint32_t>(x);
  if ((u & 0x7f800000u) == 0x7f800000u) return x;
  return std::bit_cast<float>((u + 0x1000u) & ~0x1fffu);
}

std::string_view dtype_name(DType t) {
  static constexpr std::string_view kNames[] = {"f32", "f64", "f16", "bf16", "f8_e4m3", "f8_e5m2",
                                                "i8",  "u8",  "i16", "i32",  "i64"};
  return kNames[static_cast<int>(t)];
}

bool is_float(DType t) { return t <= DType::f8_e5m2; }

}  // namespace hone
