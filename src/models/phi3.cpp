// Phi-3 (Abdin et al. 2024): Llama whose q, k and v are rows of one matrix, gate and up of another,
// with a sliding window in every layer of some models, a part of each head rotated in later ones,
// and the factors of LongRoPE in those of 128k tokens.
#include <nlohmann/json.hpp>

#include "models/family.h"

namespace hone {
namespace phi3 {

constexpr const char* kShort = "rope_factors_short.weight";
constexpr const char* kLong = "rope_factors_long.weight";

Json json_floats(const std::vector<float>& values) {
  Json all = Json::array();
  for (float x : values) all.push_back(json_float(x));
  return all;
}

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

std::vector<float> factors(const GgufFile& f, const char* name) {
  HONE_CHECK(f.find_tensor(name) != nullptr, corrupt, "{}: the tensor '{}' is missing",
             f.path().string(), name);
  const Tensor t = f.tensor(name);
  HONE_CHECK(t.dtype() == DType::f32 && t.rank() == 1, corrupt, "{}: {}: expected a list of f32",
             f.path().string(), name);
  return {t.data<float>(), t.data<float>() + t.numel()};
}

void from_gguf(const GgufFile& f, ModelConfig& m) {
  read_llama_gguf(f, m);
  set_window(m, static_cast<int64_t>(f.find_u64("phi3.attention.sliding_window").value_or(0)));
  const bool longrope = f.find_string("phi3.rope.scaling.type") == "longrope";
  if (f.find_tensor(kShort) == nullptr && !longrope) return;
  RopeScaling& s = m.rope_scaling;
  s.kind = RopeScaling::Kind::longrope;
  s.short_factors = factors(f, kShort);
  s.long_factors = factors(f, kLong);
  s.original_context = static_cast<float>(f.get_u64("phi3.rope.scaling.original_context_length"));
  s.attention_factor =
      static_cast<float>(f.find_f64("phi3.rope.scaling.attn_factor").value_or(1.0));
  HONE_CHECK(s.original_context > 1 && s.attention_factor > 0, corrupt,
             "{}: longrope: an original context of {} tokens, a factor of {}", f.path().string(),
             s.original_context, s.attention_factor);
}

void to_hf(const ModelConfig& m, Json& c) {
  c["architectures"] = {"Phi3ForCausalLM"};
  c["model_type"] = "phi3";
  c["hidden_act"] = "silu";
  c["rms_norm_eps"] = json_float(m.norm_eps);
  c["sliding_window"] = m.window > 0 ? Json(m.window) : Json();
  const RopeScaling& s = m.rope_scaling;
  const bool longrope = s.kind == RopeScaling::Kind::longrope;
  c["original_max_position_embeddings"] =
      longrope ? static_cast<int64_t>(s.original_context) : m.context;
  if (longrope)
    c["rope_scaling"] = {{"type", "longrope"},
                         {"short_factor", json_floats(s.short_factors)},
                         {"long_factor", json_floats(s.long_factors)},
                         {"attention_factor", json_float(s.attention_factor)}};
  c["partial_rotary_factor"] =
      static_cast<double>(m.rope_dim > 0 ? m.rope_dim : m.head_dim) / double(m.head_dim);
}

void to_gguf(const ModelConfig& m, std::vector<GgufEntry>& out) {
  write_llama_gguf("phi3", m, out);
  const RopeScaling& s = m.rope_scaling;
  const bool longrope = s.kind == RopeScaling::Kind::longrope;
  const int64_t original = longrope ? static_cast<int64_t>(s.original_context) : m.context;
  out.push_back({"phi3.rope.scaling.original_context_length",
                 GgufValue::u32(static_cast<uint32_t>(original))});
  if (longrope)
    out.push_back({"phi3.rope.scaling.attn_factor", GgufValue::f32(s.attention_factor)});
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

}  // namespace phi3

extern const Family kPhi3Family;
const Family kPhi3Family = {
    "phi3",
    {"phi3"},
    {"phi3"},
    phi3::from_hf,
    phi3::from_gguf,
    phi3::to_hf,
    phi3::to_gguf,
    llama_slots(false, {phi3::fused(Role::q, 0), phi3::fused(Role::k, 1), phi3::fused(Role::v, 2),
                        phi3::fused_mlp(Role::gate, 0), phi3::fused_mlp(Role::up, 1)}),
};

}  // namespace hone
