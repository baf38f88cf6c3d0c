#include "models/loader.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "base/files.h"
#include "base/memory.h"
#include "encodings/encoding.h"
#include "formats/gguf.h"
#include "models/attention_patterns.h"
#include "text/tokenizer_directory.h"

namespace hone {
namespace {

void add_end_ids(LoadedModel& m, const Json& ids, const std::string& source) {
  auto add = [&](const Json& id) {
    int64_t value = json_integer(id, "eos_token_id", source);
    HONE_CHECK(value <= INT32_MAX, corrupt, "{}: eos_token_id: {} is no token", source, value);
    if (value < 0) return;  // some configurations say "none" so
    m.end_ids.push_back(static_cast<int32_t>(value));
  };
  if (ids.is_array())
    std::for_each(ids.begin(), ids.end(), add);
  else if (!ids.is_null())
    add(ids);
}

void finish_end_ids(LoadedModel& m) {
  if (m.tokenizer)
    for (int32_t id : m.tokenizer->end_of_generation()) m.end_ids.push_back(id);
  std::sort(m.end_ids.begin(), m.end_ids.end());
  m.end_ids.erase(std::unique(m.end_ids.begin(), m.end_ids.end()), m.end_ids.end());
}

TokenizerSpec gguf_tokenizer(const GgufFile& f) {
  const std::string k = "tokenizer.ggml.";
  TokenizerSpec s;
  s.source = f.path().string();
  s.model = f.get_string(k + "model");
  s.pre = f.find_string(k + "pre").value_or("");
  s.tokens = f.get_strings(k + "tokens");
  if (auto* v = f.find_floats(k + "scores")) s.scores = *v;
  if (auto v = f.find_ints(k + "token_type")) s.token_types.assign(v->begin(), v->end());
  if (auto* v = f.find_strings(k + "merges")) s.merges = *v;
  auto id = [&](const char* key) -> std::optional<int32_t> {
    auto v = f.find_u64(k + key);
    // 2^32−1 stands for "none" in some files.
    if (!v || *v >= s.tokens.size()) return std::nullopt;
    return static_cast<int32_t>(*v);
  };
  s.bos = id("bos_token_id");
  s.eos = id("eos_token_id");
  s.unk = id("unknown_token_id");
  s.pad = id("padding_token_id");
  s.sep = id("seperator_token_id");
  s.eot = id("eot_token_id");
  s.eom = id("eom_token_id");
  s.add_bos = f.find_bool(k + "add_bos_token");
  s.add_eos = f.find_bool(k + "add_eos_token");
  s.add_space_prefix = f.find_bool(k + "add_space_prefix");
  s.remove_extra_whitespaces = f.find_bool(k + "remove_extra_whitespaces");
  if (auto v = f.find_ints(k + "precompiled_charsmap"))
    s.precompiled_charsmap.assign(v->begin(), v->end());
  s.chat_template = f.find_string("tokenizer.chat_template").value_or("");
  return s;
}

// What the Linears take in kernel layout (or, only to be written, those that are encoded anew), and
// the largest one in f32 while it is decoded.
int64_t memory_need(const LoadedModel& m, const ParameterReader& reader, const LoadOptions& o) {
  WeightParams params;
  std::string target;
  if (!o.load_as.empty()) target = encoding_from_shorthand(o.load_as, params);
  int64_t total = 0, largest = 0;
  auto add = [&](const Weight& w, bool changed, int64_t times) {
    if (w.shape.size() != 2) return;  // the builder says what is wrong with it
    if (!changed && !o.inference) return;
    if (!changed) {
      encoding(w.encoding).validate(w);
      total += times * packed_bytes(w);
      return;
    }
    Weight form;
    form.shape = w.shape;
    form.encoding = target;
    form.params = params;
    total += times * packed_bytes(form);
    largest = std::max(largest, 4 * w.numel());
  };
  // Mapped files give a Weight for nothing; elsewhere the first block stands for all.
  bool mapped = m.layout == "gguf" || m.layout == "hf";
  for (const Slot& s : m.family->slots) {
    if (s.part > 0 || !is_linear_role(s.role)) continue;
    if (s.role == Role::head) {
      Role role = m.config.tied_head ? Role::embedding : Role::head;
      if (auto w = reader.stored(role, 0)) add(*w, false, 1);
      continue;
    }
    // Of experts' matrices the file names one, or keeps all in one tensor.
    const bool expert = is_expert_role(s.role);
    const int64_t alike = (mapped ? 1 : m.config.layers) * (expert ? m.config.experts : 1);
    for (int64_t i = 0; i < (mapped ? m.config.layers : 1); ++i)
      if (auto w = reader.stored(s.role, i)) {
        if (expert && w->shape.size() == 3) *w = expert_of(std::move(*w), 0);
        add(*w, !target.empty() && s.role != Role::router, alike);
      }
  }
  for (const MixerSlot& s : m.family->mixer_slots)
    for (int64_t i = 0; i < m.config.layers; ++i)
      if (std::string name = slot_name(s.hf, i);
          name.ends_with(".weight") && reader.names().has(name))
        add(reader.names().get(name), !target.empty(), 1);
  return total + largest;
}

WeightTransform load_as_transform(const LoadOptions& options) {
  if (options.load_as.empty()) return nullptr;
  WeightParams params;
  std::string id = encoding_from_shorthand(options.load_as, params);
  const Encoding& target = encoding(id);
  return [&target, params](Weight w, Role role, const std::string& path) {
    // The head is left alone, as load_in_4bit does: it costs most in quality.
    if (role == Role::head) return w;
    std::string refusal = target.encode_refusal(w.rows(), w.cols(), params);
    HONE_CHECK(refusal.empty(), unsupported, "--load-as {}: {}: {}", target.id(), path, refusal);
    Tensor values = decode_weight(w);
    EncodeOptions encode;
    encode.params = params;
    Weight out = target.encode(values.data<float>(), w.rows(), w.cols(), encode);
    for (auto& [name, plane] : w.planes) plane.release_pages();
    return out;
  };
}

std::string text_of(const LoadedModel& m, const char* name) {
  return m.checkpoint->text(name).value_or("");
}

void read_gguf(LoadedModel& m) {
  const GgufFile& file = *m.checkpoint->gguf();
  m.name = file.find_string("general.name").value_or(fs::path(m.path).stem().string());
  m.family = &family_for_gguf(m.checkpoint->architecture, m.path);
  m.family->from_gguf(file, m.config);
  m.family = &m.family->of(m.config);
  m.tokenizer = tokenizer_from_spec(gguf_tokenizer(file));
}

std::string head_name(const Family& family) {
  for (const Slot& s : family.slots)
    if (s.role == Role::head) return std::string(s.hf) + ".weight";
  return {};
}

// A hub's cache names a directory after its commit, and the model two levels above.
std::string directory_name(const fs::path& path) {
  const fs::path at = fs::weakly_canonical(path);
  const std::string model = at.parent_path().parent_path().filename().string();
  if (at.parent_path().filename() != "snapshots" || model.rfind("models--", 0) != 0)
    return at.filename().string();
  return model.substr(model.rfind("--") + 2);
}

void read_directory(LoadedModel& m) {
  const Json& config = m.checkpoint->config;
  std::string source = m.path + "/config.json";
  m.name = directory_name(m.path);
  m.family = &family_for_hf(m.checkpoint->architecture, source);
  try {
    m.family->from_hf(config, m.config);
    m.family = &m.family->of(m.config);
    read_linearised(config, m.config);
    read_patterns(config, m.config);
  } catch (const Error& e) {
    // A family knows the file's name, "config.json: ...", but not the directory's.
    fail(e.kind(), "{}/{}", m.path, e.what());
  }
  // Configs need not say it; one that says otherwise needs the tensor.
  if (!config.contains("tie_word_embeddings") && !m.checkpoint->has("lm_head.weight") &&
      !m.checkpoint->has("head.weight") && !m.checkpoint->has(head_name(*m.family)))
    m.config.tied_head = true;
  if (config.contains("eos_token_id")) add_end_ids(m, config["eos_token_id"], source);
  if (std::string text = text_of(m, "generation_config.json"); !text.empty()) {
    Json g = parse_json(text, m.path + "/generation_config.json");
    if (g.is_object() && g.contains("eos_token_id"))
      add_end_ids(m, g["eos_token_id"], m.path + "/generation_config.json");
  }
  m.tokenizer = tokenizer_from_directory(
      [&](const std::string& name) { return m.checkpoint->text(name); }, m.path);
  m.chat_template = text_of(m, "chat_template.jinja");
}

// Tensors that say nothing about the model: a tied head written out, and buffers that older
// versions of transformers saved (rotary frequencies, GPT-2's causal masks).
bool is_redundant(const std::string& name, const Family& family, bool tied_head) {
  if (tied_head && (name == "lm_head.weight" || name == "output.weight")) return true;
  if (tied_head && name == head_name(family)) return true;
  // GGUF's LongRoPE: the family has read them.
  if (family.name == std::string_view("phi3") && name.starts_with("rope_factors_")) return true;
  for (const char* suffix : {".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias",
                             ".attention.bias", ".attention.masked_bias"})
    if (name.ends_with(suffix)) return true;
  return false;
}

// A tensor that nothing read says that the model is not what its config claims.
void check_all_read(const LoadedModel& m, const std::set<std::string>& read) {
  for (const std::string& name : m.checkpoint->names())
    HONE_CHECK(read.contains(name) || is_redundant(name, *m.family, m.config.tied_head), corrupt,
               "{}: the tensor '{}' has no place in a {} model of this config", m.path, name,
               m.family->name);
}

}  // namespace

std::vector<int32_t> LoadedModel::encode(std::string_view text, bool add_special,
                                         bool parse_special) const {
  HONE_CHECK(tokenizer != nullptr, unsupported, "{}: it has no tokenizer", path);
  std::vector<int32_t> ids = tokenizer->encode(text, add_special, parse_special);
  for (int32_t id : ids)
    HONE_CHECK(id < model->vocabulary(), corrupt,
               "{}: the tokenizer does not belong to this model: it gives token {}, and the "
               "vocabulary has {}",
               path, id, model->vocabulary());
  return ids;
}

int64_t LoadedModel::running_bytes() const {
  const Model& m = *model;
  int64_t bytes = m.position_table.byte_size();
  for (const auto& [name, plane] : m.embedding.weight().planes)
    if (!plane.borrowed()) bytes += plane.byte_size();
  int64_t vectors =
      model->parameter_count() - m.embedding.weight().numel() - m.position_table.numel();
  for (const Linear* l : model->linears()) {
    bytes += l->resident_bytes();
    if (l != &m.head || !m.tied_head) vectors -= l->out_features() * l->in_features();
  }
  return bytes + 4 * vectors;
}

std::string encoding_from_shorthand(const std::string& name, WeightParams& p) {
  if (name == "int8") return "int8_row";
  if (name == "nf4" || name == "fp4") {
    p.block = 64;
    return name;
  }
  if (name.size() == 4 && name.rfind("int", 0) == 0 && name[3] >= '2' && name[3] <= '7') {
    p.bits = name[3] - '0';
    p.group = 64;
    p.symmetric = false;
    return "int_group";
  }
  return name;
}

std::unique_ptr<Tokenizer> load_tokenizer(const fs::path& path) {
  if (fs::is_directory(path)) {
    auto found = tokenizer_from_directory(
        [&](const std::string& name) {
          return fs::exists(path / name) ? std::optional(read_text_file(path / name))
                                         : std::nullopt;
        },
        path.string());
    if (found) return found;
  }
  const fs::path json = fs::is_directory(path) ? path / "tokenizer.json" : path;
  if (json.extension() != ".json") return tokenizer_from_spec(gguf_tokenizer(GgufFile::open(path)));
  const fs::path config = json.parent_path() / "tokenizer_config.json";
  return tokenizer_from_json(read_text_file(json), fs::exists(config) ? read_text_file(config) : "",
                             json.string());
}

LoadedModel load_model(const fs::path& path, const LoadOptions& options) {
  LoadedModel m;
  m.path = path.string();
  m.checkpoint = open_checkpoint(path);
  m.layout = m.checkpoint->layout;
  bool gguf = m.checkpoint->gguf() != nullptr;
  if (gguf)
    read_gguf(m);
  else
    read_directory(m);
  if (m.chat_template.empty() && m.tokenizer && m.tokenizer->chat_template())
    m.chat_template = *m.tokenizer->chat_template();
  finish_end_ids(m);
  m.config.family = m.family->name;
  m.config.validate(m.path);
  HONE_CHECK(m.config.experts == 0 || std::ranges::find(m.family->slots, Role::router,
                                                        &Slot::role) != m.family->slots.end(),
             unsupported, "{}: a {} model with experts is not supported", m.path, m.family->name);
  ParameterNames names;
  names.gguf = gguf;
  names.source = m.path;
  names.has = [c = m.checkpoint](const std::string& n) { return c->has(n); };
  std::set<std::string> read;
  names.get = [c = m.checkpoint, &read](const std::string& n) {
    read.insert(n);
    return c->weight(n);
  };
  ParameterReader reader(*m.family, m.config, names);
  require_memory(memory_need(m, reader, options), m.path);
  m.model = build_model(m.config, reader, load_as_transform(options), options.inference);
  check_all_read(m, read);
  m.family = &m.family->canonical();
  return m;
}

}  // namespace hone
