// Qwen2 and Qwen2.5 (Yang et al. 2024): Llama with biases on q, k and v; some have a sliding window
// in their last layers. Qwen3 (2025): norms over each head of q and k in place of the biases.
#include <nlohmann/json.hpp>

#include "models/family.h"

namespace hone {
namespace {

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

void to_gguf(const ModelConfig& m, std::vector<GgufEntry>& out, const char* architecture) {
  HONE_CHECK(m.windowed.empty(), unsupported,
             "gguf: {} files have no sliding window, this model has one of {} keys", architecture,
             m.window);
  write_llama_gguf(architecture, m, out);
}
void to_gguf2(const ModelConfig& m, std::vector<GgufEntry>& out) { to_gguf(m, out, "qwen2"); }
void to_gguf3(const ModelConfig& m, std::vector<GgufEntry>& out) { to_gguf(m, out, "qwen3"); }

}  // namespace

extern const Family kQwen2Family, kQwen3Family;
const Family kQwen2Family = {
    "qwen2", {"qwen2"}, {"qwen2"}, from_hf2, from_gguf2, to_hf2, to_gguf2, llama_slots(false),
};
const Family kQwen3Family = {
    "qwen3",
    {"qwen3"},
    {"qwen3"},
    from_hf3,
    from_gguf3,
    to_hf3,
    to_gguf3,
    llama_slots(false, {{Role::q_norm, "model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm"},
                        {Role::k_norm, "model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm"}}),
};

}  // namespace hone
