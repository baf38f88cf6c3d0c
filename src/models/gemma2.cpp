// Gemma 2 (Gemma Team 2024): every other layer has a window; norms before and after both halves,
// weights stored as w and used as 1+w; soft caps on attention scores and logits; embeddings scaled
// by √width; GeGLU.
#include <cmath>
#include <nlohmann/json.hpp>

#include "models/family.h"

namespace hone {
namespace gemma2 {

void common(ModelConfig& m) {
  m.post_norms = true;
  m.norm_offset = 1;
  m.activation = Mlp::Activation::gelu_tanh;
  m.embedding_scale = std::sqrt(static_cast<float>(m.width));
}

bool is_local(int64_t layer) { return layer % 2 == 0; }

void set_layers(ModelConfig& m) {
  if (m.layers > ModelConfig::kMaxLayers) return;  // validate() refuses it
  for (int64_t i = 0; i < m.layers; ++i) m.windowed.push_back(is_local(i));
}

// GGUF does not say it: the 27B model scales by its width over heads instead of the head size.
double gguf_scalar(const ModelConfig& m) {
  return m.layers == 46 ? static_cast<double>(m.width) / static_cast<double>(m.heads)
                        : static_cast<double>(m.head_dim);
}

void from_hf(const Json& c, ModelConfig& m) {
  m.tied_head = true;
  read_common_hf(c, m);
  m.head_dim = config_int(c, "head_dim", 256);
  m.norm_eps = static_cast<float>(config_float(c, "rms_norm_eps", 1e-6));
  m.attention_bias = config_bool(c, "attention_bias", false);
  const std::string act =
      config_string(c, "hidden_activation", config_string(c, "hidden_act", "gelu_pytorch_tanh"));
  HONE_CHECK(act == "gelu_pytorch_tanh", unsupported,
             "config.json: hidden_activation '{}': gemma2 has gelu_pytorch_tanh", act);
  m.window = config_int(c, "sliding_window", 4096);
  if (!read_layer_types(c, m)) set_layers(m);
  const double scalar = config_float(c, "query_pre_attn_scalar", 256);
  HONE_CHECK(scalar > 0, corrupt, "config.json: query_pre_attn_scalar {}: expected > 0", scalar);
  m.attention_scale = static_cast<float>(1 / std::sqrt(scalar));
  // A key that is there and null means none; one that is missing means the published value.
  auto softcap = [&](const char* key, double missing) {
    return static_cast<float>(config_float(c, key, c.contains(key) ? 0 : missing));
  };
  m.attention_softcap = softcap("attn_logit_softcapping", 50);
  m.logit_softcap = softcap("final_logit_softcapping", 30);
  HONE_CHECK(!config_bool(c, "use_bidirectional_attention", false), unsupported,
             "config.json: bidirectional attention is not supported");
  common(m);
}

void from_gguf(const GgufFile& f, ModelConfig& m) {
  read_llama_gguf(f, m);
  m.window = static_cast<int64_t>(f.find_u64("gemma2.attention.sliding_window").value_or(4096));
  set_layers(m);
  m.attention_softcap =
      static_cast<float>(f.find_f64("gemma2.attn_logit_softcapping").value_or(50));
  m.logit_softcap = static_cast<float>(f.find_f64("gemma2.final_logit_softcapping").value_or(30));
  m.attention_scale = static_cast<float>(1 / std::sqrt(gguf_scalar(m)));
  common(m);
}

void to_hf(const ModelConfig& m, Json& c) {
  c["architectures"] = {"Gemma2ForCausalLM"};
  c["model_type"] = "gemma2";
  c["hidden_activation"] = "gelu_pytorch_tanh";
  c["rms_norm_eps"] = json_float(m.norm_eps);
  c["sliding_window"] = m.window;
  // transformers takes a whole number only.
  c["query_pre_attn_scalar"] = std::llround(1.0 / (double{m.attention_scale} * m.attention_scale));
  c["attn_logit_softcapping"] = m.attention_softcap > 0 ? json_float(m.attention_softcap) : Json();
  c["final_logit_softcapping"] = m.logit_softcap > 0 ? json_float(m.logit_softcap) : Json();
}

void to_gguf(const ModelConfig& m, std::vector<GgufEntry>& out) {
  for (int64_t i = 0; i < m.layers; ++i)
    HONE_CHECK(m.windowed[size_t(i)] == is_local(i), unsupported,
               "gguf: gemma2 files have a window in every other layer, this model has not");
  const double scalar = gguf_scalar(m);
  HONE_CHECK(std::fabs(m.attention_scale * std::sqrt(scalar) - 1) < 1e-5, unsupported,
             "gguf: gemma2 files have query_pre_attn_scalar {}, this model has {}", scalar,
             1.0 / (double{m.attention_scale} * m.attention_scale));
  HONE_CHECK(m.attention_softcap > 0 && m.logit_softcap > 0, unsupported,
             "gguf: gemma2 files have both soft caps, this model has not");
  write_llama_gguf("gemma2", m, out);
  out.push_back(
      {"gemma2.attention.sliding_window", GgufValue::u32(static_cast<uint32_t>(m.window))});
  out.push_back({"gemma2.attn_logit_softcapping", GgufValue::f32(m.attention_softcap)});
  out.push_back({"gemma2.final_logit_softcapping", GgufValue::f32(m.logit_softcap)});
}

}  // namespace gemma2

extern const Family kGemma2Family;
const Family kGemma2Family = {
    .name = "gemma2",
    .hf_types = {"gemma2"},
    .gguf_architectures = {"gemma2"},
    .from_hf = gemma2::from_hf,
    .from_gguf = gemma2::from_gguf,
    .to_hf = gemma2::to_hf,
    .to_gguf = gemma2::to_gguf,
    .slots = llama_slots(
        false, {{Role::post_mixer_norm, "model.layers.{}.post_attention_layernorm",
                 "blk.{}.post_attention_norm"},
                {Role::mlp_norm, "model.layers.{}.pre_feedforward_layernorm", "blk.{}.ffn_norm"},
                {Role::post_mlp_norm, "model.layers.{}.post_feedforward_layernorm",
                 "blk.{}.post_ffw_norm"}}),
    .gguf_norm_shift = 1,
    .has_layer_types = true,
};

}  // namespace hone
