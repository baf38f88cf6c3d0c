#include "formats/peft.h"

#include "base/checked.h"
#include "formats/file_util.h"
#include "formats/peft_modules.h"
#include "formats/printable.h"
#include "formats/safetensors.h"

namespace hone {
namespace {

constexpr const char* kConfig = "adapter_config.json";
constexpr const char* kTensors = "adapter_model.safetensors";
constexpr size_t kMaxAdapterConfig = size_t{16} << 20;
constexpr std::string_view kPrefix = "base_model.model.";
constexpr const char* kPrompt = "prompt_embeddings";
constexpr const char* kParts[] = {
    "lora_A.weight",    "lora_B.weight",         "lora_embedding_A",
    "lora_embedding_B", "lora_magnitude_vector", "ia3_l",
};

/// A float as Python's repr has it: the fewest digits that read back, an exponent from 1e16 on.
std::string python_float(double x) {
  std::string text = fmt::format("{}", x);
  if (text.find_first_of(".en") == text.npos) text += ".0";
  return text;
}

/// As Python's json.dumps(indent=2) prints it, which is how peft writes its config.
void print_json(const Json& value, int indent, std::string& out) {
  const bool object = value.is_object();
  if (!object && !value.is_array()) {
    out += value.is_number_float() ? python_float(value.get<double>())
                                   : value.dump(-1, ' ', /*ensure_ascii=*/true);
    return;
  }
  out += object ? '{' : '[';
  const std::string line = "\n" + std::string(static_cast<size_t>(indent), ' ');
  bool first = true;
  for (const auto& [key, item] : value.items()) {
    out += (first ? "" : ",") + line + "  ";
    if (object) out += Json(key).dump(-1, ' ', true) + ": ";
    print_json(item, indent + 2, out);
    first = false;
  }
  if (!first) out += line;
  out += object ? '}' : ']';
}

/// Holds the tensors against the config and each other.
class TensorCheck {
 public:
  TensorCheck(const PeftAdapter& adapter, const std::string& source)
      : adapter_(adapter), config_(adapter.config), source_(source) {}

  void run() {
    for (const auto& [name, t] : adapter_.tensors) {
      HONE_CHECK(is_float(t.dtype()), unsupported, "{}: tensor {}: an adapter of type {}", source_,
                 printable(name), dtype_name(t.dtype()));
      PeftTensorName split = split_peft_name(name, source_);
      if (!split.part.empty()) parts_[split.module][split.part] = &t;
    }
    if (config_.peft_type == "LORA") return each_module(&TensorCheck::check_lora);
    if (config_.peft_type == "IA3") return each_module(&TensorCheck::check_ia3);
    if (config_.peft_type == "PROMPT_TUNING") return check_prompt(1);
    if (config_.peft_type == "PREFIX_TUNING")
      check_prompt(checked_mul(2, config_.num_layers, "num_layers"));
  }

 private:
  using Parts = std::map<std::string, const Tensor*>;

  void each_module(void (TensorCheck::*check)(const std::string&, const Parts&, const PeftMatcher&)
                       const) const {
    HONE_CHECK(!parts_.empty(), corrupt, "{}: no tensors of the method {}", source_,
               printable(config_.peft_type));
    const PeftMatcher matcher(config_, source_);
    for (const auto& [module, parts] : parts_) (this->*check)(module, parts, matcher);
  }

  /// A part of this shape (−1 = any size).
  const Tensor& part(const std::string& module, const Parts& parts, const std::string& name,
                     const Shape& shape) const {
    const auto found = parts.find(name);
    HONE_CHECK(found != parts.end(), corrupt, "{}: the tensor {} is missing", source_,
               printable(peft_tensor_name({module, name})));
    const Shape& got = found->second->shape();
    bool fits = got.size() == shape.size();
    for (size_t i = 0; fits && i < shape.size(); ++i)
      fits = got[i] > 0 && (shape[i] == -1 || shape[i] == got[i]);
    HONE_CHECK(fits, corrupt, "{}: tensor {}: expected {} (-1: any size), got {}", source_,
               printable(peft_tensor_name({module, name})), shape_string(shape), shape_string(got));
    return *found->second;
  }
  void no_more(const std::string& module, const Parts& parts, size_t known) const {
    HONE_CHECK(parts.size() == known, corrupt,
               "{}: module {} has tensors that its config does not explain", source_,
               printable(module));
  }

