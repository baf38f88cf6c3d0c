// The parts of the compressed-tensors layout (compressed_tensors.cpp describes it).
#pragma once

#include <string>

#include "formats/checkpoint.h"

namespace hone {

/// Why compressed-tensors cannot hold this weight, or empty.
std::string compressed_tensors_refusal(const WeightInfo& weight);
void write_compressed_tensors(const fs::path& path, const CheckpointContents& contents);

/// The dense [N, K] of what sparse-bitmask or sparse-24-bitmask keep: the values that are not zero,
/// row by row, and u8 [N, ceil(K/8)], whose bit j of byte c is set where column 8c + j has one.
/// Raises corrupt, beginning with `where`, where there are not as many values as bits.
Tensor from_bitmask(const Tensor& values, const Tensor& mask, const Shape& shape,
                    const std::string& where);

}  // namespace hone
