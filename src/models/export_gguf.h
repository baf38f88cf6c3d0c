// What GGUF says in its own way: metadata, block types, frequency divisors.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "models/loader.h"

namespace hone {

/// The metadata of `model` written as GGUF with this general.file_type: a GGUF source's own but for
/// that, or what the configuration and the tokenizer say. Raises unsupported where the tokenizer
/// cannot be written.
std::vector<GgufEntry> gguf_metadata(const LoadedModel& model, uint32_t file_type);

/// The GGUF tensor that holds a module's matrix, whole or as a part; empty where there is none.
std::string gguf_tensor_name(const LoadedModel& model, const std::string& module);

/// The GGUF block type that holds the codes of `w` as they are: symmetric 4-bit integers in q4_0,
/// 8-bit ones in q8_0, where the group is a multiple of 32. Empty where there is none. Looks at
/// shape and parameters only.
std::string exact_gguf_encoding(const Weight& w);
/// The same values in exact_gguf_encoding; w itself where there is none.
Weight exact_gguf_weight(const Weight& w);

/// GGUF has no keys for what some scalings divide the plain frequencies by, but tensors:
/// rope_freqs.weight (Llama 3), rope_factors_short.weight and rope_factors_long.weight (LongRoPE).
inline constexpr std::array<const char*, 3> kRopeTensors = {
    "rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"};
/// Those of a model, by name.
std::vector<std::pair<const char*, Weight>> rope_tensors(const ModelConfig& config);
/// rope_scaling of config.json for such divisors: Llama 3's published parameters, if they reproduce
/// them; anything else has no name there and raises unsupported with `source`.
Json llama3_scaling(const Weight& divisors, float theta, const std::string& source);

}  // namespace hone
