// "fp8": 8-bit floats as DeepSeek and Qwen publish them, and transformers' FineGrainedFP8Config
// writes them.
//
// Of W[N, K] in a module X: X.weight E4M3 [N, K], and X.weight_scale_inv f32 (or exponents of two),
// which multiplies in spite of its name: [ceil(N/128), ceil(K/128)] for blocks of the config's
// "weight_block_size", or [] for the whole matrix. X.activation_scale is left aside. Read, too: the
// rows of FBGEMM ("fbgemm_fp8", X.weight_scale [N, 1]).
#include <optional>

#include "base/checked.h"
#include "formats/hf_directory.h"
#include "formats/json_fields.h"
#include "formats/printable.h"
#include "formats/scaled_floats.h"

namespace hone {
namespace fp8 {

constexpr const char* kScales[] = {".weight_scale_inv", ".weight_scale"};

class Fp8Checkpoint final : public HfCheckpoint {
 public:
  explicit Fp8Checkpoint(const fs::path& directory) : HfCheckpoint(directory, "fp8") {
    const std::string source = (directory / "config.json").string();
    const Json& q = config["quantization_config"];
    if (const Json* block = find_field(q, "weight_block_size"); block != nullptr) {
      HONE_CHECK(block->is_array() && block->size() == 2, corrupt,
                 "{}: \"weight_block_size\": expected two sizes", source);
      rows_ = json_integer((*block)[0], "\"weight_block_size\"", source);
      columns_ = json_integer((*block)[1], "\"weight_block_size\"", source);
      HONE_CHECK(rows_ > 0 && columns_ > 0, corrupt, "{}: \"weight_block_size\": {} x {}", source,
                 rows_, columns_);
    }
    for (const std::string& name : tensors_.names()) {
      for (const char* aside : {".activation_scale", ".input_scale", ".input_scale_ub"})
        if (name.ends_with(aside)) names_.erase(name);
      for (std::string_view scale : kScales)
        if (name.ends_with(scale)) {
          const std::string module = name.substr(0, name.size() - scale.size());
          join(module + ".weight", {module + ".weight", name});
        }
    }
  }

  Weight weight(const std::string& name) const override {
    if (!name.ends_with(".weight")) return HfCheckpoint::weight(name);
    const std::string module = module_of(name);
    for (const char* scale : kScales)
      if (tensors_.has(module + scale))
        return scaled_f8(part(name, {DType::f8_e4m3}, {-1, -1}), tensors_.tensor(module + scale),
                         rows_, columns_, path.string() + ": module " + printable(module));
    return HfCheckpoint::weight(name);
  }

 private:
  int64_t rows_ = 0, columns_ = 0;
};

bool is_quantised(const WeightInfo& w) { return w.encoding == "f8_e4m3" && w.params.row_scaled; }

std::string refusal(const WeightInfo& w) {
  if (!is_quantised(w)) {
    if (is_float_encoding(w.encoding)) return float_refusal(w);
    return fmt::format("fp8 holds f8_e4m3 and floats, not {}", w.encoding);
  }
  if (w.shape.size() != 2) return "fp8 holds scaled matrices, not " + shape_string(w.shape);
  if (one_f8_scale(w)) return {};
  if (w.params.block > 1 && w.params.group > 0) return {};
  return "fp8 has one scale, or one for each block of rows and columns; compressed-tensors holds "
         "one for each row";
}

/// Rows and columns of a block; none where one scale is for all.
std::optional<std::pair<int64_t, int64_t>> block_of(const WeightInfo& w) {
  if (one_f8_scale(w)) return std::nullopt;
  return std::pair(w.params.block, w.params.group);
}

void check_together(const CheckpointContents& contents) {
  const WeightInfo* first = nullptr;
  for (const WeightInfo& w : contents.weights) {
    if (!is_quantised(w)) continue;
    if (first == nullptr) first = &w;
    HONE_CHECK(block_of(*first) == block_of(w), unsupported,
               "weight {}: one fp8 directory holds one size of blocks", printable(w.name));
  }
}

void write(const fs::path& path, const CheckpointContents& contents) {
  std::vector<HfPiece> pieces;
  Json floats = Json::array(), block = nullptr;
  for (const WeightInfo& w : contents.weights) {
    if (!is_quantised(w)) {
      pieces.push_back(float_piece(w));
      if (w.shape.size() == 2 && w.name.ends_with(".weight")) floats.push_back(module_of(w.name));
      continue;
    }
    Shape shape;
    if (auto size = block_of(w)) {
      block = {size->first, size->second};
      shape = f8_scale_shape(w);
    }
    pieces.push_back({w.name, DType::f8_e4m3, w.shape, &w,
                      [](const Weight& weight) { return weight.plane("values"); }});
    pieces.push_back(
        {w.name + "_scale_inv", DType::f32, shape, &w,
         [&w, shape](const Weight& weight) { return f8_scale(w, weight).reshape(shape); }});
  }
  Json config = {{"quant_method", "fp8"},
                 {"fmt", "e4m3"},
                 {"activation_scheme", "dynamic"},
                 {"weight_block_size", block},
                 {"modules_to_not_convert", floats}};
  if (contents.quantization_notes.is_object()) config["hone"] = contents.quantization_notes;
  write_hf_directory(path, contents, config, pieces);
}

bool can_open(const fs::path& path) {
  return is_hf_directory(path, "fp8") || is_hf_directory(path, "fbgemm_fp8");
}

std::unique_ptr<Checkpoint> open(const fs::path& path) {
  return std::make_unique<Fp8Checkpoint>(path);
}

}  // namespace fp8

namespace layout_entry {

const Layout& fp8() {
  static constexpr Layout kLayout = {
      "fp8",
      "directory of 8-bit floats with scales of blocks, as DeepSeek's",
      fp8::can_open,
      fp8::open,
      fp8::refusal,
      fp8::write,
      fp8::check_together};
  return kLayout;
}

}  // namespace layout_entry
}  // namespace hone
