// Dense linear algebra for passes: factorisations (GPTQ, SparseGPT), random rotations, principal
// directions.
#pragma once

#include <complex>
#include <cstdint>
#include <span>
#include <vector>

#include "tensor/tensor.h"

namespace hone::ops {

/// For a symmetric positive definite H [K, K] (only its upper triangle is read): the upper
/// triangular U with H⁻¹ = UᵀU, the Cholesky factor that GPTQ walks down (Frantar et al. 2023).
/// Returns an empty handle where H is not positive definite in f32.
///
/// H is factored from its last column upwards, H = R·Rᵀ with R upper triangular; then U = R⁻¹. That
/// is one factorisation and one triangular inversion instead of two and a product, and no inverse
/// of H is ever rounded.
Tensor inverse_cholesky_upper(const Tensor& h);

/// A random orthogonal matrix [n, n] in f32, uniform over the orthogonal group (Stewart 1980: a
/// product of Householder reflections of normal vectors), a function of the seed alone. With
/// `keep_mean`, uniform over those that map the vector of ones to itself, so that the mean of a
/// vector does not change. 2n³ operations in f64.
Tensor random_orthogonal(int64_t n, uint64_t seed, bool keep_mean);

/// The `count` ≤ n directions in which a symmetric matrix [n, n] without negative eigenvalues is
/// largest: [count, n] with orthonormal rows, those that it does not have zeros; by orthogonal
/// iteration from the seed. At most 400·n²·count operations in f64.
std::vector<double> principal_directions(std::span<const double> h, int64_t n, int64_t count,
                                         uint64_t seed);
/// The one of a Hermitian matrix [n, n] without negative eigenvalues, of length 1.
std::vector<std::complex<double>> principal_direction(std::span<const std::complex<double>> h,
                                                      int64_t n);

}  // namespace hone::ops
