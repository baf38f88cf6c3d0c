// "f32", "f64", "f16", "bf16", "f8_e4m3", "f8_e5m2": weights kept as numbers.
//
// Planes: values, of the weight's shape and the scalar type of that name (any rank; a row is
// everything below the first dimension). The two 8-bit types may carry a plane scale, f32, which
// multiplies: one element, or [ceil(N/rows), columns > 0 ? ceil(K/columns) : 1], where the
// parameter block says how many rows share a scale (0: each has its own) and the parameter group
// how many columns (0: all). Encoding to 8 bits scales each row so that its largest magnitude
// becomes the type's largest; the others are plain casts.
#include <algorithm>
#include <array>
#include <cmath>

#include "base/checked.h"
#include "base/threads.h"
#include "encodings/planes.h"

namespace hone {
namespace {

template <typename T>
constexpr bool kEight = sizeof(T) == 1;

template <typename T>
float widen(T x) {
  if constexpr (std::is_arithmetic_v<T>) {
    return static_cast<float>(x);
  } else if constexpr (kEight<T>) {
    static const std::array<float, 256> kTable = [] {
      std::array<float, 256> t;
      for (int i = 0; i < 256; ++i) t[i] = to_f32(T{static_cast<uint8_t>(i)});
      return t;
    }();
    return kTable[x.bits];
  } else {
    return to_f32(x);
  }
}

template <typename T>
T narrow(float x) {
  if constexpr (std::is_arithmetic_v<T>)
    return static_cast<T>(x);
  else if constexpr (std::is_same_v<T, f16>)
    return to_f16(x);
  else if constexpr (std::is_same_v<T, bf16>)
    return to_bf16(x);
  else if constexpr (std::is_same_v<T, f8_e4m3>)
    return to_f8_e4m3(x);
  else
    return to_f8_e5m2(x);
}

template <typename T>
class FloatEncoding final : public Encoding {
 public:
  explicit FloatEncoding(std::string_view description) : description_(description) {}

  std::string_view id() const override { return dtype_name(dtype_of<T>::value); }
  std::string_view description() const override { return description_; }

  void validate(const Weight& w) const override {
    HONE_CHECK(w.defined(), corrupt, "{} weight: it has no shape", id());
    checked_mul(checked_numel(w.shape, "weight"), 8, "weight");
    require_plane(w, "values", dtype_of<T>::value, w.shape);
    if (!has_plane(w, "scale")) return;
    HONE_CHECK(kEight<T>, corrupt, "{} weight {}: only 8-bit floats have a scale", id(),
               shape_string(w.shape));
    if (w.planes.at("scale").numel() == 1) {
      require_plane(w, "scale", DType::f32, w.planes.at("scale").shape());
      return;
    }
    HONE_CHECK(w.params.block >= 0 && w.params.group >= 0, corrupt,
               "{} weight {}: scales of {} rows and {} columns", id(), shape_string(w.shape),
               w.params.block, w.params.group);
    require_plane(w, "scale", DType::f32, {ceil_div(w.rows(), rows_of(w)), scales_of_row(w)});
  }

  void decode(const Weight& w, int64_t begin, int64_t end, float* out) const override {
    const Tensor& values = w.plane("values");
    int64_t row = w.rows() == 0 ? 0 : values.numel() / w.rows();
    const T* x = values.data<T>() + begin * row;
    for (int64_t i = 0; i < (end - begin) * row; ++i) out[i] = widen(x[i]);
    if (!has_plane(w, "scale")) return;
    const Tensor& scale = w.plane("scale");
    const bool one = scale.numel() == 1;
    const int64_t groups = one ? 1 : scales_of_row(w), columns = groups == 1 ? row : w.params.group;
    for (int64_t r = begin; r < end; ++r, out += row) {
      const float* s = scale.data<float>() + (one ? 0 : r / rows_of(w) * groups);
      for (int64_t first = 0; first < row; first += columns, ++s)
        for (int64_t i = first; i < std::min(row, first + columns); ++i) out[i] *= *s;
    }
  }

  std::string encode_refusal(int64_t, int64_t, const WeightParams&) const override { return {}; }

