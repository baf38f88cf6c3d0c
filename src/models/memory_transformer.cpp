// Transformers with a recurrent memory, in a layout of hone's own: pre-norm blocks as Llama's (RMS
// norms, SwiGLU) whose attention ends at segments of `segment` tokens, and one of
//
//   mixer            memory
//   segment          none, or with memory_tokens > 0 a Recurrent Memory Transformer's
//   transformer_xl   the `memory` tokens in front of the segment; relative positions
//   infini           compressive, a matrix for each head; memory_delta: written by the delta rule
//
// Memory tokens go with every mixer. Keys of config.json beside Llama's: those above. Every query
// head has keys and values of its own.
#include <cmath>
#include <nlohmann/json.hpp>

#include "models/family.h"

namespace hone {
namespace memory_transformer {

constexpr int64_t kMostTokens = 1 << 20;  // of a segment and its memory

int64_t tokens_of(const Json& c, const char* key, int64_t missing, int64_t least) {
  const int64_t n = config_int(c, key, missing);
  HONE_CHECK(n >= least && n <= kMostTokens, corrupt, "config.json: {} is {}: expected {} to {}",
             key, n, least, kMostTokens);
  return n;
}

void from_hf(const Json& c, ModelConfig& m) {
  read_common_hf(c, m);
  m.norm_eps = static_cast<float>(config_float(c, "rms_norm_eps", 1e-6));
  const std::string act = config_string(c, "hidden_act", "silu");
  HONE_CHECK(act == "silu", unsupported,
             "config.json: hidden_act '{}': memory_transformer has silu", act);
  HONE_CHECK(m.kv_heads == m.heads, unsupported,
             "config.json: num_key_value_heads {}: memory_transformer has as many as heads, {}",
             m.kv_heads, m.heads);
  HONE_CHECK(m.rope_scaling == RopeScaling(), unsupported,
             "config.json: memory_transformer has no rope scaling");
  HONE_CHECK(std::isfinite(m.rope_theta) && m.rope_theta > 0, corrupt,
             "config.json: rope_theta is {}: expected a positive number", m.rope_theta);
  HONE_CHECK(m.head_dim % 2 == 0 && m.width % 2 == 0, corrupt,
             "config.json: head_dim {} and hidden_size {}: expected even numbers", m.head_dim,
             m.width);
  m.rotary = false;  // by the mixers
  m.mixer = config_string(c, "mixer", "segment");
  HONE_CHECK(m.mixer == "segment" || m.mixer == "transformer_xl" || m.mixer == "infini",
             unsupported, "config.json: mixer '{}': expected segment, transformer_xl or infini",
             m.mixer);
  m.segment = tokens_of(c, "segment", 512, 1);
  m.memory_tokens = tokens_of(c, "memory_tokens", 0, 0);
  MixerSpec& s = m.mixing;
  s.heads = s.qk_heads = m.heads;
  s.k_dim = s.v_dim = m.head_dim;
  s.eps = m.norm_eps;
  s.rope_theta = m.rope_theta;
  s.segment = m.segment + 2 * m.memory_tokens;
  if (m.mixer == "transformer_xl") s.memory = tokens_of(c, "memory", m.segment, 0);
  s.delta = config_bool(c, "memory_delta", true);
}

void to_hf(const ModelConfig& m, Json& c) {
  c["architectures"] = {"MemoryTransformerForCausalLM"};
  c["model_type"] = "memory_transformer";
  c["hidden_act"] = "silu";
  c["rms_norm_eps"] = json_float(m.norm_eps);
  c["rope_theta"] = json_float(m.rope_theta);
  c["mixer"] = m.mixer;
  c["segment"] = m.segment;
  c["memory_tokens"] = m.memory_tokens;
  if (m.mixer == "transformer_xl") c["memory"] = m.mixing.memory;
  if (m.mixer == "infini") c["memory_delta"] = m.mixing.delta;
}

}  // namespace memory_transformer

extern const Family kMemoryTransformerFamily;
const Family kMemoryTransformerFamily = {
    "memory_transformer",
    {"memory_transformer"},
    {},
    memory_transformer::from_hf,
    nullptr,
    memory_transformer::to_hf,
    nullptr,
    {
        {Role::embedding, "model.embed_tokens", nullptr},
        {Role::memory, "model.memory", nullptr},
        {Role::final_norm, "model.norm", nullptr},
        {Role::head, "lm_head", nullptr},
        {Role::mixer_norm, "model.layers.{}.input_layernorm", nullptr},
        {Role::mlp_norm, "model.layers.{}.post_attention_layernorm", nullptr},
        {Role::gate, "model.layers.{}.mlp.gate_proj", nullptr},
        {Role::up, "model.layers.{}.mlp.up_proj", nullptr},
        {Role::down, "model.layers.{}.mlp.down_proj", nullptr},
    },
    0,
    {
        {"q", "model.layers.{}.self_attn.q_proj.weight"},
        {"k", "model.layers.{}.self_attn.k_proj.weight"},
        {"v", "model.layers.{}.self_attn.v_proj.weight"},
        {"o", "model.layers.{}.self_attn.o_proj.weight"},
        {"r", "model.layers.{}.self_attn.r_proj.weight"},
        {"content_bias", "model.layers.{}.self_attn.content_bias"},
        {"position_bias", "model.layers.{}.self_attn.position_bias"},
        {"gate", "model.layers.{}.self_attn.memory_gate"},
    },
    nullptr,
    true,
};

}  // namespace hone
