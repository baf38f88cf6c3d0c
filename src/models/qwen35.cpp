// Qwen3.5, text, dense: three layers of Gated DeltaNet to one of softmax attention, which has a
// gate on its result, norms on q and k and a rotation of a part of each head; norm weights stored
// as w and used as 1+w; SwiGLU.
#include <nlohmann/json.hpp>

#include "models/family.h"

namespace hone {
namespace qwen35 {

void read_qwen_layers(const Json& c, ModelConfig& m) {
  if (m.layers > ModelConfig::kMaxLayers) return;  // validate() refuses it
  if (!c.contains("layer_types") || !c["layer_types"].is_array()) {
    const int64_t every = config_int(c, "full_attention_interval", 4);
    HONE_CHECK(every > 0, corrupt, "config.json: full_attention_interval {}", every);
    for (int64_t i = 0; i < m.layers; ++i) m.softmax.push_back((i + 1) % every == 0);
    return;
  }
  for (const Json& type : c["layer_types"]) {
    HONE_CHECK(type == "linear_attention" || type == "full_attention", unsupported,
               "config.json: layer type {} is not supported", type.dump().substr(0, 60));
    m.softmax.push_back(type == "full_attention");
  }
}

void from_hf(const Json& c, ModelConfig& m) {
  read_common_hf(c, m);
  m.head_dim = config_int(c, "head_dim", 256);
  m.norm_eps = static_cast<float>(config_float(c, "rms_norm_eps", 1e-6));
  m.norm_offset = 1;
  m.qk_norm = m.gated_attention = true;
  m.attention_bias = config_bool(c, "attention_bias", false);
  double part = config_float(c, "partial_rotary_factor", 0.25);
  if (c.contains("rope_parameters") && c["rope_parameters"].is_object())
    part = config_float(c["rope_parameters"], "partial_rotary_factor", part);
  HONE_CHECK(part > 0 && part <= 1 && m.head_dim > 0 && m.head_dim <= 1 << 14, corrupt,
             "config.json: partial_rotary_factor {} of head_dim {}", part, m.head_dim);
  m.rope_dim = static_cast<int64_t>(double(m.head_dim) * part);
  HONE_CHECK(config_string(c, "hidden_act", "silu") == "silu", unsupported,
             "config.json: hidden_act: qwen3_5 has silu");
  m.mixer = "gated_delta";
  MixerSpec& s = m.mixing;
  s.heads = config_int(c, "linear_num_value_heads", 32);
  s.qk_heads = config_int(c, "linear_num_key_heads", 16);
  s.k_dim = config_int(c, "linear_key_head_dim", 128);
  s.v_dim = config_int(c, "linear_value_head_dim", 128);
  s.filter = config_int(c, "linear_conv_kernel_dim", 4);
  s.eps = m.norm_eps;
  HONE_CHECK(s.filter >= 2 && s.filter <= 64, corrupt, "config.json: linear_conv_kernel_dim {}",
             s.filter);
  read_qwen_layers(c, m);
}

void to_hf(const ModelConfig& m, Json& c) {
  const MixerSpec& s = m.mixing;
  c["architectures"] = {"Qwen3_5ForCausalLM"};
  c["model_type"] = "qwen3_5_text";
  c["hidden_act"] = "silu";
  c["rms_norm_eps"] = json_float(m.norm_eps);
  c["partial_rotary_factor"] = double(m.rope_dim) / double(m.head_dim);
  c["linear_num_value_heads"] = s.heads;
  c["linear_num_key_heads"] = s.qk_heads;
  c["linear_key_head_dim"] = s.k_dim;
  c["linear_value_head_dim"] = s.v_dim;
  c["linear_conv_kernel_dim"] = s.filter;
}

}  // namespace qwen35

extern const Family kQwen35Family;
const Family kQwen35Family = {
    "qwen3_5",
    {"qwen3_5_text"},
    {},
    qwen35::from_hf,
    nullptr,
    qwen35::to_hf,
    nullptr,
    {
        {Role::embedding, "model.embed_tokens", nullptr},
        {Role::final_norm, "model.norm", nullptr},
        {Role::head, "lm_head", nullptr},
        {Role::mixer_norm, "model.layers.{}.input_layernorm", nullptr},
        {.role = Role::q,
         .hf = "model.layers.{}.self_attn.q_proj",
         .gguf = nullptr,
         .part = 0,
         .parts = 2,
         .parts_by_head = true},
        {.role = Role::attention_gate,
         .hf = "model.layers.{}.self_attn.q_proj",
         .gguf = nullptr,
         .part = 1,
         .parts = 2,
         .parts_by_head = true},
        {Role::k, "model.layers.{}.self_attn.k_proj", nullptr},
        {Role::v, "model.layers.{}.self_attn.v_proj", nullptr},
        {Role::o, "model.layers.{}.self_attn.o_proj", nullptr},
        {Role::q_norm, "model.layers.{}.self_attn.q_norm", nullptr},
        {Role::k_norm, "model.layers.{}.self_attn.k_norm", nullptr},
        {Role::mlp_norm, "model.layers.{}.post_attention_layernorm", nullptr},
        {Role::gate, "model.layers.{}.mlp.gate_proj", nullptr},
        {Role::up, "model.layers.{}.mlp.up_proj", nullptr},
        {Role::down, "model.layers.{}.mlp.down_proj", nullptr},
    },
    0,
    {
        {"qkv", "model.layers.{}.linear_attn.in_proj_qkv.weight"},
        {"z", "model.layers.{}.linear_attn.in_proj_z.weight"},
        {"a", "model.layers.{}.linear_attn.in_proj_a.weight"},
        {"b", "model.layers.{}.linear_attn.in_proj_b.weight"},
        {"out", "model.layers.{}.linear_attn.out_proj.weight"},
        {.parameter = "filter", .hf = "model.layers.{}.linear_attn.conv1d.weight", .filter = true},
        {"step_bias", "model.layers.{}.linear_attn.dt_bias"},
        {"log_a", "model.layers.{}.linear_attn.A_log"},
        {"norm", "model.layers.{}.linear_attn.norm"},
    },
};

}  // namespace hone
