// adapter_config.json: the typed view and back. Every key that hone acts on stands once, in
// visit_fields; kBeside has the others that peft writes.
#include <algorithm>
#include <cmath>
#include <string_view>

#include "base/error.h"
#include "formats/json_fields.h"
#include "formats/peft.h"
#include "formats/printable.h"

namespace hone {
namespace {

using Names = std::vector<std::string>;
template <typename T>
using Patterns = std::vector<std::pair<std::string, T>>;

// Which methods have a key.
enum : unsigned { kLora = 1, kIa3 = 2, kPrefixKeys = 4, kPromptKeys = 8, kAny = 16 };

unsigned methods_of(const std::string& peft_type) {
  if (peft_type == "LORA") return kAny | kLora;
  if (peft_type == "IA3") return kAny | kIa3;
  if (peft_type == "PREFIX_TUNING") return kAny | kPrefixKeys;
  if (peft_type == "PROMPT_TUNING") return kAny | kPromptKeys;
  return kAny;
}

/// Calls visit(key, pointer to member) for each key that the method has, in alphabetical order.
template <typename Visitor>
void visit_fields(const std::string& peft_type, Visitor&& visit) {
  const unsigned methods = methods_of(peft_type);
  const auto field = [&](unsigned of, const char* key, auto member) {
    if ((of & methods) != 0) visit(key, member);
  };
  using C = PeftConfig;
  field(kLora, "alpha_pattern", &C::alpha_pattern);
  field(kAny, "base_model_name_or_path", &C::base_model_name_or_path);
  field(kLora, "bias", &C::bias);
  field(kPrefixKeys, "encoder_hidden_size", &C::encoder_hidden_size);
  field(kLora | kIa3, "exclude_modules", &C::exclude_modules);
  field(kLora | kIa3, "fan_in_fan_out", &C::fan_in_fan_out);
  field(kIa3, "feedforward_modules", &C::feedforward_modules);
  field(kAny, "inference_mode", &C::inference_mode);
  field(kLora, "layers_pattern", &C::layers_pattern);
  field(kLora, "layers_to_transform", &C::layers_to_transform);
  field(kLora, "lora_alpha", &C::lora_alpha);
  field(kLora, "lora_dropout", &C::lora_dropout);
  field(kAny, "modules_to_save", &C::modules_to_save);
  field(kPrefixKeys | kPromptKeys, "num_attention_heads", &C::num_attention_heads);
  field(kPrefixKeys | kPromptKeys, "num_layers", &C::num_layers);
  field(kPrefixKeys | kPromptKeys, "num_transformer_submodules", &C::num_transformer_submodules);
  field(kPrefixKeys | kPromptKeys, "num_virtual_tokens", &C::num_virtual_tokens);
  field(kAny, "peft_type", &C::peft_type);
  field(kPrefixKeys, "prefix_projection", &C::prefix_projection);
  field(kLora, "r", &C::r);
  field(kLora, "rank_pattern", &C::rank_pattern);
  field(kLora | kIa3, "target_modules", &C::target_modules);
  field(kAny, "task_type", &C::task_type);
  field(kPrefixKeys | kPromptKeys, "token_dim", &C::token_dim);
  field(kLora, "use_dora", &C::use_dora);
  field(kLora, "use_rslora", &C::use_rslora);
}

// What peft 0.21.2 writes beside them in a config of its own, in alphabetical order.
struct Beside {
  unsigned of;
  const char *key, *json;
};
constexpr unsigned kPefts = kLora | kIa3 | kPrefixKeys | kPromptKeys;
constexpr Beside kBeside[] = {
    {kLora, "alora_invocation_tokens", "null"},
    {kLora, "arrow_config", "null"},
    {kPefts, "auto_mapping", "null"},
    {kLora, "corda_config", "null"},
    {kLora, "ensure_weight_tying", "false"},
    {kLora, "eva_config", "null"},
    {kIa3, "init_ia3_weights", "true"},
    {kLora, "init_lora_weights", "true"},
    {kPrefixKeys, "init_weights", "null"},
    {kLora, "kasa_config", "null"},
    {kLora, "layer_replication", "null"},
    {kLora, "loftq_config", "{}"},
    {kLora, "lora_bias", "false"},
    {kLora, "lora_ga_config", "null"},
    {kLora, "megatron_config", "null"},
    {kLora, "megatron_core", "\"megatron.core\""},
    {kLora, "monteclora_config", "null"},
    {kPefts, "peft_version", "\"0.21.2\""},
    {kPromptKeys, "prompt_tuning_init", "\"RANDOM\""},
    {kPromptKeys, "prompt_tuning_init_text", "null"},
    {kLora, "qalora_group_size", "16"},
    {kPefts, "revision", "null"},
    {kLora, "target_parameters", "null"},
    {kPromptKeys, "tokenizer_kwargs", "null"},
    {kPromptKeys, "tokenizer_name_or_path", "null"},
    {kLora, "trainable_token_indices", "null"},
    {kLora, "use_bdlora", "null"},
    {kLora, "use_qalora", "false"},
    {kLora, "velora_config", "null"},
};

/// Reads fields; an absent key or null leaves the default.
class Reader {
 public:
  Reader(const Json& json, const std::string& source) : json_(json), source_(source) {}

