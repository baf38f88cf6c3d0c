// BlockEncoding<Format>: a GGUF type whose rows are runs of equal byte blocks.
//
// Plane: blocks, u8 [N, K / kElements · kBytes], the bytes of the file. A Format is a struct of
// constants and two functions on one block:
//   kId, kDescription
//   kElements, kBytes     weights and bytes of a block
//   kGroup                consecutive weights that share a scale
//   kBits                 code form for the kernels: 4 or 8
//   kOffset               what makes a signed code unsigned (4-bit forms), else 0
//   kMins                 value = scale·code + min, else scale·code (code as unpack gives it)
//   kF16                  scales and mins are exact in f16; with one scale to a block, they are
//                         stored so, at byte kScaleAt of the block (0 where not said)
//   kTable                16 values that codes stand for, or nullptr
//   unpack(block, int8_t* codes, float* scales, float* mins)
//   pack(const float* x, const float* importance or null, uint8_t* block)
// Everything else, the exact decode included, follows from them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/checked.h"
#include "base/threads.h"
#include "encodings/planes.h"

namespace hone {

inline float load_f16(const uint8_t* p) {
  return to_f32(f16{static_cast<uint16_t>(p[0] | p[1] << 8)});
}
inline void store_f16(float x, uint8_t* p) {
  uint16_t bits = to_f16(x).bits;
  p[0] = static_cast<uint8_t>(bits);
  p[1] = static_cast<uint8_t>(bits >> 8);
}

/// The nearest f16, kept finite.
inline float nearest_f16(float x) { return to_f32(to_f16(std::clamp(x, -65504.0f, 65504.0f))); }
/// 1/x, or 0 for 0: the codes of a group without a scale are all 0.
inline float reciprocal(float x) { return x != 0 ? 1.0f / x : 0.0f; }

/// The 4-bit codes of 32 weights in 16 bytes: byte j holds weight j (low) and weight j+16 (high).
inline void unpack_nibbles(const uint8_t* bytes, int8_t* q) {
  uint8_t pairs[16];  // a copy, which q cannot overlap: then the compiler makes vectors of the loop
  std::memcpy(pairs, bytes, 16);
  for (int j = 0; j < 16; ++j) {
    q[j] = static_cast<int8_t>(pairs[j] & 15);
    q[j + 16] = static_cast<int8_t>(pairs[j] >> 4);
  }
}
/// The inverse, of the low four bits of each code.
inline void pack_nibbles(const uint8_t* q, uint8_t* bytes) {
  for (int j = 0; j < 16; ++j) bytes[j] = static_cast<uint8_t>((q[j] & 15) | (q[j + 16] & 15) << 4);
}

template <typename Format>
class BlockEncoding final : public Encoding {
  static constexpr int kGroups = Format::kElements / Format::kGroup;

 public:
  std::string_view id() const override { return Format::kId; }
  std::string_view description() const override { return Format::kDescription; }

  void validate(const Weight& w) const override {
    auto [n, k] = require_matrix(w);
    HONE_CHECK(k % Format::kElements == 0, corrupt,
               "{} weight {}: the columns are not a multiple of {}", id(), shape_string(w.shape),
               Format::kElements);
    require_plane(w, "blocks", DType::u8, {n, row_bytes(k)});
  }

  void decode(const Weight& w, int64_t begin, int64_t end, float* out) const override {
    const uint8_t* block = row_blocks(w, begin);
    int64_t blocks = (end - begin) * (w.cols() / Format::kElements);
    for (int64_t b = 0; b < blocks; ++b, block += Format::kBytes, out += Format::kElements)
      decode_block(block, out);
  }

  std::string encode_refusal(int64_t, int64_t k, const WeightParams&) const override {
    if (k > 0 && k % Format::kElements == 0) return {};
    return fmt::format("needs a multiple of {} columns, got {}", Format::kElements, k);
  }

