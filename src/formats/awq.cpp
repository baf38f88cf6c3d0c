// "awq": checkpoints of AutoAWQ (and GPTQModel, llm-compressor's converters), which transformers
// and vLLM load.
//
// Of W[N, K] in 4 bits and G groups of columns, for a module X, "version" gemm:
//   X.qweight i32 [K, N/8]   nibble i of word [k, c] is the code of row 8c + order[i]
//   X.qzeros  i32 [G, N/8]   zero points, in the same order
//   X.scales  f16 [G, N]
// and gemv, whose nibbles stand in their natural order:
//   X.qweight i32 [N, K/8]   along K
//   X.qzeros  i32 [N, Z]     along G; Z ≥ ceil(G/8), the rest is padding
//   X.scales  f16 [N, 8·Z]
// w[n, k] = scales[g, n]·(code − zero). Which of the two a directory has, its config says; where it
// does not, the shapes. The scales that AWQ gave to activations are folded into the layers in
// front. gemm is what is written, and what everyone reads. Not read: gemv_fast and other forms.
#include <algorithm>
#include <cstring>
#include <optional>

#include "base/checked.h"
#include "base/threads.h"
#include "formats/hf_directory.h"
#include "formats/json_fields.h"
#include "formats/printable.h"
#include "tensor/transpose.h"

namespace hone {
namespace awq {

constexpr std::string_view kCodes = ".qweight";
constexpr int kMiddle = 8;
constexpr int64_t kMaxGroup = int64_t{1} << 32;
/// Row 8c + j stands in this nibble of its word.
constexpr int kNibble[8] = {0, 4, 1, 5, 2, 6, 3, 7};
// Words of a row that are unpacked together: a cache line.
constexpr int64_t kWordsTogether = 16;

uint32_t word_at(const Tensor& words, int64_t i) {
  return static_cast<uint32_t>(words.data<int32_t>()[i]);
}

class AwqCheckpoint final : public HfCheckpoint {
 public:
  explicit AwqCheckpoint(const fs::path& directory) : HfCheckpoint(directory, "awq") {
    std::string source = (directory / "config.json").string();
    const Json& q = config["quantization_config"];
    int64_t bits = int_field(q, "bits", 4, source);
    HONE_CHECK(bits == 4, unsupported, "{}: AWQ with {} bits is not supported; known: 4", source,
               bits);
    group_ = int_field(q, "group_size", 128, source);
    HONE_CHECK(group_ >= -1 && group_ <= kMaxGroup, corrupt, "{}: \"group_size\": {} columns",
               source, group_);
    std::string form = string_field(q, "version", "", source);
    if (form.empty()) form = string_field(q, "format", "", source);
    if (form.empty()) form = string_field(q, "checkpoint_format", "gemm", source);
    for (char& c : form) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
    // "exllama" and "ipex" say who computes with what gemm stores.
    HONE_CHECK(form == "gemm" || form == "gemv" || form == "exllama" || form == "ipex", unsupported,
               "{}: the AWQ version {} is not supported; known: gemm, gemv", source,
               printable(form));
    gemv_ = form == "gemv";
    for (const std::string& name : tensors_.names()) {
      if (!name.ends_with(kCodes)) continue;
      std::string module = name.substr(0, name.size() - kCodes.size());
      join(module + ".weight", {name, module + ".qzeros", module + ".scales"});
    }
  }

  Weight weight(const std::string& name) const override {
    if (!name.ends_with(".weight")) return HfCheckpoint::weight(name);
    std::string module = name.substr(0, name.size() - std::strlen(".weight"));
    if (!tensors_.has(module + std::string(kCodes))) return HfCheckpoint::weight(name);
    return gemv_ ? gemv(module) : gemm(module);
  }

 private:
  /// All but the planes.
  Weight form(const std::string& module, int64_t n, int64_t k, int64_t groups, DType scales) const {
    HONE_CHECK(n > 0 && k > 0 && groups > 0, corrupt, "{}: module {}: an empty weight",
               path.string(), printable(module));
    Weight w;
    w.shape = {n, k};
    w.encoding = "int_group";
    w.params.bits = 4;
    w.params.scale_type = scales;
    if (groups == 1) return w;
    HONE_CHECK(k % groups == 0, corrupt, "{}: module {}: {} columns make no {} equal groups",
               path.string(), printable(module), k, groups);
    w.params.group = k / groups;
    return w;
  }

  static void set_zeros(Weight& w, const Tensor& zeros) {
    const auto* z = zeros.data<uint8_t>();
    w.params.symmetric = std::all_of(z, z + zeros.numel(), [](uint8_t v) { return v == kMiddle; });
    if (!w.params.symmetric) w.planes["zeros"] = zeros;
  }