  template <typename T>
  void read(const char* key, T& out) {
    key_ = key;
    if (const Json* value = find_field(json_, key)) get(*value, out);
  }

 private:
  [[noreturn]] void refuse(const char* expected) const {
    fail(ErrorKind::corrupt, "{}: \"{}\": expected {}", source_, key_, expected);
  }
  void get(const Json& v, bool& out) const {
    if (!v.is_boolean()) refuse("true or false");
    out = v.get<bool>();
  }
  void get(const Json& v, int64_t& out) const {
    out = json_integer(v, fmt::format("\"{}\"", key_), source_);
  }
  void get(const Json& v, double& out) const {
    if (!v.is_number()) refuse("a number");
    out = v.get<double>();
  }
  void get(const Json& v, std::string& out) const {
    if (!v.is_string()) refuse("a string");
    out = v.get<std::string>();
  }
  /// A single value stands for a list of one.
  template <typename T>
  void get(const Json& v, std::vector<T>& out) const {
    if (!v.is_array()) return get(v, out.emplace_back());
    for (const Json& x : v) get(x, out.emplace_back());
  }
  template <typename T>
  void get(const Json& v, Patterns<T>& out) const {
    if (!v.is_object()) refuse("an object");
    for (const auto& [pattern, x] : v.items()) get(x, out.emplace_back(pattern, T()).second);
  }
  void get(const Json& v, PeftModules& out) const {
    if (v.is_string()) return get(v, out.pattern);
    if (!v.is_array()) refuse("a list of names or an expression");
    get(v, out.names);
  }

