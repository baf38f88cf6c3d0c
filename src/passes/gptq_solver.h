// GPTQ's solver for one matrix (Frantar et al. 2023, "GPTQ: accurate post-training quantization for
// generative pre-trained transformers").
#pragma once

#include "tensor/tensor.h"
#include "tensor/weight.h"

namespace hone {

struct GptqOptions {
  int64_t bits = 4;
  int64_t group = 128;  ///< columns that share a scale; 0 = the whole row
  bool symmetric = true;
  bool act_order = false;      ///< columns in descending order of the Hessian's diagonal
  bool static_groups = false;  ///< all scales from the original weights, before any feedback
  bool mse = false;            ///< search each scale for the smallest error
  double damp = 0.01;          ///< added to the diagonal, times its mean
  double damp_step = 0.01;     ///< by which damp rises until the Hessian is positive definite
  bool true_sequential = true;
  bool keep_better = true;        ///< keep round-to-nearest where its output error is smaller
  int64_t block = 128;            ///< columns between two lazy updates
  DType scale_type = DType::f16;  ///< scales are rounded to it before they are used
};

/// What a Hessian needs to become a factor: columns that no input touches, the order, the damping.
struct GptqFactor {
  Tensor upper;                ///< U [K, K] with H⁻¹ = UᵀU, in solving order
  std::vector<int64_t> order;  ///< solving position → column
  std::vector<bool> dead;      ///< by column: no input ever touched it
  double damp = 0;             ///< that made it positive definite
};

/// H [K, K] = Σ x·xᵀ over the calibration inputs (upper triangle; any positive factor). Raises
/// invalid_argument where no damping up to 1 makes it positive definite.
GptqFactor gptq_factor(const Tensor& hessian, const GptqOptions& options);

/// Quantises values [N, K] to an "int_group" weight. Rows are independent. With act_order and
/// without static groups the weight has a g_idx plane.
Weight gptq_solve(const Tensor& values, const GptqFactor& factor, const GptqOptions& options);

/// e·H·eᵀ of each row e of E [N, K] with H's upper triangle: [N].
std::vector<double> hessian_norms(const Tensor& e, const Tensor& hessian);
/// tr(E·H·Eᵀ) of E [N, K] with H's upper triangle: the squared output error over the inputs.
double hessian_norm(const Tensor& e, const Tensor& hessian);

}  // namespace hone
