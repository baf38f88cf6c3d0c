// Phi-3 (Abdin et al. 2024): Llama whose q, k and v are rows of one matrix, gate and up of another,
// with a sliding window in every layer of some models, and a part of each head rotated in later
// ones. Of GGUF files the "longrope" factors of the models of 128k tokens are not read.
#include <nlohmann/json.hpp>

#include "models/family.h"

namespace hone {
namespace {

void set_window(ModelConfig& m, int64_t window) {
  m.window = window;
  if (window == 0 || m.layers > ModelConfig::kMaxLayers) return;  // validate() refuses the latter
  m.windowed.assign(static_cast<size_t>(std::max<int64_t>(0, m.layers)), true);
}

void from_hf(const Json& c, ModelConfig& m) {
  read_llama_hf(c, m);
  set_window(m, config_int(c, "sliding_window", 0));
  m.rope_dim = rotated_part(c, 1.0, m);
}

void from_gguf(const GgufFile& f, ModelConfig& m) {
  read_llama_gguf(f, m);
  set_window(m, static_cast<int64_t>(f.find_u64("phi3.attention.sliding_window").value_or(0)));
  for (const char* factors : {"rope_factors_long.weight", "rope_factors_short.weight"})
    HONE_CHECK(f.find_tensor(factors) == nullptr, unsupported,
               "{}: {}: rope scaling 'longrope' is not supported", f.path().string(), factors);
}

void to_hf(const ModelConfig& m, Json& c) {
  c["architectures"] = {"Phi3ForCausalLM"};
  c["model_type"] = "phi3";
  c["hidden_act"] = "silu";
  c["rms_norm_eps"] = json_float(m.norm_eps);
  c["sliding_window"] = m.window > 0 ? Json(m.window) : Json();
  c["original_max_position_embeddings"] = m.context;
  c["partial_rotary_factor"] =
      static_cast<double>(m.rope_dim > 0 ? m.rope_dim : m.head_dim) / double(m.head_dim);
}

void to_gguf(const ModelConfig& m, std::vector<GgufEntry>& out) {
  write_llama_gguf("phi3", m, out);
  out.push_back({"phi3.rope.scaling.original_context_length",
                 GgufValue::u32(static_cast<uint32_t>(m.context))});
  if (m.window > 0)
    out.push_back(
        {"phi3.attention.sliding_window", GgufValue::u32(static_cast<uint32_t>(m.window))});
}

Slot fused(Role role, int part) {
  return {.role = role,
          .hf = "model.layers.{}.self_attn.qkv_proj",
          .gguf = "blk.{}.attn_qkv",
          .part = part,
          .parts = 3};
}

Slot fused_mlp(Role role, int part) {
  return {.role = role,
          .hf = "model.layers.{}.mlp.gate_up_proj",
          .gguf = "blk.{}.ffn_up",
          .part = part,
          .parts = 2};
}

}  // namespace

extern const Family kPhi3Family;
const Family kPhi3Family = {
    "phi3",
    {"phi3"},
    {"phi3"},
    from_hf,
    from_gguf,
    to_hf,
    to_gguf,
    llama_slots(false, {fused(Role::q, 0), fused(Role::k, 1), fused(Role::v, 2),
                        fused_mlp(Role::gate, 0), fused_mlp(Role::up, 1)}),
};

}  // namespace hone
