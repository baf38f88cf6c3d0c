// Gemma 3, text (Gemma Team 2025): five windowed layers to one global, with rotations of their own;
// norms before and after both halves, on q and k too; norm weights stored as w and used as 1+w;
// embeddings scaled by √width; GeGLU.
#include <cmath>
#include <nlohmann/json.hpp>

#include "models/family.h"

namespace hone {
namespace gemma3 {

// The pattern of the published models: every sixth layer sees everything.
constexpr int64_t kGlobalEvery = 6;

void common(ModelConfig& m) {
  m.qk_norm = true;
  m.post_norms = true;
  m.norm_offset = 1;
  m.activation = Mlp::Activation::gelu_tanh;
  // The factor is applied in the model's own precision, bf16, in the reference implementation.
  m.embedding_scale = std::sqrt(static_cast<float>(m.width));
}

void set_layers(ModelConfig& m, int64_t global_every) {
  m.windowed.clear();
  if (m.layers > ModelConfig::kMaxLayers) return;  // validate() refuses it
  for (int64_t i = 0; i < m.layers; ++i) m.windowed.push_back((i + 1) % global_every != 0);
}

void read_layers(const Json& c, ModelConfig& m) {
  if (read_layer_types(c, m)) return;
  const int64_t every = config_int(c, "sliding_window_pattern", kGlobalEvery);
  HONE_CHECK(every > 0, corrupt, "config.json: sliding_window_pattern {}: expected > 0", every);
  set_layers(m, every);
}

void from_hf(const Json& c, ModelConfig& m) {
  m.tied_head = true;
  m.rope_theta = 1e6f;
  m.local_rope_theta = 1e4f;
  read_common_hf(c, m);
  m.head_dim = config_int(c, "head_dim", 256);
  m.norm_eps = static_cast<float>(config_float(c, "rms_norm_eps", 1e-6));
  m.local_rope_theta = static_cast<float>(config_float(c, "rope_local_base_freq", 1e4));
  if (c.contains("rope_parameters") && c["rope_parameters"].is_object()) {
    const Json& p = c["rope_parameters"];
    RopeScaling local;
    if (p.contains("full_attention")) read_rope(p["full_attention"], m.rope_theta, m.rope_scaling);
    if (p.contains("sliding_attention"))
      read_rope(p["sliding_attention"], m.local_rope_theta, local);
    HONE_CHECK(local == RopeScaling{}, unsupported,
               "config.json: scaled rotations of windowed layers are not supported");
  }
  m.window = config_int(c, "sliding_window", 4096);
  read_layers(c, m);
  double scalar = config_float(c, "query_pre_attn_scalar", 256);
  HONE_CHECK(scalar > 0, corrupt, "config.json: query_pre_attn_scalar {}: expected > 0", scalar);
  m.attention_scale = static_cast<float>(1 / std::sqrt(scalar));
  m.attention_softcap = static_cast<float>(config_float(c, "attn_logit_softcapping", 0));
  m.logit_softcap = static_cast<float>(config_float(c, "final_logit_softcapping", 0));
  HONE_CHECK(!config_bool(c, "use_bidirectional_attention", false), unsupported,
             "config.json: bidirectional attention is not supported");
  common(m);
}

void from_gguf(const GgufFile& f, ModelConfig& m) {
  m.rope_theta = 1e6f;
  m.local_rope_theta = 1e4f;
  read_common_gguf(f, m);
  m.norm_eps = static_cast<float>(f.get_f64("gemma3.attention.layer_norm_rms_epsilon"));
  m.window = static_cast<int64_t>(f.find_u64("gemma3.attention.sliding_window").value_or(0));
  if (m.window > 0) {
    int64_t every = kGlobalEvery;
    // Where a file says so itself; the key exists only in newer ones.
    const GgufValue* pattern = f.find("gemma3.attention.sliding_window_pattern");
    if (pattern != nullptr && pattern->type != GgufType::array)
      every = static_cast<int64_t>(f.get_u64("gemma3.attention.sliding_window_pattern"));
    HONE_CHECK(every > 0, corrupt, "{}: sliding_window_pattern is 0", f.path().string());
    set_layers(m, every);
  }
  m.logit_softcap = static_cast<float>(f.find_f64("gemma3.final_logit_softcapping").value_or(0));
  // The 27B model scales by its width over heads instead of the head size; GGUF does not say so.
  double scalar = m.layers == 62 ? static_cast<double>(m.width) / static_cast<double>(m.heads)
                                 : static_cast<double>(m.head_dim);
  m.attention_scale = static_cast<float>(1 / std::sqrt(scalar));
  common(m);
}

void to_hf(const ModelConfig& m, Json& c) {
  c["architectures"] = {"Gemma3ForCausalLM"};
  c["model_type"] = "gemma3_text";
  c["hidden_activation"] = "gelu_pytorch_tanh";
  c["rms_norm_eps"] = json_float(m.norm_eps);
  c["rope_local_base_freq"] = json_float(m.local_rope_theta);
  c["sliding_window"] = m.window > 0 ? m.window : m.context;
  // transformers takes a whole number only.
  c["query_pre_attn_scalar"] = std::llround(1.0 / (double{m.attention_scale} * m.attention_scale));
  Json types = Json::array();
  for (int64_t i = 0; i < m.layers; ++i)
    types.push_back(!m.windowed.empty() && m.windowed[i] ? "sliding_attention" : "full_attention");
  c["layer_types"] = types;
}

// GGUF readers fix what its metadata cannot say.
void check_expressible(const ModelConfig& m) {
  for (int64_t i = 0; i < m.layers; ++i)
    HONE_CHECK(m.windowed.empty() || m.windowed[i] == ((i + 1) % kGlobalEvery != 0), unsupported,
               "gguf: gemma3 files have a global layer every {}, this model has not", kGlobalEvery);
  HONE_CHECK(m.window == 0 || m.local_rope_theta == 1e4f, unsupported,
             "gguf: gemma3 files have a local rope base of 10000, this model has {}",
             m.local_rope_theta);
  double scalar = m.layers == 62 ? static_cast<double>(m.width) / static_cast<double>(m.heads)
                                 : static_cast<double>(m.head_dim);
  HONE_CHECK(std::fabs(m.attention_scale * std::sqrt(scalar) - 1) < 1e-5, unsupported,
             "gguf: gemma3 files have query_pre_attn_scalar {}, this model has {}", scalar,
             1.0 / (double{m.attention_scale} * m.attention_scale));
  HONE_CHECK(m.attention_softcap == 0, unsupported, "gguf: gemma3 files have no attention softcap");
}

void to_gguf(const ModelConfig& m, std::vector<GgufEntry>& out) {
  check_expressible(m);
  out.push_back({"gemma3.attention.layer_norm_rms_epsilon", GgufValue::f32(m.norm_eps)});
  out.push_back(
      {"gemma3.attention.sliding_window", GgufValue::u32(static_cast<uint32_t>(m.window))});
}

}  // namespace gemma3

extern const Family kGemma3Family;
const Family kGemma3Family = {
    "gemma3",
    {"gemma3_text"},
    {"gemma3"},
    gemma3::from_hf,
    gemma3::from_gguf,
    gemma3::to_hf,
    gemma3::to_gguf,
    {
        {Role::embedding, "model.embed_tokens", "token_embd"},
        {Role::final_norm, "model.norm", "output_norm"},
        {Role::head, "lm_head", "output"},
        {Role::mixer_norm, "model.layers.{}.input_layernorm", "blk.{}.attn_norm"},
        {Role::post_mixer_norm, "model.layers.{}.post_attention_layernorm",
         "blk.{}.post_attention_norm"},
        {Role::mlp_norm, "model.layers.{}.pre_feedforward_layernorm", "blk.{}.ffn_norm"},
        {Role::post_mlp_norm, "model.layers.{}.post_feedforward_layernorm", "blk.{}.post_ffw_norm"},
        {Role::q, "model.layers.{}.self_attn.q_proj", "blk.{}.attn_q"},
        {Role::k, "model.layers.{}.self_attn.k_proj", "blk.{}.attn_k"},
        {Role::v, "model.layers.{}.self_attn.v_proj", "blk.{}.attn_v"},
        {Role::o, "model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"},
        {Role::q_norm, "model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm"},
        {Role::k_norm, "model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm"},
        {Role::gate, "model.layers.{}.mlp.gate_proj", "blk.{}.ffn_gate"},
        {Role::up, "model.layers.{}.mlp.up_proj", "blk.{}.ffn_up"},
        {Role::down, "model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"},
    },
    1.0f,
    {},
    nullptr,
    false,
    true,
};

}  // namespace hone
