#include <algorithm>
#include <map>
#include <tuple>

#include "base/checked.h"
#include "formats/bit_matrix.h"
#include "formats/gptq.h"
#include "formats/hf_directory.h"
#include "formats/printable.h"
#include "tensor/transpose.h"

namespace hone {
namespace gptq_writer {

bool is_quantised(const WeightInfo& w) { return w.encoding == "int_group"; }

int64_t group_count(const WeightInfo& w) {
  return w.params.group == 0 ? 1 : ceil_div(w.shape[1], w.params.group);
}

Tensor pack_codes(const Weight& w) {
  const Tensor& codes = w.plane("codes");
  int64_t n = w.rows(), words = codes.dim(1) / 4;
  Tensor out = Tensor::empty({words, n}, DType::i32);
  transpose(codes.raw(), n, words, sizeof(int32_t), out.mutable_raw());
  return out;
}

Tensor transposed_scales(const Weight& w) { return transposed(w.plane("scales")); }

Tensor pack_zeros(const Weight& w, const std::string& name, bool v2) {
  int bits = w.params.bits, middle = 1 << (bits - 1);
  int64_t n = w.rows(), groups = w.plane("scales").dim(1), words = n * bits / 32;
  const uint8_t* zeros = w.params.symmetric ? nullptr : w.plane("zeros").data<uint8_t>();
  Tensor out = Tensor::zeros({groups, words}, DType::i32);
  auto* streams = reinterpret_cast<uint8_t*>(out.mutable_raw());
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t i = 0; i < n; ++i) {
      int zero = zeros == nullptr ? middle : zeros[i * groups + g];
      HONE_CHECK(v2 || zero > 0, unsupported,
                 "weight {}: row {} has a zero point of 0, which version 1 of the GPTQ layout "
                 "cannot hold; write gptq_v2",
                 printable(name), i);
      stream_set(streams + g * words * 4, i, bits, static_cast<uint8_t>(v2 ? zero : zero - 1));
    }
  return out;
}

Tensor pack_g_idx(const Weight& w) {
  if (w.params.act_order) return w.plane("g_idx");
  Tensor out = Tensor::empty({w.cols()}, DType::i32);
  int64_t group = w.params.group == 0 ? w.cols() : w.params.group;
  for (int64_t k = 0; k < w.cols(); ++k)
    out.mutable_data<int32_t>()[k] = static_cast<int32_t>(k / group);
  return out;
}

void add_pieces(const WeightInfo& w, bool v2, std::vector<HfPiece>& pieces) {
  if (!is_quantised(w)) return pieces.push_back(float_piece(w));
  std::string module = module_of(w.name);
  int64_t n = w.shape[0], k = w.shape[1], groups = group_count(w), bits = w.params.bits;
  pieces.push_back({module + ".qweight", DType::i32, {k * bits / 32, n}, &w, pack_codes});
  pieces.push_back(
      {module + ".qzeros", DType::i32, {groups, n * bits / 32}, &w, [&w, v2](const Weight& weight) {
         return pack_zeros(weight, w.name, v2);
       }});
  pieces.push_back({module + ".scales", w.params.scale_type, {groups, n}, &w, transposed_scales});
  pieces.push_back({module + ".g_idx", DType::i32, {k}, &w, pack_g_idx});
}

/// The settings of one module, or of most.
Json settings(const WeightParams& p) {
  return {{"bits", p.bits},
          {"group_size", p.group == 0 ? int64_t{-1} : p.group},
          {"desc_act", p.act_order},
          {"sym", p.symmetric}};
}

/// A regular expression that matches exactly this module.
std::string module_pattern(const std::string& module) {
  std::string out = "^";
  for (char c : module) {
    if (c == '.') out += '\\';
    out += c;
  }
  return out + "$";
}

/// Whether a part of the name is a layer's number: "model.layers.3.mlp.up_proj".
bool is_in_block(const std::string& module) {
  for (size_t at = module.find('.'); at != std::string::npos; at = module.find('.', at + 1)) {
    size_t end = module.find_first_not_of("0123456789", at + 1);
    if (end != std::string::npos && end > at + 1 && module[end] == '.') return true;
  }
  return false;
}

Json quantization_config(const CheckpointContents& contents, bool v2) {
  using Key = std::tuple<int, int64_t, bool, bool>;
  auto key = [](const WeightParams& p) { return Key(p.bits, p.group, p.act_order, p.symmetric); };
  std::map<Key, int64_t> counts;
  bool head = false;
  for (const WeightInfo& w : contents.weights) {
    if (!is_quantised(w)) continue;
    ++counts[key(w.params)];
    head = head || w.name == "lm_head.weight";
  }
  WeightParams common;
  common.bits = 4;
  if (!counts.empty()) {
    auto most = std::max_element(counts.begin(), counts.end(),
                                 [](const auto& a, const auto& b) { return a.second < b.second; });
    std::tie(common.bits, common.group, common.act_order, common.symmetric) = most->first;
  }
  Json dynamic = Json::object();
  Json quantised = Json::array();
  bool float_in_block = false;
  for (const WeightInfo& w : contents.weights) {
    if (!w.name.ends_with(".weight") || w.shape.size() != 2) continue;
    std::string module = module_of(w.name), pattern = module_pattern(module);
    if (is_quantised(w))
      quantised.push_back(module);
    else
      float_in_block = float_in_block || is_in_block(module);
    if (!is_quantised(w))
      dynamic["-:" + pattern] = Json::object();
    else if (key(w.params) != key(common))
      dynamic["+:" + pattern] = settings(w.params);
  }
  // Old and new names of one thing: checkpoint_format and format, quant_method and method.
  const char* format = v2 ? "gptq_v2" : "gptq";
  Json config = {{"quant_method", "gptq"},
                 {"method", "gptq"},
                 {"format", format},
                 {"checkpoint_format", format}};
  config.update(settings(common));
  config["lm_head"] = head;
  config["pack_dtype"] = "int32";
  if (!dynamic.empty()) config["dynamic"] = dynamic;
  // transformers (through optimum) knows no "dynamic"; it makes every linear of a block a quantised
  // one, or those that this list names.
  if (float_in_block) config["modules_in_block_to_quantize"] = Json::array({quantised});
  Json meta = {{"quantizer", {"hone"}}};
  if (contents.quantization_notes.is_object()) meta.update(contents.quantization_notes);
  config["meta"] = meta;
  return config;
}

}  // namespace gptq_writer

