#include "encodings/planes.h"

#include <bit>
#include <cstring>

#include "base/checked.h"

namespace hone {
namespace {

bool all_finite(const float* x, int64_t n) {
  constexpr uint32_t kExponent = 0x7f800000u;
  uint32_t bad = 0;  // integer arithmetic, so that the loop vectorises
  for (int64_t i = 0; i < n; ++i)
    bad |= (std::bit_cast<uint32_t>(x[i]) & kExponent) == kExponent ? 1u : 0u;
  return bad == 0;
}

const Tensor& find_plane(const Weight& w, const std::string& name, DType dtype) {
  auto it = w.planes.find(name);
  HONE_CHECK(it != w.planes.end(), corrupt, "{} weight {}: the plane '{}' is missing", w.encoding,
             shape_string(w.shape), name);
  HONE_CHECK(it->second.dtype() == dtype, corrupt,
             "{} weight {}: plane '{}' should be {}, it is {}", w.encoding, shape_string(w.shape),
             name, dtype_name(dtype), dtype_name(it->second.dtype()));
  return it->second;
}

}  // namespace

MatrixShape require_matrix(const Weight& w) {
  HONE_CHECK(w.shape.size() == 2, corrupt, "{} weight: expected a matrix, got the shape {}",
             w.encoding, shape_string(w.shape));
  checked_mul(checked_numel(w.shape, "weight"), 8, "weight");
  HONE_CHECK(w.shape[1] > 0, corrupt, "{} weight {}: no columns", w.encoding,
             shape_string(w.shape));
  return {w.shape[0], w.shape[1]};
}

const Tensor& require_plane(const Weight& w, const std::string& name, DType dtype,
                            const Shape& shape) {
  const Tensor& t = find_plane(w, name, dtype);
  HONE_CHECK(t.shape() == shape, corrupt, "{} weight {}: plane '{}' should be {}, it is {}",
             w.encoding, shape_string(w.shape), name, shape_string(shape), shape_string(t.shape()));
  return t;
}

const Tensor& require_flat_plane(const Weight& w, const std::string& name, DType dtype,
                                 int64_t numel) {
  const Tensor& t = find_plane(w, name, dtype);
  HONE_CHECK(t.numel() == numel, corrupt,
             "{} weight {}: plane '{}' should hold {} elements, it holds {}", w.encoding,
             shape_string(w.shape), name, numel, t.numel());
  return t;
}

void check_encode(const Encoding& encoding, const float* values, int64_t n, int64_t k,
                  const EncodeOptions& options) {
  std::string refusal = encoding.encode_refusal(n, k, options.params);
  HONE_CHECK(refusal.empty(), unsupported, "{}: {}", encoding.id(), refusal);
  HONE_CHECK(options.importance.empty() || static_cast<int64_t>(options.importance.size()) == k,
             invalid_argument, "{}: expected {} importances, one a column, got {}", encoding.id(),
             k, options.importance.size());
  HONE_CHECK(all_finite(options.importance.data(), static_cast<int64_t>(options.importance.size())),
             invalid_argument, "{}: an importance is infinite or NaN", encoding.id());
  for (float w : options.importance)
    HONE_CHECK(w >= 0, invalid_argument, "{}: an importance is negative ({})", encoding.id(), w);
  for (int64_t r = 0; r < n; ++r)
    HONE_CHECK(all_finite(values + r * k, k), invalid_argument,
               "{}: row {} holds an infinite or NaN value, which has no code", encoding.id(), r);
}

void check_order(std::span<const int64_t> order, int64_t n) {
  for (int64_t r : order)
    HONE_CHECK(0 <= r && r < n, invalid_argument, "permute_rows: row {} of a weight with {} rows",
               r, n);
}

Tensor gather_plane_rows(const Tensor& plane, std::span<const int64_t> order) {
  HONE_ASSERT(plane.rank() >= 1 && plane.dim(0) > 0);
  Shape shape = plane.shape();
  int64_t row_bytes = plane.byte_size() / shape[0];
  shape[0] = static_cast<int64_t>(order.size());
  Tensor out = Tensor::empty(std::move(shape), plane.dtype());
  if (row_bytes == 0) return out;
  for (size_t r = 0; r < order.size(); ++r)
    std::memcpy(out.mutable_raw() + static_cast<int64_t>(r) * row_bytes,
                plane.raw() + order[r] * row_bytes, static_cast<size_t>(row_bytes));
  return out;
}

}  // namespace hone
