// GPT-BigCode: SantaCoder and StarCoder (Ben Allal et al. 2023, Li et al. 2023). GPT-2 with one
// key/value head for all query heads, whose q, k and v are rows of one matrix.
#include <nlohmann/json.hpp>

#include "base/checked.h"
#include "models/family.h"

namespace hone {
namespace gpt_bigcode {

void common(ModelConfig& m) {
  m.norm = Norm::Kind::layer;
  m.rotary = false;
  m.learned_positions = true;
  m.gated_mlp = false;
  m.attention_bias = m.mlp_bias = m.norm_bias = true;
}

void from_hf(const Json& c, ModelConfig& m) {
  m.vocabulary = require_int(c, "vocab_size");
  m.width = require_int(c, "n_embd");
  m.layers = require_int(c, "n_layer");
  m.heads = require_int(c, "n_head");
  m.kv_heads = 1;
  m.head_dim = m.heads > 0 ? m.width / m.heads : 0;
  m.ffn = config_int(c, "n_inner", checked_mul(4, m.width, "config.json: n_embd"));
  m.context = config_int(c, "n_positions", 1024);
  m.norm_eps = static_cast<float>(config_float(c, "layer_norm_epsilon", 1e-5));
  m.tied_head = config_bool(c, "tie_word_embeddings", true);
  m.activation = config_activation(c, "activation_function", "gelu_pytorch_tanh");
  HONE_CHECK(config_bool(c, "multi_query", true), unsupported,
             "config.json: multi_query: a gpt_bigcode with more than one key/value head is not "
             "supported");
  HONE_CHECK(config_bool(c, "scale_attn_weights", true), unsupported,
             "config.json: scale_attn_weights: unscaled attention is not supported");
  HONE_CHECK(!config_bool(c, "add_cross_attention", false), unsupported,
             "config.json: add_cross_attention: cross-attention is not supported");
  common(m);
}

void from_gguf(const GgufFile& f, ModelConfig& m) {
  read_common_gguf(f, m);
  m.norm_eps = static_cast<float>(f.get_f64("starcoder.attention.layer_norm_epsilon"));
  // The format has no key for it; what files of this architecture are made of has this one.
  m.activation = Mlp::Activation::gelu_tanh;
  common(m);
}

void to_hf(const ModelConfig& m, Json& c) {
  HONE_CHECK(m.kv_heads == 1, unsupported,
             "config.json: a gpt_bigcode has one key/value head, this model has {}", m.kv_heads);
  c["architectures"] = {"GPTBigCodeForCausalLM"};
  c["model_type"] = "gpt_bigcode";
  c["n_embd"] = m.width;
  c["n_layer"] = m.layers;
  c["n_head"] = m.heads;
  c["n_inner"] = m.ffn;
  c["n_positions"] = m.context;
  c["multi_query"] = true;
  c["layer_norm_epsilon"] = json_float(m.norm_eps);
  c["activation_function"] = activation_name(m.activation);
}

void to_gguf(const ModelConfig& m, std::vector<GgufEntry>& out) {
  HONE_CHECK(m.activation == Mlp::Activation::gelu_tanh, unsupported,
             "gguf: files of starcoder have GELU by tanh, this model has {}",
             activation_name(m.activation));
  out.push_back({"starcoder.attention.layer_norm_epsilon", GgufValue::f32(m.norm_eps)});
}

Slot fused(Role role, int part) {
  return {.role = role,
          .hf = "transformer.h.{}.attn.c_attn",
          .gguf = "blk.{}.attn_qkv",
          .part = part,
          .parts = 3};
}

}  // namespace gpt_bigcode

extern const Family kGptBigCodeFamily;
const Family kGptBigCodeFamily = {
    "gpt_bigcode",
    {"gpt_bigcode"},
    {"starcoder"},
    gpt_bigcode::from_hf,
    gpt_bigcode::from_gguf,
    gpt_bigcode::to_hf,
    gpt_bigcode::to_gguf,
    {
        {Role::embedding, "transformer.wte", "token_embd"},
        {Role::positions, "transformer.wpe", "position_embd"},
        {Role::final_norm, "transformer.ln_f", "output_norm"},
        {Role::head, "lm_head", "output"},
        {Role::mixer_norm, "transformer.h.{}.ln_1", "blk.{}.attn_norm"},
        gpt_bigcode::fused(Role::q, 0),
        gpt_bigcode::fused(Role::k, 1),
        gpt_bigcode::fused(Role::v, 2),
        {Role::o, "transformer.h.{}.attn.c_proj", "blk.{}.attn_output"},
        {Role::mlp_norm, "transformer.h.{}.ln_2", "blk.{}.ffn_norm"},
        {Role::up, "transformer.h.{}.mlp.c_fc", "blk.{}.ffn_up"},
        {Role::down, "transformer.h.{}.mlp.c_proj", "blk.{}.ffn_down"},
    },
};

}  // namespace hone
