// The memory tokens of a Recurrent Memory Transformer (Bulatov et al. 2022).
//
//   [memory; segment; memory] → the whole stack → [read; segment; write],  memory ← norm(write)
//
// Each segment of `segment` tokens has the memory's rows in front of it, which its tokens see, and
// behind it, where the stack writes: the final norm of the hidden states there is the memory of the
// next segment. Nothing else passes from segment to segment, where the model's mixers keep nothing
// (nn/segment_mixer.h); its segments are those here with both memories. The rows behind a segment
// run with its last token, so that a sequence may be cut anywhere: the bits are the same.
//
// Gradients flow through the memory to all segments before, unless its state is cut (cut_states).
#pragma once

#include <functional>
#include <string>

#include "nn/mixer.h"

namespace hone {

struct MemoryTokens {
  std::string name;
  Tensor initial;       ///< [m, D], the memory of the first segment; an empty handle = none
  int64_t segment = 0;  ///< tokens between reads and writes
  bool defined() const { return !initial.empty_handle(); }
  int64_t count() const { return defined() ? initial.dim(0) : 0; }
  /// Bytes that a sequence keeps of it.
  int64_t state_bytes() const { return defined() ? initial.byte_size() + 4 : 0; }
};

/// Runs a batch's sequences, embedded as x [T, D], segment by segment: hidden states [T, D] before
/// the final norm. `stack` runs rows through the blocks, for a batch whose spans carry recurrent
/// states, and `norm` is the final norm. What a sequence keeps is at `index` of its states: the
/// memory, and the place in its segment.
Tensor run_with_memory(const MemoryTokens& memory, const Batch& batch, const Tensor& x,
                       size_t index,
                       const std::function<Tensor(const Tensor& rows, const Batch& batch)>& stack,
                       const Norm& norm);

}  // namespace hone
