// Falcon (Almazrouei et al. 2023), of three layouts under one model_type. 7B: attention and MLP of
// one residual and one norm, one key/value head. 40B and 180B (new_decoder_architecture): a norm
// for each half and groups of queries, each beside its key and value in one matrix; a family of its
// own here, for the norms have other names. RW: one half after the other, ALiBi, biases; GGUF has
// no such files. Rotation of whole heads where there is no ALiBi, LayerNorm, exact GELU.
#include <nlohmann/json.hpp>

#include "base/checked.h"
#include "models/family.h"

namespace hone {
namespace falcon {

constexpr float kAlibi = 8;

void common(ModelConfig& m) {
  m.norm = Norm::Kind::layer;
  m.norm_bias = true;
  m.gated_mlp = false;
}

void from_hf(const Json& c, ModelConfig& m) {
  m.vocabulary = require_int(c, "vocab_size");
  m.width = require_int(c, "hidden_size");
  m.layers = require_int(c, "num_hidden_layers");
  m.heads = require_int(c, "num_attention_heads");
  m.head_dim = m.heads > 0 ? m.width / m.heads : 0;
  m.ffn = config_int(c, "ffn_hidden_size", checked_mul(4, m.width, "config.json: hidden_size"));
  m.context = config_int(c, "max_position_embeddings", 2048);
  m.norm_eps = static_cast<float>(config_float(c, "layer_norm_epsilon", 1e-5));
  m.tied_head = config_bool(c, "tie_word_embeddings", true);
  m.activation = config_activation(c, "activation", "gelu");
  m.attention_bias = m.mlp_bias = config_bool(c, "bias", false);
  const bool grouped = config_bool(c, "new_decoder_architecture", false);
  m.kv_heads = grouped                               ? config_int(c, "num_kv_heads", m.heads)
               : config_bool(c, "multi_query", true) ? 1
                                                     : m.heads;
  m.parallel_residual = config_bool(c, "parallel_attn", true);
  m.shared_norm =
      m.parallel_residual && !(grouped && config_int(c, "num_ln_in_parallel_attn", 2) == 2);
  HONE_CHECK(m.parallel_residual || !grouped, unsupported,
             "config.json: a falcon with new_decoder_architecture has parallel_attn");
  if (config_bool(c, "alibi", false)) {
    m.rotary = false;
    m.alibi = kAlibi;
    m.scaled_alibi = true;
  }
  read_rope(c, m.rope_theta, m.rope_scaling);
  for (const char* key : {"rope_scaling", "rope_parameters"})
    if (c.contains(key) && c[key].is_object()) read_rope(c[key], m.rope_theta, m.rope_scaling);
  common(m);
}

void from_gguf(const GgufFile& f, ModelConfig& m) {
  read_common_gguf(f, m);
  m.norm_eps = static_cast<float>(f.get_f64("falcon.attention.layer_norm_epsilon"));
  m.parallel_residual = true;
  m.shared_norm = f.find_tensor("blk.0.attn_norm_2.weight") == nullptr;
  m.activation = Mlp::Activation::gelu;
  common(m);
}

void to_hf(const ModelConfig& m, Json& c) {
  c["architectures"] = {"FalconForCausalLM"};
  c["model_type"] = "falcon";
  c["layer_norm_epsilon"] = json_float(m.norm_eps);
  c["activation"] = activation_name(m.activation);
  c["ffn_hidden_size"] = m.ffn;
  c["bias"] = m.attention_bias;
  c["alibi"] = m.alibi > 0;
  c["parallel_attn"] = m.parallel_residual;
  // A model of several key/value heads for fewer than all queries is of the newer layout.
  const bool grouped =
      m.parallel_residual && (!m.shared_norm || (m.kv_heads > 1 && m.kv_heads < m.heads));
  c["new_decoder_architecture"] = grouped;
  c["multi_query"] = grouped || m.kv_heads == 1;
  if (!grouped) return;
  c["num_kv_heads"] = m.kv_heads;
  c["num_ln_in_parallel_attn"] = m.shared_norm ? 1 : 2;
}

void to_gguf(const ModelConfig& m, std::vector<GgufEntry>& out) {
  HONE_CHECK(m.activation == Mlp::Activation::gelu && !m.attention_bias, unsupported,
             "gguf: files of falcon have the exact GELU and no biases");
  out.push_back({"falcon.tensor_data_layout", GgufValue::string("jploski")});
  out.push_back({"falcon.attention.layer_norm_epsilon", GgufValue::f32(m.norm_eps)});
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

std::vector<Slot> slots(Slot mixer_norm, Slot mlp_norm) {
  return {
      {Role::embedding, "transformer.word_embeddings", "token_embd"},
      {Role::final_norm, "transformer.ln_f", "output_norm"},
      {Role::head, "lm_head", "output"},
      mixer_norm,
      fused(Role::q, 0),
      fused(Role::k, 1),
      fused(Role::v, 2),
      {Role::o, "transformer.h.{}.self_attention.dense", "blk.{}.attn_output"},
      mlp_norm,
      {Role::up, "transformer.h.{}.mlp.dense_h_to_4h", "blk.{}.ffn_up"},
      {Role::down, "transformer.h.{}.mlp.dense_4h_to_h", "blk.{}.ffn_down"},
  };
}

constexpr Slot kInputNorm{Role::mixer_norm, "transformer.h.{}.input_layernorm", "blk.{}.attn_norm"};
constexpr Slot kSecondNorm{Role::mlp_norm, "transformer.h.{}.post_attention_layernorm",
                           "blk.{}.ffn_norm"};

const Family& variant(const ModelConfig& config);

}  // namespace falcon

extern const Family kFalconFamily, kFalcon40bFamily, kFalconRwFamily;
const Family kFalconFamily = {
    .name = "falcon",
    .hf_types = {"falcon"},
    .gguf_architectures = {"falcon"},
    .from_hf = falcon::from_hf,
    .from_gguf = falcon::from_gguf,
    .to_hf = falcon::to_hf,
    .to_gguf = falcon::to_gguf,
    .slots = falcon::slots(falcon::kInputNorm, falcon::kSecondNorm),
    .one_head_count = true,
    .variant = falcon::variant,
};
const Family kFalcon40bFamily = {
    .name = "falcon_40b",
    .hf_types = {},
    .gguf_architectures = {"falcon"},
    .from_hf = falcon::from_hf,
    .from_gguf = falcon::from_gguf,
    .to_hf = falcon::to_hf,
    .to_gguf = falcon::to_gguf,
    .slots = falcon::slots({Role::mixer_norm, "transformer.h.{}.ln_attn", "blk.{}.attn_norm_2"},
                           {Role::mlp_norm, "transformer.h.{}.ln_mlp", "blk.{}.attn_norm"}),
    .one_head_count = true,
};
const Family kFalconRwFamily = {
    .name = "falcon_rw",
    .hf_types = {},
    .gguf_architectures = {},
    .from_hf = falcon::from_hf,
    .from_gguf = nullptr,
    .to_hf = falcon::to_hf,
    .to_gguf = nullptr,
    .slots = falcon::slots(falcon::kInputNorm, falcon::kSecondNorm),
    .one_head_count = true,
};

namespace falcon {

const Family& variant(const ModelConfig& m) {
  if (m.alibi > 0 || !m.parallel_residual) return kFalconRwFamily;
  return m.shared_norm ? kFalconFamily : kFalcon40bFamily;
}

}  // namespace falcon
}  // namespace hone
