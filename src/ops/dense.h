// Dense operations on f32 activations: each runs the kernel table's function in parallel over rows,
// and, while a Tape records, keeps how gradients flow back (ops/tape.h).
//
// Shapes: x is [T, D] (rows of tokens) unless said otherwise; results are new tensors. Inputs are
// never written, except where a name ends in _in_place. Shapes that do not fit are bugs of the
// caller (HONE_ASSERT): they are fixed when a model is built.
#pragma once

#include "tensor/tensor.h"

namespace hone::ops {

/// x/√(mean(x²)+eps)·(w+offset) over rows of D; w is [D]. x may be [T, D] or any multiple of D.
/// Zhang & Sennrich 2019. `offset` 1 is Gemma's convention.
Tensor rms_norm(const Tensor& x, const Tensor& w, float offset, float eps);
/// (x−mean)/√(var+eps)·w + b; b may be an empty handle. Ba et al. 2016.
Tensor layer_norm(const Tensor& x, const Tensor& w, const Tensor& b, float eps);

/// a + b, and the norm of it: row by row, while a row is in the cache. The same bits as add() and
/// the norm one after the other.
struct SumAndNorm {
  Tensor sum, norm;
};
SumAndNorm add_rms_norm(const Tensor& a, const Tensor& b, const Tensor& w, float offset, float eps);
SumAndNorm add_layer_norm(const Tensor& a, const Tensor& b, const Tensor& w, const Tensor& bias,
                          float eps);

Tensor add(const Tensor& a, const Tensor& b);
/// a += b; not for tensors that a tape has seen.
void add_in_place(Tensor& a, const Tensor& b);
Tensor gelu_tanh(const Tensor& x);
/// silu(gate)·up and gelu_tanh(gate)·up: SwiGLU and GeGLU (Shazeer 2020).
Tensor silu_mul(const Tensor& gate, const Tensor& up);
Tensor gelu_tanh_mul(const Tensor& gate, const Tensor& up);
/// x·s.
Tensor scale(const Tensor& x, float s);
/// s·tanh(x/s), in place (Gemma 2's soft cap). Under a tape x must come from a function that does
/// not need its result again, as a product does.
void softcap_in_place(Tensor& x, float s);

/// log Σ exp over one row of n floats.
float log_sum_exp(const float* x, int64_t n);

/// dw[N, K] += dyᵀ·x for dy [T, N] and x [T, K]; sums run over the rows in order.
void accumulate_product(const Tensor& dy, const Tensor& x, Tensor& dw);
/// db[N] += the sums of dy's columns, in order.
void accumulate_columns(const Tensor& dy, Tensor& db);

/// h[D, D] += xᵀx for x [R, D]: the upper triangle is complete; below it are partial values. Sums
/// run over the rows in order: the result does not depend on threads.
void accumulate_gram(const Tensor& x, Tensor& h);

}  // namespace hone::ops
