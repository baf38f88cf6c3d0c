// PEFT directories: adapters as Hugging Face's peft saves and loads them.
//
//   adapter_config.json        what kind of adapter, on which modules, with which numbers
//   adapter_model.safetensors  its tensors, metadata {"format": "pt"}
//
// What peft wrote is written again byte for byte: keys that hone does not know stay where they are,
// numbers and texts are printed as Python prints them. Tensors, with their shapes as in the file:
//
//   base_model.model.<module>.lora_A.weight [r, in], .lora_B.weight [out, r]
//   base_model.model.<module>.lora_embedding_A [r, vocabulary], .lora_embedding_B [width, r]
//   base_model.model.<module>.lora_magnitude_vector [out]       DoRA
//   base_model.model.<module>.ia3_l [out, 1], or [1, in] of a feed-forward module
//   prompt_embeddings [n, width] (prompt), [n, 2 · layers · kv width] (prefix: K0 V0 K1 V1 ...)
//   base_model.model.<any other parameter>    modules_to_save; <module>.base_layer.bias, trained
//
// in and out are those of the module, however its weight is stored (fan_in_fan_out). Not read:
// adapter_model.bin, a pickle, and options that change what the tensors mean (see parse).
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/files.h"
#include "base/json.h"
#include "tensor/tensor.h"

namespace hone {

/// A set of modules: nothing, a list of names, or a regular expression.
struct PeftModules {
  std::vector<std::string> names;
  std::string pattern;  ///< used where not empty; "all-linear" is no expression but that
  bool empty() const { return names.empty() && pattern.empty(); }
  bool operator==(const PeftModules&) const = default;
};

/// The keys of adapter_config.json that hone acts on, with peft's defaults. A key counts for the
/// methods named beside it, and is left alone in the file of another.
struct PeftConfig {
  std::string peft_type;  ///< "LORA", "IA3", "PREFIX_TUNING", "PROMPT_TUNING", or one unknown here
  std::string task_type;  ///< "CAUSAL_LM", ...; may be empty
  std::string base_model_name_or_path;
  bool inference_mode = false;
  std::vector<std::string> modules_to_save;  ///< trained whole, beside the adapter

  // LORA and IA3
  PeftModules target_modules;
  PeftModules exclude_modules;
  bool fan_in_fan_out = false;  ///< the base stores its weights as [in, out]

  // LORA
  int64_t r = 8;
  double lora_alpha = 8;
  bool use_rslora = false;
  bool use_dora = false;
  double lora_dropout = 0;
  std::string bias = "none";  ///< which biases are trained: "none", "all", "lora_only"
  std::vector<std::pair<std::string, int64_t>> rank_pattern;  ///< expression → r, first match wins
  std::vector<std::pair<std::string, double>> alpha_pattern;
  std::vector<int64_t> layers_to_transform;  ///< empty: all; for lists of target_modules only
  std::vector<std::string> layers_pattern;   ///< names of the lists of layers; empty: any

  // IA3
  PeftModules feedforward_modules;

  // PREFIX_TUNING and PROMPT_TUNING; 0 where the file does not say
  int64_t num_virtual_tokens = 0;
  int64_t token_dim = 0;  ///< prompt: width of the embeddings; prefix: of all KV heads together
  int64_t num_layers = 0;
  int64_t num_attention_heads = 0;  ///< prefix: KV heads
  int64_t num_transformer_submodules = 1;

  // PREFIX_TUNING
  bool prefix_projection = false;   ///< trained through an MLP, which is not saved
  int64_t encoder_hidden_size = 0;  ///< of that MLP

  bool operator==(const PeftConfig&) const = default;
};

/// The typed view of an adapter_config.json; `source` names it in errors. Raises corrupt for a
/// value of the wrong type or outside its range; unsupported, with the key, for options that change
/// what the tensors mean (lora_bias, target_parameters, layer_replication, initialisations that
/// change the base's weights, encoder-decoder models, ...). Other unknown keys are ignored.
PeftConfig parse_peft_config(const Json& json, const std::string& source);

/// adapter_config.json for `config`. `base` is the file that it came from: keys whose value has not
/// changed keep the spelling and place they have there, new ones go where the order of the alphabet
/// puts them. With null it is as peft 0.21.2 writes one of its own.
Json peft_config_json(const PeftConfig& config, const Json& base);

/// An adapter. Tensors that were read borrow the mapped file.
struct PeftAdapter {
  PeftConfig config;
  Json json;  ///< adapter_config.json as it was read; null for an adapter of our own
  std::map<std::string, Tensor> tensors;
};

/// Which module a tensor belongs to, and as what.
struct PeftTensorName {
  std::string module;  ///< "model.layers.0.self_attn.q_proj"
  /// "lora_A.weight", "lora_B.weight", "lora_embedding_A", "lora_embedding_B",
  /// "lora_magnitude_vector", "ia3_l" or "prompt_embeddings" (without a module). Empty for a plain
  /// parameter: then `module` is its whole name.
  std::string part;
};
/// Raises corrupt for a name that peft would not write.
PeftTensorName split_peft_name(const std::string& name, const std::string& source);
/// The reverse.
std::string peft_tensor_name(const PeftTensorName& name);

/// Raises io, corrupt or unsupported, naming the file and the key or tensor. The tensors fit the
/// config and each other: pairs are whole, ranks are those that it states, shapes have the sizes
/// above. Whether they fit a model is not known here.
PeftAdapter read_peft_directory(const fs::path& directory);

/// Writes a directory, which must not exist yet or be empty. It appears under its name, complete
/// and synced, when this returns; otherwise nothing does. Raises what reading it would, before
/// anything is written.
void write_peft_directory(const fs::path& directory, const PeftAdapter& adapter);

}  // namespace hone
