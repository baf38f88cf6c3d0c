#include "models/family.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "models/registry.h"

namespace hone {
namespace {

template <typename Names>
const Family& find_family(std::string_view wanted, const std::string& source, const char* what,
                          Names names) {
  std::vector<std::string> known;
  for (const Family* f : families())
    for (const char* name : names(*f)) {
      if (wanted == name) return *f;
      known.push_back(name);
    }
  fail(ErrorKind::unsupported, "{}: {} '{}' is not supported; known: {}", source, what, wanted,
       fmt::join(known, ", "));
}

template <typename T, typename Test>
T config_value(const Json& config, const char* key, T missing, Test test, const char* type) {
  auto it = config.find(key);
  if (it == config.end() || it->is_null()) return missing;
  HONE_CHECK(test(*it), corrupt, "config.json: '{}': expected {}, got {}", key, type,
             it->dump().substr(0, 60));
  return it->template get<T>();
}

}  // namespace

std::span<const Family* const> families() { return family_registry(); }

const Family& family_for_hf(std::string_view model_type, const std::string& source) {
  return find_family(model_type, source, "model_type", [](const Family& f) { return f.hf_types; });
}

const Family& family_for_gguf(std::string_view architecture, const std::string& source) {
  return find_family(architecture, source, "architecture",
                     [](const Family& f) { return f.gguf_architectures; });
}

std::string slot_name(const char* pattern, int64_t layer, int64_t expert) {
  std::string name = pattern;
  for (int64_t number : {layer, expert})
    if (size_t at = name.find("{}"); at != std::string::npos)
      name.replace(at, 2, std::to_string(number));
  return name;
}

bool has_role(const ModelConfig& c, Role role, int64_t layer) {
  switch (role) {
    case Role::head:
      return !c.tied_head;
    case Role::positions:
      return c.learned_positions;
    case Role::embedding_norm:
      return c.embedding_norm;
    case Role::memory:
      return c.memory_tokens > 0;
    case Role::q_norm:
    case Role::k_norm:
      return c.qk_norm && !c.is_recurrent(layer);
    case Role::post_mixer_norm:
    case Role::post_mlp_norm:
      return c.post_norms;
    case Role::mixer_norm:
      return c.pre_norms;
    case Role::mlp_norm:
      return c.pre_norms && !c.shared_norm;
    case Role::q:
    case Role::k:
    case Role::v:
    case Role::o:
      return !c.is_recurrent(layer);
    case Role::attention_gate:
      return c.gated_attention && !c.is_recurrent(layer);
    case Role::gate:
      return c.gated_mlp && !c.has_experts(layer);
    case Role::up:
    case Role::down:
      return !c.has_experts(layer);
    case Role::expert_gate:
      return c.gated_mlp && c.has_experts(layer);
    case Role::expert_up:
    case Role::expert_down:
    case Role::router:
      return c.has_experts(layer);
    default:
      return true;
  }
}

const MixerSlot& mixer_slot(const Family& family, std::string_view parameter) {
  static const MixerSlot kLinearised[] = {
      {"q_map", "model.layers.{}.self_attn.q_map"},
      {"k_map", "model.layers.{}.self_attn.k_map"},
      {"window_factor", "model.layers.{}.self_attn.window_factor"}};
  for (const MixerSlot& s : family.mixer_slots)
    if (s.parameter == parameter) return s;
  for (const MixerSlot& s : kLinearised)
    if (s.parameter == parameter) return s;
  fail(ErrorKind::internal, "{}: no slot for a mixer's '{}'", family.name, parameter);
}

Shape stored_shape(const MixerSlot& slot, const Shape& shape, int64_t heads) {
  Shape out = shape;
  if (slot.by_heads) out = {heads, shape[0] / heads};
  if (slot.transposed) std::swap(out[0], out[1]);
  if (slot.filter) out.insert(out.begin() + 1, 1);
  out.insert(out.begin(), static_cast<size_t>(slot.ones), 1);
  if (slot.parts > 0) out.insert(out.begin(), slot.parts);
  return out;
}

int64_t role_rows(Role role, const ModelConfig& c) {
  switch (role) {
    case Role::embedding:
    case Role::head:
      return c.vocabulary;
    case Role::positions:
      return c.position_offset + c.context;
    case Role::memory:
      return c.memory_tokens;
    case Role::q:
    case Role::attention_gate:
      return c.heads * c.head_dim;
    case Role::k:
    case Role::v:
      return c.kv_heads * c.head_dim;
    case Role::gate:
    case Role::up:
      return c.ffn;
    case Role::expert_gate:
    case Role::expert_up:
      return c.expert_ffn;
    case Role::router:
      return c.experts;
    case Role::q_norm:
      return c.head_dim * (c.whole_qk_norm ? c.heads : 1);
    case Role::k_norm:
      return c.head_dim * (c.whole_qk_norm ? c.kv_heads : 1);
    default:
      return c.width;
  }
}

namespace {

// Rows of the parts of one stored matrix that stand in front of `end`.
int64_t rows_before(const Family& family, const Slot& s, int end, const ModelConfig& c) {
  int64_t rows = 0;
  for (const Slot& other : family.slots)
    if (other.parts > 0 && other.part < end && std::string_view(other.hf) == s.hf)
      rows += role_rows(other.role, c);
  return rows;
}

}  // namespace

int64_t stored_rows(const Family& family, const Slot& s, const ModelConfig& c) {
  return s.parts == 0 ? role_rows(s.role, c) : rows_before(family, s, s.parts, c);
}

std::vector<int64_t> part_rows(const Family& family, const Slot& s, const ModelConfig& c,
                               bool gguf) {
  const int64_t rows = role_rows(s.role, c), first = rows_before(family, s, s.part, c);
  std::vector<int64_t> order(static_cast<size_t>(rows));
  // Each head's, or of fewer key/value heads each one's and its queries', stand together.
  int64_t stored = rows, heads = rows / c.head_dim;
  if (s.by_head(gguf)) {
    stored = stored_rows(family, s, c);
    for (const Slot& other : family.slots)
      if (other.parts > 0 && std::string_view(other.hf) == s.hf)
        heads = std::min(heads, role_rows(other.role, c) / c.head_dim);
  }
  const int64_t own = rows / heads;
  for (int64_t i = 0; i < rows; ++i)
    order[i] = s.by_head(gguf) ? i / own * (stored / heads) + first / heads + i % own : first + i;
  return order;
}

std::string module_path(const Slot& slot, int64_t layer, int64_t expert) {
  std::string name = slot_name(slot.hf, layer, expert);
  if (slot.parts == 0) return name;
  const char* part = slot.role == Role::q    ? ".q"
                     : slot.role == Role::k  ? ".k"
                     : slot.role == Role::v  ? ".v"
                     : slot.role == Role::up ? ".up"
                                             : ".gate";
  return name + part;
}

int64_t config_int(const Json& c, const char* key, int64_t missing) {
  return config_value(
      c, key, missing, [](const Json& v) { return v.is_number_integer(); }, "an integer");
}
double config_float(const Json& c, const char* key, double missing) {
  return config_value(
      c, key, missing, [](const Json& v) { return v.is_number(); }, "a number");
}
bool config_bool(const Json& c, const char* key, bool missing) {
  return config_value(
      c, key, missing, [](const Json& v) { return v.is_boolean(); }, "true or false");
}
std::string config_string(const Json& c, const char* key, const std::string& missing) {
  return config_value(
      c, key, missing, [](const Json& v) { return v.is_string(); }, "a string");
}
int64_t require_int(const Json& c, const char* key) {
  HONE_CHECK(c.contains(key), corrupt, "config.json: the key '{}' is missing", key);
  return config_int(c, key, 0);
}

Mlp::Activation config_activation(const Json& c, const char* key, const char* missing) {
  const std::string name = config_string(c, key, missing);
  if (name == "silu" || name == "swish") return Mlp::Activation::silu;
  if (name == "gelu") return Mlp::Activation::gelu;
  if (name == "relu") return Mlp::Activation::relu;
  HONE_CHECK(name == "gelu_new" || name == "gelu_fast" || name == "gelu_pytorch_tanh", unsupported,
             "config.json: {} '{}': expected silu, gelu, gelu_new, gelu_pytorch_tanh or relu", key,
             name);
  return Mlp::Activation::gelu_tanh;
}

const char* activation_name(Mlp::Activation a) {
  switch (a) {
    case Mlp::Activation::silu:
      return "silu";
    case Mlp::Activation::gelu:
      return "gelu";
    case Mlp::Activation::relu:
      return "relu";
    case Mlp::Activation::gelu_tanh:
      break;
  }
  return "gelu_new";
}

namespace {

// A factor of 0 is one that is missing: finish_longrope() knows the sizes that it follows from.
void read_longrope(const Json& o, RopeScaling& s) {
  s.kind = RopeScaling::Kind::longrope;
  auto list = [&](const char* key) {
    std::vector<float> factors;
    const bool there = o.contains(key) && o[key].is_array() && o[key].size() <= 1 << 13;
    HONE_CHECK(there, corrupt, "config.json: longrope: '{}' is no list of factors", key);
    for (const Json& f : o[key]) {
      HONE_CHECK(f.is_number() && f.get<float>() > 0, corrupt,
                 "config.json: longrope: {}: {}: expected a number > 0", key,
                 f.dump().substr(0, 60));
      factors.push_back(f.get<float>());
    }
    return factors;
  };
  s.short_factors = list("short_factor");
  s.long_factors = list("long_factor");
  s.factor = static_cast<float>(config_float(o, "factor", 0));
  s.attention_factor = static_cast<float>(config_float(o, "attention_factor", 0));
  s.original_context = static_cast<float>(config_float(o, "original_max_position_embeddings", 0));
}

// What one object of a config does not say for itself.
void finish_longrope(const Json& c, ModelConfig& m) {
  RopeScaling& s = m.rope_scaling;
  if (s.kind != RopeScaling::Kind::longrope) return;
  const auto context = static_cast<float>(m.context);
  if (s.original_context == 0)
    s.original_context =
        static_cast<float>(config_float(c, "original_max_position_embeddings", context));
  HONE_CHECK(s.original_context > 1, corrupt,
             "config.json: original_max_position_embeddings {}: expected > 1", s.original_context);
  if (s.factor == 0) s.factor = context / s.original_context;
  if (s.attention_factor == 0)
    s.attention_factor =
        s.factor <= 1 ? 1.0f : std::sqrt(1 + std::log(s.factor) / std::log(s.original_context));
}

}  // namespace

void read_rope(const Json& o, float& theta, RopeScaling& s) {
  theta = static_cast<float>(config_float(o, "rope_theta", theta));
  std::string kind = config_string(o, "rope_type", config_string(o, "type", "default"));
  if (kind == "default") return;
  s.factor = static_cast<float>(config_float(o, "factor", 1));
  HONE_CHECK(s.factor > 0, corrupt, "config.json: rope scaling factor {}: expected > 0", s.factor);
  if (kind == "linear") {
    s.kind = RopeScaling::Kind::linear;
    return;
  }
  if (kind == "longrope" || kind == "su") {
    read_longrope(o, s);
    return;
  }
  HONE_CHECK(kind == "llama3", unsupported,
             "config.json: rope scaling '{}' is not supported (default, linear, llama3, longrope)",
             kind);
  s.kind = RopeScaling::Kind::llama3;
  s.low_freq_factor = static_cast<float>(config_float(o, "low_freq_factor", 1));
  s.high_freq_factor = static_cast<float>(config_float(o, "high_freq_factor", 4));
  s.original_context =
      static_cast<float>(config_float(o, "original_max_position_embeddings", 8192));
  HONE_CHECK(s.low_freq_factor > 0 && s.high_freq_factor > s.low_freq_factor, corrupt,
             "config.json: llama3 rope scaling: low_freq_factor {} and high_freq_factor {}",
             s.low_freq_factor, s.high_freq_factor);
}

int64_t rotated_part(const Json& c, double missing, const ModelConfig& m, const char* key) {
  double part = config_float(c, key, missing);
  if (c.contains("rope_parameters") && c["rope_parameters"].is_object())
    part = config_float(c["rope_parameters"], "partial_rotary_factor", part);
  HONE_CHECK(part > 0 && part <= 1 && m.head_dim > 0 && m.head_dim <= 1 << 14, corrupt,
             "config.json: {} {} of heads of {}", key, part, m.head_dim);
  const auto rotated = static_cast<int64_t>(static_cast<double>(m.head_dim) * part);
  HONE_CHECK(rotated > 0, corrupt, "config.json: {} {} of heads of {} rotates nothing", key, part,
             m.head_dim);
  return rotated;
}

void read_common_hf(const Json& c, ModelConfig& m) {
  m.vocabulary = require_int(c, "vocab_size");
  m.width = require_int(c, "hidden_size");
  m.layers = require_int(c, "num_hidden_layers");
  m.heads = require_int(c, "num_attention_heads");
  m.kv_heads = config_int(c, "num_key_value_heads", m.heads);
  m.head_dim = config_int(c, "head_dim", m.heads > 0 ? m.width / m.heads : 0);
  m.ffn = require_int(c, "intermediate_size");
  m.context = config_int(c, "max_position_embeddings", m.context);
  m.tied_head = config_bool(c, "tie_word_embeddings", m.tied_head);
  read_rope(c, m.rope_theta, m.rope_scaling);
  for (const char* key : {"rope_scaling", "rope_parameters"})
    if (c.contains(key) && c[key].is_object() && !c[key].contains("full_attention"))
      read_rope(c[key], m.rope_theta, m.rope_scaling);
  finish_longrope(c, m);
}

bool announces_bias(const ModelConfig& m, Role role) {
  switch (role) {
    case Role::gate:
    case Role::up:
    case Role::down:
      return m.mlp_bias;
    case Role::q:
    case Role::k:
    case Role::v:
      return m.attention_bias || m.qkv_bias;
    case Role::o:
    case Role::attention_gate:
      return m.attention_bias;
    case Role::head:
      return m.head_bias;
    default:
      return false;
  }
}

bool read_layer_types(const Json& c, ModelConfig& m) {
  if (!c.contains("layer_types") || !c["layer_types"].is_array()) return false;
  m.windowed.clear();
  for (const Json& type : c["layer_types"]) {
    const bool local = type == "sliding_attention";
    HONE_CHECK(local || type == "full_attention", unsupported,
               "config.json: layer type {} is not supported", type.dump().substr(0, 60));
    m.windowed.push_back(local);
  }
  return true;
}

void read_linearised(const Json& config, ModelConfig& m) {
  if (!config.contains("linearised") || config["linearised"].is_null()) return;
  const Json& c = config["linearised"];
  HONE_CHECK(c.is_object() && c.contains("layers") && c["layers"].is_array(), corrupt,
             "config.json: 'linearised': expected layers, window and features");
  HONE_CHECK(m.layers > 0 && m.layers <= ModelConfig::kMaxLayers, corrupt, "config.json: {} layers",
             m.layers);
  m.linear_window = require_int(c, "window");
  m.linear_features = require_int(c, "features");
  m.linearised.assign(static_cast<size_t>(m.layers), false);
  for (const Json& layer : c["layers"]) {
    HONE_CHECK(layer.is_number_integer() && layer >= 0 && layer < m.layers, corrupt,
               "config.json: 'linearised': layer {} of {}", layer.dump().substr(0, 60), m.layers);
    m.linearised[layer.get<size_t>()] = true;
  }
}

void write_linearised(const ModelConfig& m, Json& c) {
  if (m.linearised.empty()) return;
  Json layers = Json::array();
  for (int64_t i = 0; i < m.layers; ++i)
    if (m.linearised[i]) layers.push_back(i);
  c["linearised"] = {
      {"layers", layers}, {"window", m.linear_window}, {"features", m.linear_features}};
}

void read_common_gguf(const GgufFile& f, ModelConfig& m) {
  std::string arch = f.get_string("general.architecture") + ".";
  m.width = static_cast<int64_t>(f.get_u64(arch + "embedding_length"));
  m.layers = static_cast<int64_t>(f.get_u64(arch + "block_count"));
  m.heads = static_cast<int64_t>(f.get_u64(arch + "attention.head_count"));
  m.kv_heads = static_cast<int64_t>(f.find_u64(arch + "attention.head_count_kv").value_or(m.heads));
  m.ffn = static_cast<int64_t>(f.get_u64(arch + "feed_forward_length"));
  m.context = static_cast<int64_t>(f.get_u64(arch + "context_length"));
  m.head_dim = static_cast<int64_t>(
      f.find_u64(arch + "attention.key_length").value_or(m.heads > 0 ? m.width / m.heads : 0));
  m.rope_dim = static_cast<int64_t>(f.find_u64(arch + "rope.dimension_count").value_or(m.head_dim));
  m.rope_theta = static_cast<float>(f.find_f64(arch + "rope.freq_base").value_or(m.rope_theta));
  m.experts = static_cast<int64_t>(f.find_u64(arch + "expert_count").value_or(0));
  m.experts_used = static_cast<int64_t>(f.find_u64(arch + "expert_used_count").value_or(0));
  m.expert_ffn =
      static_cast<int64_t>(f.find_u64(arch + "expert_feed_forward_length").value_or(m.ffn));
  std::string scaling = f.find_string(arch + "rope.scaling.type").value_or("none");
  if (scaling == "linear") {
    m.rope_scaling.kind = RopeScaling::Kind::linear;
    m.rope_scaling.factor = static_cast<float>(f.get_f64(arch + "rope.scaling.factor"));
  } else {
    // LongRoPE's factors are tensors, which the family reads.
    HONE_CHECK(scaling == "none" || (scaling == "longrope" && arch == "phi3."), unsupported,
               "{}: rope scaling '{}' is not supported", f.path().string(), scaling);
  }
  const GgufTensor* embedding = f.find_tensor("token_embd.weight");
  HONE_CHECK(embedding != nullptr && embedding->ne.size() == 2, corrupt,
             "{}: the tensor token_embd.weight is missing or no matrix", f.path().string());
  m.vocabulary = embedding->ne[1];
  m.tied_head = f.find_tensor("output.weight") == nullptr;
}

bool ModelConfig::has_softmax() const {
  return mixer.empty() || std::ranges::find(softmax, true) != softmax.end();
}

Pattern ModelConfig::pattern(int64_t layer) const {
  return patterns.empty() ? family_pattern(layer) : patterns[layer];
}

Pattern ModelConfig::family_pattern(int64_t layer) const {
  const bool local = !windowed.empty() && windowed[layer];
  return local ? Pattern::causal() & Pattern::window(window) : Pattern::causal();
}

MixerSpec ModelConfig::mixer_spec(int64_t layer) const {
  MixerSpec s = mixing;
  s.width = width;
  s.hidden = ffn;
  s.first = layer == 0;
  return s;
}

void ModelConfig::validate(const std::string& source) const {
  auto check = [&](const char* what, int64_t value, int64_t limit) {
    HONE_CHECK(value > 0 && value <= limit, corrupt, "{}: {} is {}: expected 1 to {}", source, what,
               value, limit);
  };
  check("vocabulary size", vocabulary, 1 << 26);
  check("hidden size", width, 1 << 20);
  check("number of layers", layers, kMaxLayers);
  if (feed_forward != "none") check("feed-forward size", ffn, 1 << 24);
  check("context length", context, int64_t{1} << 31);
  if (experts != 0) {
    check("number of experts", experts, 1 << 12);
    check("number of experts of a token", experts_used, experts);
    check("feed-forward size of an expert", expert_ffn, 1 << 24);
    HONE_CHECK(dense.empty() || std::ssize(dense) == layers, corrupt,
               "{}: {} kinds of feed-forward for {} layers", source, dense.size(), layers);
  }
  HONE_CHECK(norm_eps >= 0 && norm_eps < 1, corrupt, "{}: norm epsilon {}", source, norm_eps);
  HONE_CHECK(!head_bias || !tied_head, unsupported,
             "{}: a head with a bias that shares the embedding's table is not supported", source);
  HONE_CHECK(softmax.empty() || static_cast<int64_t>(softmax.size()) == layers, corrupt,
             "{}: {} kinds of layers for {} layers", source, softmax.size(), layers);
  if (!mixer.empty()) {
    check("number of heads of the state", mixing.heads, 1 << 16);
    check("number of key heads", mixing.qk_heads, mixing.heads);
    check("key size", mixing.k_dim, 1 << 14);
    check("value size", mixing.v_dim, 1 << 14);
    HONE_CHECK(mixing.heads % mixing.qk_heads == 0, corrupt,
               "{}: {} heads do not divide into {} key heads", source, mixing.heads,
               mixing.qk_heads);
    HONE_CHECK(mixing.eps >= 0 && mixing.eps < 1, corrupt, "{}: norm epsilon {}", source,
               mixing.eps);
  }
  HONE_CHECK(memory_tokens >= 0 && memory_tokens <= 1 << 12, corrupt,
             "{}: {} memory tokens: expected 0 to {}", source, memory_tokens, 1 << 12);
  if (!has_softmax()) return;
  check("number of heads", heads, 1 << 16);
  check("number of kv heads", kv_heads, heads);
  check("head size", head_dim, 1 << 14);
  HONE_CHECK(heads % kv_heads == 0, corrupt, "{}: {} heads do not divide into {} kv heads", source,
             heads, kv_heads);
  int64_t rotated = rope_dim == 0 ? head_dim : rope_dim;
  HONE_CHECK(!rotary || (rotated > 0 && rotated % 2 == 0 && rotated <= head_dim), corrupt,
             "{}: {} rotated values in a head of {}", source, rotated, head_dim);
  auto check_float = [&](const char* what, float value, bool zero) {
    HONE_CHECK(std::isfinite(value) && (value > 0 || (zero && value == 0)), corrupt,
               "{}: {} is {}: expected a positive number", source, what, value);
  };
  const bool longrope = rope_scaling.kind == RopeScaling::Kind::longrope;
  check_float("longrope's attention_factor", rope_scaling.attention_factor, false);
  if (longrope)
    for (const auto* factors : {&rope_scaling.short_factors, &rope_scaling.long_factors})
      HONE_CHECK(std::ssize(*factors) == rotated / 2 &&
                     std::ranges::all_of(*factors, [](float f) { return f > 0; }),
                 corrupt, "{}: longrope has {} factors for {} rotated values, or one of 0", source,
                 factors->size(), rotated);
  HONE_CHECK(windowed.empty() || static_cast<int64_t>(windowed.size()) == layers, corrupt,
             "{}: {} attention types for {} layers", source, windowed.size(), layers);
  HONE_CHECK(patterns.empty() || static_cast<int64_t>(patterns.size()) == layers, corrupt,
             "{}: {} attention patterns for {} layers", source, patterns.size(), layers);
  HONE_CHECK(windowed.empty() || window > 0, corrupt, "{}: a sliding window of {} keys", source,
             window);
  check_float("rope_theta", rope_theta, false);
  check_float("rope_theta of windowed layers", local_rope_theta, true);
  check_float("rope scaling factor", rope_scaling.factor, false);
  check_float("attention scale", attention_scale, true);
  check_float("attention softcap", attention_softcap, true);
  if (!linearised.empty()) {
    check("window of linearised layers", linear_window, 1 << 24);
    check("number of linear features", linear_features, 1 << 14);
    HONE_CHECK(std::ssize(linearised) == layers && attention_softcap == 0, corrupt,
               "{}: layers with a soft cap cannot be linearised", source);
    for (int64_t i = 0; i < layers; ++i)
      HONE_CHECK(!linearised[i] || !(is_recurrent(i) || (!windowed.empty() && windowed[i]) ||
                                     !(pattern(i) == Pattern::causal())),
                 corrupt, "{}: layer {} has no full softmax attention to be linearised", source, i);
  }
  check_float("logit softcap", logit_softcap, true);
}

}  // namespace hone
