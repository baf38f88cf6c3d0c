// The two halves of the bitsandbytes layout (bitsandbytes.cpp describes it).
#pragma once

#include <string>

#include "formats/checkpoint.h"

namespace hone {

/// Why bitsandbytes cannot hold this weight, or empty.
std::string bitsandbytes_refusal(const WeightInfo& weight);
/// Raises unsupported where 4-bit and 8-bit weights, or NF4 and FP4, would share one directory: its
/// config can name only one.
void check_bitsandbytes(const CheckpointContents& contents);
void write_bitsandbytes(const fs::path& path, const CheckpointContents& contents);

}  // namespace hone
