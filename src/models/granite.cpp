// Granite 3 (IBM 2024): Llama with four factors: of the embedding, of attention scores, of what
// each half adds to the residual stream, and a divisor of the logits.
#include <cmath>
#include <nlohmann/json.hpp>

#include "models/family.h"

namespace hone {
namespace granite {

void check_factors(const ModelConfig& m, const std::string& source) {
  for (float f : {m.embedding_scale, m.attention_scale, m.residual_scale, m.logit_scale})
    HONE_CHECK(std::isfinite(f) && f > 0, corrupt, "{}: a factor of {}: expected a positive number",
               source, f);
}

void from_hf(const Json& c, ModelConfig& m) {
  read_llama_hf(c, m);
  auto factor = [&](const char* key) { return static_cast<float>(config_float(c, key, 1)); };
  m.embedding_scale = factor("embedding_multiplier");
  m.attention_scale = factor("attention_multiplier");
  m.residual_scale = factor("residual_multiplier");
  m.logit_scale = 1 / factor("logits_scaling");
  check_factors(m, "config.json");
}

void from_gguf(const GgufFile& f, ModelConfig& m) {
  read_llama_gguf(f, m);
  auto factor = [&](const char* key, double missing) {
    return static_cast<float>(f.find_f64(std::string("granite.") + key).value_or(missing));
  };
  m.embedding_scale = factor("embedding_scale", 1);
  m.attention_scale = factor("attention.scale",
                             1 / std::sqrt(static_cast<double>(std::max<int64_t>(1, m.head_dim))));
  m.residual_scale = factor("residual_scale", 1);
  m.logit_scale = 1 / factor("logit_scale", 1);
  check_factors(m, f.path().string());
}

void to_hf(const ModelConfig& m, Json& c) {
  c["architectures"] = {"GraniteForCausalLM"};
  c["model_type"] = "granite";
  c["hidden_act"] = "silu";
  c["rms_norm_eps"] = json_float(m.norm_eps);
  c["embedding_multiplier"] = json_float(m.embedding_scale);
  c["attention_multiplier"] = json_float(m.attention_scale);
  c["residual_multiplier"] = json_float(m.residual_scale);
  c["logits_scaling"] = json_float(1 / m.logit_scale);
}

void to_gguf(const ModelConfig& m, std::vector<GgufEntry>& out) {
  write_llama_gguf("granite", m, out);
  out.push_back({"granite.embedding_scale", GgufValue::f32(m.embedding_scale)});
  out.push_back({"granite.attention.scale", GgufValue::f32(m.attention_scale)});
  out.push_back({"granite.residual_scale", GgufValue::f32(m.residual_scale)});
  out.push_back({"granite.logit_scale", GgufValue::f32(1 / m.logit_scale)});
}

}  // namespace granite

extern const Family kGraniteFamily;
const Family kGraniteFamily = {
    "granite",          {"granite"},    {"granite"},      granite::from_hf,
    granite::from_gguf, granite::to_hf, granite::to_gguf, llama_slots(true),
};

}  // namespace hone
