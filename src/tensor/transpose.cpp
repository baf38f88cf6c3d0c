#include "tensor/transpose.h"

#include <cstring>

#include "base/threads.h"

namespace hone {
namespace {

template <size_t kBytes>
void transpose_items(const std::byte* in, int64_t rows, int64_t columns, std::byte* out) {
  constexpr int64_t kTile = 16;  // both sides of a tile stay in the L1 cache
  parallel_for(columns, kTile, [&](int64_t begin, int64_t end) {
    for (int64_t c0 = begin; c0 < end; c0 += kTile)
      for (int64_t r0 = 0; r0 < rows; r0 += kTile)
        for (int64_t c = c0; c < end && c < c0 + kTile; ++c)
          for (int64_t r = r0; r < rows && r < r0 + kTile; ++r)
            std::memcpy(out + static_cast<size_t>(c * rows + r) * kBytes,
                        in + static_cast<size_t>(r * columns + c) * kBytes, kBytes);
  });
}

}  // namespace

void transpose(const std::byte* in, int64_t rows, int64_t columns, int64_t item_bytes,
               std::byte* out) {
  switch (item_bytes) {
    case 1:
      return transpose_items<1>(in, rows, columns, out);
    case 2:
      return transpose_items<2>(in, rows, columns, out);
    case 4:
      return transpose_items<4>(in, rows, columns, out);
    case 8:
      return transpose_items<8>(in, rows, columns, out);
    default:
      HONE_ASSERT(false);
  }
}

Tensor transposed(const Tensor& matrix) {
  HONE_ASSERT(matrix.rank() == 2);
  Tensor out = Tensor::empty({matrix.dim(1), matrix.dim(0)}, matrix.dtype());
  transpose(matrix.raw(), matrix.dim(0), matrix.dim(1), dtype_size(matrix.dtype()),
            out.mutable_raw());
  return out;
}

}  // namespace hone
