#include "models/rwkv.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

namespace hone {

void rwkv_common(ModelConfig& m, const char* mixer, const char* feed_forward) {
  m.norm = Norm::Kind::layer;
  m.norm_bias = true;
  m.embedding_norm = true;
  m.rotary = false;
  m.mixer = mixer;
  m.feed_forward = feed_forward;
  m.mixing.qk_heads = m.heads = m.kv_heads = m.mixing.heads;
  m.mixing.v_dim = m.head_dim = m.mixing.k_dim;
}

constexpr int64_t kMostWidth = 1 << 20;

void rwkv_from_hf(const Json& c, ModelConfig& m) {
  m.vocabulary = require_int(c, "vocab_size");
  m.width = require_int(c, "hidden_size");
  m.layers = require_int(c, "num_hidden_layers");
  m.context = config_int(c, "context_length", 4096);
  m.tied_head = config_bool(c, "tie_word_embeddings", false);
  m.norm_eps = static_cast<float>(config_float(c, "layer_norm_epsilon", 1e-5));
  // Absurd widths are refused later.
  m.ffn = config_int(c, "intermediate_size", std::min(m.width, kMostWidth) * 7 / 2 / 32 * 32);
  m.mixing.k_dim = config_int(c, "head_size", 64);
  HONE_CHECK(m.mixing.k_dim > 0, corrupt, "config.json: head_size {}", m.mixing.k_dim);
  m.mixing.heads = config_int(c, "attention_hidden_size", m.width) / m.mixing.k_dim;
  const double divisor = config_float(c, "head_size_divisor", 8);
  m.mixing.eps = static_cast<float>(1e-5 * divisor * divisor);
}

void rwkv_to_hf(const ModelConfig& m, const char* model_type, const char* architecture, Json& c) {
  c["architectures"] = {architecture};
  c["model_type"] = model_type;
  c["vocab_size"] = m.vocabulary;
  c["hidden_size"] = m.width;
  c["num_hidden_layers"] = m.layers;
  c["context_length"] = m.context;
  c["layer_norm_epsilon"] = json_float(m.norm_eps);
  c["intermediate_size"] = m.ffn;
  c["head_size"] = m.mixing.k_dim;
  c["attention_hidden_size"] = m.mixing.heads * m.mixing.k_dim;
  c["head_size_divisor"] = json_float(std::sqrt(m.mixing.eps / 1e-5f));
}

std::vector<Slot> rwkv_slots() {
  return {
      {Role::embedding, "rwkv.embeddings", nullptr},
      {Role::embedding_norm, "rwkv.blocks.0.pre_ln", nullptr},
      {Role::final_norm, "rwkv.ln_out", nullptr},
      {Role::head, "head", nullptr},
      {Role::mixer_norm, "rwkv.blocks.{}.ln1", nullptr},
      {Role::mlp_norm, "rwkv.blocks.{}.ln2", nullptr},
  };
}

std::vector<Slot> rwkv_cpp_slots() {
  return {
      {Role::embedding, "emb", nullptr},
      {Role::embedding_norm, "blocks.0.ln0", nullptr},
      {Role::final_norm, "ln_out", nullptr},
      {Role::head, "head", nullptr},
      {Role::mixer_norm, "blocks.{}.ln1", nullptr},
      {Role::mlp_norm, "blocks.{}.ln2", nullptr},
  };
}

}  // namespace hone
