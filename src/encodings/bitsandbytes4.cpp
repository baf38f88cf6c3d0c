// "nf4", "fp4": the 4-bit encodings of bitsandbytes (QLoRA, Dettmers et al., 2023): flat blocks of
// the whole matrix, each with its largest magnitude, and a code into a table of 16 values in [−1,
// 1].
//
// Parameters: block (64 where 0 is given to encode), double_quant, nested_offset. Planes, with
// B = ceil(N·K / block) blocks that take no notice of rows:
//   codes   u8 [ceil(N·K/2)]   the high nibble is the even element
//   absmax  f32 [B]
// or, with double_quant, scales that are quantised themselves in blocks of 256:
//   absmax         u8 [B]               codes of the signed dynamic map (tensor/code_tables.h)
//   nested_absmax  f32 [ceil(B/256)]
//   nested_map     f32 [256]            optional, where a file has a map of its own
// scale(b) = map[absmax[b]]·nested_absmax[b/256] + nested_offset; w[i] =
// table[code]·scale(i/block).
//
// Encoding follows bitsandbytes' definition: its bytes, including where it multiplies by the
// reciprocal (whole blocks) or divides (a last, shorter block). nested_offset is a mean, which
// bitsandbytes sums in an order of its own: it may differ in the last bit.
#include <array>
#include <cmath>

#include "base/checked.h"
#include "base/threads.h"
#include "encodings/planes.h"
#include "tensor/code_tables.h"

namespace hone {
namespace {

constexpr int64_t kNested = 256;
constexpr int64_t kLargestBlock = 1 << 20;  // bitsandbytes stops at 4096

/// The code of the nearest value of the 256 ascending ones; halfway goes down.
uint8_t nearest_code(const std::array<float, 256>& map, float x) {
  size_t low = 0, high = 255;  // the first code whose midpoint to the next is not below x
  while (low < high) {
    size_t middle = (low + high) / 2;
    if ((map[middle] + map[middle + 1]) / 2.0f < x)
      low = middle + 1;
    else
      high = middle;
  }
  return static_cast<uint8_t>(low);
}

/// A table of values and the decision points between them.
struct Table {
  std::string_view id;
  std::string_view description;
  const std::array<float, 16>& values;
  std::array<uint8_t, 16> order;  ///< codes by ascending value
  std::array<float, 15> bounds;   ///< order[i] covers (bounds[i−1], bounds[i]]
  uint8_t zero;                   ///< the code of 0

  Table(std::string_view id, std::string_view description, const std::array<float, 16>& values)
      : id(id), description(description), values(values) {
    for (int i = 0; i < 16; ++i) order[i] = static_cast<uint8_t>(i);
    std::stable_sort(order.begin(), order.end(),
                     [&](uint8_t a, uint8_t b) { return values[a] < values[b]; });
    for (int i = 0; i < 15; ++i) bounds[i] = (values[order[i]] + values[order[i + 1]]) / 2.0f;
    float nothing = 0;
    encode(&nothing, 1, &zero);
  }

  /// Codes of n values in [−1, 1].
  void encode(const float* x, int64_t n, uint8_t* codes) const {
    constexpr int kChunk = 16;
    for (int64_t first = 0; first < n; first += kChunk) {
      int64_t count = std::min<int64_t>(kChunk, n - first);
      float value[kChunk] = {};
      std::copy_n(x + first, count, value);
      int rank[kChunk] = {};
      for (float bound : bounds)
        for (int i = 0; i < kChunk; ++i) rank[i] += value[i] > bound ? 1 : 0;
      for (int64_t i = 0; i < count; ++i) codes[first + i] = order[rank[i]];
    }
  }
};

/// A block divided by its largest magnitude, which is returned.
float normalise(const float* x, int64_t n, bool whole, float* out) {
  constexpr float kLeast = 1e-38f;
  float absmax = 0;
  for (int64_t i = 0; i < n; ++i) absmax = std::max(absmax, std::fabs(x[i]));
  if (whole) {
    float inverse = 1.0f / std::max(absmax, kLeast);
    for (int64_t i = 0; i < n; ++i) out[i] = std::clamp(x[i] * inverse, -1.0f, 1.0f);
    return absmax;
  }
  absmax = std::max(absmax, kLeast);
  for (int64_t i = 0; i < n; ++i) out[i] = std::clamp(x[i] / absmax, -1.0f, 1.0f);
  return absmax;
}

class FourBit final : public Encoding {
 public:
  FourBit(std::string_view id, std::string_view description, const std::array<float, 16>& values)
      : table_(id, description, values), code_table_(values.data()) {
    for (int byte = 0; byte < 256; ++byte) pairs_[byte] = {values[byte >> 4], values[byte & 15]};
  }

