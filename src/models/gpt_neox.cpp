// GPT-NeoX and Pythia (Black et al. 2022, Biderman et al. 2023): LayerNorm, attention and MLP of
// one residual, rotation of a part of each head, exact GELU, biases everywhere but on the head, and
// q, k and v of each head in turn in one matrix.
#include <nlohmann/json.hpp>

#include "models/family.h"

namespace hone {
namespace gpt_neox {

void common(ModelConfig& m) {
  m.norm = Norm::Kind::layer;
  m.kv_heads = m.heads;
  m.gated_mlp = false;
  m.mlp_bias = m.norm_bias = true;
}

void from_hf(const Json& c, ModelConfig& m) {
  read_common_hf(c, m);
  m.head_dim = m.heads > 0 ? m.width / m.heads : 0;
  m.norm_eps = static_cast<float>(config_float(c, "layer_norm_eps", 1e-5));
  m.parallel_residual = config_bool(c, "use_parallel_residual", true);
  m.attention_bias = config_bool(c, "attention_bias", true);
  const bool named = c.contains("rope_parameters") && c["rope_parameters"].is_object();
  if (!named || !c["rope_parameters"].contains("rope_theta"))
    m.rope_theta = static_cast<float>(config_float(c, "rotary_emb_base", m.rope_theta));
  m.rope_dim = rotated_part(c, 0.25, m, "rotary_pct");
  m.activation = config_activation(c, "hidden_act", "gelu");
  common(m);
}

void from_gguf(const GgufFile& f, ModelConfig& m) {
  read_common_gguf(f, m);
  m.norm_eps = static_cast<float>(f.get_f64("gptneox.attention.layer_norm_epsilon"));
  m.parallel_residual = f.find_bool("gptneox.use_parallel_residual").value_or(true);
  // The format has no key for it; what files of this architecture are made of has this one.
  m.activation = Mlp::Activation::gelu;
  m.attention_bias = f.find_tensor("blk.0.attn_qkv.bias") != nullptr;
  common(m);
}

void to_hf(const ModelConfig& m, Json& c) {
  c["architectures"] = {"GPTNeoXForCausalLM"};
  c["model_type"] = "gpt_neox";
  c["hidden_act"] = activation_name(m.activation);
  c["layer_norm_eps"] = json_float(m.norm_eps);
  c["use_parallel_residual"] = m.parallel_residual;
  c["attention_bias"] = m.attention_bias;
  c["rotary_pct"] = static_cast<double>(m.rope_dim) / static_cast<double>(m.head_dim);
  c["rotary_emb_base"] = json_float(m.rope_theta);
}

void to_gguf(const ModelConfig& m, std::vector<GgufEntry>& out) {
  HONE_CHECK(m.activation == Mlp::Activation::gelu, unsupported,
             "gguf: files of gptneox have the exact GELU, this model has {}",
             activation_name(m.activation));
  out.push_back({"gptneox.attention.layer_norm_epsilon", GgufValue::f32(m.norm_eps)});
  out.push_back({"gptneox.use_parallel_residual", GgufValue::boolean(m.parallel_residual)});
}

Slot fused(Role role, int part) {
  return {.role = role,
          .hf = "gpt_neox.layers.{}.attention.query_key_value",
          .gguf = "blk.{}.attn_qkv",
          .part = part,
          .parts = 3,
          .parts_by_head = true,
          .gguf_parts_whole = true};
}

}  // namespace gpt_neox

extern const Family kGptNeoxFamily;
const Family kGptNeoxFamily = {
    "gpt_neox",
    {"gpt_neox"},
    {"gptneox"},
    gpt_neox::from_hf,
    gpt_neox::from_gguf,
    gpt_neox::to_hf,
    gpt_neox::to_gguf,
    {
        {Role::embedding, "gpt_neox.embed_in", "token_embd"},
        {Role::final_norm, "gpt_neox.final_layer_norm", "output_norm"},
        {Role::head, "embed_out", "output"},
        {Role::mixer_norm, "gpt_neox.layers.{}.input_layernorm", "blk.{}.attn_norm"},
        gpt_neox::fused(Role::q, 0),
        gpt_neox::fused(Role::k, 1),
        gpt_neox::fused(Role::v, 2),
        {Role::o, "gpt_neox.layers.{}.attention.dense", "blk.{}.attn_output"},
        {Role::mlp_norm, "gpt_neox.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"},
        {Role::up, "gpt_neox.layers.{}.mlp.dense_h_to_4h", "blk.{}.ffn_up"},
        {Role::down, "gpt_neox.layers.{}.mlp.dense_4h_to_h", "blk.{}.ffn_down"},
    },
};

}  // namespace hone