  Weight gemm(const std::string& module) const {
    Tensor words = part(module + ".qweight", {DType::i32}, {-1, -1});
    int64_t k = words.dim(0), columns = words.dim(1), n = checked_mul(columns, 8, "qweight");
    Tensor scales = part(module + ".scales", {DType::f16, DType::bf16, DType::f32}, {-1, n});
    int64_t groups = scales.dim(0);
    Tensor packed = part(module + ".qzeros", {DType::i32}, {groups, columns});
    Weight w = form(module, n, k, groups, scales.dtype());
    w.planes["scales"] = transposed(scales);
    Tensor zeros = Tensor::empty({n, groups}, DType::u8);
    for (int64_t g = 0; g < groups; ++g)
      for (int64_t i = 0; i < n; ++i)
        zeros.mutable_data<uint8_t>()[i * groups + g] =
            static_cast<uint8_t>(word_at(packed, g * columns + i / 8) >> (4 * kNibble[i % 8]) & 15);
    set_zeros(w, zeros);
    const int64_t row = ceil_div(k, 2);
    Tensor codes = Tensor::zeros({n, row}, DType::u8);
    auto* out = codes.mutable_data<uint8_t>();
    parallel_for(columns, kWordsTogether, [&](int64_t begin, int64_t end) {
      for (int64_t i = 0; i < k; ++i)
        for (int64_t c = begin; c < end; ++c) {
          const uint32_t word = word_at(words, i * columns + c);
          for (int j = 0; j < 8; ++j) {
            uint8_t& byte = out[(8 * c + j) * row + i / 2];
            byte = static_cast<uint8_t>(byte | (word >> (4 * kNibble[j]) & 15) << (4 * (i % 2)));
          }
        }
    });
    words.release_pages();
    w.planes["codes"] = codes;
    return w;
  }

  Weight gemv(const std::string& module) const {
    Tensor words = part(module + ".qweight", {DType::i32}, {-1, -1});
    int64_t n = words.dim(0), k = checked_mul(words.dim(1), 8, "qweight");
    Tensor packed = part(module + ".qzeros", {DType::i32}, {n, -1});
    int64_t padded = checked_mul(packed.dim(1), 8, "qzeros");
    Tensor scales = part(module + ".scales", {DType::f16, DType::bf16, DType::f32}, {n, padded});
    int64_t groups = group_ <= 0 ? 1 : ceil_div(k, group_);
    HONE_CHECK(group_ <= 0 || k % group_ == 0, unsupported,
               "{}: module {}: groups of {} do not divide {} columns", path.string(),
               printable(module), group_, k);
    HONE_CHECK(groups <= padded, corrupt, "{}: module {}: {} groups of zero points, expected {}",
               path.string(), printable(module), padded, groups);
    Weight w = form(module, n, k, groups, scales.dtype());
    w.planes["codes"] = bytes_of(words, {n, k / 2});
    Tensor kept = Tensor::empty({n, groups}, scales.dtype());
    Tensor zeros = Tensor::empty({n, groups}, DType::u8);
    const int64_t size = dtype_size(scales.dtype());
    for (int64_t i = 0; i < n; ++i) {
      std::memcpy(kept.mutable_raw() + i * groups * size, scales.raw() + i * padded * size,
                  static_cast<size_t>(groups * size));
      for (int64_t g = 0; g < groups; ++g)
        zeros.mutable_data<uint8_t>()[i * groups + g] =
            static_cast<uint8_t>(word_at(packed, i * packed.dim(1) + g / 8) >> (4 * (g % 8)) & 15);
    }
    w.planes["scales"] = kept;
    set_zeros(w, zeros);
    return w;
  }

