#include "encodings/encoding.h"

#include "base/threads.h"
#include "encodings/planes.h"

namespace hone {

Weight Encoding::encode(const float*, int64_t n, int64_t k, const EncodeOptions& options) const {
  fail(ErrorKind::unsupported, "{}: {}", id(), encode_refusal(n, k, options.params));
}

std::string Encoding::encode_refusal(int64_t, int64_t, const WeightParams&) const {
  return "this encoding is only read, not written";
}

CodeLayout Encoding::code_layout(const Weight&) const { return {}; }

void Encoding::codes(const Weight& w, int64_t, uint8_t*, float*, float*) const {
  fail(ErrorKind::internal, "{} weight {}: it has no integer form", id(), shape_string(w.shape));
}

Weight Encoding::permute_rows(const Weight& w, std::span<const int64_t> order) const {
  check_order(order, w.rows());
  Weight out = w;
  out.shape[0] = static_cast<int64_t>(order.size());
  for (auto& [name, plane] : out.planes) {
    bool by_row = plane.rank() >= 1 && plane.dim(0) == w.shape[0] && plane.dim(0) > 0;
    plane = by_row ? gather_plane_rows(plane, order) : plane.clone();
  }
  return out;
}

const Encoding& encoding(std::string_view id) {
  for (const Encoding* e : encodings())
    if (e->id() == id) return *e;
  std::string known;
  for (const Encoding* e : encodings()) known += (known.empty() ? "" : ", ") + std::string(e->id());
  fail(ErrorKind::unsupported, "no encoding is called '{}'; there are {}", id, known);
}

Tensor decode_weight(const Weight& w) {
  const Encoding& e = encoding(w.encoding);
  e.validate(w);
  Tensor out = Tensor::empty(w.shape, DType::f32);
  if (out.numel() == 0) return out;
  auto* y = out.mutable_data<float>();
  int64_t row = out.numel() / w.rows();
  parallel_for(w.rows(), row_grain(row),
               [&](int64_t begin, int64_t end) { e.decode(w, begin, end, y + begin * row); });
  return out;
}

}  // namespace hone
