// "int_group": 2- to 8-bit integers with a scale, and if asymmetric a zero point, for each group of
// columns of a row. What GPTQ, AWQ, compressed-tensors and plain round-to-nearest produce.
//
// Parameters: bits 2…8; group (0 = the whole row; the last group may be shorter); symmetric;
// act_order; scale_type (f16, bf16 or f32). G = ceil(K / group). Planes:
//   codes   u8 [N, ceil(K·bits/8)]   a bit stream per row (int_grid.h)
//   scales  scale_type [N, G]
//   zeros   u8 [N, G]                only if not symmetric; otherwise the zero is 2^(bits−1)
//   g_idx   i32 [K]                  only if act_order: the group of each column
// w = scale·(code − zero). Encoding rounds to nearest on the grid of find_grid.
#include <algorithm>
#include <vector>

#include "base/checked.h"
#include "base/threads.h"
#include "encodings/int_grid.h"
#include "encodings/planes.h"

namespace hone {
namespace {

int64_t group_size(const WeightParams& p, int64_t k) {
  return p.group == 0 ? k : std::min(p.group, k);
}
int64_t group_count(const WeightParams& p, int64_t k) { return ceil_div(k, group_size(p, k)); }
int mid_code(int bits) { return 1 << (bits - 1); }

/// Why these parameters make no weight, or empty.
std::string bad_int_params(const WeightParams& p) {
  if (p.bits < 2 || p.bits > 8) return fmt::format("bits should be 2 to 8, got {}", p.bits);
  if (p.group < 0) return fmt::format("group should be 0 (a row) or more, got {}", p.group);
  if (p.scale_type != DType::f16 && p.scale_type != DType::bf16 && p.scale_type != DType::f32)
    return fmt::format("scale_type should be f16, bf16 or f32, got {}", dtype_name(p.scale_type));
  return {};
}

/// Scales and zeros of one row as numbers, reused from row to row.
struct RowGrids {
  std::vector<Grid> grids;

  void load(const Weight& w, int64_t row) {
    const WeightParams& p = w.params;
    int64_t count = group_count(p, w.cols());
    grids.resize(static_cast<size_t>(count));
    visit_dtype(p.scale_type, [&](auto type) {
      using T = decltype(type);
      if constexpr (std::is_same_v<T, float> || std::is_same_v<T, f16> || std::is_same_v<T, bf16>) {
        const T* scales = w.plane("scales").data<T>() + row * count;
        for (int64_t g = 0; g < count; ++g) {
          if constexpr (std::is_same_v<T, float>)
            grids[g].scale = scales[g];
          else
            grids[g].scale = to_f32(scales[g]);
        }
      }
    });
    const uint8_t* zeros = p.symmetric ? nullptr : w.plane("zeros").data<uint8_t>() + row * count;
    for (int64_t g = 0; g < count; ++g) grids[g].zero = zeros ? zeros[g] : mid_code(p.bits);
  }
};

class IntGroup final : public Encoding {
 public:
  std::string_view id() const override { return "int_group"; }
  std::string_view description() const override {
    return "2- to 8-bit integers with a scale and zero point for each group of columns";
  }

  void validate(const Weight& w) const override {
    auto [n, k] = require_matrix(w);
    const WeightParams& p = w.params;
    std::string reason = bad_int_params(p);
    HONE_CHECK(reason.empty(), corrupt, "int_group weight {}: {}", shape_string(w.shape), reason);
    int64_t groups = group_count(p, k);
    require_plane(w, "codes", DType::u8, {n, packed_size(k, p.bits)});
    require_plane(w, "scales", p.scale_type, {n, groups});
    if (!p.symmetric) require_plane(w, "zeros", DType::u8, {n, groups});
    if (!p.act_order) return;
    const int32_t* g_idx = require_plane(w, "g_idx", DType::i32, {k}).data<int32_t>();
    for (int64_t i = 0; i < k; ++i)
      HONE_CHECK(g_idx[i] >= 0 && g_idx[i] < groups, corrupt,
                 "int_group weight {}: g_idx[{}] is {}, but there are {} groups",
                 shape_string(w.shape), i, g_idx[i], groups);
  }

  void decode(const Weight& w, int64_t begin, int64_t end, float* out) const override {
    const WeightParams& p = w.params;
    int64_t k = w.cols(), row_bytes = packed_size(k, p.bits), group = group_size(p, k);
    const uint8_t* bytes = w.plane("codes").data<uint8_t>() + begin * row_bytes;
    const int32_t* g_idx = p.act_order ? w.plane("g_idx").data<int32_t>() : nullptr;
    std::vector<uint8_t> codes(static_cast<size_t>(k));
    RowGrids row;
    for (int64_t r = begin; r < end; ++r, bytes += row_bytes, out += k) {
      row.load(w, r);
      unpack_codes(bytes, k, p.bits, codes.data());
      if (g_idx != nullptr) {
        for (int64_t i = 0; i < k; ++i) out[i] = grid_value(codes[i], row.grids[g_idx[i]]);
        continue;
      }
      for (int64_t first = 0, g = 0; first < k; first += group, ++g) {
        const Grid grid = row.grids[g];
        for (int64_t i = first; i < std::min(first + group, k); ++i)
          out[i] = grid_value(codes[i], grid);
      }
    }
  }

