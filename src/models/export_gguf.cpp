#include "models/export_gguf.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "encodings/encoding.h"
#include "encodings/int_grid.h"
#include "formats/ggml_types.h"

namespace hone {

std::vector<GgufEntry> gguf_metadata(const LoadedModel& model, uint32_t file_type) {
  std::vector<GgufEntry> out;
  auto u32 = [](int64_t x) { return GgufValue::u32(static_cast<uint32_t>(x)); };
  if (const GgufFile* file = model.checkpoint->gguf()) {
    // As it was, but for what the new weights change.
    constexpr std::string_view kKvHeads = ".attention.head_count_kv";
    for (GgufEntry e : file->metadata()) {
      if (e.key == "general.file_type" || e.key.rfind("split.", 0) == 0) continue;
      if (e.key.ends_with(kKvHeads)) e.value = u32(model.config.kv_heads);
      out.push_back(std::move(e));
    }
    out.push_back({"general.file_type", u32(file_type)});
    return out;
  }
  const ModelConfig& m = model.config;
  std::string arch = model.family->gguf_architectures[0], a = arch + ".";
  out.push_back({"general.architecture", GgufValue::string(arch)});
  out.push_back({"general.name", GgufValue::string(model.name)});
  out.push_back({"general.quantization_version", u32(2)});
  out.push_back({"general.file_type", u32(file_type)});
  out.push_back({a + "context_length", u32(m.context)});
  out.push_back({a + "embedding_length", u32(m.width)});
  out.push_back({a + "block_count", u32(m.layers)});
  out.push_back({a + "feed_forward_length", u32(m.ffn)});
  out.push_back({a + "attention.head_count", u32(m.heads)});
  out.push_back({a + "attention.head_count_kv", u32(m.kv_heads)});
  out.push_back({a + "vocab_size", u32(m.vocabulary)});
  if (m.experts > 0) {
    out.push_back({a + "expert_count", u32(m.experts)});
    out.push_back({a + "expert_used_count", u32(m.experts_used)});
    out.push_back({a + "expert_feed_forward_length", u32(m.expert_ffn)});
  }
  if (m.rotary) {
    out.push_back({a + "attention.key_length", u32(m.head_dim)});
    out.push_back({a + "attention.value_length", u32(m.head_dim)});
    out.push_back({a + "rope.dimension_count", u32(m.rope_dim > 0 ? m.rope_dim : m.head_dim)});
    out.push_back({a + "rope.freq_base", GgufValue::f32(m.rope_theta)});
    if (m.rope_scaling.kind == RopeScaling::Kind::linear) {
      out.push_back({a + "rope.scaling.type", GgufValue::string("linear")});
      out.push_back({a + "rope.scaling.factor", GgufValue::f32(m.rope_scaling.factor)});
    }
  }
  model.family->to_gguf(m, out);
  if (!model.tokenizer) return out;
  const TokenizerSpec& t = model.tokenizer->spec();
  HONE_CHECK(t.gguf_obstacle.empty(), unsupported, "gguf: this tokenizer cannot be written: {}",
             t.gguf_obstacle);
  const std::string k = "tokenizer.ggml.";
  out.push_back({k + "model", GgufValue::string(t.model)});
  if (!t.pre.empty()) out.push_back({k + "pre", GgufValue::string(t.pre)});
  out.push_back({k + "tokens", GgufValue::strings(t.tokens)});
  if (!t.scores.empty()) out.push_back({k + "scores", GgufValue::floats(t.scores)});
  if (!t.token_types.empty())
    out.push_back(
        {k + "token_type", GgufValue::i32s({t.token_types.begin(), t.token_types.end()})});
  if (!t.merges.empty()) out.push_back({k + "merges", GgufValue::strings(t.merges)});
  auto id = [&](const char* key, std::optional<int32_t> v) {
    if (v) out.push_back({k + key, u32(*v)});
  };
  id("bos_token_id", t.bos);
  id("eos_token_id", t.eos);
  id("unknown_token_id", t.unk);
  id("padding_token_id", t.pad);
  id("eot_token_id", t.eot);
  if (t.add_bos) out.push_back({k + "add_bos_token", GgufValue::boolean(*t.add_bos)});
  if (t.add_eos) out.push_back({k + "add_eos_token", GgufValue::boolean(*t.add_eos)});
  if (t.add_space_prefix)
    out.push_back({k + "add_space_prefix", GgufValue::boolean(*t.add_space_prefix)});
  if (!model.chat_template.empty())
    out.push_back({"tokenizer.chat_template", GgufValue::string(model.chat_template)});
  return out;
}

std::string gguf_tensor_name(const LoadedModel& model, const std::string& module) {
  for (const Slot& s : model.family->slots) {
    if (s.gguf == nullptr || (s.role != Role::embedding && !is_linear_role(s.role))) continue;
    for (int64_t i = 0; i < (is_layer_role(s.role) ? model.config.layers : 1); ++i)
      for (int64_t e = 0; e < (is_expert_role(s.role) ? model.config.experts : 1); ++e)
        if (module_path(s, i, e) == module) return slot_name(s.gguf, i) + ".weight";
  }
  return {};
}

std::string exact_gguf_encoding(const Weight& w) {
  const WeightParams& p = w.params;
  if (w.encoding != "int_group" || !p.symmetric || p.act_order || p.scale_type != DType::f16)
    return {};
  bool whole_blocks =
      p.group % 32 == 0 && w.cols() % 32 == 0 && (p.group == 0 || w.cols() % p.group == 0);
  if (!whole_blocks) return {};
  return p.bits == 4 ? "q4_0" : p.bits == 8 ? "q8_0" : "";
}

Weight exact_gguf_weight(const Weight& w) {
  std::string id = exact_gguf_encoding(w);
  if (id.empty()) return w;
  const WeightParams& p = w.params;
  int64_t n = w.rows(), k = w.cols(), group = p.group == 0 ? k : p.group;
  int64_t blocks = k / 32, size = find_ggml_type(id)->block_bytes, groups = k / group;
  Weight out;
  out.shape = w.shape;
  out.encoding = id;
  Tensor data = Tensor::empty({n, blocks * size}, DType::u8);
  const Tensor &codes = w.plane("codes"), &scales = w.plane("scales");
  std::vector<uint8_t> row(static_cast<size_t>(k));
  for (int64_t r = 0; r < n; ++r) {
    unpack_codes(codes.data<uint8_t>() + r * codes.dim(1), k, p.bits, row.data());
    for (int64_t b = 0; b < blocks; ++b) {
      uint8_t* to = data.mutable_data<uint8_t>() + (r * blocks + b) * size;
      f16 scale = scales.data<f16>()[r * groups + b * 32 / group];
      std::memcpy(to, &scale.bits, 2);
      const uint8_t* q = &row[b * 32];
      if (p.bits == 4)
        for (int j = 0; j < 16; ++j) to[2 + j] = static_cast<uint8_t>(q[j] | q[j + 16] << 4);
      else
        for (int j = 0; j < 32; ++j) to[2 + j] = static_cast<uint8_t>(q[j] - 128);
    }
  }
  out.planes["blocks"] = data;
  return out;
}

std::vector<std::pair<const char*, Weight>> rope_tensors(const ModelConfig& c) {
  const RopeScaling& s = c.rope_scaling;
  HONE_CHECK(s.kind != RopeScaling::Kind::longrope || c.family == "phi3", unsupported,
             "gguf: files of {} have no place for LongRoPE's factors", c.family);
  if (s.kind == RopeScaling::Kind::longrope)
    return {{kRopeTensors[1], float_weight(Tensor::from(s.short_factors))},
            {kRopeTensors[2], float_weight(Tensor::from(s.long_factors))}};
  if (s.kind != RopeScaling::Kind::llama3) return {};
  int64_t dim = c.rope_dim > 0 ? c.rope_dim : c.head_dim;
  Rope plain(dim, c.rope_theta, {}), scaled(dim, c.rope_theta, c.rope_scaling);
  std::vector<float> divisors;
  for (int64_t i = 0; i < dim / 2; ++i)
    divisors.push_back(plain.frequencies()[i] / scaled.frequencies()[i]);
  return {{kRopeTensors[0], float_weight(Tensor::from(divisors))}};
}

Json llama3_scaling(const Weight& weight, float theta, const std::string& source) {
  Tensor divisors = decode_weight(weight);
  const float* d = divisors.data<float>();
  RopeScaling s;
  s.kind = RopeScaling::Kind::llama3;
  s.factor = *std::max_element(d, d + divisors.numel());
  Rope plain(2 * divisors.numel(), theta, {});
  Rope scaled(2 * divisors.numel(), theta, s);
  for (int64_t i = 0; i < divisors.numel(); ++i)
    HONE_CHECK(std::fabs(plain.frequencies()[i] / scaled.frequencies()[i] / d[i] - 1) < 1e-4,
               unsupported, "{}: config.json has no way to say its rope_freqs", source);
  return {{"rope_type", "llama3"},
          {"factor", json_float(s.factor)},
          {"low_freq_factor", json_float(s.low_freq_factor)},
          {"high_freq_factor", json_float(s.high_freq_factor)},
          {"original_max_position_embeddings", static_cast<int64_t>(s.original_context)}};
}

}  // namespace hone
