#include "encodings/encoding.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/threads.h"
#include "encodings/planes.h"

namespace hone {

// The candidates make the largest value a whole number of units; of those the one with the least
// sum of squared errors counts, since a well-used table uses its values about equally often.
CodeTable::CodeTable(const float* sixteen) {
  std::copy_n(sixteen, 16, values.begin());
  float largest = 0;
  for (float v : values) largest = std::max(largest, std::fabs(v));
  double least = std::numeric_limits<double>::infinity();
  for (int top = 127; top >= 64; --top) {
    const float step = largest / static_cast<float>(top);
    double sum = 0, furthest = 0;
    std::array<uint8_t, 16> bytes;
    for (size_t i = 0; i < 16; ++i) {
      const float whole = std::nearbyint(values[i] / step);
      const double miss = std::fabs(double{whole} * step - values[i]);
      bytes[i] = static_cast<uint8_t>(whole + 128);
      sum += miss * miss;
      furthest = std::max(furthest, miss);
    }
    if (sum >= least) continue;
    least = sum;
    steps = bytes;
    unit = step;
    error = static_cast<float>(furthest / largest);
  }
}

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

std::string Encoding::scales_refusal(const Weight&) const {
  return "its scales are not floats of their own";
}

std::vector<NamedTensor> Encoding::scales(const Weight& w) const {
  fail(ErrorKind::unsupported, "{}: {}", id(), scales_refusal(w));
}

Weight Encoding::with_scales(const Weight& w, std::span<const Tensor>) const {
  fail(ErrorKind::unsupported, "{}: {}", id(), scales_refusal(w));
}

std::vector<Tensor> Encoding::decode_vjp(const Weight& w, const Tensor&) const {
  fail(ErrorKind::unsupported, "{}: {}", id(), scales_refusal(w));
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
