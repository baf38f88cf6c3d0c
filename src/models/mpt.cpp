// MPT (MosaicML 2023): ALiBi in place of positions, LayerNorm and no bias anywhere, exact GELU, and
// q, k and v as rows of one matrix. Models that clip these or norm them are not supported.
#include <nlohmann/json.hpp>

#include "base/checked.h"
#include "models/family.h"

namespace hone {
namespace mpt {

void common(ModelConfig& m) {
  m.norm = Norm::Kind::layer;
  m.rotary = false;
  m.gated_mlp = false;
  m.activation = Mlp::Activation::gelu;
}

// Of attn_config, which may be missing.
void read_attention(const Json& a, ModelConfig& m) {
  HONE_CHECK(config_bool(a, "alibi", true), unsupported,
             "config.json: alibi: an mpt with learned positions is not supported");
  m.alibi = static_cast<float>(config_float(a, "alibi_bias_max", 8));
  m.attention_scale = static_cast<float>(config_float(a, "softmax_scale", 0));
  HONE_CHECK(config_float(a, "clip_qkv", 0) == 0, unsupported,
             "config.json: clip_qkv: clipped queries, keys and values are not supported");
  HONE_CHECK(!config_bool(a, "qk_ln", false), unsupported,
             "config.json: qk_ln: normed queries and keys of an mpt are not supported");
  const std::string type = config_string(a, "attn_type", "multihead_attention");
  HONE_CHECK(type == "multihead_attention", unsupported,
             "config.json: attn_type '{}': expected multihead_attention", type);
}

void from_hf(const Json& c, ModelConfig& m) {
  m.vocabulary = require_int(c, "vocab_size");
  m.width = require_int(c, "d_model");
  m.layers = require_int(c, "n_layers");
  m.heads = m.kv_heads = require_int(c, "n_heads");
  m.head_dim = m.heads > 0 ? m.width / m.heads : 0;
  m.ffn = checked_mul(config_int(c, "expansion_ratio", 4), m.width, "config.json: d_model");
  m.context = config_int(c, "max_seq_len", 2048);
  m.norm_eps = static_cast<float>(config_float(c, "layer_norm_epsilon", 1e-5));
  m.tied_head = config_bool(c, "tie_word_embeddings", true);
  read_attention(
      c.contains("attn_config") && c["attn_config"].is_object() ? c["attn_config"] : Json::object(),
      m);
  common(m);
}

void from_gguf(const GgufFile& f, ModelConfig& m) {
  read_common_gguf(f, m);
  m.norm_eps = static_cast<float>(f.get_f64("mpt.attention.layer_norm_epsilon"));
  m.alibi = static_cast<float>(f.get_f64("mpt.attention.max_alibi_bias"));
  HONE_CHECK(f.find_f64("mpt.attention.clamp_kqv").value_or(0) == 0, unsupported,
             "{}: clipped queries, keys and values are not supported", f.path().string());
  common(m);
}

void to_hf(const ModelConfig& m, Json& c) {
  c["architectures"] = {"MptForCausalLM"};
  c["model_type"] = "mpt";
  c["d_model"] = m.width;
  c["n_layers"] = m.layers;
  c["n_heads"] = m.heads;
  HONE_CHECK(m.ffn % m.width == 0, unsupported,
             "config.json: an mpt has a feed-forward of a multiple of {}, this model has {}",
             m.width, m.ffn);
  c["expansion_ratio"] = m.ffn / m.width;
  c["max_seq_len"] = m.context;
  c["layer_norm_epsilon"] = json_float(m.norm_eps);
  c["no_bias"] = true;
  c["attn_config"] = {{"alibi", true}, {"alibi_bias_max", json_float(m.alibi)}};
}

void to_gguf(const ModelConfig& m, std::vector<GgufEntry>& out) {
  HONE_CHECK(m.attention_scale == 0, unsupported,
             "gguf: files of mpt have no place for a scale of attention, this model has {}",
             m.attention_scale);
  out.push_back({"mpt.attention.layer_norm_epsilon", GgufValue::f32(m.norm_eps)});
  out.push_back({"mpt.attention.max_alibi_bias", GgufValue::f32(m.alibi)});
}

Slot fused(Role role, int part) {
  return {.role = role,
          .hf = "transformer.blocks.{}.attn.Wqkv",
          .gguf = "blk.{}.attn_qkv",
          .part = part,
          .parts = 3};
}

}  // namespace mpt

extern const Family kMptFamily;
const Family kMptFamily = {
    .name = "mpt",
    .hf_types = {"mpt"},
    .gguf_architectures = {"mpt"},
    .from_hf = mpt::from_hf,
    .from_gguf = mpt::from_gguf,
    .to_hf = mpt::to_hf,
    .to_gguf = mpt::to_gguf,
    .slots =
        {
            {Role::embedding, "transformer.wte", "token_embd"},
            {Role::final_norm, "transformer.norm_f", "output_norm"},
            {Role::head, "lm_head", "output"},
            {Role::mixer_norm, "transformer.blocks.{}.norm_1", "blk.{}.attn_norm"},
            mpt::fused(Role::q, 0),
            mpt::fused(Role::k, 1),
            mpt::fused(Role::v, 2),
            {Role::o, "transformer.blocks.{}.attn.out_proj", "blk.{}.attn_output"},
            {Role::mlp_norm, "transformer.blocks.{}.norm_2", "blk.{}.ffn_norm"},
            {Role::up, "transformer.blocks.{}.ffn.up_proj", "blk.{}.ffn_up"},
            {Role::down, "transformer.blocks.{}.ffn.down_proj", "blk.{}.ffn_down"},
        },
    .one_head_count = true,
};

}  // namespace hone
