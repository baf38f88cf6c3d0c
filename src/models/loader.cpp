#include "models/loader.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/files.h"
#include "encodings/encoding.h"
#include "formats/gguf.h"
#include "formats/safetensors.h"

namespace hone {
namespace {

std::string optional_text(const fs::path& path) {
  return fs::exists(path) ? read_text_file(path) : std::string();
}

void add_end_ids(LoadedModel& m, const Json& ids, const std::string& source) {
  auto add = [&](const Json& id) {
    HONE_CHECK(id.is_number_integer(), corrupt, "{}: eos_token_id: expected integers", source);
    m.end_ids.push_back(id.get<int32_t>());
  };
  if (ids.is_array()) std::for_each(ids.begin(), ids.end(), add);
  else if (!ids.is_null()) add(ids);
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
  s.eot = id("eot_token_id");
  s.eom = id("eom_token_id");
  s.add_bos = f.find_bool(k + "add_bos_token");
  s.add_eos = f.find_bool(k + "add_eos_token");
  s.add_space_prefix = f.find_bool(k + "add_space_prefix");
  s.chat_template = f.find_string("tokenizer.chat_template").value_or("");
  return s;
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

void build(LoadedModel& m, const ParameterNames& names, const LoadOptions& options) {
  m.config.family = m.family->name;
  m.config.validate(m.path);
  ParameterReader reader(*m.family, m.config, names);
  m.model = build_model(m.config, reader, load_as_transform(options), options.inference);
}

LoadedModel load_gguf(const fs::path& path, const LoadOptions& options) {
  auto file = std::make_shared<GgufFile>(GgufFile::open(path));
  LoadedModel m;
  m.path = path.string();
  m.layout = "gguf";
  m.name = file->find_string("general.name").value_or(path.stem().string());
  m.family = &family_for_gguf(file->get_string("general.architecture"), m.path);
  m.family->from_gguf(*file, m.config);
  for (const GgufTensor& t : file->tensors()) {
    m.file_bytes += t.size;
    int64_t n = 1;
    for (int64_t d : t.ne) n *= d;
    m.encodings[std::string(find_ggml_type(t.ggml_type)->id)] += n;
  }
  m.tokenizer = tokenizer_from_spec(gguf_tokenizer(*file));
  if (m.tokenizer->chat_template()) m.chat_template = *m.tokenizer->chat_template();
  finish_end_ids(m);
  ParameterNames names;
  names.gguf = true;
  names.source = m.path;
  names.has = [file](const std::string& n) { return file->find_tensor(n) != nullptr; };
  names.get = [file](const std::string& n) { return file->weight(n); };
  build(m, names, options);
  return m;
}

LoadedModel load_hf(const fs::path& dir, const LoadOptions& options) {
  LoadedModel m;
  m.path = dir.string();
  m.layout = "hf";
  m.name = fs::weakly_canonical(dir).filename().string();
  std::string config_path = (dir / "config.json").string();
  m.hf_config = std::make_shared<Json>(parse_json(read_text_file(config_path), config_path));
  HONE_CHECK(m.hf_config->is_object(), corrupt, "{}: expected an object", config_path);
  m.family = &family_for_hf(config_string(*m.hf_config, "model_type", ""), config_path);
  auto set = std::make_shared<SafetensorsSet>(SafetensorsSet::open(dir));
  m.config.tied_head = false;
  m.family->from_hf(*m.hf_config, m.config);
  if (!set->has("lm_head.weight")) m.config.tied_head = true;
  for (const auto& file : set->files())
    for (const auto& e : file.entries()) {
      m.file_bytes += e.size;
      int64_t n = 1;
      for (int64_t d : e.shape) n *= d;
      m.encodings[std::string(dtype_name(e.dtype))] += n;
    }
  if (m.hf_config->contains("eos_token_id")) add_end_ids(m, (*m.hf_config)["eos_token_id"], config_path);
  m.generation_config = optional_text(dir / "generation_config.json");
  if (!m.generation_config.empty()) {
    std::string source = (dir / "generation_config.json").string();
    Json g = parse_json(m.generation_config, source);
    if (g.is_object() && g.contains("eos_token_id")) add_end_ids(m, g["eos_token_id"], source);
  }
  if (fs::exists(dir / "tokenizer.json"))
    m.tokenizer = tokenizer_from_json(read_text_file(dir / "tokenizer.json"),
                                      optional_text(dir / "tokenizer_config.json"),
                                      (dir / "tokenizer.json").string());
  finish_end_ids(m);
  m.chat_template = optional_text(dir / "chat_template.jinja");
  if (m.chat_template.empty() && m.tokenizer && m.tokenizer->chat_template())
    m.chat_template = *m.tokenizer->chat_template();
  ParameterNames names;
  names.source = m.path;
  names.has = [set](const std::string& n) { return set->has(n); };
  names.get = [set](const std::string& n) { return float_weight(set->tensor(n)); };
  build(m, names, options);
  return m;
}

}  // namespace

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

LoadedModel load_model(const fs::path& path, const LoadOptions& options) {
  HONE_CHECK(fs::exists(path), io, "{}: no such file or directory", path.string());
  if (!fs::is_directory(path)) return load_gguf(path, options);
  HONE_CHECK(fs::exists(path / "config.json"), unsupported,
             "{}: a model directory has a config.json; this one has none", path.string());
  return load_hf(path, options);
}

}  // namespace hone
