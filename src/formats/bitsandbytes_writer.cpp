#include <algorithm>

#include "base/checked.h"
#include "formats/bitsandbytes.h"
#include "formats/hf_directory.h"
#include "formats/printable.h"
#include "tensor/code_tables.h"

namespace hone {
namespace {

bool is_4bit(const WeightInfo& w) { return w.encoding == "nf4" || w.encoding == "fp4"; }
bool is_8bit(const WeightInfo& w) { return w.encoding == "int8_row"; }

std::string torch_name(DType dtype) {
  return dtype == DType::f16 ? "float16" : dtype == DType::bf16 ? "bfloat16" : "float32";
}

template <size_t kSize>
Tensor table_tensor(const std::array<float, kSize>& table) {
  return Tensor::from(std::vector<float>(table.begin(), table.end()));
}

/// The JSON of a quant_state in the key order and spacing of Python's json.dumps.
std::string state_json(const WeightInfo& w, DType decoded) {
  std::string out =
      fmt::format(R"({{"quant_type": "{}", "blocksize": {}, "dtype": "{}", "shape": [{}, {}])",
                  w.encoding, w.params.block, torch_name(decoded), w.shape[0], w.shape[1]);
  if (w.params.double_quant)
    out +=
        fmt::format(R"(, "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": {})",
                    Json(static_cast<double>(w.params.nested_offset)).dump());
  return out + "}";
}

Tensor text_tensor(const std::string& text) {
  return Tensor::from(std::vector<uint8_t>(text.begin(), text.end()));
}

void add_4bit(const WeightInfo& w, DType decoded, std::vector<HfPiece>& pieces) {
  int64_t numel = w.shape[0] * w.shape[1], bytes = ceil_div(numel, 2);
  int64_t blocks = ceil_div(numel, w.params.block);
  auto plane = [](const char* name, Shape shape) {
    return [name, shape](const Weight& weight) { return weight.plane(name).reshape(shape); };
  };
  auto add = [&](const std::string& suffix, DType dtype, Shape shape, auto make) {
    pieces.push_back({w.name + suffix, dtype, std::move(shape), &w, make});
  };
  add("", DType::u8, {bytes, 1}, plane("codes", {bytes, 1}));
  add(".absmax", w.params.double_quant ? DType::u8 : DType::f32, {blocks},
      plane("absmax", {blocks}));
  bool nf4 = w.encoding == "nf4";
  add(".quant_map", DType::f32, {16},
      [nf4](const Weight&) { return table_tensor(nf4 ? nf4_table() : fp4_table()); });
  std::string state = state_json(w, decoded);
  add(".quant_state.bitsandbytes__" + w.encoding, DType::u8, {static_cast<int64_t>(state.size())},
      [state](const Weight&) { return text_tensor(state); });
  if (!w.params.double_quant) return;
  add(".nested_absmax", DType::f32, {ceil_div(blocks, 256)},
      plane("nested_absmax", {ceil_div(blocks, 256)}));
  add(".nested_quant_map", DType::f32, {256}, [](const Weight& weight) {
    return weight.planes.contains("nested_map") ? weight.plane("nested_map")
                                                : table_tensor(signed_dynamic_table());
  });
}

void add_8bit(const WeightInfo& w, std::vector<HfPiece>& pieces) {
  std::string module = module_of(w.name);
  auto plane = [](const char* name) {
    return [name](const Weight& weight) { return weight.plane(name); };
  };
  pieces.push_back({w.name, DType::i8, w.shape, &w, plane("codes")});
  pieces.push_back({module + ".SCB", DType::f32, {w.shape[0]}, &w, plane("scales")});
  pieces.push_back({module + ".weight_format", DType::u8, {}, &w, [](const Weight&) {
                      return Tensor::zeros({}, DType::u8);
                    }});
}

/// What all quantised weights of one directory must agree on.
struct Kind {
  bool four = false, eight = false, double_quant = false;
  std::string type = "nf4";
};

Kind kind_of(const CheckpointContents& contents) {
  Kind kind;
  for (const WeightInfo& w : contents.weights) {
    kind.eight = kind.eight || is_8bit(w);
    if (!is_4bit(w)) continue;
    HONE_CHECK(!kind.four || kind.type == w.encoding, unsupported,
               "weight {}: one bitsandbytes directory holds NF4 or FP4, not both",
               printable(w.name));
    kind.four = true;
    kind.type = w.encoding;
    kind.double_quant = kind.double_quant || w.params.double_quant;
  }
  HONE_CHECK(!kind.four || !kind.eight, unsupported,
             "one bitsandbytes directory holds 4-bit or 8-bit weights, not both");
  return kind;
}

Json quantization_config(const CheckpointContents& contents, const Kind& kind) {
  // transformers makes every linear outside this list a quantised one.
  Json skipped = Json::array();
  for (const WeightInfo& w : contents.weights)
    if (is_float_encoding(w.encoding) && w.shape.size() == 2 && w.name.ends_with(".weight"))
      skipped.push_back(module_of(w.name));
  if (std::find(skipped.begin(), skipped.end(), "lm_head") == skipped.end())
    skipped.push_back("lm_head");
  Json config = {{"quant_method", "bitsandbytes"},
                 {"load_in_4bit", !kind.eight},
                 {"load_in_8bit", kind.eight},
                 {"_load_in_4bit", !kind.eight},
                 {"_load_in_8bit", kind.eight},
                 {"llm_int8_threshold", 6.0},
                 {"llm_int8_skip_modules", skipped},
                 {"llm_int8_enable_fp32_cpu_offload", false},
                 {"llm_int8_has_fp16_weight", false},
                 {"bnb_4bit_compute_dtype", torch_name(contents.decoded_type)},
                 {"bnb_4bit_quant_type", kind.type},
                 {"bnb_4bit_use_double_quant", kind.double_quant},
                 {"bnb_4bit_quant_storage", "uint8"}};
  if (contents.quantization_notes.is_object()) config["hone"] = contents.quantization_notes;
  return config;
}

}  // namespace

std::string bitsandbytes_refusal(const WeightInfo& w) {
  if (is_float_encoding(w.encoding)) return float_refusal(w);
  if (!is_4bit(w) && !is_8bit(w))
    return fmt::format("bitsandbytes holds nf4, fp4, int8_row and floats, not {}", w.encoding);
  if (w.shape.size() != 2) return "bitsandbytes holds matrices, not " + shape_string(w.shape);
  return {};
}

void check_bitsandbytes(const CheckpointContents& contents) { kind_of(contents); }

void write_bitsandbytes(const fs::path& path, const CheckpointContents& contents) {
  Kind kind = kind_of(contents);
  std::vector<HfPiece> pieces;
  for (const WeightInfo& w : contents.weights) {
    if (is_4bit(w))
      add_4bit(w, contents.decoded_type, pieces);
    else if (is_8bit(w))
      add_8bit(w, pieces);
    else
      pieces.push_back(float_piece(w));
  }
  write_hf_directory(path, contents, quantization_config(contents, kind), pieces);
}

}  // namespace hone
