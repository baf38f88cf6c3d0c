// Qwen2 and Qwen2.5 (Yang et al. 2024): Llama with biases on q, k and v; some have a sliding window
// in their last layers. Qwen3 (2025): norms over each head of q and k in place of the biases;
// Qwen3-MoE has experts in all or some layers.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "models/family.h"

namespace hone {
namespace qwen2 {

// Windows exist where use_sliding_window says so: in the layers of layer_types, or from
// max_window_layers on.
void read_windows(const Json& c, ModelConfig& m) {
  if (!config_bool(c, "use_sliding_window", false)) return;
  m.window = config_int(c, "sliding_window", 4096);
  if (read_layer_types(c, m) || m.layers > ModelConfig::kMaxLayers) return;
  const int64_t full = config_int(c, "max_window_layers", 28);
  for (int64_t i = 0; i < m.layers; ++i) m.windowed.push_back(i >= full);
}

void from_hf2(const Json& c, ModelConfig& m) {
  read_llama_hf(c, m);
  m.attention_bias = m.mlp_bias = false;
  m.qkv_bias = true;
  read_windows(c, m);
}

void from_hf3(const Json& c, ModelConfig& m) {
  read_llama_hf(c, m);
  m.head_dim = config_int(c, "head_dim", 128);
  m.qk_norm = true;
  read_windows(c, m);
}

void from_hf3_moe(const Json& c, ModelConfig& m) {
  from_hf3(c, m);
  // Transformers 5 calls num_experts by another name.
  m.experts = config_int(c, "num_experts", config_int(c, "num_local_experts", 128));
  m.experts_used = config_int(c, "num_experts_per_tok", 8);
  m.expert_ffn = config_int(c, "moe_intermediate_size", 768);
  m.normalised_experts = config_bool(c, "norm_topk_prob", false);
  const int64_t step = config_int(c, "decoder_sparse_step", 1);
  HONE_CHECK(step > 0, corrupt, "config.json: decoder_sparse_step {}: expected > 0", step);
  if (m.layers <= 0 || m.layers > ModelConfig::kMaxLayers) return;  // validate() refuses it
  std::vector<bool> dense(static_cast<size_t>(m.layers));
  for (int64_t i = 0; i < m.layers; ++i) dense[i] = (i + 1) % step != 0;
  if (c.contains("mlp_only_layers") && c["mlp_only_layers"].is_array())
    for (const Json& layer : c["mlp_only_layers"]) {
      const bool known = layer.is_number_integer() && layer >= 0 && layer < m.layers;
      HONE_CHECK(known, corrupt, "config.json: mlp_only_layers: layer {} of {}",
                 layer.dump().substr(0, 60), m.layers);
      dense[layer.get<size_t>()] = true;
    }
  if (std::ranges::find(dense, true) != dense.end()) m.dense = dense;
}

void from_gguf2(const GgufFile& f, ModelConfig& m) {
  read_llama_gguf(f, m);
  m.qkv_bias = true;
}

void from_gguf3(const GgufFile& f, ModelConfig& m) {
  read_llama_gguf(f, m);
  m.qk_norm = true;
}

void to_hf(const ModelConfig& m, Json& c, const char* architecture, const char* type) {
  c["architectures"] = {architecture};
  c["model_type"] = type;
  c["hidden_act"] = "silu";
  c["rms_norm_eps"] = json_float(m.norm_eps);
  c["use_sliding_window"] = false;  // GGUF, where such a model comes from, has none
}
void to_hf2(const ModelConfig& m, Json& c) { to_hf(m, c, "Qwen2ForCausalLM", "qwen2"); }
void to_hf3(const ModelConfig& m, Json& c) { to_hf(m, c, "Qwen3ForCausalLM", "qwen3"); }

void to_hf3_moe(const ModelConfig& m, Json& c) {
  to_hf(m, c, "Qwen3MoeForCausalLM", "qwen3_moe");
  c["num_experts"] = m.experts;
  c["num_experts_per_tok"] = m.experts_used;
  c["moe_intermediate_size"] = m.expert_ffn;
  c["norm_topk_prob"] = m.normalised_experts;
}

void to_gguf(const ModelConfig& m, std::vector<GgufEntry>& out, const char* architecture) {
  HONE_CHECK(m.windowed.empty(), unsupported,
             "gguf: {} files have no sliding window, this model has one of {} keys", architecture,
             m.window);
  write_llama_gguf(architecture, m, out);
}
void to_gguf2(const ModelConfig& m, std::vector<GgufEntry>& out) { to_gguf(m, out, "qwen2"); }
void to_gguf3(const ModelConfig& m, std::vector<GgufEntry>& out) { to_gguf(m, out, "qwen3"); }
void to_gguf3_moe(const ModelConfig& m, std::vector<GgufEntry>& out) {
  HONE_CHECK(m.dense.empty() && m.normalised_experts, unsupported,
             "gguf: in qwen3moe files every layer has experts, whose weights sum to 1");
  to_gguf(m, out, "qwen3moe");
}

std::vector<Slot> with_norms(std::vector<Slot> more = {}) {
  more.push_back({Role::q_norm, "model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm"});
  more.push_back({Role::k_norm, "model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm"});
  return llama_slots(false, more);
}

}  // namespace qwen2

extern const Family kQwen2Family, kQwen3Family, kQwen3MoeFamily;
const Family kQwen2Family = {
    "qwen2",           {"qwen2"},     {"qwen2"},       qwen2::from_hf2,
    qwen2::from_gguf2, qwen2::to_hf2, qwen2::to_gguf2, llama_slots(false),
};
const Family kQwen3Family = {
    "qwen3",           {"qwen3"},     {"qwen3"},       qwen2::from_hf3,
    qwen2::from_gguf3, qwen2::to_hf3, qwen2::to_gguf3, qwen2::with_norms(),
};
const Family kQwen3MoeFamily = {
    "qwen3_moe",
    {"qwen3_moe"},
    {"qwen3moe"},
    qwen2::from_hf3_moe,
    qwen2::from_gguf3,
    qwen2::to_hf3_moe,
    qwen2::to_gguf3_moe,
    qwen2::with_norms({
        {Role::router, "model.layers.{}.mlp.gate", "blk.{}.ffn_gate_inp"},
        {Role::expert_gate, "model.layers.{}.mlp.experts.{}.gate_proj", "blk.{}.ffn_gate_exps"},
        {Role::expert_up, "model.layers.{}.mlp.experts.{}.up_proj", "blk.{}.ffn_up_exps"},
        {Role::expert_down, "model.layers.{}.mlp.experts.{}.down_proj", "blk.{}.ffn_down_exps"},
    }),
};

}  // namespace hone
