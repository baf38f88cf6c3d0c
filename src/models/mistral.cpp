// Mistral (Jiang et al. 2023): Llama with a sliding window in every layer, or with none in the
// later models. GGUF calls it llama, whose readers know no window.
#include <nlohmann/json.hpp>

#include "models/family.h"

namespace hone {
namespace mistral {

void from_hf(const Json& c, ModelConfig& m) {
  read_llama_hf(c, m);
  m.window = config_int(c, "sliding_window", 0);
  if (m.window == 0 || m.layers > ModelConfig::kMaxLayers) return;  // validate() refuses the latter
  m.windowed.assign(static_cast<size_t>(std::max<int64_t>(0, m.layers)), true);
}

void from_gguf(const GgufFile& f, ModelConfig& m) { read_llama_gguf(f, m); }

void to_hf(const ModelConfig& m, Json& c) {
  c["architectures"] = {"MistralForCausalLM"};
  c["model_type"] = "mistral";
  c["hidden_act"] = "silu";
  c["rms_norm_eps"] = json_float(m.norm_eps);
  c["sliding_window"] = m.window > 0 ? Json(m.window) : Json();
}

void to_gguf(const ModelConfig& m, std::vector<GgufEntry>& out) {
  HONE_CHECK(m.windowed.empty() || m.window >= m.context, unsupported,
             "gguf: llama files have no sliding window, this model has one of {} keys", m.window);
  write_llama_gguf("llama", m, out);
}

}  // namespace mistral

extern const Family kMistralFamily;
const Family kMistralFamily = {
    "mistral",          {"mistral"},    {"llama"},        mistral::from_hf,
    mistral::from_gguf, mistral::to_hf, mistral::to_gguf, llama_slots(true),
};

}  // namespace hone
