// RWKV-7, "Goose" (Peng et al. 2025), as flash-linear-attention names it (model_type rwkv7) and as
// rwkv.cpp's files do.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "models/rwkv.h"

namespace hone {
namespace rwkv7 {

void from_hf(const Json& c, ModelConfig& m) {
  m.vocabulary = require_int(c, "vocab_size");
  m.width = require_int(c, "hidden_size");
  m.layers = require_int(c, "num_hidden_layers");
  m.context = config_int(c, "max_position_embeddings", 2048);
  m.tied_head = config_bool(c, "tie_word_embeddings", false);
  m.norm_eps = static_cast<float>(config_float(c, "norm_eps", 1e-5));
  const double ratio = config_float(c, "hidden_ratio", 4);
  HONE_CHECK(ratio > 0 && ratio < 1024, corrupt, "config.json: hidden_ratio {}", ratio);
  m.ffn =
      config_int(c, "intermediate_size",
                 static_cast<int64_t>(std::ceil(std::min(double(m.width), 1e6) * ratio / 32)) * 32);
  m.mixing.k_dim = config_int(c, "head_dim", 64);
  HONE_CHECK(m.mixing.k_dim > 0 && m.mixing.k_dim <= 1 << 14, corrupt, "config.json: head_dim {}",
             m.mixing.k_dim);
  m.mixing.heads = m.width / m.mixing.k_dim;
  // As the published code has it: beside the head size, not the norms' own epsilon.
  m.mixing.eps = static_cast<float>(double(m.mixing.k_dim) * double{m.norm_eps});
  m.mixing.eps = static_cast<float>(config_float(c, "group_norm_eps", m.mixing.eps));
  m.mixing.decay_rank = config_int(c, "decay_low_rank_dim", 64);
  m.mixing.rate_rank = config_int(c, "a_low_rank_dim", 64);
  m.mixing.value_rank = config_int(c, "v_low_rank_dim", 16);
  m.mixing.gate_rank = config_int(c, "gate_low_rank_dim", 128);
  for (int64_t rank :
       {m.mixing.decay_rank, m.mixing.rate_rank, m.mixing.value_rank, m.mixing.gate_rank})
    HONE_CHECK(rank > 0 && rank <= 1 << 20, corrupt, "config.json: an inner size of {}", rank);
  HONE_CHECK(!c.contains("attn") || c["attn"].is_null(), unsupported,
             "config.json: RWKV-7 with layers of softmax attention is not supported");
  HONE_CHECK(config_string(c, "hidden_act", "sqrelu") == "sqrelu" &&
                 config_bool(c, "norm_first", true) && config_bool(c, "norm_bias", true),
             unsupported, "config.json: expected hidden_act sqrelu, norm_first and norm_bias");
  rwkv_common(m, "goose", "rwkv_channels");
}

void to_hf(const ModelConfig& m, Json& c) {
  c["architectures"] = {"RWKV7ForCausalLM"};
  c["model_type"] = "rwkv7";
  c["hidden_size"] = m.width;
  c["num_hidden_layers"] = m.layers;
  c["max_position_embeddings"] = m.context;
  c["norm_eps"] = json_float(m.norm_eps);
  c["intermediate_size"] = m.ffn;
  c["hidden_ratio"] = double(m.ffn) / double(m.width);
  c["head_dim"] = m.mixing.k_dim;
  c["decay_low_rank_dim"] = m.mixing.decay_rank;
  c["a_low_rank_dim"] = m.mixing.rate_rank;
  c["v_low_rank_dim"] = m.mixing.value_rank;
  c["gate_low_rank_dim"] = m.mixing.gate_rank;
  c["hidden_act"] = "sqrelu";
  c["norm_first"] = c["norm_bias"] = true;
}

constexpr auto kValue = MixerSlot::Kept::value;

}  // namespace rwkv7

extern const Family kRwkv7Family, kRwkv7CppFamily;
const Family kRwkv7Family = {
    "rwkv7",
    {"rwkv7"},
    {},
    rwkv7::from_hf,
    nullptr,
    rwkv7::to_hf,
    nullptr,
    {
        {Role::embedding, "model.embeddings", nullptr},
        {Role::embedding_norm, "model.layers.0.pre_norm", nullptr},
        {Role::final_norm, "model.norm", nullptr},
        {Role::head, "lm_head", nullptr},
        {Role::mixer_norm, "model.layers.{}.attn_norm", nullptr},
        {Role::mlp_norm, "model.layers.{}.ffn_norm", nullptr},
    },
    0,
    {
        {"mix_r", "model.layers.{}.attn.x_r", 2},
        {"mix_w", "model.layers.{}.attn.x_w", 2},
        {"mix_k", "model.layers.{}.attn.x_k", 2},
        {"mix_v", "model.layers.{}.attn.x_v", 2},
        {"mix_a", "model.layers.{}.attn.x_a", 2},
        {"mix_g", "model.layers.{}.attn.x_g", 2},
        {"w1", "model.layers.{}.attn.w_lora.lora.0.weight"},
        {"w2", "model.layers.{}.attn.w_lora.lora.2.weight"},
        {"w0", "model.layers.{}.attn.w_lora.lora.2.bias"},
        {"a1", "model.layers.{}.attn.a_lora.lora.0.weight"},
        {"a2", "model.layers.{}.attn.a_lora.lora.2.weight"},
        {"a0", "model.layers.{}.attn.a_lora.lora.2.bias"},
        {"v1", "model.layers.{}.attn.v_lora.lora.0.weight"},
        {"v2", "model.layers.{}.attn.v_lora.lora.2.weight"},
        {"v0", "model.layers.{}.attn.v_lora.lora.2.bias"},
        {"g1", "model.layers.{}.attn.g_lora.lora.0.weight"},
        {"g2", "model.layers.{}.attn.g_lora.lora.2.weight"},
        {"k_k", "model.layers.{}.attn.k_k"},
        {"k_a", "model.layers.{}.attn.k_a"},
        {"r_k", "model.layers.{}.attn.r_k", 0, true},
        {"r", "model.layers.{}.attn.r_proj.weight"},
        {"k", "model.layers.{}.attn.k_proj.weight"},
        {"v", "model.layers.{}.attn.v_proj.weight"},
        {"o", "model.layers.{}.attn.o_proj.weight"},
        {"norm", "model.layers.{}.attn.g_norm"},
        {"ffn_mix_k", "model.layers.{}.ffn.x_k"},
        {"ffn_key", "model.layers.{}.ffn.key.weight"},
        {"ffn_value", "model.layers.{}.ffn.value.weight"},
    },
};

const Family kRwkv7CppFamily = {
    "rwkv7",
    {"rwkv7.cpp"},
    {},
    rwkv7::from_hf,
    nullptr,
    rwkv7::to_hf,
    nullptr,
    rwkv_cpp_slots(),
    0,
    {
        {"mix_r", "blocks.{}.att.x_rwkvag", 0, false, false, rwkv7::kValue, 0, 6},
        {"mix_w", "blocks.{}.att.x_rwkvag", 0, false, false, rwkv7::kValue, 1, 6},
        {"mix_k", "blocks.{}.att.x_rwkvag", 0, false, false, rwkv7::kValue, 2, 6},
        {"mix_v", "blocks.{}.att.x_rwkvag", 0, false, false, rwkv7::kValue, 3, 6},
        {"mix_a", "blocks.{}.att.x_rwkvag", 0, false, false, rwkv7::kValue, 4, 6},
        {"mix_g", "blocks.{}.att.x_rwkvag", 0, false, false, rwkv7::kValue, 5, 6},
        {"w1", "blocks.{}.att.w1"},
        {"w2", "blocks.{}.att.w2"},
        {"w0", "blocks.{}.att.w0"},
        {"a1", "blocks.{}.att.a1"},
        {"a2", "blocks.{}.att.a2"},
        {"a0", "blocks.{}.att.a0"},
        {"v1", "blocks.{}.att.v1"},
        {"v2", "blocks.{}.att.v2"},
        {"v0", "blocks.{}.att.v0"},
        {"g1", "blocks.{}.att.g1"},
        {"g2", "blocks.{}.att.g2"},
        {"k_k", "blocks.{}.att.k_k"},
        {"k_a", "blocks.{}.att.k_a"},
        {"r_k", "blocks.{}.att.r_k", 0, true},
        {"r", "blocks.{}.att.receptance.weight"},
        {"k", "blocks.{}.att.key.weight"},
        {"v", "blocks.{}.att.value.weight"},
        {"o", "blocks.{}.att.output.weight"},
        {"norm", "blocks.{}.att.ln_x"},
        {"ffn_mix_k", "blocks.{}.ffn.x_k"},
        {"ffn_key", "blocks.{}.ffn.key.weight"},
        {"ffn_value", "blocks.{}.ffn.value.weight"},
    },
    &kRwkv7Family,
};

}  // namespace hone
