// What recurrent mixers share: operations over time that take a batch's recurrent state and leave
// it.
//
// With a cache, linear attention writes to the state in place; without one, as under a tape, every
// new state is a new tensor and gradients flow through it.
#pragma once

#include "attention/linear_attention.h"
#include "nn/mixer.h"

namespace hone {

/// Linear attention over the sequences of a batch; tensor `index` of the mixer's state.
Tensor recur(const LinearAttentionSpec& spec, const LinearAttentionInputs& in, const Batch& batch,
             MixerState& state, size_t index);
/// The row before each row of x [T, D], of its sequence; tensor `index` is the last, [1, D].
Tensor token_before(const Tensor& x, const Batch& batch, MixerState& state, size_t index);
/// The same, with the state left as it is.
Tensor token_before(const Tensor& x, const Batch& batch, const MixerState& state, size_t index);
/// SiLU of a short convolution (attention/short_conv.h); tensor `index` is the W − 1 rows before.
Tensor convolve(const Tensor& x, const Tensor& weight, const Tensor& bias, const Batch& batch,
                MixerState& state, size_t index);

}  // namespace hone
