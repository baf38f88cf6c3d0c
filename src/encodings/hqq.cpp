// "hqq": integers with a scale and a zero point that is a float, for each group: half-quadratic
// quantisation (Badri and Shaji, 2023).
//
// Parameters: bits 1…8; group, which divides N·K; block, 0 or the stride of a group; scale_type.
// Planes:
//   codes   u8 [N, ceil(K·bits/8)]   a bit stream per row (int_grid.h)
//   scales  scale_type               [N, K/group] where groups divide rows and block is 0,
//   zeros   scale_type                otherwise [N·K/group]
// w = (code − zero)·scale in f32. Element i of the flat matrix belongs to group i/group (the
// library's axis 1), or, with a block, to group i mod block, block = N·K/group (its axis 0). The
// library computes in 16 bits and rounds each step. Encoding takes the range of a group's values:
// what the library begins with; its half-quadratic search is a solver's.
#include <algorithm>
#include <cmath>
#include <vector>

#include "base/checked.h"
#include "base/threads.h"
#include "encodings/int_grid.h"
#include "encodings/planes.h"

namespace hone {
namespace {

constexpr int64_t kDefaultGroup = 64;

std::string bad_hqq_params(const WeightParams& p) {
  if (p.bits < 1 || p.bits > 8) return fmt::format("bits should be 1 to 8, got {}", p.bits);
  if (p.group <= 0) return fmt::format("group should be positive, got {}", p.group);
  if (p.scale_type != DType::f16 && p.scale_type != DType::bf16 && p.scale_type != DType::f32)
    return fmt::format("scale_type should be f16, bf16 or f32, got {}", dtype_name(p.scale_type));
  return {};
}

/// Whether each row has groups of its own.
bool by_rows(const Weight& w) { return w.params.block == 0 && w.cols() % w.params.group == 0; }

/// Elements [first, first + n) of a plane of floats, as f32.
void load(const Tensor& plane, int64_t first, int64_t n, float* out) {
  convert_floats(plane.raw() + first * dtype_size(plane.dtype()), plane.dtype(), out, DType::f32,
                 n);
}

float rounded(float x, DType type) {
  float out = x;
  if (type != DType::f32) {
    std::byte narrow[4];
    convert_floats(&x, DType::f32, narrow, type, 1);
    convert_floats(narrow, type, &out, DType::f32, 1);
  }
  return out;
}

class Hqq final : public Encoding {
 public:
  std::string_view id() const override { return "hqq"; }
  std::string_view description() const override {
    return "1- to 8-bit integers with a scale and a zero point in floats for each group";
  }

  void validate(const Weight& w) const override {
    auto [n, k] = require_matrix(w);
    const WeightParams& p = w.params;
    const std::string reason = bad_hqq_params(p);
    HONE_CHECK(reason.empty(), corrupt, "hqq weight {}: {}", shape_string(w.shape), reason);
    HONE_CHECK(n * k % p.group == 0 && (p.block == 0 || p.block == n * k / p.group), corrupt,
               "hqq weight {}: groups of {}, {} apart", shape_string(w.shape), p.group, p.block);
    require_plane(w, "codes", DType::u8, {n, packed_size(k, p.bits)});
    const Shape groups = by_rows(w) ? Shape{n, k / p.group} : Shape{n * k / p.group};
    require_plane(w, "scales", p.scale_type, groups);
    require_plane(w, "zeros", p.scale_type, groups);
  }

  void decode(const Weight& w, int64_t begin, int64_t end, float* out) const override {
    const WeightParams& p = w.params;
    const int64_t k = w.cols(), row_bytes = packed_size(k, p.bits);
    std::vector<uint8_t> codes(static_cast<size_t>(k));
    if (begin >= end) return;
    // Only the groups that the rows touch: of groups across rows all, or those of so few elements,
    // which may go on at the beginning.
    const int64_t elements = (end - begin) * k;
    const bool few = p.block > 0 && elements < p.block;
    const int64_t first = few ? begin * k % p.block : p.block > 0 ? 0 : begin * k / p.group;
    const int64_t count = few           ? elements
                          : p.block > 0 ? p.block
                                        : ceil_div(end * k, p.group) - first;
    std::vector<float> scales(static_cast<size_t>(count)), zeros(scales.size());
    const int64_t before = few ? std::min(count, p.block - first) : count;
    load(w.plane("scales"), first, before, scales.data());
    load(w.plane("zeros"), first, before, zeros.data());
    load(w.plane("scales"), 0, count - before, scales.data() + before);
    load(w.plane("zeros"), 0, count - before, zeros.data() + before);
    for (int64_t r = begin; r < end; ++r, out += k) {
      unpack_codes(w.plane("codes").data<uint8_t>() + r * row_bytes, k, p.bits, codes.data());
      for (int64_t i = 0; i < k; ++i) {
        const int64_t flat = r * k + i;
        const auto g = static_cast<size_t>(few           ? flat - begin * k
                                           : p.block > 0 ? flat % p.block
                                                         : flat / p.group - first);
        out[i] = (static_cast<float>(codes[static_cast<size_t>(i)]) - zeros[g]) * scales[g];
      }
    }
  }

