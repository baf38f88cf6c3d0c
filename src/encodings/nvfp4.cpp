// "nvfp4_ct", "nvfp4_modelopt": NVIDIA's 4-bit floats (E2M1) in groups of 16 columns, whose scales
// are 8-bit floats (E4M3), with one f32 factor for the whole matrix.
//
// Planes, K a multiple of 16:
//   codes   u8 [N, K/2]        the low nibble is the even column; sign, two exponent bits, mantissa
//   scales  f8_e4m3 [N, K/16]
//   global  f32 [1]
// w = e2m1·(scale / global) as compressed-tensors writes and computes it ("nvfp4_ct"), or
// e2m1·(scale·global) as ModelOpt does ("nvfp4_modelopt"): one is the other's reciprocal, but for a
// rounding, so that each is kept as it stands. Encoding gives the bytes of compressed-tensors'
// min-max quantiser: the largest magnitude of the matrix becomes 6·448, that of a group 6.
#include <array>
#include <cmath>
#include <limits>

#include "base/threads.h"
#include "encodings/planes.h"

namespace hone {
namespace {

constexpr int64_t kGroup = 16;
constexpr float kLargest = 6, kLargestScale = 448;
constexpr std::array<float, 16> kValues = {0,     0.5f,  1,  1.5f,  2,  3,  4,  6,
                                           -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};

/// The code of x: halfway goes to the even mantissa.
uint8_t nearest_code(float x) {
  const float a = std::fabs(x);
  int code = 0;
  code += a > 0.25f;
  code += a >= 0.75f;
  code += a > 1.25f;
  code += a >= 1.75f;
  code += a > 2.5f;
  code += a >= 3.5f;
  code += a > 5.0f;
  return static_cast<uint8_t>(code | (x < 0 ? 8 : 0));
}

class Nvfp4 final : public Encoding {
 public:
  Nvfp4(std::string_view id, std::string_view description, bool divides)
      : id_(id), description_(description), divides_(divides), table_(kValues.data()) {}

  std::string_view id() const override { return id_; }
  std::string_view description() const override { return description_; }

  void validate(const Weight& w) const override {
    auto [n, k] = require_matrix(w);
    HONE_CHECK(k % kGroup == 0, corrupt, "{} weight {}: the columns are no multiple of {}", id_,
               shape_string(w.shape), kGroup);
    require_plane(w, "codes", DType::u8, {n, k / 2});
    require_plane(w, "scales", DType::f8_e4m3, {n, k / kGroup});
    require_plane(w, "global", DType::f32, {1});
  }

  void decode(const Weight& w, int64_t begin, int64_t end, float* out) const override {
    const int64_t k = w.cols(), groups = k / kGroup;
    const uint8_t* codes = w.plane("codes").data<uint8_t>();
    std::vector<float> scales(static_cast<size_t>(groups));
    for (int64_t r = begin; r < end; ++r, out += k) {
      row_scales(w, r, scales.data());
      const uint8_t* bytes = codes + r * k / 2;
      for (int64_t i = 0; i < k; i += 2) {
        const float scale = scales[static_cast<size_t>(i / kGroup)];
        out[i] = kValues[bytes[i / 2] & 15] * scale;
        out[i + 1] = kValues[bytes[i / 2] >> 4] * scale;
      }
    }
  }

  std::string encode_refusal(int64_t, int64_t k, const WeightParams&) const override {
    if (k > 0 && k % kGroup == 0) return {};
    return fmt::format("the columns should be a multiple of {}, got {}", kGroup, k);
  }

