// Folding: scales of channels that move from what multiplies a vector into what makes it, so that
// the model computes the same function from other numbers (AWQ, Lin et al. 2023; SmoothQuant, Xiao
// et al. 2022). Readers get W·diag(s), the norm or the Linear before them what it gives over s.
#pragma once

#include <span>
#include <vector>

#include "nn/model.h"

namespace hone {

/// Linears that multiply one vector, and what can hold the inverse of a scale of its channels.
struct Coupling {
  std::vector<Linear*> readers;  ///< all that see the vector
  Norm* norm = nullptr;          ///< what makes it: a norm,
  Linear* previous = nullptr;    ///< or a Linear, through functions that keep a positive scale
  int stage = 0;                 ///< of the readers in their block: its input is the vector,
  size_t place = 0;              ///< of the linear at this place in it
};

/// Those of a block; the ones with a previous Linear come first, for what a norm's readers are
/// depends on them. What does not fold is left out: vectors that something else reads too (a
/// mixture's router, small Linears inside a mixer), norms behind a layer, values of fewer heads
/// than the output projection has columns (GQA), and functions other than ReLU between up and down
/// where no gate multiplies up.
std::vector<Coupling> couplings_of(Block& block);

/// Divides what a norm gives, channel by channel: s [D], above 0.
void divide_norm(Norm& norm, std::span<const float> s);
/// Divides a Linear's bias, if it has one, likewise: s [N].
void divide_bias(Linear& linear, std::span<const float> s);
/// W[n, k]·columns[k]/rows[n], a copy: values [N, K].
Tensor scaled_weight(const Tensor& values, std::span<const float> columns,
                     std::span<const float> rows);

}  // namespace hone