  int64_t group_ = 128;
  bool gemv_ = false;
};

bool is_quantised(const WeightInfo& w) { return w.encoding == "int_group"; }

Tensor pack_codes(const Weight& w) {
  const int64_t n = w.rows(), k = w.cols(), row = k / 2, columns = n / 8;
  const auto* codes = w.plane("codes").data<uint8_t>();
  Tensor words = Tensor::empty({k, columns}, DType::i32);
  int32_t* out = words.mutable_data<int32_t>();
  parallel_for(columns, kWordsTogether, [&](int64_t begin, int64_t end) {
    for (int64_t i = 0; i < k; ++i)
      for (int64_t c = begin; c < end; ++c) {
        uint32_t word = 0;
        for (int j = 0; j < 8; ++j) {
          const uint32_t code = codes[(8 * c + j) * row + i / 2] >> (4 * (i % 2)) & 15;
          word |= code << (4 * kNibble[j]);
        }
        out[i * columns + c] = static_cast<int32_t>(word);
      }
  });
  return words;
}

Tensor pack_zeros(const Weight& w) {
  const int64_t n = w.rows(), groups = w.plane("scales").dim(1), columns = n / 8;
  const uint8_t* zeros = w.params.symmetric ? nullptr : w.plane("zeros").data<uint8_t>();
  Tensor words = Tensor::empty({groups, columns}, DType::i32);
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t c = 0; c < columns; ++c) {
      uint32_t word = 0;
      for (int j = 0; j < 8; ++j) {
        const uint32_t zero = zeros == nullptr ? kMiddle : zeros[(8 * c + j) * groups + g];
        word |= (zero & 15) << (4 * kNibble[j]);
      }
      words.mutable_data<int32_t>()[g * columns + c] = static_cast<int32_t>(word);
    }
  return words;
}

int64_t group_of(const WeightInfo& w) { return w.params.group == 0 ? -1 : w.params.group; }

std::string refusal(const WeightInfo& w) {
  if (is_float_encoding(w.encoding)) return float_refusal(w);
  if (!is_quantised(w)) return fmt::format("AWQ holds int_group and floats, not {}", w.encoding);
  const WeightParams& p = w.params;
  if (w.shape.size() != 2) return "AWQ holds matrices, not " + shape_string(w.shape);
  if (p.bits != 4) return fmt::format("AWQ holds 4 bits, not {}", p.bits);
  if (p.act_order) return "AWQ has no place for act-order's groups of columns";
  if (p.scale_type != DType::f16)
    return fmt::format("AWQ holds f16 scales, not {}", dtype_name(p.scale_type));
  if (w.shape[0] % 8 != 0 || w.shape[1] % 8 != 0)
    return fmt::format("the sizes of {} are no multiples of 8", shape_string(w.shape));
  if (p.group != 0 && (p.group % 8 != 0 || w.shape[1] % p.group != 0))
    return fmt::format(
        "AWQ readers know groups of a multiple of 8 columns that divide the row: "
        "{} do not divide {}",
        p.group, w.shape[1]);
  return {};
}

/// Readers know one size of groups for all modules.
void check_together(const CheckpointContents& contents) {
  std::optional<int64_t> group;
  for (const WeightInfo& w : contents.weights) {
    if (!is_quantised(w)) continue;
    HONE_CHECK(!group || *group == group_of(w), unsupported,
               "weight {}: one AWQ directory holds one group size: {} or {}", printable(w.name),
               *group, group_of(w));
    group = group_of(w);
  }
}

void write(const fs::path& path, const CheckpointContents& contents) {
  std::vector<HfPiece> pieces;
  Json floats = Json::array();
  int64_t group = 128;
  bool head = false;
  for (const WeightInfo& w : contents.weights) {
    if (!is_quantised(w)) {
      pieces.push_back(float_piece(w));
      if (w.shape.size() == 2 && w.name.ends_with(".weight")) floats.push_back(module_of(w.name));
      continue;
    }
    group = group_of(w);
    head = head || w.name == "lm_head.weight";
    const std::string module = module_of(w.name);
    const int64_t n = w.shape[0], k = w.shape[1], groups = group == -1 ? 1 : k / group;
    pieces.push_back({module + ".qweight", DType::i32, {k, n / 8}, &w, pack_codes});
    pieces.push_back({module + ".qzeros", DType::i32, {groups, n / 8}, &w, pack_zeros});
    pieces.push_back(
        {module + ".scales", w.params.scale_type, {groups, n}, &w, [](const Weight& weight) {
           return transposed(weight.plane("scales"));
         }});
  }
  Json config = {{"quant_method", "awq"},
                 {"version", "gemm"},
                 {"backend", "autoawq"},
                 {"bits", 4},
                 {"group_size", group},
                 {"zero_point", true},
                 {"modules_to_not_convert", nullptr}};
  if (!floats.empty()) config["modules_to_not_convert"] = floats;
  if (head) config["lm_head"] = true;
  if (contents.quantization_notes.is_object()) config["hone"] = contents.quantization_notes;
  write_hf_directory(path, contents, config, pieces);
}

bool can_open(const fs::path& path) { return is_hf_directory(path, "awq"); }

std::unique_ptr<Checkpoint> open(const fs::path& path) {
  return std::make_unique<AwqCheckpoint>(path);
}

}  // namespace awq

namespace layout_entry {

const Layout& awq() {
  static constexpr Layout kLayout = {"awq",
                                     "AWQ directory (gemm packing) as AutoAWQ wrote it",
                                     awq::can_open,
                                     awq::open,
                                     awq::refusal,
                                     awq::write,
                                     awq::check_together};
  return kLayout;
}

}  // namespace layout_entry
}  // namespace hone
