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
  embedding_norm,
  positions,
  memory,
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
  attention_gate,
  q_norm,
  k_norm,
  gate,
  up,
  down,
  expert_gate,
  expert_up,
  expert_down,
  router,
};
constexpr bool is_layer_role(Role r) { return r >= Role::mixer_norm; }
/// Matrices that multiply activations.
constexpr bool is_linear_role(Role r) {
  return r == Role::head || (r >= Role::q && r <= Role::attention_gate) || r >= Role::gate;
}
/// Those that each expert has. GGUF keeps all experts' in one tensor [experts, N, K].
constexpr bool is_expert_role(Role r) { return r >= Role::expert_gate && r <= Role::expert_down; }

/// One parameter. Names lack ".weight"; "{}" stands for the layer number, a second one for the
/// expert's. A module's path, which
/// recipes and adapters use, is its HF name (with ".q", ".k", ".v" behind a fused one).
struct Slot {
  Role role;
  const char* hf;
  const char* gguf;
  /// GGUF keeps the two halves of a rotation side by side: rows permuted per head of q or k.
  bool gguf_paired_rows = false;
  /// HF keeps the matrix as [in, out] (GPT-2's Conv1D).
  bool hf_transposed = false;
  /// Row block `part` of the `parts` that a stored matrix holds, in both formats; the slots of the
  /// others have the same name. 0 parts = whole.
  int part = 0, parts = 0;
  bool parts_by_head = false;  ///< the blocks are those of each kv head and its queries in turn
  /// That is HF's order alone: GGUF keeps all heads' rows of a part together.
  bool gguf_parts_whole = false;
  /// HF keeps the two halves of a rotation side by side, of the rotated rows of each head.
  bool hf_paired_rows = false;

  bool by_head(bool gguf) const { return parts_by_head && !(gguf && gguf_parts_whole); }
  bool paired_rows(bool gguf) const { return gguf ? gguf_paired_rows : hf_paired_rows; }
};

/// One parameter of a mixer of nn/registry.h, by the name that it has there.
struct MixerSlot {
  const char* parameter;
  const char* hf;  ///< the whole name; of a norm without ".weight"
  /// How the file keeps it: ones in front of the shape, its one dimension as [heads, rest], a
  /// matrix as [in, out].
  int ones = 0;
  bool by_heads = false, transposed = false;
  /// As 1 − x, or as exp(−exp(x)).
  enum class Kept { value, complement, decay } kept = Kept::value;
  /// Part `part` of `parts` that are kept as one tensor [parts, …].
  int part = 0, parts = 0;
  bool filter = false;  ///< [C, W] is kept as [C, 1, W]
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
  std::vector<MixerSlot> mixer_slots = {};
  /// The family whose names modules have and files get, where these are of files that are only
  /// read.
  const Family* written_as = nullptr;
  /// A new model's mixers begin as drawn matrices and coefficients of 0; else nobody knows how.
  bool plain_mixers = false;
  /// config.json says by layer_types and sliding_window which layers have a window, of one size.
  bool has_layer_types = false;
  /// config.json has one number of heads: files cannot hold fewer for keys and values.
  bool one_head_count = false;
  /// The family of this config, where one model_type has models of several layouts; null = this.
  const Family& (*variant)(const ModelConfig& config) = nullptr;

  const Family& of(const ModelConfig& config) const {
    return variant == nullptr ? *this : variant(config);
  }
  const Family& canonical() const { return written_as == nullptr ? *this : *written_as; }
};

/// The family for a model_type or a GGUF architecture; raises unsupported naming the known ones.
const Family& family_for_hf(std::string_view model_type, const std::string& source);
const Family& family_for_gguf(std::string_view architecture, const std::string& source);
std::span<const Family* const> families();

/// A slot's name with the layer's and the expert's number in place of "{}".
std::string slot_name(const char* pattern, int64_t layer, int64_t expert = 0);
/// Whether a model of this config has the parameter, of a layer's role in this layer.
bool has_role(const ModelConfig& config, Role role, int64_t layer);
/// The slot of a mixer's parameter, the family's or one that all families have; where there is none
/// of this name it is a bug.
const MixerSlot& mixer_slot(const Family& family, std::string_view parameter);
/// Shape of the tensor that holds a parameter of this shape.
Shape stored_shape(const MixerSlot& slot, const Shape& shape, int64_t heads);
/// Rows of the matrix or entries of the vector of a role.
int64_t role_rows(Role role, const ModelConfig& config);
/// The same of the stored one that holds it, whole or as a part.
int64_t stored_rows(const Family& family, const Slot& slot, const ModelConfig& config);
/// Row i of a slot's part is row order[i] of the stored matrix.
std::vector<int64_t> part_rows(const Family& family, const Slot& slot, const ModelConfig& config,
                               bool gguf);
/// The module path of a slot.
std::string module_path(const Slot& slot, int64_t layer, int64_t expert = 0);

// Typed look-ups in a config.json: a missing or null key gives `missing`; a value of another type
// raises corrupt, naming the key. require_int raises corrupt where the key is missing.
int64_t config_int(const Json& config, const char* key, int64_t missing);
double config_float(const Json& config, const char* key, double missing);
bool config_bool(const Json& config, const char* key, bool missing);
std::string config_string(const Json& config, const char* key, const std::string& missing);
int64_t require_int(const Json& config, const char* key);
/// An activation by transformers' name of it; raises unsupported, naming the key, for others.
Mlp::Activation config_activation(const Json& config, const char* key, const char* missing);
/// That name.
const char* activation_name(Mlp::Activation activation);

/// rope_theta and scaling from one object of config.json's rope_scaling or rope_parameters (or from
/// the top level), in the old or the new layout. Raises unsupported on an unknown kind of scaling.
void read_rope(const Json& object, float& theta, RopeScaling& scaling);
/// The rotated values of a head: the part that rope_parameters' partial_rotary_factor or the older
/// `key` says, else `missing`. Raises corrupt on one outside (0, 1] and where nothing is rotated.
int64_t rotated_part(const Json& config, double missing, const ModelConfig& m,
                     const char* key = "partial_rotary_factor");
/// The keys that most HF configs share: sizes, heads, context, tie_word_embeddings.
void read_common_hf(const Json& config, ModelConfig& out);
/// config.json's key "linearised", which hone adds to any family's where layers were linearised:
/// {"layers": [0, …], "window": w, "features": f}.
void read_linearised(const Json& config, ModelConfig& out);
void write_linearised(const ModelConfig& config, Json& out);
/// The keys that every GGUF architecture has ("llama.block_count", ...).
void read_common_gguf(const GgufFile& file, ModelConfig& out);

/// Whether the config announces a bias of this role's Linears.
bool announces_bias(const ModelConfig& config, Role role);
/// layer_types, where config.json has it, to `windowed`; else false. Raises unsupported on others
/// than sliding_attention and full_attention.
bool read_layer_types(const Json& config, ModelConfig& out);

// Many families are Llama but for a few keys. These read and write what they share: the common
// keys, the RMS norms' epsilon, biases, SwiGLU (another hidden_act is refused).
void read_llama_hf(const Json& config, ModelConfig& out);
void read_llama_gguf(const GgufFile& file, ModelConfig& out);
void write_llama_gguf(const std::string& architecture, const ModelConfig& config,
                      std::vector<GgufEntry>& out);
/// Llama's slots and some more; one of a role that Llama has too takes its place. In GGUF Llama's
/// own rows are paired (Slot), those of most other architectures are not.
std::vector<Slot> llama_slots(bool gguf_paired_rows, std::vector<Slot> more = {});

}  // namespace hone
