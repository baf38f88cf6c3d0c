#include "text/tokenizer_directory.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>

#include "base/error.h"
#include "text/rwkv_vocabulary.h"
#include "text/unicode.h"

namespace hone {
namespace {

constexpr std::array<const char*, 5> kRankFiles = {"qwen.tiktoken", "cl100k_base.tiktoken",
                                                   "o200k_base.tiktoken", "r50k_base.tiktoken",
                                                   "tiktoken.model"};

// Whether a file named *.model holds ranks in base64, as some models have it: its first line is
// base64, a space and a number.
bool holds_ranks(std::string_view text) {
  const std::string_view line = text.substr(0, std::min(text.find('\n'), text.size()));
  const size_t space = line.find(' ');
  return space != line.npos && space > 0 &&
         line.find_first_not_of("0123456789\r", space + 1) == line.npos;
}

// Other models have a vocab.txt too.
bool is_wordpiece_list(std::string_view text, const Json& config) {
  const std::string name = tokenizer_class(config);
  const bool named = name.empty() || name.find("Bert") != name.npos ||
                     name.find("Electra") != name.npos || name.find("MPNet") != name.npos;
  return named && (text.starts_with("[UNK]") || text.find("\n[UNK]") != text.npos);
}

// Names and flags from tokenizer_config.json, for a tokenizer that is not from tokenizer.json.
class ConfigReader {
 public:
  ConfigReader(TokenizerSpec& spec, const Json& config) : spec_(spec), config_(config) {}

  void read() {
    for (const auto& [key, token] : field("added_tokens_decoder").items()) add_token(key, token);
    name("bos_token", spec_.bos);
    name("eos_token", spec_.eos);
    name("unk_token", spec_.unk);
    name("pad_token", spec_.pad);
    flag("add_bos_token", spec_.add_bos);
    flag("add_eos_token", spec_.add_eos);
    if (field("chat_template").is_string())
      spec_.chat_template = field("chat_template").get<std::string>();
  }

 private:
  const Json& field(const char* key) const {
    static const Json kNull;
    const auto it = config_.find(key);
    return it == config_.end() ? kNull : *it;
  }

  void add_token(const std::string& key, const Json& token) {
    const bool number =
        !key.empty() && key.size() < 8 && key.find_first_not_of("0123456789") == key.npos;
    const int64_t id = number ? std::stoll(key) : -1;
    HONE_CHECK(id >= 0 && id <= std::ssize(spec_.tokens) + 100'000, corrupt,
               "{}: the added token {} of tokenizer_config.json, after {} tokens", spec_.source,
               printed(key), spec_.tokens.size());
    while (std::ssize(spec_.tokens) <= id) {
      spec_.tokens.push_back("");
      spec_.token_types.push_back(static_cast<int32_t>(TokenType::unused));
      if (!spec_.scores.empty()) spec_.scores.push_back(0);
    }
    spec_.tokens.set(static_cast<size_t>(id), token.at("content").get<std::string>());
    const bool special = token.value("special", false);
    int32_t& type = spec_.token_types[static_cast<size_t>(id)];
    if (type != static_cast<int32_t>(TokenType::unknown))
      type = static_cast<int32_t>(special ? TokenType::control : TokenType::user_defined);
  }

  void name(const char* key, std::optional<int32_t>& id) {
    const Json& value = field(key);
    if (value.is_null()) return;
    const auto text = (value.is_object() ? value.at("content") : value).get<std::string>();
    for (size_t i = 0; i < spec_.tokens.size(); ++i) {
      if (spec_.tokens[i] == text) id = static_cast<int32_t>(i);
    }
  }
  void flag(const char* key, std::optional<bool>& value) {
    if (field(key).is_boolean()) value = field(key).get<bool>();
  }

  TokenizerSpec& spec_;
  const Json& config_;
};

std::unique_ptr<Tokenizer> from_spec(TokenizerSpec spec, const Json& config) {
  ConfigReader(spec, config).read();
  return tokenizer_from_spec(std::move(spec));
}

std::unique_ptr<Tokenizer> from_sentencepiece(std::string_view model, const Json& config,
                                              const std::string& source) {
  const std::string name = tokenizer_class(config);
  for (const char* other :
       {"XLMRoberta", "Camembert", "MBart", "Barthez", "Nllb", "Pegasus", "Albert", "XLNet"}) {
    HONE_CHECK(!name.starts_with(other), unsupported,
               "{}: the class {} gives the tokens other ids than its file", source, printed(name));
  }
  TokenizerSpec spec = spec_from_sentencepiece(model, source);
  if (name.starts_with("Llama") || name.starts_with("Gemma")) {
    spec.add_bos = true;
    spec.add_eos = false;
  }
  return from_spec(std::move(spec), config);
}

std::unique_ptr<Tokenizer> find(const DirectoryText& text, const std::string& path,
                                const Json& config, const std::string& config_text) {
  const auto json = [&](const std::string& made, const std::string& source) {
    return tokenizer_from_json(made, config_text, source);
  };
  const auto source = [&](const std::string& file) { return path + "/" + file; };
  const auto vocab = text("vocab.json"), merges = text("merges.txt");
  if (vocab && merges) {
    return json(json_from_merges(*vocab, *merges, config, source("vocab.json")),
                source("vocab.json"));
  }
  for (const char* file : kRankFiles) {
    if (const auto ranks = text(file))
      return json(json_from_ranks(*ranks, file, config, source(file)), source(file));
  }
  for (const char* file : {"tokenizer.model", "spiece.model"}) {
    const auto model = text(file);
    if (!model) continue;
    if (holds_ranks(*model))
      return json(json_from_ranks(*model, file, config, source(file)), source(file));
    return from_sentencepiece(*model, config, source(file));
  }
  if (const auto lines = text(kRwkvVocabularyFile)) {
    return from_spec(rwkv_spec_from_vocabulary(*lines, source(kRwkvVocabularyFile)), config);
  }
  if (const auto lines = text("vocab.txt"); lines && is_wordpiece_list(*lines, config)) {
    return json(json_from_wordpieces(*lines, config, source("vocab.txt")), source("vocab.txt"));
  }
  return nullptr;
}

}  // namespace

std::unique_ptr<Tokenizer> tokenizer_from_directory(const DirectoryText& text,
                                                    const std::string& path) {
  const std::string config_text = text("tokenizer_config.json").value_or("");
  if (const auto json = text("tokenizer.json"); json && !json->empty())
    return tokenizer_from_json(*json, config_text, path + "/tokenizer.json");
  const std::string config_path = path + "/tokenizer_config.json";
  const Json config = config_text.empty() ? Json::object() : parse_json(config_text, config_path);
  HONE_CHECK(config.is_object(), corrupt, "{}: expected an object", config_path);
  try {
    return find(text, path, config, config_text);
  } catch (const nlohmann::json::exception& e) {
    fail(ErrorKind::corrupt, "{}: not a tokenizer: {}", path, printed(e.what()));
  }
}

}  // namespace hone
