// BLOOM (BigScience Workshop 2022): ALiBi in place of positions, a norm behind the embedding,
// LayerNorm, GELU (tanh), biases everywhere, and q, k and v of each head in turn in one matrix.
#include <nlohmann/json.hpp>

#include "base/checked.h"
#include "models/family.h"

namespace hone {
namespace bloom {

constexpr float kAlibi = 8;

void common(ModelConfig& m) {
  m.norm = Norm::Kind::layer;
  m.rotary = false;
  m.alibi = kAlibi;
  m.embedding_norm = true;
  m.gated_mlp = false;
  m.activation = Mlp::Activation::gelu_tanh;
  m.attention_bias = m.mlp_bias = m.norm_bias = true;
}

void from_hf(const Json& c, ModelConfig& m) {
  m.vocabulary = require_int(c, "vocab_size");
  // Older files say n_embed, transformers 4 wrote n_layer and n_head, all mean the same.
  m.width = c.contains("hidden_size") ? require_int(c, "hidden_size") : require_int(c, "n_embed");
  m.layers = require_int(c, "n_layer");
  m.heads = m.kv_heads = require_int(c, "n_head");
  m.head_dim = m.heads > 0 ? m.width / m.heads : 0;
  m.ffn = checked_mul(4, m.width, "config.json: hidden_size");
  m.context = config_int(c, "seq_length", m.context);
  m.norm_eps = static_cast<float>(config_float(c, "layer_norm_epsilon", 1e-5));
  m.tied_head = config_bool(c, "tie_word_embeddings", true);
  HONE_CHECK(!config_bool(c, "apply_residual_connection_post_layernorm", false), unsupported,
             "config.json: apply_residual_connection_post_layernorm: a residual of normed values "
             "is not supported");
  common(m);
}

void from_gguf(const GgufFile& f, ModelConfig& m) {
  read_common_gguf(f, m);
  m.norm_eps = static_cast<float>(f.get_f64("bloom.attention.layer_norm_epsilon"));
  common(m);
}

void to_hf(const ModelConfig& m, Json& c) {
  c["architectures"] = {"BloomForCausalLM"};
  c["model_type"] = "bloom";
  c["hidden_size"] = m.width;
  c["n_layer"] = m.layers;
  c["n_head"] = m.heads;
  c["seq_length"] = m.context;
  c["layer_norm_epsilon"] = json_float(m.norm_eps);
  HONE_CHECK(m.ffn == 4 * m.width, unsupported,
             "config.json: a bloom has a feed-forward of 4·{}, this model has {}", m.width, m.ffn);
}

void to_gguf(const ModelConfig& m, std::vector<GgufEntry>& out) {
  out.push_back({"bloom.attention.layer_norm_epsilon", GgufValue::f32(m.norm_eps)});
}

Slot fused(Role role, int part) {
  return {.role = role,
          .hf = "transformer.h.{}.self_attention.query_key_value",
          .gguf = "blk.{}.attn_qkv",
          .part = part,
          .parts = 3,
          .parts_by_head = true,
          .gguf_parts_whole = true};
}

}  // namespace bloom

extern const Family kBloomFamily;
const Family kBloomFamily = {
    .name = "bloom",
    .hf_types = {"bloom"},
    .gguf_architectures = {"bloom"},
    .from_hf = bloom::from_hf,
    .from_gguf = bloom::from_gguf,
    .to_hf = bloom::to_hf,
    .to_gguf = bloom::to_gguf,
    .slots =
        {
            {Role::embedding, "transformer.word_embeddings", "token_embd"},
            {Role::embedding_norm, "transformer.word_embeddings_layernorm", "token_embd_norm"},
            {Role::final_norm, "transformer.ln_f", "output_norm"},
            {Role::head, "lm_head", "output"},
            {Role::mixer_norm, "transformer.h.{}.input_layernorm", "blk.{}.attn_norm"},
            bloom::fused(Role::q, 0),
            bloom::fused(Role::k, 1),
            bloom::fused(Role::v, 2),
            {Role::o, "transformer.h.{}.self_attention.dense", "blk.{}.attn_output"},
            {Role::mlp_norm, "transformer.h.{}.post_attention_layernorm", "blk.{}.ffn_norm"},
            {Role::up, "transformer.h.{}.mlp.dense_h_to_4h", "blk.{}.ffn_up"},
            {Role::down, "transformer.h.{}.mlp.dense_4h_to_h", "blk.{}.ffn_down"},
        },
    .one_head_count = true,
};

}  // namespace hone
