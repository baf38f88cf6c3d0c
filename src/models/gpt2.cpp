// GPT-2 (Radford et al. 2019): LayerNorm, learned positions, full attention, GELU (tanh), biases
// everywhere, one fused matrix for q, k and v, and matrices stored as [in, out].
#include <nlohmann/json.hpp>

#include "base/checked.h"
#include "models/family.h"

namespace hone {
namespace gpt2 {

void common(ModelConfig& m) {
  m.norm = Norm::Kind::layer;
  m.rotary = false;
  m.learned_positions = true;
  m.gated_mlp = false;
  m.activation = Mlp::Activation::gelu_tanh;
  m.kv_heads = m.heads;
  m.attention_bias = m.mlp_bias = m.norm_bias = true;
}

void from_hf(const Json& c, ModelConfig& m) {
  m.vocabulary = require_int(c, "vocab_size");
  m.width = require_int(c, "n_embd");
  m.layers = require_int(c, "n_layer");
  m.heads = require_int(c, "n_head");
  m.head_dim = m.heads > 0 ? m.width / m.heads : 0;
  m.ffn = config_int(c, "n_inner", checked_mul(4, m.width, "config.json: n_embd"));
  m.context = config_int(c, "n_positions", config_int(c, "n_ctx", 1024));
  m.norm_eps = static_cast<float>(config_float(c, "layer_norm_epsilon", 1e-5));
  m.tied_head = config_bool(c, "tie_word_embeddings", true);
  std::string act = config_string(c, "activation_function", "gelu_new");
  HONE_CHECK(act == "gelu_new" || act == "gelu_pytorch_tanh", unsupported,
             "config.json: activation_function '{}': expected gelu_new", act);
  HONE_CHECK(config_bool(c, "scale_attn_weights", true) &&
                 !config_bool(c, "scale_attn_by_inverse_layer_idx", false),
             unsupported, "config.json: unscaled or layer-scaled attention is not supported");
  common(m);
}

void from_gguf(const GgufFile& f, ModelConfig& m) {
  read_common_gguf(f, m);
  m.norm_eps = static_cast<float>(f.get_f64("gpt2.attention.layer_norm_epsilon"));
  common(m);
}

void to_hf(const ModelConfig& m, Json& c) {
  c["architectures"] = {"GPT2LMHeadModel"};
  c["model_type"] = "gpt2";
  c["activation_function"] = "gelu_new";
  c["n_embd"] = m.width;
  c["n_layer"] = m.layers;
  c["n_head"] = m.heads;
  c["n_inner"] = m.ffn;
  c["n_positions"] = m.context;
  c["layer_norm_epsilon"] = json_float(m.norm_eps);
}

void to_gguf(const ModelConfig& m, std::vector<GgufEntry>& out) {
  out.push_back({"gpt2.attention.layer_norm_epsilon", GgufValue::f32(m.norm_eps)});
}

}  // namespace gpt2

extern const Family kGpt2Family;
const Family kGpt2Family = {
    "gpt2",
    {"gpt2"},
    {"gpt2"},
    gpt2::from_hf,
    gpt2::from_gguf,
    gpt2::to_hf,
    gpt2::to_gguf,
    {
        {Role::embedding, "transformer.wte", "token_embd"},
        {Role::positions, "transformer.wpe", "position_embd"},
        {Role::final_norm, "transformer.ln_f", "output_norm"},
        {Role::head, "lm_head", "output"},
        {Role::mixer_norm, "transformer.h.{}.ln_1", "blk.{}.attn_norm"},
        {Role::q, "transformer.h.{}.attn.c_attn", "blk.{}.attn_qkv", false, true, 0, 3},
        {Role::k, "transformer.h.{}.attn.c_attn", "blk.{}.attn_qkv", false, true, 1, 3},
        {Role::v, "transformer.h.{}.attn.c_attn", "blk.{}.attn_qkv", false, true, 2, 3},
        {Role::o, "transformer.h.{}.attn.c_proj", "blk.{}.attn_output", false, true},
        {Role::mlp_norm, "transformer.h.{}.ln_2", "blk.{}.ffn_norm"},
        {Role::up, "transformer.h.{}.mlp.c_fc", "blk.{}.ffn_up", false, true},
        {Role::down, "transformer.h.{}.mlp.c_proj", "blk.{}.ffn_down", false, true},
    },
};

}  // namespace hone
