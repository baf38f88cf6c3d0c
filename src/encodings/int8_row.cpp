// "int8_row": LLM.int8() of bitsandbytes (Dettmers et al., 2022): one scale for a row.
//
// Planes: codes i8 [N, K]; scales f32 [N], the largest magnitude of each row. w = code·scale/127,
// multiplied out as bitsandbytes does: (code·scale)·f32(1/127). Its outlier columns are a decision
// of the activations at run time and leave no trace here.
#include <algorithm>
#include <cmath>
#include <limits>

#include "base/threads.h"
#include "encodings/planes.h"

namespace hone {
namespace {

constexpr float kInverse127 = 7.874015718698502e-3f;

class Int8Row final : public Encoding {
 public:
  std::string_view id() const override { return "int8_row"; }
  std::string_view description() const override {
    return "8-bit codes with a scale for each row, as LLM.int8() of bitsandbytes";
  }

  void validate(const Weight& w) const override {
    auto [n, k] = require_matrix(w);
    require_plane(w, "codes", DType::i8, {n, k});
    require_plane(w, "scales", DType::f32, {n});
  }

  void decode(const Weight& w, int64_t begin, int64_t end, float* out) const override {
    const int8_t* codes = w.plane("codes").data<int8_t>();
    const float* scales = w.plane("scales").data<float>();
    int64_t k = w.cols();
    for (int64_t r = begin; r < end; ++r, out += k)
      for (int64_t i = 0; i < k; ++i)
        out[i] = static_cast<float>(codes[r * k + i]) * scales[r] * kInverse127;
  }

  std::string encode_refusal(int64_t, int64_t k, const WeightParams&) const override {
    return k > 0 ? "" : "a row has no columns";
  }

  Weight encode(const float* values, int64_t n, int64_t k,
                const EncodeOptions& options) const override {
    check_encode(*this, values, n, k, options);
    Tensor codes = Tensor::empty({n, k}, DType::i8);
    Tensor scales = Tensor::empty({n}, DType::f32);
    auto* q = codes.mutable_data<int8_t>();
    auto* s = scales.mutable_data<float>();
    parallel_for(n, row_grain(k), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) s[r] = encode_row(values + r * k, k, q + r * k);
    });
    Weight w;
    w.shape = {n, k};
    w.encoding = "int8_row";
    w.params.bits = 8;
    w.planes = {{"codes", codes}, {"scales", scales}};
    return w;
  }

  CodeLayout code_layout(const Weight& w) const override {
    CodeLayout layout;
    if (w.cols() % 16 != 0) return layout;
    layout.bits = 8;
    layout.group = w.cols();
    return layout;
  }

  void codes(const Weight& w, int64_t row, uint8_t* codes, float* scales, float*) const override {
    const auto* q = reinterpret_cast<const uint8_t*>(w.plane("codes").data<int8_t>());
    std::copy_n(q + row * w.cols(), w.cols(), codes);
    scales[0] = w.plane("scales").data<float>()[row] * kInverse127;
  }

  std::string scales_refusal(const Weight&) const override { return {}; }
  std::vector<NamedTensor> scales(const Weight& w) const override { return plane(w).read(w); }
  Weight with_scales(const Weight& w, std::span<const Tensor> scales) const override {
    return plane(w).replaced(w, scales);
  }
  std::vector<Tensor> decode_vjp(const Weight& w, const Tensor& dw) const override {
    return plane(w).vjp(w, dw);
  }

 private:
  static ScalePlane plane(const Weight& w) { return {.name = "scales", .group = w.cols()}; }

  static float encode_row(const float* x, int64_t k, int8_t* codes) {
    float absmax = 0;
    for (int64_t i = 0; i < k; ++i) absmax = std::max(absmax, std::fabs(x[i]));
    // The product that torch makes of 127 / absmax; finite, so that 0 stays 0 beside subnormals.
    float inverse = std::min(1.0f / absmax, std::numeric_limits<float>::max() / 128) * 127.0f;
    for (int64_t i = 0; i < k; ++i)
      codes[i] = static_cast<int8_t>(std::clamp(std::nearbyint(x[i] * inverse), -127.0f, 127.0f));
    return absmax;
  }
};

}  // namespace

namespace encoding_entry {

const Encoding& int8_row() {
  static const Int8Row e;
  return e;
}

}  // namespace encoding_entry
}  // namespace hone