  Weight encode(const float* values, int64_t n, int64_t k,
                const EncodeOptions& options) const override {
    if (kEight<T>) check_encode(*this, values, n, k, options);
    Weight w = float_weight(Tensor::empty({n, k}, dtype_of<T>::value));
    T* codes = w.planes["values"].template mutable_data<T>();
    if (!kEight<T>) {
      parallel_for(n, row_grain(k), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin * k; i < end * k; ++i) codes[i] = narrow<T>(values[i]);
      });
      return w;
    }
    Tensor scales = Tensor::empty({n, 1}, DType::f32);
    auto* scale = scales.mutable_data<float>();
    parallel_for(n, row_grain(k), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) scale[r] = encode_row(values + r * k, k, codes + r * k);
    });
    w.planes["scale"] = scales;
    w.params.row_scaled = true;
    return w;
  }

  std::string scales_refusal(const Weight& w) const override {
    if (has_plane(w, "scale") && w.shape.size() == 2)
      return w.planes.at("scale").numel() == 1 || rows_of(w) == 1 ? "" : "rows share its scales";
    return kEight<T> ? "it has no scales" : "floats have no scales";
  }
  std::vector<NamedTensor> scales(const Weight& w) const override { return plane(w).read(w); }
  Weight with_scales(const Weight& w, std::span<const Tensor> scales) const override {
    return plane(w).replaced(w, scales);
  }
  std::vector<Tensor> decode_vjp(const Weight& w, const Tensor& dw) const override {
    return plane(w).vjp(w, dw);
  }

  /// Afterwards each row has scales of its own, where it shared them with those beside it.
  Weight permute_rows(const Weight& w, std::span<const int64_t> order) const override {
    if (!has_plane(w, "scale") || w.plane("scale").numel() == 1 || rows_of(w) == 1)
      return Encoding::permute_rows(w, order);
    check_order(order, w.rows());
    Weight out = w;
    out.shape[0] = static_cast<int64_t>(order.size());
    out.planes["values"] = gather_plane_rows(w.plane("values"), order);
    std::vector<int64_t> blocks(order.begin(), order.end());
    for (int64_t& row : blocks) row /= rows_of(w);
    out.planes["scale"] = gather_plane_rows(w.plane("scale"), blocks);
    out.params.block = 0;
    return out;
  }

 private:
  ScalePlane plane(const Weight& w) const {
    const std::string refusal = scales_refusal(w);
    HONE_CHECK(refusal.empty(), unsupported, "{}: {}", id(), refusal);
    if (w.plane("scale").numel() == 1) return {.name = "scale", .block = w.numel()};
    return {.name = "scale", .group = w.params.group > 0 ? w.params.group : w.cols()};
  }

  static int64_t rows_of(const Weight& w) { return std::max<int64_t>(1, w.params.block); }
  static int64_t scales_of_row(const Weight& w) {
    return w.params.group > 0 ? ceil_div(w.cols(), w.params.group) : 1;
  }

  static float encode_row(const float* x, int64_t k, T* codes) {
    constexpr float kLargest = std::is_same_v<T, f8_e4m3> ? 448.0f : 57344.0f;
    float absmax = 0;
    for (int64_t i = 0; i < k; ++i) absmax = std::max(absmax, std::fabs(x[i]));
    float scale = absmax / kLargest;
    if (scale == 0) scale = 1;
    for (int64_t i = 0; i < k; ++i) codes[i] = narrow<T>(x[i] / scale);
    return scale;
  }

  std::string_view description_;
};

}  // namespace

namespace encoding_entry {

const Encoding& f32() {
  static const FloatEncoding<float> e("32-bit floats");
  return e;
}
const Encoding& f64() {
  static const FloatEncoding<double> e("64-bit floats, computed with as 32-bit ones");
  return e;
}
const Encoding& f16() {
  static const FloatEncoding<hone::f16> e("IEEE half precision");
  return e;
}
const Encoding& bf16() {
  static const FloatEncoding<hone::bf16> e("bfloat16: the upper half of a 32-bit float");
  return e;
}
const Encoding& f8_e4m3() {
  static const FloatEncoding<hone::f8_e4m3> e("FP8 with 3 mantissa bits and an optional scale");
  return e;
}
const Encoding& f8_e5m2() {
  static const FloatEncoding<hone::f8_e5m2> e("FP8 with 2 mantissa bits and an optional scale");
  return e;
}

}  // namespace encoding_entry
}  // namespace hone