  Weight encode(const float* values, int64_t n, int64_t k,
                const EncodeOptions& options) const override {
    check_encode(*this, values, n, k, options);
    Weight w;
    w.shape = {n, k};
    w.encoding = Format::kId;
    Tensor plane = Tensor::empty({n, row_bytes(k)}, DType::u8);
    auto* bytes = plane.mutable_data<uint8_t>();
    const float* importance = options.importance.empty() ? nullptr : options.importance.data();
    parallel_for(n, row_grain(k), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        uint8_t* block = bytes + r * row_bytes(k);
        for (int64_t i = 0; i < k; i += Format::kElements, block += Format::kBytes)
          Format::pack(values + r * k + i, importance ? importance + i : nullptr, block);
      }
    });
    w.planes["blocks"] = plane;
    return w;
  }

  CodeLayout code_layout(const Weight&) const override {
    CodeLayout layout;
    layout.bits = Format::kBits;
    layout.group = Format::kGroup;
    layout.zero = Format::kOffset;
    layout.mins = Format::kMins;
    layout.f16_exact = Format::kF16;
    if constexpr (Format::kTable != nullptr) {
      static const CodeTable table(Format::kTable);
      layout.table = &table;
    }
    return layout;
  }

  void codes(const Weight& w, int64_t row, uint8_t* codes, float* scales,
             float* mins) const override {
    const uint8_t* block = row_blocks(w, row);
    float unused[kGroups];
    for (int64_t k = 0; k < w.cols(); k += Format::kElements, block += Format::kBytes) {
      auto* q = reinterpret_cast<int8_t*>(codes + k);
      int64_t g = k / Format::kGroup;
      Format::unpack(block, q, scales + g, Format::kMins ? mins + g : unused);
      for (int i = 0; i < Format::kElements; ++i)
        q[i] = static_cast<int8_t>(q[i] + Format::kOffset);
    }
  }

  std::string scales_refusal(const Weight&) const override {
    if (kTrained) return {};
    if (Format::kGroup == Format::kElements) return "its scales are powers of two";
    return Format::kF16 ? "its scales are 8-bit floats"
                        : "its scales are integers, not floats of their own";
  }

  std::vector<NamedTensor> scales(const Weight& w) const override {
    if constexpr (!kTrained) return Encoding::scales(w);
    const Shape shape{w.rows(), w.cols() / Format::kElements};
    std::vector<NamedTensor> all{{"scales", Tensor::empty(shape, DType::f32)}};
    if (Format::kMins) all.push_back({"mins", Tensor::empty(shape, DType::f32)});
    const uint8_t* block = row_blocks(w, 0);
    for (int64_t b = 0; b < all[0].value.numel(); ++b, block += Format::kBytes)
      for (size_t i = 0; i < all.size(); ++i)
        all[i].value.template mutable_data<float>()[b] = load_f16(block + kScaleAt + 2 * i);
    return all;
  }

  Weight with_scales(const Weight& w, std::span<const Tensor> scales) const override {
    if constexpr (!kTrained) return Encoding::with_scales(w, scales);
    HONE_ASSERT(scales.size() == 1 + Format::kMins);
    Weight out = w;
    Tensor plane = w.plane("blocks").clone();
    uint8_t* block = plane.mutable_data<uint8_t>();
    for (int64_t b = 0; b < scales[0].numel(); ++b, block += Format::kBytes)
      for (size_t i = 0; i < scales.size(); ++i) {
        store_f16(scales[i].data<float>()[b], block + kScaleAt + 2 * i);
        HONE_CHECK(std::isfinite(load_f16(block + kScaleAt + 2 * i)), invalid_argument,
                   "{} weight {}: a scale is not finite as f16", id(), shape_string(w.shape));
      }
    out.planes["blocks"] = plane;
    return out;
  }

  std::vector<Tensor> decode_vjp(const Weight& w, const Tensor& dw) const override {
    if constexpr (!kTrained) return Encoding::decode_vjp(w, dw);
    const Shape shape{w.rows(), w.cols() / Format::kElements};
    Tensor scales = Tensor::empty(shape, DType::f32), mins = Tensor::empty(shape, DType::f32);
    float *s = scales.mutable_data<float>(), *m = mins.mutable_data<float>();
    parallel_for(scales.numel(), row_grain(Format::kElements), [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        int8_t q[Format::kElements];
        float scale[kGroups], min[kGroups];
        Format::unpack(row_blocks(w, 0) + b * Format::kBytes, q, scale, min);
        const float* d = dw.data<float>() + b * Format::kElements;
        double by_scale = 0, by_min = 0;
        for (int i = 0; i < Format::kElements; ++i) {
          by_scale += double{d[i]} * double{unit(q[i])};
          by_min += double{d[i]};
        }
        s[b] = static_cast<float>(by_scale);
        m[b] = static_cast<float>(by_min);
      }
    });
    if (Format::kMins) return {scales, mins};
    return {scales};
  }

 private:
  static constexpr bool kTrained = Format::kF16 && kGroups == 1;
  static constexpr int kScaleAt = [] {
    if constexpr (requires { Format::kScaleAt; }) return Format::kScaleAt;
    return 0;
  }();

  // What a scale multiplies.
  static float unit(int8_t code) {
    if constexpr (Format::kTable != nullptr)
      return static_cast<float>(Format::kTable[code]);
    else
      return static_cast<float>(code);
  }

  static int64_t row_bytes(int64_t k) { return k / Format::kElements * Format::kBytes; }

  static const uint8_t* row_blocks(const Weight& w, int64_t row) {
    return w.plane("blocks").data<uint8_t>() + row * row_bytes(w.cols());
  }

  static void decode_block(const uint8_t* block, float* y) {
    int8_t q[Format::kElements];
    float scales[kGroups], mins[kGroups];
    Format::unpack(block, q, scales, mins);
    for (int g = 0; g < kGroups; ++g) {
      const int8_t* qg = q + g * Format::kGroup;
      float* yg = y + g * Format::kGroup;
      for (int i = 0; i < Format::kGroup; ++i) {
        if constexpr (Format::kMins)
          yg[i] = scales[g] * unit(qg[i]) + mins[g];
        else
          yg[i] = scales[g] * unit(qg[i]);
      }
    }
  }
};

}  // namespace hone
