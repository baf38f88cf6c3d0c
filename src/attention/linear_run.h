// Linear attention by the kernels, forward and backward, behind attention/linear_attention.h: work
// items of one head of one sequence, inputs already checked, v with the state's columns.
#pragma once

#include <vector>

#include "attention/linear_attention.h"

namespace hone {

/// Rows [begin, end), the state that they change, [heads, k_dim, columns], and, where it is wanted,
/// space for the states in front of every 64th of them, [⌈tokens/64⌉, heads, k_dim, columns].
struct LinearRun {
  int64_t begin, end;
  float* state;
  float* saved;
};
/// [T, heads·columns]; the runs are in the order of their rows, rows that none has are zeros.
Tensor run_linear(const LinearAttentionSpec& spec, const LinearAttentionInputs& in,
                  const std::vector<LinearRun>& runs, LinearForm form);

/// linear_attention() before its division; recorded.
LinearAttentionResult undivided_attention(const LinearAttentionSpec& spec,
                                          const LinearAttentionInputs& in,
                                          const std::vector<LinearSpan>& spans, LinearForm form);

}  // namespace hone
