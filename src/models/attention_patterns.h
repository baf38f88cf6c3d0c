// Which keys each layer's queries see: in config.json, and in words.
//
// A family whose config.json has layer_types and sliding_window says windows of one size there, so
// that transformers computes the same. Everything else stands under a key of hone's own,
// "hone_attention_patterns": the text of each layer's Pattern, null where a layer has no softmax
// attention. Other tools do not see it and compute what the family's own keys say.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "models/family.h"
#include "nn/model.h"

namespace hone {

inline constexpr const char* kNoPatternsInGguf =
    "gguf: files cannot say which keys each layer sees, and other tools would show every layer all "
    "of them; write a directory";

/// Takes hone's own key, where there is one; raises corrupt where it is no list of causal patterns,
/// one for each layer.
void read_patterns(const Json& config, ModelConfig& m);
/// Puts config.patterns, unless empty, under the family's keys or hone's own.
void write_patterns(const ModelConfig& m, const Family& family, Json& config);
/// Whether write_patterns() needs hone's own key.
bool hides_patterns(const ModelConfig& m, const Family& family);

/// Raises invalid_argument, beginning with `what`, where a pattern is not one for a language model
/// of `context` positions: it shows a query a key behind it, or not its own.
void check_pattern(const Pattern& p, int64_t context, const std::string& what);

/// Layers that mix tokens in the same way.
struct LayerGroup {
  std::string mixing;  ///< Mixer::describe()
  std::vector<int64_t> layers;
};
/// In the order of their first layers.
std::vector<LayerGroup> layer_groups(const Model& model);
/// "0, 2, 4", "0–3, 5" or "all 6"
std::string layers_text(const std::vector<int64_t>& layers, int64_t of);

}  // namespace hone
