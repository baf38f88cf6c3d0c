// The compressive memory of Infini-attention (Munkhdalai et al. 2024): a matrix for each head that
// takes keys with their values, and answers queries.
//
//   read   A = σ(q)·M / σ(q)·z          write   M ← M + σ(k)ᵀ·v,  z ← z + Σ σ(k)
//
// with σ = ELU + 1, applied by the caller. The delta rule writes v − read(k) in place of v. z is a
// further column of M: what M would be with v = 1. An empty memory answers 0.
#pragma once

#include "tensor/tensor.h"

namespace hone {

/// Rows [begin, end) of q [T, heads·K], which are ≥ 0, read the memory [heads, K, V + 1]:
/// [end − begin, heads·V]. Gradients flow to both.
Tensor read_memory(const Tensor& q, int64_t begin, int64_t end, const Tensor& memory);

/// The memory with rows [begin, end) of k [T, heads·K] and all of v [end − begin, heads·V], added
/// row by row; a new tensor. Gradients flow to all three.
Tensor write_memory(const Tensor& memory, const Tensor& k, int64_t begin, int64_t end,
                    const Tensor& v);

}  // namespace hone
