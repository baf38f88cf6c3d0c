// StableLM (Bellagente et al. 2024): Llama with LayerNorms, a quarter of each head rotated and, in
// some models, biases of q, k and v, or attention and MLP of one residual. Norms of each head's
// queries and keys with weights of their own (StableLM 2 12B) are not supported.
#include <nlohmann/json.hpp>

#include "models/family.h"

namespace hone {
namespace stablelm {

void common(ModelConfig& m) {
  m.norm = Norm::Kind::layer;
  m.norm_bias = true;
  m.shared_norm = m.parallel_residual;
}

void from_hf(const Json& c, ModelConfig& m) {
  read_llama_hf(c, m);
  m.norm_eps = static_cast<float>(config_float(c, "layer_norm_eps", 1e-5));
  m.qkv_bias = config_bool(c, "use_qkv_bias", false);
  m.parallel_residual = config_bool(c, "use_parallel_residual", false);
  m.rope_dim = rotated_part(c, 0.25, m);
  HONE_CHECK(!config_bool(c, "qk_layernorm", false), unsupported,
             "config.json: qk_layernorm: norms with weights of their own for each head are not "
             "supported");
  common(m);
}

void from_gguf(const GgufFile& f, ModelConfig& m) {
  read_common_gguf(f, m);
  m.norm_eps = static_cast<float>(f.get_f64("stablelm.attention.layer_norm_epsilon"));
  m.parallel_residual = f.find_tensor("blk.0.ffn_norm.weight") == nullptr;
  m.qkv_bias = f.find_tensor("blk.0.attn_q.bias") != nullptr;
  common(m);
}

void to_hf(const ModelConfig& m, Json& c) {
  c["architectures"] = {"StableLmForCausalLM"};
  c["model_type"] = "stablelm";
  c["hidden_act"] = "silu";
  c["layer_norm_eps"] = json_float(m.norm_eps);
  c["use_qkv_bias"] = m.qkv_bias;
  c["use_parallel_residual"] = m.parallel_residual;
  c["partial_rotary_factor"] = static_cast<double>(m.rope_dim) / static_cast<double>(m.head_dim);
}

void to_gguf(const ModelConfig& m, std::vector<GgufEntry>& out) {
  out.push_back({"stablelm.attention.layer_norm_epsilon", GgufValue::f32(m.norm_eps)});
  out.push_back({"stablelm.use_parallel_residual", GgufValue::boolean(m.parallel_residual)});
}

}  // namespace stablelm

extern const Family kStableLmFamily;
const Family kStableLmFamily = {
    "stablelm",          {"stablelm"},    {"stablelm"},      stablelm::from_hf,
    stablelm::from_gguf, stablelm::to_hf, stablelm::to_gguf, llama_slots(false),
};

}  // namespace hone
