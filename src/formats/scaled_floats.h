// 8-bit floats with scales, as several layouts hold them: compressed-tensors, HF's "fp8", ModelOpt.
#pragma once

#include <string>

#include "formats/checkpoint.h"

namespace hone {

/// The weight of `values` (E4M3) [N, K] times `scale`, of any float type, or u8: exponents of two
/// plus 127. Its shape, without the ones in one of four dimensions, says what an element belongs
/// to: [] or [1] the matrix; [N] or [N, 1] a row; [N, G] a row's G-th part of the columns;
/// [ceil(N/rows), ceil(K/columns)] a block. Raises corrupt, beginning with `where`, for others.
Weight scaled_f8(const Tensor& values, const Tensor& scale, int64_t rows, int64_t columns,
                 const std::string& where);

/// Shape of the scale plane of such a weight.
Shape f8_scale_shape(const WeightInfo& w);
/// Whether its scale stands for the whole matrix, or for one row.
bool one_f8_scale(const WeightInfo& w);
/// Makes that plane, in that shape.
Tensor f8_scale(const WeightInfo& info, const Weight& w);

}  // namespace hone
