// "gptq", "gptq_v2": checkpoints of AutoGPTQ and GPTQModel, which transformers and vLLM load.
//
// Of W[N, K] in `bits` bits (2, 3, 4, 8) and G groups of columns, for a module X:
//   X.qweight i32 [K·bits/32, N]        per output a little-endian bit stream of codes along K
//   X.qzeros  i32 [G, ceil(N·bits/32)]  per group a bit stream of zero points along N
//   X.scales  f16 or bf16 [G, N]
//   X.g_idx   i32 [K]                   group of each column
// w[n, k] = scales[g, n]·(code − zero). In v1 the stored zero is zero − 1 (modulo 2^bits). The
// column of qweight is the row of our bit stream, so both ways are a transposition of words.
// This file reads; gptq_writer.cpp writes. Not read: Marlin, and the planar packing of 5 to 7 bits.
#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "formats/bit_matrix.h"
#include "formats/gptq.h"
#include "formats/hf_directory.h"
#include "formats/json_fields.h"
#include "formats/printable.h"
#include "tensor/transpose.h"

namespace hone {
namespace gptq {

constexpr std::string_view kCodes = ".qweight";
constexpr int64_t kMaxGroup = int64_t{1} << 32;

class GptqCheckpoint final : public HfCheckpoint {
 public:
  explicit GptqCheckpoint(const fs::path& directory) : HfCheckpoint(directory, "gptq") {
    source_ = (directory / "config.json").string();
    const Json& q = config["quantization_config"];
    bits_ = int_field(q, "bits", 4, source_);
    group_ = int_field(q, "group_size", 128, source_);
    HONE_CHECK(group_ >= -1 && group_ <= kMaxGroup, corrupt, "{}: \"group_size\": {} columns",
               source_, group_);
    symmetric_ = bool_field(q, "sym", true, source_);
    std::string format = string_field(q, "checkpoint_format", "", source_);
    if (format.empty()) format = string_field(q, "format", "gptq", source_);
    HONE_CHECK(format == "gptq" || format == "gptq_v2", unsupported,
               "{}: the GPTQ format {} is not supported; known: gptq, gptq_v2", source_,
               printable(format));
    v2_ = format == "gptq_v2";
    if (v2_) layout = format;
    hide_parts();
  }

  Weight weight(const std::string& name) const override {
    if (!name.ends_with(".weight")) return HfCheckpoint::weight(name);
    std::string module = name.substr(0, name.size() - std::strlen(".weight"));
    return tensors_.has(module + std::string(kCodes)) ? quantised(module)
                                                      : HfCheckpoint::weight(name);
  }

 private:
  void hide_parts() {
    for (const std::string& name : tensors_.names()) {
      if (!name.ends_with(kCodes)) continue;
      std::string module = name.substr(0, name.size() - kCodes.size());
      join(module + ".weight",
           {module + ".qweight", module + ".qzeros", module + ".scales", module + ".g_idx"});
    }
  }

  Weight quantised(const std::string& module) const {
    Tensor words = part(module + ".qweight", {DType::i32}, {-1, -1});
    Tensor scales =
        part(module + ".scales", {DType::f16, DType::bf16, DType::f32}, {-1, words.dim(1)});
    int64_t n = words.dim(1), groups = scales.dim(0);
    auto refuse = [&](const char* why) {
      fail(ErrorKind::corrupt, "{}: module {}: {} (qweight {}, scales {}, {} bits)", path.string(),
           printable(module), why, shape_string(words.shape()), shape_string(scales.shape()),
           bits_);
    };
    if (words.numel() == 0 || groups == 0) refuse("an empty weight");
    Tensor g_idx;
    bool has_g_idx = tensors_.has(module + ".g_idx");
    if (has_g_idx) g_idx = part(module + ".g_idx", {DType::i32}, {-1});

    // A module may have bits and groups of its own: what the shapes say wins over the config.
    int64_t word_bits = checked_mul(words.dim(0), 32, "qweight");
    if (has_g_idx && g_idx.numel() == 0) refuse("an empty g_idx");
    int64_t k = has_g_idx ? g_idx.numel() : word_bits / std::clamp<int64_t>(bits_, 1, 8);
    int64_t bits = word_bits / k;
    if (bits * k != word_bits || (bits != 2 && bits != 3 && bits != 4 && bits != 8))
      refuse("sizes that fit no 2, 3, 4 or 8 bits");

    Weight w;
    w.shape = {n, k};
    w.encoding = "int_group";
    w.params.bits = static_cast<int>(bits);
    w.params.scale_type = scales.dtype();
    w.params.group = group_of(k, groups, g_idx);
    if (w.params.group < 0) refuse("columns that make no equal groups");
    if (has_g_idx) add_g_idx(w, g_idx, groups, module);

    Tensor codes = Tensor::empty({n, k * bits / 8}, DType::u8);
    transpose(words.raw(), words.dim(0), n, sizeof(int32_t), codes.mutable_raw());
    words.release_pages();
    w.planes["codes"] = codes;
    w.planes["scales"] = transposed(scales);
    add_zeros(w, module, groups);
    return w;
  }

