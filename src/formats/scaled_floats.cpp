#include "formats/scaled_floats.h"

#include <cmath>

#include "base/checked.h"

namespace hone {
namespace {

Tensor as_f32(const Tensor& scale, const std::string& where) {
  if (scale.dtype() != DType::u8) {
    HONE_CHECK(is_float(scale.dtype()), corrupt, "{}: scales of type {}", where,
               dtype_name(scale.dtype()));
    return scale.to(DType::f32);
  }
  Tensor out = Tensor::empty(scale.shape(), DType::f32);
  for (int64_t i = 0; i < out.numel(); ++i) {
    const int exponent = scale.data<uint8_t>()[i];
    out.mutable_data<float>()[i] =
        exponent == 255 ? std::nanf("") : std::ldexp(1.0f, exponent - 127);
  }
  return out;
}

Tensor without_ones(const Tensor& t) {
  if (t.rank() <= 2) return t;
  Shape shape;
  for (int64_t d : t.shape())
    if (d != 1) shape.push_back(d);
  return t.reshape(shape);
}

}  // namespace

Weight scaled_f8(const Tensor& values, const Tensor& stored, int64_t rows, int64_t columns,
                 const std::string& where) {
  const int64_t n = values.dim(0), k = values.dim(1);
  HONE_CHECK(n > 0 && k > 0, corrupt, "{}: an empty weight", where);
  Weight w = float_weight(values);
  w.params.row_scaled = true;
  const Tensor scale = without_ones(as_f32(stored, where));
  if (scale.numel() == 1) {
    w.params.block = n;
    w.planes["scale"] = scale.reshape({1, 1});
    return w;
  }
  const int64_t r = scale.rank() > 0 ? scale.dim(0) : 0, c = scale.rank() == 2 ? scale.dim(1) : 1;
  bool fits = scale.rank() == 1 || scale.rank() == 2;
  if (fits && r == n && c >= 1 && (c == 1 || ceil_div(k, ceil_div(k, c)) == c)) {
    w.params.group = c == 1 ? 0 : ceil_div(k, c);
    // Where the last part may be shorter, the config knows how long the others are.
    if (c > 1 && columns > 0 && ceil_div(k, columns) == c) w.params.group = columns;
  } else {
    fits = fits && rows > 0 && columns > 0 && r == ceil_div(n, rows) && c == ceil_div(k, columns);
    HONE_CHECK(fits, corrupt, "{}: scales {} for {}, in blocks of {} x {}", where,
               shape_string(stored.shape()), shape_string(values.shape()), rows, columns);
    w.params.block = rows;
    w.params.group = columns;
  }
  w.planes["scale"] = scale.reshape({r, c});
  return w;
}

bool one_f8_scale(const WeightInfo& w) {
  return w.params.block >= w.shape[0] && (w.params.group == 0 || w.params.group >= w.shape[1]);
}

Shape f8_scale_shape(const WeightInfo& w) {
  const WeightParams& p = w.params;
  return {ceil_div(w.shape[0], std::max<int64_t>(1, p.block)),
          p.group > 0 ? ceil_div(w.shape[1], p.group) : 1};
}

Tensor f8_scale(const WeightInfo& info, const Weight& w) {
  const Shape shape = f8_scale_shape(info);
  const Tensor& scale = w.plane("scale");
  if (scale.numel() == shape[0] * shape[1]) return scale.reshape(shape);
  HONE_ASSERT(scale.numel() == 1);  // one for all, though the parameters speak of rows
  Tensor out = Tensor::empty(shape, DType::f32);
  std::fill_n(out.mutable_data<float>(), out.numel(), scale.data<float>()[0]);
  return out;
}

}  // namespace hone
