// Sizes computed from untrusted numbers: multiplication and addition that refuse to wrap.
#pragma once

#include <cstdint>
#include <span>

#include "base/error.h"

namespace hone {

/// a·b; raises corrupt naming `what` where the product does not fit in 63 bits.
inline int64_t checked_mul(int64_t a, int64_t b, const char* what) {
  int64_t r = 0;
  HONE_CHECK(a >= 0 && b >= 0 && !__builtin_mul_overflow(a, b, &r), corrupt,
             "{}: the size {} x {} is negative or too large", what, a, b);
  return r;
}

/// a+b; raises corrupt naming `what` where the sum does not fit in 63 bits.
inline int64_t checked_add(int64_t a, int64_t b, const char* what) {
  int64_t r = 0;
  HONE_CHECK(a >= 0 && b >= 0 && !__builtin_add_overflow(a, b, &r), corrupt,
             "{}: the size {} + {} is negative or too large", what, a, b);
  return r;
}

/// Product of the dimensions of a shape; an empty shape (a scalar) gives 1.
inline int64_t checked_numel(std::span<const int64_t> shape, const char* what) {
  int64_t n = 1;
  for (int64_t d : shape) n = checked_mul(n, d, what);
  return n;
}

/// ⌈a/b⌉ for a ≥ 0 and b > 0, whatever their size.
inline int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b != 0); }
/// The least multiple of b that is not below a; raises corrupt where it does not fit.
inline int64_t round_up(int64_t a, int64_t b) { return checked_mul(ceil_div(a, b), b, "padding"); }

}  // namespace hone
