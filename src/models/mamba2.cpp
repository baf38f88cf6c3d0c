// Mamba-2 (Dao & Gu 2024), as transformers names it.
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/checked.h"
#include "models/family.h"

namespace hone {
namespace mamba2 {

void from_hf(const Json& c, ModelConfig& m) {
  m.vocabulary = require_int(c, "vocab_size");
  m.width = require_int(c, "hidden_size");
  m.layers = require_int(c, "num_hidden_layers");
  m.context = config_int(c, "max_position_embeddings", 1 << 20);  // it has no positions
  m.norm_eps = static_cast<float>(config_float(c, "layer_norm_epsilon", 1e-5));
  m.tied_head = config_bool(c, "tie_word_embeddings", false);
  m.rotary = false;
  m.mixer = "mamba2";
  m.feed_forward = "none";
  MixerSpec& s = m.mixing;
  s.heads = m.heads = m.kv_heads = config_int(c, "num_heads", 128);
  s.v_dim = m.head_dim = config_int(c, "head_dim", 64);
  s.qk_heads = config_int(c, "n_groups", 8);
  s.k_dim = config_int(c, "state_size", 128);
  s.filter = config_int(c, "conv_kernel", 4);
  s.filter_bias = config_bool(c, "use_conv_bias", true);
  s.bias = config_bool(c, "use_bias", false);
  s.eps = m.norm_eps;
  HONE_CHECK(s.filter >= 2 && s.filter <= 64, corrupt, "config.json: conv_kernel {}", s.filter);
  HONE_CHECK(config_string(c, "hidden_act", "silu") == "silu", unsupported,
             "config.json: hidden_act: mamba2 has silu");
  if (c.contains("time_step_limit") && c["time_step_limit"].is_array())
    for (const Json& limit : c["time_step_limit"])
      HONE_CHECK(!limit.is_number() || limit == 0 || std::isinf(limit.get<double>()), unsupported,
                 "config.json: time_step_limit {} is not supported", limit.dump());
}

void to_hf(const ModelConfig& m, Json& c) {
  const MixerSpec& s = m.mixing;
  c["architectures"] = {"Mamba2ForCausalLM"};
  c["model_type"] = "mamba2";
  c["hidden_size"] = m.width;
  c["num_hidden_layers"] = m.layers;
  c["layer_norm_epsilon"] = json_float(m.norm_eps);
  c["num_heads"] = s.heads;
  c["head_dim"] = s.v_dim;
  c["expand"] = s.heads * s.v_dim / m.width;
  c["n_groups"] = s.qk_heads;
  c["state_size"] = s.k_dim;
  c["conv_kernel"] = s.filter;
  c["use_conv_bias"] = s.filter_bias;
  c["use_bias"] = s.bias;
}

}  // namespace mamba2

extern const Family kMamba2Family;
const Family kMamba2Family = {
    "mamba2",
    {"mamba2"},
    {},
    mamba2::from_hf,
    nullptr,
    mamba2::to_hf,
    nullptr,
    {
        {Role::embedding, "backbone.embeddings", nullptr},
        {Role::final_norm, "backbone.norm_f", nullptr},
        {Role::head, "lm_head", nullptr},
        {Role::mixer_norm, "backbone.layers.{}.norm", nullptr},
    },
    0,
    {
        {"in", "backbone.layers.{}.mixer.in_proj.weight"},
        {"in_bias", "backbone.layers.{}.mixer.in_proj.bias"},
        {"out", "backbone.layers.{}.mixer.out_proj.weight"},
        {"out_bias", "backbone.layers.{}.mixer.out_proj.bias"},
        {.parameter = "filter", .hf = "backbone.layers.{}.mixer.conv1d.weight", .filter = true},
        {"filter_bias", "backbone.layers.{}.mixer.conv1d.bias"},
        {"step_bias", "backbone.layers.{}.mixer.dt_bias"},
        {"log_a", "backbone.layers.{}.mixer.A_log"},
        {"skip", "backbone.layers.{}.mixer.D"},
        {"norm", "backbone.layers.{}.mixer.norm"},
    },
};

}  // namespace hone
