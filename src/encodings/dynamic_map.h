// bitsandbytes' dynamic 8-bit data type: 256 values in [−1, 1] whose exponent and fraction share
// the bits, so that small values keep relative precision (Dettmers et al., "8-bit optimizers via
// block-wise quantization"). The 4-bit encodings store block scales in it, 8-bit optimizers their
// states.
#pragma once

#include <array>
#include <cstdint>

namespace hone {

/// The ascending values; for is_signed = false none is negative. Bit for bit bitsandbytes' table.
const std::array<float, 256>& dynamic_map(bool is_signed);

/// The code of the nearest value of `map` (ascending); halfway goes down.
uint8_t dynamic_code(const std::array<float, 256>& map, float x);

}  // namespace hone
