// OPT (Zhang et al. 2022): LayerNorm in front of both halves, learned positions whose table begins
// with two rows that no token has, ReLU, biases everywhere but on the head.
#include <nlohmann/json.hpp>

#include "models/family.h"

namespace hone {
namespace opt {

constexpr int64_t kUnusedPositions = 2;

void from_hf(const Json& c, ModelConfig& m) {
  m.vocabulary = require_int(c, "vocab_size");
  m.width = require_int(c, "hidden_size");
  m.layers = require_int(c, "num_hidden_layers");
  m.heads = m.kv_heads = require_int(c, "num_attention_heads");
  m.head_dim = m.heads > 0 ? m.width / m.heads : 0;
  m.ffn = require_int(c, "ffn_dim");
  m.context = config_int(c, "max_position_embeddings", 2048);
  m.tied_head = config_bool(c, "tie_word_embeddings", true);
  m.norm = Norm::Kind::layer;
  m.rotary = false;
  m.learned_positions = true;
  m.position_offset = kUnusedPositions;
  m.gated_mlp = false;
  m.activation = config_activation(c, "activation_function", "relu");
  m.attention_bias = m.mlp_bias = config_bool(c, "enable_bias", true);
  m.norm_bias = true;
  HONE_CHECK(config_bool(c, "do_layer_norm_before", true), unsupported,
             "config.json: do_layer_norm_before: norms behind each half are not supported");
  HONE_CHECK(config_int(c, "word_embed_proj_dim", m.width) == m.width, unsupported,
             "config.json: word_embed_proj_dim: embeddings of another size than hidden_size are "
             "not supported");
  HONE_CHECK(config_bool(c, "layer_norm_elementwise_affine", true) &&
                 !config_bool(c, "_remove_final_layer_norm", false),
             unsupported,
             "config.json: layer_norm_elementwise_affine, _remove_final_layer_norm: norms without "
             "weights and a missing final norm are not supported");
}

void to_hf(const ModelConfig& m, Json& c) {
  c["architectures"] = {"OPTForCausalLM"};
  c["model_type"] = "opt";
  c["hidden_size"] = c["word_embed_proj_dim"] = m.width;
  c["num_hidden_layers"] = m.layers;
  c["num_attention_heads"] = m.heads;
  c["ffn_dim"] = m.ffn;
  c["max_position_embeddings"] = m.context;
  c["do_layer_norm_before"] = true;
  c["activation_function"] = activation_name(m.activation);
  c["enable_bias"] = m.attention_bias;
}

}  // namespace opt

extern const Family kOptFamily;
const Family kOptFamily = {
    .name = "opt",
    .hf_types = {"opt"},
    .gguf_architectures = {},
    .from_hf = opt::from_hf,
    .from_gguf = nullptr,
    .to_hf = opt::to_hf,
    .to_gguf = nullptr,
    .slots =
        {
            {Role::embedding, "model.decoder.embed_tokens", nullptr},
            {Role::positions, "model.decoder.embed_positions", nullptr},
            {Role::final_norm, "model.decoder.final_layer_norm", nullptr},
            {Role::head, "lm_head", nullptr},
            {Role::mixer_norm, "model.decoder.layers.{}.self_attn_layer_norm", nullptr},
            {Role::q, "model.decoder.layers.{}.self_attn.q_proj", nullptr},
            {Role::k, "model.decoder.layers.{}.self_attn.k_proj", nullptr},
            {Role::v, "model.decoder.layers.{}.self_attn.v_proj", nullptr},
            {Role::o, "model.decoder.layers.{}.self_attn.out_proj", nullptr},
            {Role::mlp_norm, "model.decoder.layers.{}.final_layer_norm", nullptr},
            {Role::up, "model.decoder.layers.{}.fc1", nullptr},
            {Role::down, "model.decoder.layers.{}.fc2", nullptr},
        },
    .one_head_count = true,
};

}  // namespace hone