  std::string encode_refusal(int64_t, int64_t k, const WeightParams& params) const override {
    if (k <= 0) return "a row has no columns";
    if (params.act_order) return "act_order needs a solver that orders the columns (GPTQ)";
    return bad_int_params(resolved(params));
  }

  Weight encode(const float* values, int64_t n, int64_t k,
                const EncodeOptions& options) const override {
    check_encode(*this, values, n, k, options);
    Weight w;
    w.shape = {n, k};
    w.encoding = "int_group";
    w.params = resolved(options.params);
    const WeightParams& p = w.params;
    int64_t groups = group_count(p, k), row_bytes = packed_size(k, p.bits);
    Tensor codes = Tensor::empty({n, row_bytes}, DType::u8);
    Tensor scales = Tensor::empty({n, groups}, DType::f32);  // exact: they are rounded already
    Tensor zeros = Tensor::empty({n, groups}, DType::u8);
    auto* q = codes.mutable_data<uint8_t>();
    auto* s = scales.mutable_data<float>();
    auto* z = zeros.mutable_data<uint8_t>();
    parallel_for(n, row_grain(k), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        encode_row(values + r * k, k, p, q + r * row_bytes, s + r * groups, z + r * groups);
    });
    w.planes = {{"codes", codes}, {"scales", scales.to(p.scale_type)}};
    if (!p.symmetric) w.planes["zeros"] = zeros;
    return w;
  }

  CodeLayout code_layout(const Weight& w) const override {
    const WeightParams& p = w.params;
    int64_t group = group_size(p, w.cols());
    CodeLayout layout;
    if (p.act_order || group % 16 != 0 || w.cols() % group != 0) return layout;
    layout.bits = p.bits > 4 ? 8 : 4;
    layout.group = group;
    layout.zero = layout.bits == 4 && p.symmetric ? mid_code(p.bits) : 0;
    layout.mins = !p.symmetric;
    layout.f16_exact = p.symmetric && p.scale_type == DType::f16;
    return layout;
  }

  void codes(const Weight& w, int64_t row, uint8_t* codes, float* scales,
             float* mins) const override {
    const WeightParams& p = w.params;
    int64_t k = w.cols(), row_bytes = packed_size(k, p.bits);
    unpack_codes(w.plane("codes").data<uint8_t>() + row * row_bytes, k, p.bits, codes);
    int offset = p.bits > 4 ? mid_code(p.bits) : 0;  // 8-bit forms are signed
    if (offset != 0)
      for (int64_t i = 0; i < k; ++i) codes[i] = static_cast<uint8_t>(codes[i] - offset);
    RowGrids grids;
    grids.load(w, row);
    for (size_t g = 0; g < grids.grids.size(); ++g) {
      scales[g] = grids.grids[g].scale;
      if (!p.symmetric) mins[g] = grid_value(offset, grids.grids[g]);
    }
  }

  /// The scales; zeros are integers, and stay.
  std::string scales_refusal(const Weight&) const override { return {}; }
  std::vector<NamedTensor> scales(const Weight& w) const override { return plane(w).read(w); }
  /// Positive, as encode makes them.
  Weight with_scales(const Weight& w, std::span<const Tensor> scales) const override {
    HONE_ASSERT(scales.size() == 1);
    Tensor positive = scales[0].clone();
    float* s = positive.mutable_data<float>();
    for (int64_t i = 0; i < positive.numel(); ++i) s[i] = round_scale(s[i], w.params.scale_type);
    return plane(w).replaced(w, {&positive, 1});
  }
  std::vector<Tensor> decode_vjp(const Weight& w, const Tensor& dw) const override {
    return plane(w).vjp(w, dw);
  }

  Weight permute_rows(const Weight& w, std::span<const int64_t> order) const override {
    Weight out = Encoding::permute_rows(w, order);
    // g_idx belongs to columns, also where there are as many columns as rows.
    if (has_plane(w, "g_idx")) out.planes["g_idx"] = w.plane("g_idx").clone();
    return out;
  }

 private:
  static ScalePlane plane(const Weight& w) {
    if (w.params.act_order) return {.name = "scales", .index = w.plane("g_idx").data<int32_t>()};
    return {.name = "scales", .group = group_size(w.params, w.cols())};
  }

  static WeightParams resolved(WeightParams p) {
    if (p.bits == 0) p.bits = 4;
    return p;
  }

  static void encode_row(const float* x, int64_t k, const WeightParams& p, uint8_t* bytes,
                         float* scales, uint8_t* zeros) {
    GridOptions options{.bits = p.bits, .symmetric = p.symmetric, .scale_type = p.scale_type};
    int top = (1 << p.bits) - 1;
    std::vector<uint8_t> codes(static_cast<size_t>(k));
    int64_t group = group_size(p, k);
    for (int64_t first = 0, g = 0; first < k; first += group, ++g) {
      int64_t count = std::min(group, k - first);
      Grid grid = find_grid(x + first, count, 1, options);
      scales[g] = grid.scale;
      zeros[g] = static_cast<uint8_t>(grid.zero);
      for (int64_t i = first; i < first + count; ++i)
        codes[i] = static_cast<uint8_t>(grid_code(x[i], grid, top));
    }
    pack_codes(codes.data(), k, p.bits, bytes);
  }
};

}  // namespace

namespace encoding_entry {

const Encoding& int_group() {
  static const IntGroup e;
  return e;
}

}  // namespace encoding_entry
}  // namespace hone