  /// Columns of a group, 0 for the whole row, −1 where `groups` cannot be. The first group is full,
  /// so g_idx, where there is one, has as many zeros.
  int64_t group_of(int64_t k, int64_t groups, const Tensor& g_idx) const {
    if (groups == 1) return 0;
    int64_t first = 0;
    if (!g_idx.empty_handle())
      first = std::count(g_idx.data<int32_t>(), g_idx.data<int32_t>() + k, 0);
    for (int64_t group : {first, group_, ceil_div(k, groups)})
      if (group > 0 && ceil_div(k, group) == groups) return group;
    return -1;
  }

  void add_g_idx(Weight& w, const Tensor& g_idx, int64_t groups, const std::string& module) const {
    const int32_t* group_of_column = g_idx.data<int32_t>();
    int64_t group = w.params.group == 0 ? w.cols() : w.params.group;
    for (int64_t k = 0; k < w.cols(); ++k) {
      HONE_CHECK(group_of_column[k] >= 0 && group_of_column[k] < groups, corrupt,
                 "{}: tensor {}: column {} belongs to group {} of {}", path.string(),
                 printable(module + ".g_idx"), k, group_of_column[k], groups);
      if (group_of_column[k] != k / group) w.params.act_order = true;
    }
    if (w.params.act_order) w.planes["g_idx"] = g_idx;
  }

  void add_zeros(Weight& w, const std::string& module, int64_t groups) const {
    int bits = w.params.bits, middle = 1 << (bits - 1), mask = (1 << bits) - 1;
    int64_t n = w.rows(), words = ceil_div(n * bits, 32);
    Tensor packed = part(module + ".qzeros", {DType::i32}, {groups, words});
    bool v2 = stores_plain_zeros(packed, n, bits);
    Tensor zeros = Tensor::empty({n, groups}, DType::u8);
    auto* out = zeros.mutable_data<uint8_t>();
    bool all_middle = true;
    std::vector<uint32_t> row(static_cast<size_t>(words));
    for (int64_t g = 0; g < groups; ++g) {
      std::memcpy(row.data(), packed.data<int32_t>() + g * words, row.size() * 4);
      // GPTQModel adds the one to whole words, so that the borrow of a zero point of 0 is undone;
      // but in 3 bits, whose fields straddle words, to each field alone.
      bool by_field = !v2 && bits == 3;
      if (!v2 && !by_field)
        for (uint32_t& word : row) word += UINT32_MAX / static_cast<uint32_t>(mask);
      const auto* stream = reinterpret_cast<const uint8_t*>(row.data());
      for (int64_t i = 0; i < n; ++i) {
        int zero = (stream_get(stream, i, bits) + (by_field ? 1 : 0)) & mask;
        out[i * groups + g] = static_cast<uint8_t>(zero);
        all_middle = all_middle && zero == middle;
      }
    }
    w.params.symmetric = all_middle;
    if (!all_middle) w.planes["zeros"] = zeros;
  }

  /// Whether zero points are stored as they are (v2). Writers have mislabelled both versions, but
  /// in a symmetric file the zero points of a weight, all equal, give themselves away.
  bool stores_plain_zeros(const Tensor& packed, int64_t n, int bits) const {
    const auto* stream = reinterpret_cast<const uint8_t*>(packed.raw());
    int first = stream_get(stream, 0, bits), middle = 1 << (bits - 1);
    if (!symmetric_ || (first != middle && first != middle - 1)) return v2_;
    for (int64_t g = 0; g < packed.dim(0); ++g, stream += packed.dim(1) * 4)
      for (int64_t i = 0; i < n; ++i)
        if (stream_get(stream, i, bits) != first) return v2_;
    return first == middle;
  }

  std::string source_;
  int64_t bits_ = 4, group_ = -1;
  bool symmetric_ = true, v2_ = false;
};

bool can_open(const fs::path& path) { return is_hf_directory(path, "gptq"); }

std::unique_ptr<Checkpoint> open(const fs::path& path) {
  return std::make_unique<GptqCheckpoint>(path);
}

}  // namespace gptq

namespace layout_entry {

const Layout& gptq() {
  static constexpr Layout kLayout = {"gptq",
                                     "GPTQ directory as AutoGPTQ wrote it (zero points minus one)",
                                     gptq::can_open,
                                     gptq::open,
                                     gptq_refusal,
                                     [](const fs::path& path, const CheckpointContents& contents) {
                                       write_gptq(path, contents, false);
                                     },
                                     nullptr};
  return kLayout;
}

const Layout& gptq_v2() {
  static constexpr Layout kLayout = {"gptq_v2",
                                     "GPTQ directory with plain zero points, as GPTQModel prefers",
                                     nullptr,  // "gptq" reads both
                                     nullptr,
                                     gptq_refusal,
                                     [](const fs::path& path, const CheckpointContents& contents) {
                                       write_gptq(path, contents, true);
                                     },
                                     nullptr};
  return kLayout;
}

}  // namespace layout_entry
}  // namespace hone
