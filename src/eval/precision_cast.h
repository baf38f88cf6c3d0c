// Rounding of f32 values to a narrower float type, and what it did to them: the counts behind
// `hone precision`. It never changes how values are stored; results are f32 values that the type
// can hold, bit for bit what the encodings of encodings/floats.cpp decode to.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "base/threads.h"
#include "tensor/tensor.h"

namespace hone {

/// A float type that weights or activations may be held in.
struct FloatTarget {
  std::string name;  ///< "f16", "bf16", "f8_e4m3", "f8_e5m2"
  DType dtype;
  float largest;          ///< finite value
  float least_normal;     ///< smallest magnitude with all mantissa bits
  bool saturates;         ///< FP8: what is beyond `largest` becomes it; else infinity
  bool row_scaled;        ///< each row is divided by its own max/largest, and multiplied again
  bool vectors;           ///< norms, biases and positions are cast too; FP8 is for matrices only
  bool last_bit = false;  ///< no cast: flips the last bit of each f32, to see what that much does
};
/// One of precision_types(); raises invalid_argument naming them. `row_scaled` concerns FP8 only.
FloatTarget float_target(const std::string& name, bool row_scaled);
/// f32 with the last bit of every value flipped: a change that is known to mean nothing.
FloatTarget last_bit_target();
const std::vector<std::string>& precision_types();

/// What became of some values.
struct CastCounts {
  int64_t values = 0;
  int64_t non_finite = 0;  ///< before the cast; counted nowhere else
  int64_t overflow = 0;    ///< finite before, infinite after; where the type saturates: clamped
  int64_t underflow = 0;   ///< not 0 before, 0 after
  int64_t subnormal = 0;   ///< not 0 after, and with fewer mantissa bits than the type has
  int64_t exact = 0;
  double absmax = 0;         ///< before, of finite values
  double largest_error = 0;  ///< |x−y|/|x| over what was finite and not 0, and is finite
  double error_sum = 0;
  int64_t measured = 0;  ///< values in error_sum

  double mean_error() const { return measured > 0 ? error_sum / double(measured) : 0; }
  void add(const CastCounts& o);
};

/// Rounds rows of x [R, K]. `out`, if given, gets the rounded values (an owned f32 tensor of x's
/// shape); `columns`, if given, gets Σ(x−y)² of each column, [K], over finite differences. A vector
/// is one row. Independent of threads.
CastCounts round_rows(const FloatTarget& target, const Tensor& x, Tensor* out = nullptr,
                      std::vector<double>* columns = nullptr);
/// x as the type holds it.
Tensor rounded(const FloatTarget& target, const Tensor& x);

/// f(begin, end) over fixed parts of n rows, in parallel; the results, which have add(), in order.
template <typename F>
auto sum_parts(int64_t n, F f) {
  using T = decltype(f(int64_t{}, int64_t{}));
  constexpr int64_t kParts = 16;
  const int64_t part = std::max<int64_t>(1, (n + kParts - 1) / kParts);
  std::vector<T> sums(static_cast<size_t>((n + part - 1) / part));
  parallel_for(std::ssize(sums), 1, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; ++i)
      sums[static_cast<size_t>(i)] = f(i * part, std::min(n, (i + 1) * part));
  });
  T total{};
  for (const T& s : sums) total.add(s);
  return total;
}

}  // namespace hone
