// Weight: the data of one parameter matrix in some encoding. Behaviour lives in encodings/.
//
// A Weight is plain data: shape, the id of its encoding, a few parameters, and named planes. Each
// encoding documents its planes in encodings/<id>.cpp. Vectors (norm weights, biases) are Weights
// of rank 1 in a float encoding.
#pragma once

#include <map>
#include <string>

#include "tensor/tensor.h"

namespace hone {

/// Parameters that an encoding may use; each documents which. Unused ones keep their defaults.
struct WeightParams {
  int bits = 0;               ///< bits of one code
  int64_t group = 0;          ///< columns that share a scale; 0 = the whole row
  bool symmetric = true;      ///< no zero points stored
  bool act_order = false;     ///< a g_idx plane assigns columns to groups
  int64_t block = 0;          ///< elements of a flat block (bitsandbytes)
  bool double_quant = false;  ///< block scales are quantised themselves (bitsandbytes)
  float nested_offset = 0;    ///< mean that was subtracted from the block scales
  DType scale_type = DType::f16;
  bool row_scaled =
      false;  ///< 8-bit floats: a scale plane holds one factor for each row, or one for all

  bool operator==(const WeightParams&) const = default;
};

struct Weight {
  Shape shape;           ///< [N, K] = [out_features, in_features], or [n]
  std::string encoding;  ///< id in the encodings' registry: "f32", "q4_0", "nf4", ...
  WeightParams params;
  std::map<std::string, Tensor> planes;

  bool defined() const { return !shape.empty(); }
  int64_t rows() const { return shape.size() >= 2 ? shape[0] : 1; }
  int64_t cols() const { return shape.back(); }
  int64_t numel() const {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return n;
  }
  /// Bytes of all planes.
  int64_t byte_size() const {
    int64_t n = 0;
    for (const auto& [name, t] : planes) n += t.byte_size();
    return n;
  }
  const Tensor& plane(const std::string& name) const {
    auto it = planes.find(name);
    HONE_CHECK(it != planes.end(), internal, "a {} weight {} has no plane '{}'", encoding,
               shape_string(shape), name);
    return it->second;
  }
};

/// A float Weight (encoding = the scalar type's name) that shares the tensor's storage.
inline Weight float_weight(const Tensor& t) {
  Weight w;
  w.shape = t.shape();
  w.encoding = std::string(dtype_name(t.dtype()));
  w.planes["values"] = t;
  return w;
}

}  // namespace hone
