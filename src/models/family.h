// Family: how one model family is named and laid out in files.
//
// A family is one file (models/<family>.cpp): two functions that fill a ModelConfig, and a table of
// slots, which gives each parameter's role its name in Hugging Face checkpoints and in GGUF.
// Everything else is shared: decoder.cpp builds, loader.cpp reads, export.cpp writes.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "formats/gguf.h"
#include "models/config.h"

namespace hone {

/// What a parameter is for. Roles from `mixer_norm` on exist once a layer.
enum class Role {
  embedding,
  positions,
  final_norm,
  head,
  mixer_norm,
  post_mixer_norm,
  mlp_norm,
  post_mlp_norm,
  q,
  k,
  v,
  o,
  q_norm,
  k_norm,
  gate,
  up,
  down,
};
constexpr bool is_layer_role(Role r) { return r >= Role::mixer_norm; }
/// Matrices that multiply activations.
constexpr bool is_linear_role(Role r) {
  return r == Role::head || (r >= Role::q && r <= Role::o) || r >= Role::gate;
}

/// One parameter. Names lack ".weight"; "{}" stands for the layer number. A module's path, which
/// recipes and adapters use, is its HF name (with ".q", ".k", ".v" behind a fused one).
struct Slot {
  Role role;
  const char* hf;
  const char* gguf;
  /// GGUF keeps the two halves of a rotation side by side: rows permuted per head of q or k.
  bool gguf_paired_rows = false;
  /// HF keeps the matrix as [in, out] (GPT-2's Conv1D).
  bool hf_transposed = false;
  /// Row block `part` of `parts` equal ones of a stored matrix, in both formats; 0 parts = whole.
  int part = 0, parts = 0;
};

struct Family {
  const char* name;
  std::vector<const char*> hf_types;  ///< config.json's model_type
  std::vector<const char*> gguf_architectures;
  void (*from_hf)(const Json& config, ModelConfig& out);
  void (*from_gguf)(const GgufFile& file, ModelConfig& out);
  /// config.json of a model that came from GGUF: the keys beyond the common ones.
  void (*to_hf)(const ModelConfig& config, Json& out);
  /// GGUF metadata beyond the common keys.
  void (*to_gguf)(const ModelConfig& config, std::vector<GgufEntry>& out);
  std::vector<Slot> slots;
  float gguf_norm_shift = 0;  ///< GGUF stores norm weights plus this (Gemma: 1)
};

/// The family for a model_type or a GGUF architecture; raises unsupported naming the known ones.
const Family& family_for_hf(std::string_view model_type, const std::string& source);
const Family& family_for_gguf(std::string_view architecture, const std::string& source);
std::span<const Family* const> families();

/// A slot's name with the layer number in place of "{}".
std::string slot_name(const char* pattern, int64_t layer);
/// The module path of a slot.
std::string module_path(const Slot& slot, int64_t layer);

// Typed look-ups in a config.json: a missing or null key gives `missing`; a value of another type
// raises corrupt, naming the key. require_int raises corrupt where the key is missing.
int64_t config_int(const Json& config, const char* key, int64_t missing);
double config_float(const Json& config, const char* key, double missing);
bool config_bool(const Json& config, const char* key, bool missing);
std::string config_string(const Json& config, const char* key, const std::string& missing);
int64_t require_int(const Json& config, const char* key);

/// rope_theta and scaling from one object of config.json's rope_scaling or rope_parameters (or from
/// the top level), in the old or the new layout. Raises unsupported on an unknown kind of scaling.
void read_rope(const Json& object, float& theta, RopeScaling& scaling);
/// The keys that most HF configs share: sizes, heads, context, tie_word_embeddings.
void read_common_hf(const Json& config, ModelConfig& out);
/// The keys that every GGUF architecture has ("llama.block_count", ...).
void read_common_gguf(const GgufFile& file, ModelConfig& out);

}  // namespace hone
