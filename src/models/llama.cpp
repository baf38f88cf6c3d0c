// Llama 1–3 and what shares its shape (SmolLM2, TinyLlama, ...): RMSNorm, rotary positions with
// Llama 3's scaling, grouped queries, SwiGLU (Touvron et al. 2023).
#include <algorithm>
#include <nlohmann/json.hpp>

#include "models/family.h"

namespace hone {
namespace llama {

void from_hf(const Json& c, ModelConfig& m) { read_llama_hf(c, m); }

void from_gguf(const GgufFile& f, ModelConfig& m) { read_llama_gguf(f, m); }

void to_hf(const ModelConfig& m, Json& c) {
  c["architectures"] = {"LlamaForCausalLM"};
  c["model_type"] = "llama";
  c["hidden_act"] = "silu";
  c["rms_norm_eps"] = json_float(m.norm_eps);
}

void to_gguf(const ModelConfig& m, std::vector<GgufEntry>& out) {
  write_llama_gguf("llama", m, out);
}

}  // namespace llama

void read_llama_hf(const Json& c, ModelConfig& m) {
  read_common_hf(c, m);
  m.norm_eps = static_cast<float>(config_float(c, "rms_norm_eps", 1e-6));
  m.attention_bias = config_bool(c, "attention_bias", false);
  m.mlp_bias = config_bool(c, "mlp_bias", false);
  const std::string act = config_string(c, "hidden_act", "silu");
  HONE_CHECK(act == "silu", unsupported, "config.json: hidden_act '{}': {} has silu", act,
             config_string(c, "model_type", "llama"));
}

void read_llama_gguf(const GgufFile& f, ModelConfig& m) {
  read_common_gguf(f, m);
  m.norm_eps = static_cast<float>(
      f.get_f64(f.get_string("general.architecture") + ".attention.layer_norm_rms_epsilon"));
}

void write_llama_gguf(const std::string& architecture, const ModelConfig& m,
                      std::vector<GgufEntry>& out) {
  out.push_back({architecture + ".attention.layer_norm_rms_epsilon", GgufValue::f32(m.norm_eps)});
}

std::vector<Slot> llama_slots(bool paired, std::vector<Slot> more) {
  std::vector<Slot> all = {
      {Role::embedding, "model.embed_tokens", "token_embd"},
      {Role::final_norm, "model.norm", "output_norm"},
      {Role::head, "lm_head", "output"},
      {Role::mixer_norm, "model.layers.{}.input_layernorm", "blk.{}.attn_norm"},
      {Role::q, "model.layers.{}.self_attn.q_proj", "blk.{}.attn_q", paired},
      {Role::k, "model.layers.{}.self_attn.k_proj", "blk.{}.attn_k", paired},
      {Role::v, "model.layers.{}.self_attn.v_proj", "blk.{}.attn_v"},
      {Role::o, "model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"},
      {Role::mlp_norm, "model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"},
      {Role::gate, "model.layers.{}.mlp.gate_proj", "blk.{}.ffn_gate"},
      {Role::up, "model.layers.{}.mlp.up_proj", "blk.{}.ffn_up"},
      {Role::down, "model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"},
  };
  for (const Slot& s : more) {
    auto same = std::ranges::find(all, s.role, &Slot::role);
    if (same == all.end())
      all.push_back(s);
    else
      *same = s;
  }
  return all;
}

extern const Family kMixtralFamily;

namespace llama {

// GGUF calls Mixtral a llama.
const Family& variant(const ModelConfig& m);

}  // namespace llama

extern const Family kLlamaFamily;
const Family kLlamaFamily = {
    .name = "llama",
    .hf_types = {"llama"},
    .gguf_architectures = {"llama"},
    .from_hf = llama::from_hf,
    .from_gguf = llama::from_gguf,
    .to_hf = llama::to_hf,
    .to_gguf = llama::to_gguf,
    .slots = llama_slots(true),
    .variant = llama::variant,
};

namespace llama {

const Family& variant(const ModelConfig& m) {
  return m.experts > 0 ? kMixtralFamily : kLlamaFamily;
}

}  // namespace llama

}  // namespace hone
