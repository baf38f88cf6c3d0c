// Differentiable operations of RWKV's layers: places between two tokens, sums over heads. As in
// ops/dense.h: f32, rows of tokens, new tensors.
#pragma once

#include "tensor/tensor.h"

namespace hone::ops {

/// a + (b − a)·c: c [D] for all rows of a and b [T, D], or an own row for each, [T, D].
Tensor lerp(const Tensor& a, const Tensor& b, const Tensor& c);
/// The sums over each head of x [T, H·N]: [T, H].
Tensor head_sums(const Tensor& x, int64_t heads);

}  // namespace hone::ops
