// RWKV-6, "Finch" (Peng et al. 2024), as the hub's remote code names it (model_type rwkv6) and as
// rwkv.cpp's files do.
#include <nlohmann/json.hpp>

#include "models/rwkv.h"

namespace hone {
namespace rwkv6 {

void from_hf(const Json& c, ModelConfig& m) {
  rwkv_from_hf(c, m);
  // The remote code has these sizes as constants; files that differ say so.
  m.mixing.mix_rank = config_int(c, "time_mix_extra_dim", m.width >= 4096 ? 64 : 32);
  m.mixing.decay_rank = config_int(c, "time_decay_extra_dim", m.width >= 4096 ? 128 : 64);
  for (int64_t rank : {m.mixing.mix_rank, m.mixing.decay_rank})
    HONE_CHECK(rank > 0 && rank <= 1 << 20, corrupt, "config.json: an inner size of {}", rank);
  rwkv_common(m, "finch", "gated_rwkv_channels");
}
void to_hf(const ModelConfig& m, Json& c) {
  rwkv_to_hf(m, "rwkv6", "Rwkv6ForCausalLM", c);
  c["time_mix_extra_dim"] = m.mixing.mix_rank;
  c["time_decay_extra_dim"] = m.mixing.decay_rank;
}

constexpr auto kValue = MixerSlot::Kept::value;

}  // namespace rwkv6

extern const Family kRwkv6Family, kRwkv6CppFamily;
const Family kRwkv6Family = {
    "rwkv6",
    {"rwkv6"},
    {},
    rwkv6::from_hf,
    nullptr,
    rwkv6::to_hf,
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
        {"decay", "rwkv.blocks.{}.attention.time_decay", 2},
        {"bonus", "rwkv.blocks.{}.attention.time_faaaa", 0, true},
        {"mix_x", "rwkv.blocks.{}.attention.time_maa_x", 2},
        {"mix_w", "rwkv.blocks.{}.attention.time_maa_w", 2},
        {"mix_k", "rwkv.blocks.{}.attention.time_maa_k", 2},
        {"mix_v", "rwkv.blocks.{}.attention.time_maa_v", 2},
        {"mix_r", "rwkv.blocks.{}.attention.time_maa_r", 2},
        {"mix_g", "rwkv.blocks.{}.attention.time_maa_g", 2},
        {"mix1", "rwkv.blocks.{}.attention.time_maa_w1", 0, false, true},
        {"mix2_w", "rwkv.blocks.{}.attention.time_maa_w2", 0, false, true, rwkv6::kValue, 0, 5},
        {"mix2_k", "rwkv.blocks.{}.attention.time_maa_w2", 0, false, true, rwkv6::kValue, 1, 5},
        {"mix2_v", "rwkv.blocks.{}.attention.time_maa_w2", 0, false, true, rwkv6::kValue, 2, 5},
        {"mix2_r", "rwkv.blocks.{}.attention.time_maa_w2", 0, false, true, rwkv6::kValue, 3, 5},
        {"mix2_g", "rwkv.blocks.{}.attention.time_maa_w2", 0, false, true, rwkv6::kValue, 4, 5},
        {"decay1", "rwkv.blocks.{}.attention.time_decay_w1", 0, false, true},
        {"decay2", "rwkv.blocks.{}.attention.time_decay_w2", 0, false, true},
        {"ffn_mix_k", "rwkv.blocks.{}.feed_forward.time_maa_k", 2},
        {"ffn_mix_r", "rwkv.blocks.{}.feed_forward.time_maa_r", 2},
        {"ffn_key", "rwkv.blocks.{}.feed_forward.key.weight"},
        {"ffn_receptance", "rwkv.blocks.{}.feed_forward.receptance.weight"},
        {"ffn_value", "rwkv.blocks.{}.feed_forward.value.weight"},
    },
};

// Its small matrices are kept as [out, in] already.
const Family kRwkv6CppFamily = {
    "rwkv6",
    {"rwkv6.cpp"},
    {},
    rwkv6::from_hf,
    nullptr,
    rwkv6::to_hf,
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
        {"decay", "blocks.{}.att.time_decay", 0, true},
        {"bonus", "blocks.{}.att.time_faaaa", 0, true},
        {"mix_x", "blocks.{}.att.time_maa_x"},
        {"mix_w", "blocks.{}.att.time_maa_w"},
        {"mix_k", "blocks.{}.att.time_maa_k"},
        {"mix_v", "blocks.{}.att.time_maa_v"},
        {"mix_r", "blocks.{}.att.time_maa_r"},
        {"mix_g", "blocks.{}.att.time_maa_g"},
        {"mix1", "blocks.{}.att.time_maa_w1"},
        {"mix2_w", "blocks.{}.att.time_maa_w2", 0, false, false, rwkv6::kValue, 0, 5},
        {"mix2_k", "blocks.{}.att.time_maa_w2", 0, false, false, rwkv6::kValue, 1, 5},
        {"mix2_v", "blocks.{}.att.time_maa_w2", 0, false, false, rwkv6::kValue, 2, 5},
        {"mix2_r", "blocks.{}.att.time_maa_w2", 0, false, false, rwkv6::kValue, 3, 5},
        {"mix2_g", "blocks.{}.att.time_maa_w2", 0, false, false, rwkv6::kValue, 4, 5},
        {"decay1", "blocks.{}.att.time_decay_w1"},
        {"decay2", "blocks.{}.att.time_decay_w2"},
        {"ffn_mix_k", "blocks.{}.ffn.time_maa_k"},
        {"ffn_mix_r", "blocks.{}.ffn.time_maa_r"},
        {"ffn_key", "blocks.{}.ffn.key.weight"},
        {"ffn_receptance", "blocks.{}.ffn.receptance.weight"},
        {"ffn_value", "blocks.{}.ffn.value.weight"},
    },
    &kRwkv6Family,
};

}  // namespace hone
