// What is added to attention's scores: forward and backward compute it alike.
#pragma once

#include "kernels/cpu/simd.h"

namespace hone::kernels::HONE_ISA {

// Of row r and keys key … key+15.
HONE_INLINE vf alibi(const ScoreTerms& t, int64_t r, int64_t key) {
  static const float kLanes[kPanel] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  vf distance = add(set_f((float)(key - t.query[r])), load_f(kLanes));
  if (!t.alibi_signed) distance = min(distance, sub(zero_f(), distance));
  return mul(distance, set_f(t.slope[r]));
}

// Keys that do not exist have none.
HONE_INLINE vf bias(const ScoreTerms& t, int64_t r, int64_t key) {
  const int64_t n = t.keys - key;
  return n > 0 ? load_y(t.bias + t.bias_offset[r] + key, n) : zero_f();
}

}  // namespace hone::kernels::HONE_ISA