  const Json& json_;
  const std::string& source_;
  const char* key_ = "";
};

// A value as peft would write it; null for what is not given.
Json json_of(bool x) { return x; }
Json json_of(int64_t x) { return x == 0 ? Json() : Json(x); }
Json json_of(double x) {
  const bool whole = x == std::floor(x) && std::abs(x) < 1e15;
  return whole ? Json(static_cast<int64_t>(x)) : Json(x);
}
Json json_of(const std::string& x) { return x.empty() ? Json() : Json(x); }
template <typename T>
Json json_of(const std::vector<T>& x) {
  return x.empty() ? Json() : Json(x);
}
Json json_of(const PeftModules& x) {
  return x.pattern.empty() ? json_of(x.names) : json_of(x.pattern);
}
template <typename T>
Json json_of(const Patterns<T>& x) {
  Json out = Json::object();
  for (const auto& [pattern, value] : x) out[pattern] = json_of(value);
  return out;
}

// Options of LoRA that change what the tensors mean, or add others.
constexpr const char* kUnsupported[] = {
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
};

bool is_set(const Json& value) {
  if (value.is_boolean()) return value.get<bool>();
  return !value.is_null() && !((value.is_array() || value.is_object()) && value.empty());
}

void check_lora_options(const Json& json, const std::string& source) {
  for (const char* key : kUnsupported) {
    const Json* value = find_field(json, key);
    HONE_CHECK(value == nullptr || !is_set(*value), unsupported,
               "{}: \"{}\" is set; hone has no such kind of LoRA", source, key);
  }
  const Json* init = find_field(json, "init_lora_weights");
  if (init == nullptr || !init->is_string()) return;
  const auto name = init->get<std::string>();
  // The others take what they put into A and B out of the base's weights, which peft does again
  // when it loads them.
  HONE_CHECK(name == "gaussian" || name == "eva" || name == "orthogonal", unsupported,
             "{}: \"init_lora_weights\": {} changes the base's weights; save the adapter "
             "converted to plain LoRA (peft: path_initial_model_for_weight_conversion)",
             source, printable(name));
}

void check_values(const PeftConfig& c, const std::string& source) {
  const auto in_range = [&](const char* key, int64_t x, int64_t least) {
    constexpr int64_t kMost = int64_t{1} << 31;
    HONE_CHECK(x >= least && x <= kMost, corrupt, "{}: \"{}\": expected {} to {}, got {}", source,
               key, least, kMost, x);
  };
  const auto finite = [&](const char* key, double x) {
    HONE_CHECK(std::isfinite(x), corrupt, "{}: \"{}\": not a finite number", source, key);
  };
  in_range("r", c.r, 1);
  for (const auto& [pattern, r] : c.rank_pattern) in_range("rank_pattern", r, 1);
  finite("lora_alpha", c.lora_alpha);
  for (const auto& [pattern, alpha] : c.alpha_pattern) finite("alpha_pattern", alpha);
  HONE_CHECK(c.lora_dropout >= 0 && c.lora_dropout < 1, corrupt,
             "{}: \"lora_dropout\": expected 0 to 1, got {}", source, c.lora_dropout);
  HONE_CHECK(c.bias == "none" || c.bias == "all" || c.bias == "lora_only", corrupt,
             "{}: \"bias\": expected none, all or lora_only, got {}", source, printable(c.bias));
  in_range("num_virtual_tokens", c.num_virtual_tokens, 0);
  in_range("token_dim", c.token_dim, 0);
  in_range("num_layers", c.num_layers, 0);
  in_range("num_attention_heads", c.num_attention_heads, 0);
  in_range("encoder_hidden_size", c.encoder_hidden_size, 0);
  HONE_CHECK(c.num_transformer_submodules == 1, unsupported,
             "{}: \"num_transformer_submodules\" is {}; hone has no encoder-decoder models", source,
             c.num_transformer_submodules);
  // Their tensors would stand under names of another pattern.
  const bool prompt = (methods_of(c.peft_type) & (kPrefixKeys | kPromptKeys)) != 0;
  HONE_CHECK(!prompt || c.modules_to_save.empty(), unsupported, "{}: \"modules_to_save\" beside {}",
             source, c.peft_type);
}

}  // namespace

PeftConfig parse_peft_config(const Json& json, const std::string& source) {
  HONE_CHECK(json.is_object(), corrupt, "{}: expected a JSON object", source);
  PeftConfig config;
  Reader reader(json, source);
  reader.read("peft_type", config.peft_type);
  HONE_CHECK(!config.peft_type.empty(), corrupt, "{}: \"peft_type\" is missing", source);
  visit_fields(config.peft_type, [&](const char* key, auto member) {
    PeftConfig fresh;  // a list is read onto an empty one, peft_type among the fields
    reader.read(key, fresh.*member);
    config.*member = std::move(fresh.*member);
  });
  if (config.peft_type == "LORA") check_lora_options(json, source);
  check_values(config, source);
  return config;
}

Json peft_config_json(const PeftConfig& config, const Json& base) {
  const bool own = base.is_null();
  const PeftConfig was = own ? PeftConfig() : parse_peft_config(base, "adapter_config.json");
  std::vector<std::pair<std::string, Json>> members;
  if (!own)
    for (const auto& [key, value] : base.items()) members.emplace_back(key, value);
  else
    for (const Beside& b : kBeside)
      if ((b.of & methods_of(config.peft_type)) != 0)
        members.emplace_back(b.key, parse_json(b.json, b.key));
  visit_fields(config.peft_type, [&](const char* key, auto member) {
    if (!own && config.*member == was.*member) return;
    const auto at =
        std::find_if(members.begin(), members.end(), [&](const auto& m) { return m.first == key; });
    Json value = json_of(config.*member);
    // The one number that is a float for peft, whatever it is.
    if (std::string_view(key) == "lora_dropout") value = config.lora_dropout;
    if (at != members.end()) {
      at->second = std::move(value);
      return;
    }
    const auto before =
        std::find_if(members.begin(), members.end(), [&](const auto& m) { return m.first > key; });
    members.emplace(before, key, std::move(value));
  });
  Json json = Json::object();
  auto& object = json.get_ref<Json::object_t&>();
  for (auto& [key, value] : members) object.emplace_back(std::move(key), std::move(value));
  check_values(config, "adapter_config.json");
  return json;
}

}  // namespace hone
