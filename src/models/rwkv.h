// What the families of RWKV-5, -6 and -7 share.
#pragma once

#include <string>

#include "models/family.h"

namespace hone {

/// LayerNorms, one of them behind the embedding; no positions; both halves of a block are mixers of
/// nn/registry.h. `m` has its sizes already.
void rwkv_common(ModelConfig& m, const char* mixer, const char* feed_forward);
/// The keys of RWKV-5's and -6's remote code on the Hugging Face hub.
void rwkv_from_hf(const Json& config, ModelConfig& m);
void rwkv_to_hf(const ModelConfig& m, const char* model_type, const char* architecture, Json& out);
/// Slots outside the mixers: of the hub's RWKV-5 and -6, and of rwkv.cpp's files.
std::vector<Slot> rwkv_slots();
std::vector<Slot> rwkv_cpp_slots();

}  // namespace hone
