// Half-quadratic quantisation of one matrix (Badri and Shaji 2023, "Half-quadratic quantization of
// large machine learning models").
#pragma once

#include "tensor/tensor.h"
#include "tensor/weight.h"

namespace hone {

struct HqqOptions {
  int64_t bits = 4;    ///< 1 to 8
  int64_t group = 64;  ///< columns that share scale and zero point; divides the row
  int64_t iterations = 20;
  double norm = 0.7;    ///< p of the lp norm, at most 1: below it, outliers count for less
  double beta = 10;     ///< weight of the quadratic term
  double kappa = 1.01;  ///< by which beta grows in each iteration
  /// Iterate each group for itself and keep its best zero point. Otherwise as the hqq library: all
  /// groups together, beta as it is, until the matrix's mean error no longer falls.
  bool by_group = true;
  DType scale_type = DType::f16;  ///< scales are rounded to it before, zero points at the end
};

/// The group for rows of k columns: `group`, or where it divides no row the largest divisor of
/// both, but for ones below 8, which are left for the encoding to refuse.
int64_t hqq_group(int64_t group, int64_t k);

/// values [N, K] f32 to an "hqq" weight: the range gives each group its scale; its zero point is
/// moved to lessen Σ|w − ŵ|^p. Depends on no thread count. Raises unsupported where the encoding
/// refuses the form.
Weight hqq_solve(const Tensor& values, const HqqOptions& options);

}  // namespace hone
