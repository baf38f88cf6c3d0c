// SparseGPT's solver for one matrix (Frantar & Alistarh 2023, "SparseGPT: massive language models
// can be accurately pruned in one-shot").
#pragma once

#include "passes/gptq_solver.h"
#include "passes/pruning.h"

namespace hone {

/// Prunes values [N, K] in place; the weights right of a zero make up for it. `factor` is of the
/// inputs' Hessian with columns in their own order. Columns that no input touched become zero.
void sparsegpt_solve(Tensor& values, const GptqFactor& factor, const PruneOptions& options);

}  // namespace hone
