// The oracle of the kernels of linear attention: the recurrence as it is written, token by token,
// forward and backward, in double.
#pragma once

#include <vector>

#include "kernels/linear_attention.h"

namespace hone::kernels::ref {

/// Writes o and the state of `a`; returns every state in front of a token and the last,
/// [tokens + 1][k_dim·columns].
std::vector<std::vector<double>> linear_attention(const LinearArgs& a);
void linear_backward(const LinearGradients& g);

}  // namespace hone::kernels::ref
