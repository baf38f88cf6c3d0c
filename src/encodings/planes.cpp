#include "encodings/planes.h"

#include <bit>
#include <cstring>

#include "base/checked.h"
#include "base/threads.h"

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

std::vector<NamedTensor> ScalePlane::read(const Weight& w) const {
  return {{"scales", w.plane(name).to(DType::f32)}};
}

Weight ScalePlane::replaced(const Weight& w, std::span<const Tensor> scales) const {
  const Tensor& plane = w.plane(name);
  HONE_ASSERT(scales.size() == 1 && scales[0].numel() == plane.numel());
  Tensor rounded = scales[0].detached().reshape(plane.shape()).to(plane.dtype());
  const Tensor wide = rounded.to(DType::f32);
  HONE_CHECK(all_finite(wide.data<float>(), wide.numel()), invalid_argument,
             "{} weight {}: a scale is not finite as {}", w.encoding, shape_string(w.shape),
             dtype_name(plane.dtype()));
  Weight out = w;
  out.planes[name] = std::move(rounded);
  return out;
}

std::vector<Tensor> ScalePlane::vjp(const Weight& w, const Tensor& dw) const {
  const Tensor& plane = w.plane(name);
  Tensor ones = Tensor::empty(plane.shape(), DType::f32);
  std::fill_n(ones.mutable_data<float>(), ones.numel(), 1.0f);
  Weight unit = w;
  unit.planes[name] = ones.to(plane.dtype());
  const Tensor slopes = decode_weight(unit);
  const float *c = slopes.data<float>(), *d = dw.data<float>();
  HONE_ASSERT(dw.numel() == slopes.numel());
  Tensor sums = Tensor::zeros(plane.shape(), DType::f32);
  float* out = sums.mutable_data<float>();
  const int64_t k = w.cols();
  if (index != nullptr) {
    const int64_t groups = plane.numel() / w.rows();
    parallel_for(w.rows(), row_grain(k), [&](int64_t b, int64_t e) {
      std::vector<double> row(static_cast<size_t>(groups));
      for (int64_t r = b; r < e; ++r) {
        std::fill(row.begin(), row.end(), 0.0);
        for (int64_t i = 0; i < k; ++i)
          row[size_t(index[i])] += double{d[r * k + i]} * double{c[r * k + i]};
        for (int64_t g = 0; g < groups; ++g) out[r * groups + g] = static_cast<float>(row[g]);
      }
    });
    return {sums};
  }
  // Blocks of one long row, or groups of each.
  const int64_t width = block > 0 ? dw.numel() : k, step = block > 0 ? block : group;
  const int64_t groups = ceil_div(width, step);
  HONE_ASSERT(plane.numel() == dw.numel() / width * groups);
  parallel_for(plane.numel(), row_grain(step), [&](int64_t b, int64_t e) {
    for (int64_t s = b; s < e; ++s) {
      const int64_t row = s / groups * width, first = s % groups * step;
      double sum = 0;
      for (int64_t i = row + first; i < row + std::min(width, first + step); ++i)
        sum += double{d[i]} * double{c[i]};
      out[s] = static_cast<float>(sum);
    }
  });
  return {sums};
}

}  // namespace hone