  std::string_view id() const override { return table_.id; }
  std::string_view description() const override { return table_.description; }

  void validate(const Weight& w) const override {
    auto [n, k] = require_matrix(w);
    HONE_CHECK(w.params.block > 0 && w.params.block <= kLargestBlock, corrupt,
               "{} weight {}: the block size is {}", id(), shape_string(w.shape), w.params.block);
    int64_t blocks = ceil_div(n * k, w.params.block);
    require_flat_plane(w, "codes", DType::u8, ceil_div(n * k, 2));
    require_flat_plane(w, "absmax", w.params.double_quant ? DType::u8 : DType::f32, blocks);
    if (!w.params.double_quant) return;
    require_flat_plane(w, "nested_absmax", DType::f32, ceil_div(blocks, kNested));
    if (has_plane(w, "nested_map")) require_flat_plane(w, "nested_map", DType::f32, 256);
  }

  void decode(const Weight& w, int64_t begin, int64_t end, float* out) const override {
    const uint8_t* bytes = w.plane("codes").data<uint8_t>();
    Scales scales(w);
    int64_t block = w.params.block, last = end * w.cols();
    for (int64_t i = begin * w.cols(); i < last;) {
      float scale = scales[i / block];
      int64_t stop = std::min(last, (i / block + 1) * block);
      if (i % 2 != 0) *out++ = pairs_[bytes[i / 2]][1] * scale, ++i;
      for (; i + 1 < stop; i += 2, out += 2) {
        const auto& pair = pairs_[bytes[i / 2]];
        out[0] = pair[0] * scale;
        out[1] = pair[1] * scale;
      }
      if (i < stop) *out++ = pairs_[bytes[i / 2]][0] * scale, ++i;
    }
  }

  std::string encode_refusal(int64_t, int64_t k, const WeightParams& params) const override {
    if (k <= 0) return "a row has no columns";
    if (params.block < 0 || params.block > kLargestBlock || params.block % 2 != 0)
      return fmt::format("the block size should be even and at most {}, got {}", kLargestBlock,
                         params.block);
    return {};
  }

  Weight encode(const float* values, int64_t n, int64_t k,
                const EncodeOptions& options) const override {
    check_encode(*this, values, n, k, options);
    Weight w;
    w.shape = {n, k};
    w.encoding = table_.id;
    w.params.block = options.params.block == 0 ? 64 : options.params.block;
    w.params.bits = 4;
    int64_t numel = n * k, block = w.params.block, blocks = ceil_div(numel, block);
    Tensor codes = Tensor::zeros({ceil_div(numel, 2)}, DType::u8);
    Tensor absmax = Tensor::empty({blocks}, DType::f32);
    auto* bytes = codes.mutable_data<uint8_t>();
    auto* scale = absmax.mutable_data<float>();
    parallel_for(blocks, row_grain(block), [&](int64_t begin, int64_t end) {
      std::vector<float> unit(static_cast<size_t>(block));
      std::vector<uint8_t> q(static_cast<size_t>(block + 1));
      for (int64_t b = begin; b < end; ++b) {
        int64_t count = std::min(block, numel - b * block);
        scale[b] = normalise(values + b * block, count, count == block, unit.data());
        table_.encode(unit.data(), count, q.data());
        q[count] = table_.zero;  // the partner of an odd last element
        for (int64_t i = 0; i < count; i += 2)
          bytes[(b * block + i) / 2] = static_cast<uint8_t>(q[i] << 4 | q[i + 1]);
      }
    });
    w.planes = {{"codes", codes}, {"absmax", absmax}};
    if (options.params.double_quant) quantise_scales(w);
    return w;
  }

  CodeLayout code_layout(const Weight& w) const override {
    CodeLayout layout;
    if (w.params.block % 16 != 0 || w.cols() % w.params.block != 0) return layout;
    layout.bits = 4;
    layout.group = w.params.block;
    layout.table = &code_table_;
    return layout;
  }

  void codes(const Weight& w, int64_t row, uint8_t* codes, float* scales, float*) const override {
    int64_t k = w.cols(), groups = k / w.params.block;
    const uint8_t* bytes = w.plane("codes").data<uint8_t>() + row * k / 2;
    for (int64_t i = 0; i < k; i += 2) {
      codes[i] = bytes[i / 2] >> 4;
      codes[i + 1] = bytes[i / 2] & 15;
    }
    Scales block_scales(w);
    for (int64_t g = 0; g < groups; ++g) scales[g] = block_scales[row * groups + g];
  }