  std::string encode_refusal(int64_t, int64_t k, const WeightParams& params) const override {
    if (params.act_order) return "it has no act-order";
    const WeightParams p = resolved(params);
    if (std::string reason = bad_hqq_params(p); !reason.empty()) return reason;
    if (params.block != 0) return "groups across rows are only read, not made";
    if (k > 0 && k % p.group == 0) return {};
    return fmt::format("groups of {} columns should divide the row, got {}", p.group, k);
  }

  Weight encode(const float* values, int64_t n, int64_t k,
                const EncodeOptions& options) const override {
    check_encode(*this, values, n, k, options);
    Weight w;
    w.shape = {n, k};
    w.encoding = "hqq";
    w.params = resolved(options.params);
    w.params.symmetric = true;
    const WeightParams& p = w.params;
    const int64_t row_bytes = packed_size(k, p.bits), groups = k / p.group;
    Tensor codes = Tensor::empty({n, row_bytes}, DType::u8);
    Tensor scales = Tensor::empty({n, groups}, DType::f32),
           zeros = Tensor::empty({n, groups}, DType::f32);
    auto* bytes = codes.mutable_data<uint8_t>();
    auto *s = scales.mutable_data<float>(), *z = zeros.mutable_data<float>();
    parallel_for(n, row_grain(k), [&](int64_t begin, int64_t end) {
      std::vector<uint8_t> row(static_cast<size_t>(k));
      for (int64_t r = begin; r < end; ++r) {
        for (int64_t g = 0; g < groups; ++g)
          encode_group(values + r * k + g * p.group, p, s[r * groups + g], z[r * groups + g],
                       row.data() + g * p.group);
        pack_codes(row.data(), k, p.bits, bytes + r * row_bytes);
      }
    });
    w.planes = {
        {"codes", codes}, {"scales", scales.to(p.scale_type)}, {"zeros", zeros.to(p.scale_type)}};
    return w;
  }

  CodeLayout code_layout(const Weight& w) const override {
    CodeLayout layout;
    if (w.params.group <= 0 || w.params.group % 16 != 0 || !by_rows(w)) return layout;
    layout.bits = w.params.bits <= 4 ? 4 : 8;
    layout.group = w.params.group;
    layout.mins = true;
    return layout;
  }

  void codes(const Weight& w, int64_t row, uint8_t* codes, float* scales,
             float* mins) const override {
    const WeightParams& p = w.params;
    const int64_t k = w.cols(), groups = k / p.group;
    unpack_codes(w.plane("codes").data<uint8_t>() + row * packed_size(k, p.bits), k, p.bits, codes);
    const int offset = p.bits > 4 ? 128 : 0;  // 8-bit forms are signed
    if (offset != 0)
      for (int64_t i = 0; i < k; ++i) codes[i] = static_cast<uint8_t>(codes[i] - offset);
    load(w.plane("scales"), row * groups, groups, scales);
    load(w.plane("zeros"), row * groups, groups, mins);
    for (int64_t g = 0; g < groups; ++g)
      mins[g] = (static_cast<float>(offset) - mins[g]) * scales[g];
  }

  Weight permute_rows(const Weight& w, std::span<const int64_t> order) const override {
    HONE_CHECK(by_rows(w), unsupported,
               "hqq weight {}: its rows cannot be permuted, because groups of {} cross them",
               shape_string(w.shape), w.params.group);
    return Encoding::permute_rows(w, order);
  }

 private:
  static WeightParams resolved(WeightParams p) {
    if (p.bits == 0) p.bits = 4;
    if (p.group == 0) p.group = kDefaultGroup;
    return p;
  }

  static void encode_group(const float* x, const WeightParams& p, float& scale, float& zero,
                           uint8_t* codes) {
    // A scale that is so much smaller than the values would need a zero point beyond f16: there the
    // group counts as one value.
    constexpr float kLargestZero = 60000;
    const auto [least, most] = std::minmax_element(x, x + p.group);
    const float top = static_cast<float>((1 << p.bits) - 1);
    // Halves, so that the widest range does not overflow.
    const float range = (*most / 2 - *least / 2) / top * 2;
    const float largest = std::max(std::fabs(*least), std::fabs(*most));
    const bool flat = !(range > largest / kLargestZero);
    scale = round_scale(!flat ? range : largest > 0 ? largest : 1, p.scale_type);
    zero = rounded(-*least / scale, p.scale_type);
    for (int64_t i = 0; i < p.group; ++i) {
      const float code = std::nearbyint(x[i] / scale + zero);
      codes[i] = static_cast<uint8_t>(code > 0 ? std::min(code, top) : 0);
    }
  }
};

}  // namespace

namespace encoding_entry {

const Encoding& hqq() {
  static const Hqq e;
  return e;
}

}  // namespace encoding_entry
}  // namespace hone