  Weight encode(const float* values, int64_t n, int64_t k,
                const EncodeOptions& options) const override {
    check_encode(*this, values, n, k, options);
    float largest = std::numeric_limits<float>::min();
    for (int64_t i = 0; i < n * k; ++i) largest = std::max(largest, std::fabs(values[i]));
    float global = kLargestScale * kLargest / largest;
    if (!std::isfinite(global)) global = 1;
    Weight w;
    w.shape = {n, k};
    w.encoding = id_;
    w.params.bits = 4;
    Tensor codes = Tensor::empty({n, k / 2}, DType::u8);
    Tensor scales = Tensor::empty({n, k / kGroup}, DType::f8_e4m3);
    // What is stored is what decodes: ModelOpt's factor is the reciprocal, rounded.
    const float stored = divides_ ? global : 1 / global;
    auto* code = codes.mutable_data<uint8_t>();
    auto* scale = scales.mutable_data<f8_e4m3>();
    parallel_for(n, row_grain(k), [&](int64_t begin, int64_t end) {
      for (int64_t g = begin * k / kGroup; g < end * k / kGroup; ++g)
        scale[g] = encode_group(values + g * kGroup, global, stored, code + g * kGroup / 2);
    });
    w.planes = {{"codes", codes}, {"scales", scales}, {"global", Tensor::from<float>({stored})}};
    return w;
  }

  CodeLayout code_layout(const Weight& w) const override {
    CodeLayout layout;
    if (w.cols() % kGroup != 0) return layout;
    layout.bits = 4;
    layout.group = kGroup;
    layout.table = &table_;
    return layout;
  }

  void codes(const Weight& w, int64_t row, uint8_t* codes, float* scales, float*) const override {
    const int64_t k = w.cols();
    const uint8_t* bytes = w.plane("codes").data<uint8_t>() + row * k / 2;
    for (int64_t i = 0; i < k; i += 2) {
      codes[i] = bytes[i / 2] & 15;
      codes[i + 1] = bytes[i / 2] >> 4;
    }
    row_scales(w, row, scales);
  }

  Weight permute_rows(const Weight& w, std::span<const int64_t> order) const override {
    Weight out = Encoding::permute_rows(w, order);
    out.planes["global"] = w.plane("global").clone();  // also where the matrix has one row
    return out;
  }

 private:
  float group_scale(f8_e4m3 scale, float global) const {
    return divides_ ? to_f32(scale) / global : to_f32(scale) * global;
  }

  void row_scales(const Weight& w, int64_t row, float* out) const {
    const int64_t groups = w.cols() / kGroup;
    const auto* scales = w.plane("scales").data<f8_e4m3>() + row * groups;
    const float global = w.plane("global").data<float>()[0];
    for (int64_t g = 0; g < groups; ++g) out[g] = group_scale(scales[g], global);
  }

  f8_e4m3 encode_group(const float* x, float global, float stored, uint8_t* codes) const {
    constexpr float kLeastScale = 0.125f;  // in place of one that rounds to 0
    float largest = 0;
    for (int64_t i = 0; i < kGroup; ++i) largest = std::max(largest, std::fabs(x[i]));
    f8_e4m3 scale = to_f8_e4m3(std::min(global * (largest / kLargest), kLargestScale));
    if (to_f32(scale) == 0) scale = to_f8_e4m3(kLeastScale);
    const float step = group_scale(scale, stored);
    for (int64_t i = 0; i < kGroup; i += 2)
      codes[i / 2] =
          static_cast<uint8_t>(nearest_code(x[i] / step) | nearest_code(x[i + 1] / step) << 4);
    return scale;
  }

  std::string_view id_, description_;
  bool divides_;
  CodeTable table_;
};

}  // namespace

namespace encoding_entry {

const Encoding& nvfp4_ct() {
  static const Nvfp4 e("nvfp4_ct", "4-bit floats in groups of 16, whose scales are 8-bit floats",
                       true);
  return e;
}
const Encoding& nvfp4_modelopt() {
  static const Nvfp4 e("nvfp4_modelopt", "NVFP4 as ModelOpt stores it: a factor, not a divisor",
                       false);
  return e;
}

}  // namespace encoding_entry
}  // namespace hone
