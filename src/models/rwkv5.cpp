// RWKV-5.2, "Eagle" (Peng et al. 2024), as the hub's remote code names it (model_type rwkv5) and as
// rwkv.cpp's files do.
#include "models/rwkv.h"

namespace hone {
namespace rwkv5 {

using Kept = MixerSlot::Kept;

void from_hf(const Json& c, ModelConfig& m) {
  rwkv_from_hf(c, m);
  rwkv_common(m, "eagle", "gated_rwkv_channels");
}
void to_hf(const ModelConfig& m, Json& c) { rwkv_to_hf(m, "rwkv5", "Rwkv5ForCausalLM", c); }

// Both files keep how much of the token itself is mixed, hone how much of the one before.
MixerSlot mix(const char* parameter, const char* name, int ones) {
  return {parameter, name, ones, false, false, Kept::complement};
}

}  // namespace rwkv5

extern const Family kRwkv5Family, kRwkv5CppFamily;
const Family kRwkv5Family = {
    "rwkv5",
    {"rwkv5"},
    {},
    rwkv5::from_hf,
    nullptr,
    rwkv5::to_hf,
    nullptr,
    rwkv_slots(),
    0,
    {
        {"r", "rwkv.blocks.{}.attention.receptance.weight"},
        {"k", "rwkv.blocks.{}.attention.key.weight"},
        {"v", "rwkv.blocks.{}.attention.value.weight"},
        {"g", "rwkv.blocks.{}.attention.gate.weight"},
        {"o", "rwkv.blocks.{}.attention.output.weight"},
        {"norm", "rwkv.blocks.{}.attention.ln_x"},
        {"decay", "rwkv.blocks.{}.attention.time_decay", 0, true},
        {"bonus", "rwkv.blocks.{}.attention.time_faaaa", 0, true},
        rwkv5::mix("mix_r", "rwkv.blocks.{}.attention.time_mix_receptance", 2),
        rwkv5::mix("mix_k", "rwkv.blocks.{}.attention.time_mix_key", 2),
        rwkv5::mix("mix_v", "rwkv.blocks.{}.attention.time_mix_value", 2),
        rwkv5::mix("mix_g", "rwkv.blocks.{}.attention.time_mix_gate", 2),
        rwkv5::mix("ffn_mix_k", "rwkv.blocks.{}.feed_forward.time_mix_key", 2),
        rwkv5::mix("ffn_mix_r", "rwkv.blocks.{}.feed_forward.time_mix_receptance", 2),
        {"ffn_key", "rwkv.blocks.{}.feed_forward.key.weight"},
        {"ffn_receptance", "rwkv.blocks.{}.feed_forward.receptance.weight"},
        {"ffn_value", "rwkv.blocks.{}.feed_forward.value.weight"},
    },
};

const Family kRwkv5CppFamily = {
    "rwkv5",
    {"rwkv5.cpp"},
    {},
    rwkv5::from_hf,
    nullptr,
    rwkv5::to_hf,
    nullptr,
    rwkv_cpp_slots(),
    0,
    {
        {"r", "blocks.{}.att.receptance.weight"},
        {"k", "blocks.{}.att.key.weight"},
        {"v", "blocks.{}.att.value.weight"},
        {"g", "blocks.{}.att.gate.weight"},
        {"o", "blocks.{}.att.output.weight"},
        {"norm", "blocks.{}.att.ln_x"},
        {"decay", "blocks.{}.att.time_decay", 0, true, false, rwkv5::Kept::decay},
        {"bonus", "blocks.{}.att.time_faaaa", 0, true},
        rwkv5::mix("mix_r", "blocks.{}.att.time_mix_r", 0),
        rwkv5::mix("mix_k", "blocks.{}.att.time_mix_k", 0),
        rwkv5::mix("mix_v", "blocks.{}.att.time_mix_v", 0),
        rwkv5::mix("mix_g", "blocks.{}.att.time_mix_g", 0),
        rwkv5::mix("ffn_mix_k", "blocks.{}.ffn.time_mix_k", 0),
        rwkv5::mix("ffn_mix_r", "blocks.{}.ffn.time_mix_r", 0),
        {"ffn_key", "blocks.{}.ffn.key.weight"},
        {"ffn_receptance", "blocks.{}.ffn.receptance.weight"},
        {"ffn_value", "blocks.{}.ffn.value.weight"},
    },
    &kRwkv5Family,
};

}  // namespace hone
