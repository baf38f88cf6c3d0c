// The value tables of bitsandbytes (QLoRA's NF4 and FP4, and the dynamic 8-bit data type in which
// it stores block scales), which its checkpoints carry beside the codes.
#pragma once

#include <array>

namespace hone {

/// Quantiles of a normal distribution, ascending from −1 to 1.
const std::array<float, 16>& nf4_table();
/// 4-bit floats (sign, two exponent bits, one mantissa bit) over the largest; not ascending.
const std::array<float, 16>& fp4_table();
/// The signed dynamic map: 256 ascending values; decade e of seven has 2^e fractions of each sign.
const std::array<float, 256>& signed_dynamic_table();

}  // namespace hone
