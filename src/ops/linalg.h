// Dense linear algebra for passes: factorisations (GPTQ, SparseGPT) and random rotations.
#pragma once

#include <cstdint>

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

}  // namespace hone::ops
