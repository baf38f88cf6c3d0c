// OLMo 2 (OLMo Team 2024): Llama with norms behind both halves in place of those before them, and
// norms over all heads of q and k.
#include <nlohmann/json.hpp>

#include "models/family.h"

namespace hone {
namespace olmo2 {

void common(ModelConfig& m) {
  m.pre_norms = false;
  m.post_norms = true;
  m.qk_norm = m.whole_qk_norm = true;
}

void from_hf(const Json& c, ModelConfig& m) {
  read_llama_hf(c, m);
  common(m);
}

void from_gguf(const GgufFile& f, ModelConfig& m) {
  read_llama_gguf(f, m);
  common(m);
}

void to_hf(const ModelConfig& m, Json& c) {
  c["architectures"] = {"Olmo2ForCausalLM"};
  c["model_type"] = "olmo2";
  c["hidden_act"] = "silu";
  c["rms_norm_eps"] = json_float(m.norm_eps);
}

void to_gguf(const ModelConfig& m, std::vector<GgufEntry>& out) {
  write_llama_gguf("olmo2", m, out);
}

}  // namespace olmo2

extern const Family kOlmo2Family;
const Family kOlmo2Family = {
    .name = "olmo2",
    .hf_types = {"olmo2"},
    .gguf_architectures = {"olmo2"},
    .from_hf = olmo2::from_hf,
    .from_gguf = olmo2::from_gguf,
    .to_hf = olmo2::to_hf,
    .to_gguf = olmo2::to_gguf,
    .slots =
        {
            {Role::embedding, "model.embed_tokens", "token_embd"},
            {Role::final_norm, "model.norm", "output_norm"},
            {Role::head, "lm_head", "output"},
            {Role::q, "model.layers.{}.self_attn.q_proj", "blk.{}.attn_q"},
            {Role::k, "model.layers.{}.self_attn.k_proj", "blk.{}.attn_k"},
            {Role::v, "model.layers.{}.self_attn.v_proj", "blk.{}.attn_v"},
            {Role::o, "model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"},
            {Role::q_norm, "model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm"},
            {Role::k_norm, "model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm"},
            {Role::post_mixer_norm, "model.layers.{}.post_attention_layernorm",
             "blk.{}.post_attention_norm"},
            {Role::gate, "model.layers.{}.mlp.gate_proj", "blk.{}.ffn_gate"},
            {Role::up, "model.layers.{}.mlp.up_proj", "blk.{}.ffn_up"},
            {Role::down, "model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"},
            {Role::post_mlp_norm, "model.layers.{}.post_feedforward_layernorm",
             "blk.{}.post_ffw_norm"},
        },
};

}  // namespace hone
