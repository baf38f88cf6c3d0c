// Dense factorisations in f32, for second-order passes (GPTQ, SparseGPT).
#pragma once

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

}  // namespace hone::ops