  std::string scales_refusal(const Weight& w) const override {
    return w.params.double_quant ? "its scales are quantised themselves" : "";
  }
  std::vector<NamedTensor> scales(const Weight& w) const override { return plane(w).read(w); }
  Weight with_scales(const Weight& w, std::span<const Tensor> scales) const override {
    return plane(w).replaced(w, scales);
  }
  std::vector<Tensor> decode_vjp(const Weight& w, const Tensor& dw) const override {
    return plane(w).vjp(w, dw);
  }

  Weight permute_rows(const Weight& w, std::span<const int64_t> order) const override {
    check_order(order, w.rows());
    int64_t n = w.rows(), k = w.cols(), unit = w.params.block;
    HONE_CHECK(k % unit == 0 && k % 2 == 0, unsupported,
               "{} weight {}: its rows cannot be permuted, because blocks of {} cross them", id(),
               shape_string(w.shape), unit);
    int64_t blocks = k / unit;
    HONE_CHECK(!w.params.double_quant || blocks % kNested == 0, unsupported,
               "{} weight {}: its rows cannot be permuted, because blocks of {} double-quantised "
               "scales cross them",
               id(), shape_string(w.shape), kNested);
    Weight out = w;
    out.shape[0] = static_cast<int64_t>(order.size());
    auto gather = [&](const char* name, int64_t row) {
      Tensor rows = gather_plane_rows(w.plane(name).reshape({n, row}), order);
      out.planes[name] = rows.reshape({rows.numel()});
    };
    gather("codes", k / 2);
    gather("absmax", blocks);
    if (w.params.double_quant) gather("nested_absmax", blocks / kNested);
    return out;
  }

 private:
  ScalePlane plane(const Weight& w) const {
    HONE_CHECK(!w.params.double_quant, unsupported, "{}: {}", id(), scales_refusal(w));
    return {.name = "absmax", .block = w.params.block};
  }

  /// Block scales, whichever way they are stored.
  class Scales {
   public:
    explicit Scales(const Weight& w) : offset_(w.params.nested_offset) {
      const Tensor& absmax = w.plane("absmax");
      if (!w.params.double_quant) {
        plain_ = absmax.data<float>();
        return;
      }
      codes_ = absmax.data<uint8_t>();
      nested_ = w.plane("nested_absmax").data<float>();
      map_ = has_plane(w, "nested_map") ? w.plane("nested_map").data<float>()
                                        : signed_dynamic_table().data();
    }
    float operator[](int64_t b) const {
      return plain_ != nullptr ? plain_[b] : map_[codes_[b]] * nested_[b / kNested] + offset_;
    }

   private:
    const float* plain_ = nullptr;
    const uint8_t* codes_ = nullptr;
    const float* nested_ = nullptr;
    const float* map_ = nullptr;
    float offset_;
  };

  static void quantise_scales(Weight& w) {
    const Tensor& absmax = w.plane("absmax");
    const float* scale = absmax.data<float>();
    int64_t blocks = absmax.numel();
    double sum = 0;
    for (int64_t b = 0; b < blocks; ++b) sum += scale[b];
    w.params.double_quant = true;
    w.params.nested_offset =
        static_cast<float>(blocks == 0 ? 0 : sum / static_cast<double>(blocks));
    Tensor codes = Tensor::empty({blocks}, DType::u8);
    Tensor nested = Tensor::empty({ceil_div(blocks, kNested)}, DType::f32);
    const auto& map = signed_dynamic_table();
    float centred[kNested], unit[kNested];
    for (int64_t b = 0; b < blocks; b += kNested) {
      int64_t count = std::min(kNested, blocks - b);
      for (int64_t i = 0; i < count; ++i) centred[i] = scale[b + i] - w.params.nested_offset;
      nested.mutable_data<float>()[b / kNested] = normalise(centred, count, count == kNested, unit);
      for (int64_t i = 0; i < count; ++i)
        codes.mutable_data<uint8_t>()[b + i] = nearest_code(map, unit[i]);
    }
    w.planes["absmax"] = codes;
    w.planes["nested_absmax"] = nested;
  }

  Table table_;
  CodeTable code_table_;
  std::array<std::array<float, 2>, 256> pairs_;
};

}  // namespace

namespace encoding_entry {

const Encoding& nf4() {
  static const FourBit e("nf4", "bitsandbytes NF4: 4-bit normal quantiles, flat blocks",
                         nf4_table());
  return e;
}
const Encoding& fp4() {
  static const FourBit e("fp4", "bitsandbytes FP4: 4-bit floats, flat blocks", fp4_table());
  return e;
}

}  // namespace encoding_entry
}  // namespace hone
