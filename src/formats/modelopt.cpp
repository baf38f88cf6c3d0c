// "modelopt": directories of NVIDIA's ModelOpt, which vLLM and TensorRT-LLM load. What was
// quantised stands in config.json's quantization_config or in hf_quant_config.json.
//
// Of W[N, K] in a module X:
//   FP8     X.weight E4M3 [N, K]; X.weight_scale f32 [], [N], or for blocks
//   NVFP4   X.weight u8 [N, K/2], the even column in the low nibble; X.weight_scale E4M3 [N, K/16];
//           X.weight_scale_2 f32 []: w = e2m1·(weight_scale·weight_scale_2)
// Scales of activations (X.input_scale) and of KV caches are left aside. Written: NVFP4 weights
// alone, as the library's W4A16_NVFP4. Not read: modules whose input is scaled channel by channel
// (X.pre_quant_scale), integers.
#include "base/checked.h"
#include "formats/hf_directory.h"
#include "formats/json_fields.h"
#include "formats/printable.h"
#include "formats/scaled_floats.h"

namespace hone {
namespace modelopt {

constexpr std::string_view kScale = ".weight_scale";
constexpr int64_t kBlock = 128;  // of the library's FP8 in blocks

class ModeloptCheckpoint final : public HfCheckpoint {
 public:
  explicit ModeloptCheckpoint(const fs::path& directory) : HfCheckpoint(directory, "modelopt") {
    for (const std::string& name : tensors_.names()) {
      for (const char* aside : {".input_scale", ".output_scale", ".k_scale", ".v_scale"})
        if (name.ends_with(aside)) names_.erase(name);
      HONE_CHECK(!name.ends_with(".pre_quant_scale"), unsupported,
                 "{}: tensor {}: scales of a module's input channels are not supported",
                 path.string(), printable(name));
      if (!name.ends_with(kScale)) continue;
      const std::string module = name.substr(0, name.size() - kScale.size());
      join(module + ".weight", {module + ".weight", name, module + ".weight_scale_2"});
    }
  }

  Weight weight(const std::string& name) const override {
    if (!name.ends_with(".weight")) return HfCheckpoint::weight(name);
    const std::string module = module_of(name);
    if (!tensors_.has(module + std::string(kScale))) return HfCheckpoint::weight(name);
    const Tensor values = part(name, {DType::f8_e4m3, DType::u8}, {-1, -1});
    if (values.dtype() == DType::u8) return nvfp4(module, values);
    return scaled_f8(values, tensors_.tensor(module + std::string(kScale)), kBlock, kBlock,
                     where(module));
  }

 private:
  std::string where(const std::string& module) const {
    return path.string() + ": module " + printable(module);
  }

  Weight nvfp4(const std::string& module, const Tensor& codes) const {
    const int64_t n = codes.dim(0), k = checked_mul(codes.dim(1), 2, "weight");
    HONE_CHECK(n > 0 && k > 0 && k % 16 == 0, corrupt, "{}: {} columns make no groups of 16",
               where(module), k);
    Weight w;
    w.shape = {n, k};
    w.encoding = "nvfp4_modelopt";
    w.params.bits = 4;
    w.planes["codes"] = codes;
    w.planes["scales"] = part(module + std::string(kScale), {DType::f8_e4m3}, {n, k / 16});
    HONE_CHECK(tensors_.has(module + ".weight_scale_2"), corrupt, "{}: weight_scale_2 is missing",
               where(module));
    const Tensor factor = tensors_.tensor(module + ".weight_scale_2");
    HONE_CHECK(factor.dtype() == DType::f32 && factor.numel() == 1, corrupt,
               "{}: weight_scale_2 is {} {}", where(module), dtype_name(factor.dtype()),
               shape_string(factor.shape()));
    w.planes["global"] = factor.reshape({1});
    return w;
  }
};

bool is_quantised(const WeightInfo& w) { return w.encoding == "nvfp4_modelopt"; }

std::string refusal(const WeightInfo& w) {
  if (is_float_encoding(w.encoding)) return float_refusal(w);
  if (is_quantised(w)) return {};
  return fmt::format("modelopt is written with nvfp4_modelopt and floats, not {}", w.encoding);
}

void write(const fs::path& path, const CheckpointContents& contents) {
  std::vector<HfPiece> pieces;
  Json excluded = Json::array();
  auto plane = [](const char* name) { return [name](const Weight& w) { return w.plane(name); }; };
  for (const WeightInfo& w : contents.weights) {
    if (!is_quantised(w)) {
      pieces.push_back(float_piece(w));
      if (w.shape.size() == 2 && w.name.ends_with(".weight")) excluded.push_back(module_of(w.name));
      continue;
    }
    const int64_t n = w.shape[0], k = w.shape[1];
    pieces.push_back({w.name, DType::u8, {n, k / 2}, &w, plane("codes")});
    pieces.push_back({w.name + "_scale", DType::f8_e4m3, {n, k / 16}, &w, plane("scales")});
    pieces.push_back({w.name + "_scale_2", DType::f32, {}, &w, [](const Weight& weight) {
                        return weight.plane("global").reshape({});
                      }});
  }
  const char* algorithm = "W4A16_NVFP4";
  const Json producer = {{"name", "hone"}};
  Json config = {{"quant_method", "modelopt"},
                 {"quant_algo", algorithm},
                 {"group_size", 16},
                 {"ignore", excluded},
                 {"producer", producer}};
  if (contents.quantization_notes.is_object()) config["hone"] = contents.quantization_notes;
  const Json own = {{"producer", producer},
                    {"quantization",
                     {{"quant_algo", algorithm},
                      {"kv_cache_quant_algo", nullptr},
                      {"group_size", 16},
                      {"exclude_modules", excluded}}}};
  write_hf_directory(path, contents, config, pieces,
                     {{"hf_quant_config.json", own.dump(2) + "\n"}});
}

bool can_open(const fs::path& path) {
  return is_hf_directory(path, "modelopt") || is_hf_directory(path, "modelopt_fp4");
}

std::unique_ptr<Checkpoint> open(const fs::path& path) {
  return std::make_unique<ModeloptCheckpoint>(path);
}

}  // namespace modelopt

namespace layout_entry {

const Layout& modelopt() {
  static constexpr Layout kLayout = {"modelopt",
                                     "directory of NVIDIA's ModelOpt: FP8, NVFP4",
                                     modelopt::can_open,
                                     modelopt::open,
                                     modelopt::refusal,
                                     modelopt::write,
                                     nullptr};
  return kLayout;
}

}  // namespace layout_entry
}  // namespace hone
