// Transposed copies of row-major matrices.
#pragma once

#include "tensor/tensor.h"

namespace hone {

/// out[c, r] = in[r, c] for a row-major matrix [rows, columns] of items of 1, 2, 4 or 8 bytes; no
/// alignment is assumed. Not in place.
void transpose(const std::byte* in, int64_t rows, int64_t columns, int64_t item_bytes,
               std::byte* out);

/// A copy of a matrix [R, C], of any scalar type, as [C, R].
Tensor transposed(const Tensor& matrix);

}  // namespace hone
