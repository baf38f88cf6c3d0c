// GPT-J (Wang & Komatsuzaki 2021): attention and MLP read the residual through one LayerNorm, side
// by side; a part of each head is rotated, in pairs of neighbouring values; GELU (tanh); biases in
// the MLP and on the head.
#include <nlohmann/json.hpp>

#include "base/checked.h"
#include "models/family.h"

namespace hone {
namespace gptj {

void from_hf(const Json& c, ModelConfig& m) {
  m.vocabulary = require_int(c, "vocab_size");
  m.width = require_int(c, "n_embd");
  m.layers = require_int(c, "n_layer");
  m.heads = m.kv_heads = require_int(c, "n_head");
  m.head_dim = m.heads > 0 ? m.width / m.heads : 0;
  m.ffn = config_int(c, "n_inner", checked_mul(4, m.width, "config.json: n_embd"));
  m.context = config_int(c, "n_positions", 2048);
  m.rope_dim = config_int(c, "rotary_dim", 64);
  HONE_CHECK(m.rope_dim > 0, unsupported, "config.json: rotary_dim {}: expected > 0", m.rope_dim);
  m.norm = Norm::Kind::layer;
  m.norm_eps = static_cast<float>(config_float(c, "layer_norm_epsilon", 1e-5));
  m.parallel_residual = m.shared_norm = true;
  m.gated_mlp = false;
  m.activation = config_activation(c, "activation_function", "gelu_new");
  m.mlp_bias = m.norm_bias = m.head_bias = true;
  m.tied_head = config_bool(c, "tie_word_embeddings", false);
}

void to_hf(const ModelConfig& m, Json& c) {
  c["architectures"] = {"GPTJForCausalLM"};
  c["model_type"] = "gptj";
  c["n_embd"] = m.width;
  c["n_layer"] = m.layers;
  c["n_head"] = m.heads;
  c["n_inner"] = m.ffn;
  c["n_positions"] = m.context;
  c["rotary_dim"] = m.rope_dim;
  c["layer_norm_epsilon"] = json_float(m.norm_eps);
  c["activation_function"] = activation_name(m.activation);
}

Slot rotated(Role role, const char* name) {
  return {.role = role, .hf = name, .gguf = nullptr, .hf_paired_rows = true};
}

}  // namespace gptj

extern const Family kGptJFamily;
const Family kGptJFamily = {
    .name = "gptj",
    .hf_types = {"gptj"},
    .gguf_architectures = {},
    .from_hf = gptj::from_hf,
    .from_gguf = nullptr,
    .to_hf = gptj::to_hf,
    .to_gguf = nullptr,
    .slots =
        {
            {Role::embedding, "transformer.wte", nullptr},
            {Role::final_norm, "transformer.ln_f", nullptr},
            {Role::head, "lm_head", nullptr},
            {Role::mixer_norm, "transformer.h.{}.ln_1", nullptr},
            gptj::rotated(Role::q, "transformer.h.{}.attn.q_proj"),
            gptj::rotated(Role::k, "transformer.h.{}.attn.k_proj"),
            {Role::v, "transformer.h.{}.attn.v_proj", nullptr},
            {Role::o, "transformer.h.{}.attn.out_proj", nullptr},
            {Role::up, "transformer.h.{}.mlp.fc_in", nullptr},
            {Role::down, "transformer.h.{}.mlp.fc_out", nullptr},
        },
    .one_head_count = true,
};

}  // namespace hone
