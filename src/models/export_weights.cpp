#include "models/export_weights.h"

#include <cstring>

#include "encodings/encoding.h"
#include "tensor/transpose.h"

namespace hone {

bool is_float(const std::string& encoding) {
  return encoding == "f32" || encoding == "f16" || encoding == "bf16";
}

bool is_plain(const Weight& w) {
  return (is_float(w.encoding) || w.encoding == "f64" || w.encoding.starts_with("f8_")) &&
         !w.params.row_scaled && w.params.block == 0;
}

bool same_bytes(const Tensor& a, const Tensor& b) {
  return a.byte_size() == b.byte_size() &&
         std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.byte_size())) == 0;
}

Weight cast_weight(const Weight& w, const std::string& type) {
  Tensor values = decode_weight(w);
  for (DType t : {DType::f32, DType::f16, DType::bf16})
    if (dtype_name(t) == type) return float_weight(t == DType::f32 ? values : values.to(t));
  fail(ErrorKind::invalid_argument, "float type '{}': expected f32, f16 or bf16", type);
}

Weight transposed_floats(const Weight& w) { return float_weight(transposed(w.plane("values"))); }

void check_joinable(const std::vector<Weight>& parts, const std::string& name) {
  if (parts.size() == 1) return;
  for (const Weight& p : parts) {
    // Blocks that cross rows, scales of several rows.
    bool by_rows = !p.params.act_order && p.encoding != "nf4" && p.encoding != "fp4" &&
                   !p.encoding.starts_with("nvfp4");
    for (const auto& [plane, t] : p.planes) by_rows = by_rows && t.dim(0) == p.shape[0];
    HONE_CHECK(p.encoding == parts[0].encoding && p.params == parts[0].params && by_rows,
               unsupported, "{}: its parts are stored in ways that cannot be joined", name);
  }
}

Weight concat_rows(const std::vector<Weight>& parts) {
  Weight out = parts[0];
  for (auto& [plane, t] : out.planes) {
    Shape shape = t.shape();
    shape[0] = 0;
    for (const Weight& p : parts) shape[0] += p.plane(plane).dim(0);
    Tensor joined = Tensor::empty(shape, t.dtype());
    std::byte* to = joined.mutable_raw();
    for (const Weight& p : parts) {
      const Tensor& from = p.plane(plane);
      std::memcpy(to, from.raw(), static_cast<size_t>(from.byte_size()));
      to += from.byte_size();
    }
    t = joined;
  }
  out.shape[0] = 0;
  for (const Weight& p : parts) out.shape[0] += p.shape[0];
  return out;
}

}  // namespace hone
