// Short causal convolutions over time, one filter a channel, as Mamba-2 and Gated DeltaNet have
// them in front of linear attention; and RWKV's shift by one token.
//
//   y[t, c] = f(Σ_j weight[c, j]·x[t − (W−1) + j, c] + bias[c]),   f = SiLU or nothing
//
// What a sequence must keep are its last W−1 rows of x. Sums run over j in order: bits do not
// depend on how a sequence is cut, nor on threads or the batch.
#pragma once

#include <cstdint>
#include <vector>

#include "tensor/tensor.h"

namespace hone {

/// Rows [begin, end) of x are the next tokens of one sequence.
struct ConvSpan {
  int64_t begin = 0;
  int64_t end = 0;
  Tensor state;  ///< the W−1 rows of x before, [W−1, C], oldest first; an empty handle is zeros
};

/// x [T, C], weight [C, W] (the last column meets the token itself), bias [C] or an empty handle:
/// [T, C]. Leaves each span's state, which may be no empty handle, as it is behind its tokens. Rows
/// that no span has are zeros. Nothing is recorded.
Tensor short_conv_step(const Tensor& x, const Tensor& weight, const Tensor& bias, bool silu,
                       std::vector<ConvSpan>& spans);

struct ConvResult {
  Tensor y;                    ///< [T, C]
  std::vector<Tensor> states;  ///< of each span, behind its tokens; new tensors
};
/// The same, with the states left as they are. Recorded: gradients flow from y and the new states
/// to x, weight, bias and the states before.
ConvResult short_conv(const Tensor& x, const Tensor& weight, const Tensor& bias, bool silu,
                      const std::vector<ConvSpan>& spans);

/// RWKV's token shift: y[t] = x[t − 1], the state's row at a span's first token; a convolution with
/// W = 2 and the weights 1, 0. States are [1, C].
ConvResult token_shift(const Tensor& x, const std::vector<ConvSpan>& spans);

}  // namespace hone
