// What every encoding needs to check its input: planes against shapes (validate), values before
// encoding, and how rows are split between threads.
#pragma once

#include <algorithm>
#include <string>

#include "encodings/encoding.h"

namespace hone {

struct MatrixShape {
  int64_t n;
  int64_t k;
};

/// [N, K] of a weight that must be a matrix with K > 0; raises corrupt otherwise, also where N·K
/// does not fit in 63 bits.
MatrixShape require_matrix(const Weight& w);

/// The plane, with exactly this type and shape; raises corrupt naming the plane otherwise.
const Tensor& require_plane(const Weight& w, const std::string& name, DType dtype,
                            const Shape& shape);
/// As require_plane where only the number of elements matters (bitsandbytes writes [n, 1]).
const Tensor& require_flat_plane(const Weight& w, const std::string& name, DType dtype,
                                 int64_t numel);
inline bool has_plane(const Weight& w, const std::string& name) {
  return w.planes.find(name) != w.planes.end();
}

/// The checks before every encode: refuses what encode_refusal refuses (unsupported), a wrong
/// number of importances, and values or importances that are not finite (invalid_argument).
void check_encode(const Encoding& encoding, const float* values, int64_t n, int64_t k,
                  const EncodeOptions& options);

/// Encoding::scales, with_scales and decode_vjp of one whose values are the elements of a plane of
/// float scales times what it decodes to with scales of 1. An element belongs to the scale
/// [row, column / group] where `group` > 0; to that of its flat index / `block` where `block` > 0;
/// to [row, index[column]] where there is an index.
struct ScalePlane {
  const char* name;
  int64_t group = 0, block = 0;
  const int32_t* index = nullptr;

  std::vector<NamedTensor> read(const Weight& w) const;
  /// Rounded to the plane's type; raises invalid_argument where one is not finite there.
  Weight replaced(const Weight& w, std::span<const Tensor> scales) const;
  std::vector<Tensor> vjp(const Weight& w, const Tensor& dw) const;
};

/// Raises invalid_argument unless `order` lists rows of 0…n−1.
void check_order(std::span<const int64_t> order, int64_t n);
/// The rows `order` of a plane whose first dimension is rows.
Tensor gather_plane_rows(const Tensor& plane, std::span<const int64_t> order);

/// Rows handed to a thread at a time: some 64K elements.
inline int64_t row_grain(int64_t k) {
  return std::max<int64_t>(1, 65536 / std::max<int64_t>(k, 1));
}

}  // namespace hone
