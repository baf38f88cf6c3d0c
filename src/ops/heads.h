// Differentiable operations on rows that are made of heads, [T, heads·D]: what mixers do to
// queries, keys, gates and results beside attention itself. As in ops/dense.h: f32, new tensors.
#pragma once

#include "tensor/tensor.h"

namespace hone::ops {

/// a·b, element by element.
Tensor mul(const Tensor& a, const Tensor& b);
/// x[t, h·D + i]·s[t, h] for x [T, heads·D] and s [T, heads].
Tensor scale_heads(const Tensor& x, const Tensor& s);
/// The sums over each head of x [T, heads·D]: [T, heads].
Tensor head_sums(const Tensor& x, int64_t heads);
/// Each head `times` times: [T, heads·D] → [T, heads·times·D]; result head h is head h / times.
Tensor repeat_heads(const Tensor& x, int64_t heads, int64_t times);

/// x/√(Σx² + eps) over each run of `dim`.
Tensor l2_norm(const Tensor& x, int64_t dim, float eps);
/// RMS norm over each of `groups` runs of a row, times w [D]. With a gate: Mamba-2 norms
/// silu_mul(gate, x), Gated DeltaNet multiplies the norm by it (ops/dense.h).
Tensor group_rms_norm(const Tensor& x, const Tensor& w, int64_t groups, float eps);
/// The same with the mean taken away first (Wu & He 2018); w and b [D] may be empty handles.
Tensor group_norm(const Tensor& x, const Tensor& w, const Tensor& b, int64_t groups, float eps);

/// [softmax(x_h·W_h), softmax(−x_h·W_h)] for each head, with x [T, heads·D] and w [heads, D, F]:
/// [T, heads·2F]. The feature map of Hedgehog and LoLCATs (Zhang et al. 2024).
Tensor softmax_pairs(const Tensor& x, const Tensor& w);

}  // namespace hone::ops