std::string gptq_refusal(const WeightInfo& w) {
  if (is_float_encoding(w.encoding)) return float_refusal(w);
  if (!gptq_writer::is_quantised(w))
    return fmt::format("GPTQ holds int_group and floats, not {}", w.encoding);
  const WeightParams& p = w.params;
  if (w.shape.size() != 2) return "GPTQ holds matrices, not " + shape_string(w.shape);
  if (p.bits != 2 && p.bits != 3 && p.bits != 4 && p.bits != 8)
    return fmt::format("GPTQ holds 2, 3, 4 or 8 bits, not {}", p.bits);
  // Readers ask for it, though the words would be full before.
  if (w.shape[0] % 32 != 0 || w.shape[1] % 32 != 0)
    return fmt::format("the sizes of {} are no multiples of 32", shape_string(w.shape));
  constexpr int64_t kGroups[] = {0, 16, 32, 64, 128, 256, 512, 1024};
  if (std::find(std::begin(kGroups), std::end(kGroups), p.group) == std::end(kGroups))
    return fmt::format("GPTQ readers know groups of 16, 32, ... 1024 columns or rows, not {}",
                       p.group);
  if (p.scale_type != DType::f16 && p.scale_type != DType::bf16)
    return fmt::format("GPTQ holds f16 or bf16 scales, not {}", dtype_name(p.scale_type));
  return {};
}

void write_gptq(const fs::path& path, const CheckpointContents& contents, bool v2) {
  std::vector<HfPiece> pieces;
  for (const WeightInfo& w : contents.weights) gptq_writer::add_pieces(w, v2, pieces);
  Json config = gptq_writer::quantization_config(contents, v2);
  write_hf_directory(path, contents, config, pieces,
                     {{"quantize_config.json", config.dump(2) + "\n"}});
}

}  // namespace hone
