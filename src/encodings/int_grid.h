// The integer grid of "int_group": w ≈ scale·(code − zero), codes 0…2^bits−1, with the conventions
// of GPTQ's reference quantiser. Round-to-nearest (int_group.cpp) and the GPTQ pass share it, so
// that what a solver assumed is what gets stored.
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace hone {

struct GridOptions {
  int bits = 4;           ///< 2…8
  bool symmetric = true;  ///< zero = 2^(bits−1), else the range from min(w, 0) to max(w, 0)
  bool mse = false;       ///< search a narrower range that lowers Σ|error|^2.4
  DType scale_type = DType::f16;  ///< f32, f16 or bf16: scales are rounded to it before use
};

struct Grid {
  float scale = 1;  ///< positive, exactly representable in scale_type
  int zero = 0;     ///< 0…2^bits−1
};

/// The grid of the n values at x, x + stride, ... Values must be finite, n > 0.
Grid find_grid(const float* x, int64_t n, int64_t stride, const GridOptions& options);

/// The code of x: x/scale rounded half to even, plus zero, clamped to 0…top (= 2^bits−1).
inline int grid_code(float x, const Grid& grid, int top) {
  // Adding and subtracting 1.5·2^23 rounds to an integer; the clamp before it keeps that valid (its
  // comparisons also send NaN to the lower bound).
  constexpr float kNoFraction = 12582912.0f;
  float steps = x / grid.scale;
  steps = steps > -256.0f ? steps : -256.0f;
  steps = steps < 256.0f ? steps : 256.0f;
  int code = static_cast<int>((steps + kNoFraction) - kNoFraction) + grid.zero;
  return code < 0 ? 0 : (code > top ? top : code);
}

inline float grid_value(int code, const Grid& grid) {
  return grid.scale * static_cast<float>(code - grid.zero);
}

/// A scale rounded to `type`, kept positive and finite.
float round_scale(float scale, DType type);

// Codes as a bit stream: code i occupies bits [i·bits, (i+1)·bits), least significant bit first.

inline int64_t packed_size(int64_t n, int bits) { return (n * bits + 7) / 8; }
/// n codes below 2^bits into packed_size(n, bits) bytes; unused bits are 0.
void pack_codes(const uint8_t* codes, int64_t n, int bits, uint8_t* bytes);
/// The inverse; reads packed_size(n, bits) bytes.
void unpack_codes(const uint8_t* bytes, int64_t n, int bits, uint8_t* codes);

}  // namespace hone
