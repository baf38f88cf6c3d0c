// Codes and scales of GGUF's 256-weight blocks by weighted least squares.
//
// A block is 256 weights in sub-blocks. Each sub-block is first fitted alone (several code widths,
// then the optimal scale for the codes found); the fits are expressed in small integers of the
// block's f16 scale; then integers, codes and block scale are improved in turn while the error
// Σ importance·(x − x̂)² falls. No importances means all 1.
#pragma once

#include <cstdint>

namespace hone {

struct AffineShape {
  int group;      ///< weights of a sub-block: 16 or 32
  int top;        ///< codes are 0…top
  int scale_top;  ///< sub-block scales and minima are 0…scale_top
};

/// x̂ = d·scales[j]·codes[i] − e·mins[j], d and e exactly f16 and not negative.
struct AffineFit {
  float d, e;
  uint8_t scales[16], mins[16];
  uint8_t codes[256];
};

struct SignedShape {
  int half;        ///< codes stand for −half…half−1
  int scale_half;  ///< scales are −scale_half…scale_half−1
};

/// x̂ = d·scales[j]·(codes[i] − half) in sub-blocks of 16, d exactly f16.
struct SignedFit {
  float d;
  int8_t scales[16];
  uint8_t codes[256];
};

AffineFit fit_affine(const float* x, const float* importance, AffineShape shape);
SignedFit fit_signed(const float* x, const float* importance, SignedShape shape);

}  // namespace hone
