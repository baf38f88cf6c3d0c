// The two halves of the GPTQ layout (gptq.cpp describes it).
#pragma once

#include <string>

#include "formats/checkpoint.h"

namespace hone {

/// Why GPTQ cannot hold this weight, or empty.
std::string gptq_refusal(const WeightInfo& weight);
/// Writes the directory with v1 or v2 zero points. v1 raises unsupported for a zero point of 0,
/// which readers get wrong.
void write_gptq(const fs::path& path, const CheckpointContents& contents, bool v2);

}  // namespace hone
