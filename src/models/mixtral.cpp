// Mixtral (Jiang et al. 2024): Mistral whose feed-forward is a mixture of experts in every layer.
// GGUF calls it llama; files older than the tensors of all experts are not read.
#include <nlohmann/json.hpp>

#include "models/family.h"

namespace hone {
namespace mixtral {

void from_hf(const Json& c, ModelConfig& m) {
  read_llama_hf(c, m);
  m.experts = config_int(c, "num_local_experts", 8);
  m.experts_used = config_int(c, "num_experts_per_tok", 2);
  m.expert_ffn = m.ffn;
  m.window = config_int(c, "sliding_window", 0);
  if (m.window == 0 || m.layers > ModelConfig::kMaxLayers) return;  // validate() refuses the latter
  m.windowed.assign(static_cast<size_t>(std::max<int64_t>(0, m.layers)), true);
}

void from_gguf(const GgufFile& f, ModelConfig& m) { read_llama_gguf(f, m); }

void to_hf(const ModelConfig& m, Json& c) {
  c["architectures"] = {"MixtralForCausalLM"};
  c["model_type"] = "mixtral";
  c["hidden_act"] = "silu";
  c["rms_norm_eps"] = json_float(m.norm_eps);
  c["num_local_experts"] = m.experts;
  c["num_experts_per_tok"] = m.experts_used;
  c["sliding_window"] = m.window > 0 ? Json(m.window) : Json();
}

void to_gguf(const ModelConfig& m, std::vector<GgufEntry>& out) {
  HONE_CHECK(m.windowed.empty() || m.window >= m.context, unsupported,
             "gguf: llama files have no sliding window, this model has one of {} keys", m.window);
  write_llama_gguf("llama", m, out);
}

}  // namespace mixtral

extern const Family kMixtralFamily;
const Family kMixtralFamily = {
    "mixtral",
    {"mixtral"},
    {"llama"},
    mixtral::from_hf,
    mixtral::from_gguf,
    mixtral::to_hf,
    mixtral::to_gguf,
    llama_slots(true,
                {
                    {Role::router, "model.layers.{}.block_sparse_moe.gate", "blk.{}.ffn_gate_inp"},
                    {Role::expert_gate, "model.layers.{}.block_sparse_moe.experts.{}.w1",
                     "blk.{}.ffn_gate_exps"},
                    {Role::expert_up, "model.layers.{}.block_sparse_moe.experts.{}.w3",
                     "blk.{}.ffn_up_exps"},
                    {Role::expert_down, "model.layers.{}.block_sparse_moe.experts.{}.w2",
                     "blk.{}.ffn_down_exps"},
                }),
};

}  // namespace hone