  void check_lora(const std::string& module, const Parts& parts, const PeftMatcher& matcher) const {
    const bool embedding = parts.contains("lora_embedding_A") || parts.contains("lora_embedding_B");
    const int64_t r = matcher.rank(module);
    part(module, parts, embedding ? "lora_embedding_A" : "lora_A.weight", {r, -1});
    const Tensor& b =
        part(module, parts, embedding ? "lora_embedding_B" : "lora_B.weight", {-1, r});
    if (config_.use_dora) part(module, parts, "lora_magnitude_vector", {b.shape()[0]});
    no_more(module, parts, config_.use_dora ? 3 : 2);
  }

  void check_ia3(const std::string& module, const Parts& parts, const PeftMatcher& matcher) const {
    part(module, parts, "ia3_l", matcher.feedforward(module) ? Shape{1, -1} : Shape{-1, 1});
    no_more(module, parts, 1);
  }

  /// A row of a prompt is `times` the width that the config states.
  void check_prompt(int64_t times) const {
    const auto found = parts_.find("");
    HONE_CHECK(found != parts_.end() && adapter_.tensors.size() == 1, corrupt,
               "{}: expected the tensor '{}' and no other", source_, kPrompt);
    const int64_t n = config_.num_virtual_tokens;
    const int64_t width = checked_mul(times, config_.token_dim, "token_dim");
    part("", found->second, kPrompt, {n > 0 ? n : -1, width > 0 ? width : -1});
  }

  const PeftAdapter& adapter_;
  const PeftConfig& config_;
  const std::string& source_;
  std::map<std::string, Parts> parts_;  // module → part → tensor
};

}  // namespace

PeftTensorName split_peft_name(const std::string& name, const std::string& source) {
  if (name == kPrompt) return {"", name};
  HONE_CHECK(name.size() > kPrefix.size() && name.starts_with(kPrefix), corrupt,
             "{}: tensor {}: expected a name that begins with '{}'", source, printable(name),
             kPrefix);
  const std::string rest = name.substr(kPrefix.size());
  for (const char* part : kParts) {
    const std::string end = std::string(".") + part;
    if (rest.size() > end.size() && rest.ends_with(end))
      return {rest.substr(0, rest.size() - end.size()), part};
  }
  return {rest, ""};
}

std::string peft_tensor_name(const PeftTensorName& name) {
  if (name.module.empty()) return name.part;
  std::string text(kPrefix);
  text += name.module;
  return name.part.empty() ? text : text + "." + name.part;
}

PeftAdapter read_peft_directory(const fs::path& directory) {
  const fs::path config = directory / kConfig, tensors = directory / kTensors;
  PeftAdapter adapter;
  adapter.json = parse_json(read_text_file(config, kMaxAdapterConfig), config.string());
  adapter.config = parse_peft_config(adapter.json, config.string());
  HONE_CHECK(file_exists(tensors) || !file_exists(directory / "adapter_model.bin"), unsupported,
             "{}: adapter_model.bin is a pickle, which may run code; save the adapter as "
             "safetensors (peft: safe_serialization=True)",
             directory.string());
  const SafetensorsFile file = SafetensorsFile::open(tensors);
  for (const SafetensorsEntry& e : file.entries()) adapter.tensors[e.name] = file.tensor(e.name);
  TensorCheck(adapter, tensors.string()).run();
  return adapter;
}

void write_peft_directory(const fs::path& directory, const PeftAdapter& adapter) {
  const Json json = peft_config_json(adapter.config, adapter.json);
  parse_peft_config(json, (directory / kConfig).string());
  TensorCheck(adapter, (directory / kTensors).string()).run();
  check_new_output(directory);

  Temporary temporary(directory, Temporary::Kind::directory);
  std::string text;
  try {
    print_json(json, 0, text);
  } catch (const nlohmann::json::exception&) {
    fail(ErrorKind::invalid_argument, "{}: a text of the config is not valid UTF-8",
         directory.string());
  }
  write_text_file(temporary.path() / kConfig, text);
  SafetensorsWriter writer(temporary.path() / kTensors, {{"format", "pt"}});
  for (const auto& [name, t] : adapter.tensors) writer.declare(name, t.dtype(), t.shape());
  for (const std::string& name : writer.order()) writer.write(name, adapter.tensors.at(name));
  writer.finish();
  temporary.commit();
}

}  // namespace hone
