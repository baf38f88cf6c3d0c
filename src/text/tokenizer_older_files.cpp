// The files that tokenizer.json replaced, each written as the tokenizer.json that gives the same
// ids: GPT-2's vocab.json and merges.txt, ranks in base64 (tiktoken), and BERT's vocab.txt.
//
// The older files leave to a program what tokenizer.json says: the expression that splits a text,
// its normal form, special tokens. A table below says it for the classes that tokenizer_config.json
// may name ("tokenizer_class"); a "pat_str" there says the expression for any other.
#include <nlohmann/json.hpp>

#include <algorithm>
#include <charconv>
#include <map>
#include <set>

#include "base/error.h"
#include "text/base64.h"
#include "text/bpe.h"
#include "text/pipeline.h"
#include "text/pretokenizer_names.h"
#include "text/tokenizer_directory.h"
#include "text/tokenizer_file.h"
#include "text/unicode.h"

namespace hone {
namespace {

// Longest token of a file of ranks: every way to cut a token in two is looked at.
constexpr size_t kMaxRankedToken = 1024;
// Most merges that ranks may stand for, and most bytes of JSON that these may take.
constexpr int64_t kMaxRankedMerges = 4 * kMaxVocabulary;
constexpr size_t kMaxMergeBytes = size_t{256} << 20;

struct Kind {
  std::vector<std::string_view> names;  // of the class, or of the file
  const char* family;                   // a name of tokenizer.ggml.pre, for the expression
  // Special tokens: "%N-M" stands for the numbers from N to M; their ids follow the ranks.
  std::vector<const char*> specials;
};

const std::vector<Kind>& rank_kinds() {
  static const std::vector<Kind> kKinds = {
      {{"QWenTokenizer", "qwen.tiktoken"},
       "qwen2",
       {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|extra_%0-204|>"}},
      {{"ChatGLM4Tokenizer"}, "glm4", {}},
      {{"Phi3SmallTokenizer", "cl100k_base.tiktoken"},
       "dbrx",
       {"", "<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"}},
      {{"o200k_base.tiktoken"}, "gpt-4o", {"", "<|endoftext|>"}},
      {{"r50k_base.tiktoken"}, "gpt-2", {"<|endoftext|>"}},
  };
  return kKinds;
}

// A flag of the configuration; null is as good as absent.
bool flag_of(const Json& config, const char* key, bool otherwise) {
  const auto at = config.find(key);
  return at == config.end() || at->is_null() ? otherwise : at->get<bool>();
}

// A special token that the configuration names: its content.
std::string token_of(const Json& config, const char* key, const char* otherwise) {
  const auto at = config.find(key);
  if (at == config.end() || at->is_null()) return otherwise;
  return (at->is_object() ? at->at("content") : *at).get<std::string>();
}

Json added_token(const std::string& text, int64_t id) {
  return {{"id", id},        {"content", text},     {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", true}};
}

// The special tokens that a configuration names: contents, in its order.
std::vector<std::string> named_specials(const Json& config) {
  std::vector<std::string> out;
  const auto add = [&](const Json& value) {
    if (value.is_string()) out.push_back(value.get<std::string>());
    if (value.is_object() && value.contains("content"))
      out.push_back(value["content"].get<std::string>());
  };
  for (const char* key : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token",
                          "cls_token", "mask_token"}) {
    if (config.contains(key)) add(config[key]);
  }
  if (config.contains("additional_special_tokens")) {
    for (const Json& token : config["additional_special_tokens"]) add(token);
  }
  return out;
}

Json split_step(const std::string& pattern) {
  return {{"type", "Split"},
          {"pattern", {{"Regex", pattern}}},
          {"behavior", "Isolated"},
          {"invert", false}};
}

// {"type": "Sequence", pre-tokenizers ..., ByteLevel} for an expression of several parts.
Json byte_level(const std::vector<std::string>& patterns, bool prefix_space) {
  Json steps = Json::array();
  for (const std::string& p : patterns) steps.push_back(split_step(p));
  steps.push_back({{"type", "ByteLevel"},
                   {"add_prefix_space", prefix_space},
                   {"trim_offsets", true},
                   {"use_regex", patterns.empty()}});
  return {{"type", "Sequence"}, {"pretokenizers", steps}};
}

std::vector<std::string> patterns_of(const PreTokenizerFamily& family) {
  return {family.patterns.begin(), family.patterns.end()};
}

std::string json_text(std::string_view text) { return Json(std::string(text)).dump(); }

// All but the model, and the model's text, joined by hand: as Json values its lists would take
// long.
std::string join(const Json& head, const std::string& model) {
  std::string out = head.dump();
  out.pop_back();
  return out + ",\"model\":" + model + "}";
}

// ---- ranks ----

struct Ranks {
  Strings tokens;  // bytes, by rank
  int64_t largest = 0;
};

Ranks read_ranks(std::string_view text, const std::string& source) {
  Ranks ranks;
  for (int64_t line = 1; !text.empty(); ++line) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view row = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (row.ends_with('\r')) row.remove_suffix(1);
    if (row.empty()) continue;
    const size_t space = row.find(' ');
    int64_t rank = -1;
    const auto bytes = base64_decode(row.substr(0, std::min(space, row.size())));
    bool good = bytes && !bytes->empty() && space != row.npos;
    if (good) {
      const auto [stop, error] =
          std::from_chars(row.data() + space + 1, row.data() + row.size(), rank);
      good = error == std::errc() && stop == row.data() + row.size();
    }
    HONE_CHECK(good && rank >= 0 && rank < kMaxVocabulary && bytes->size() <= kMaxRankedToken,
               corrupt,
               "{}: line {} is {}; expected a token of at most {} bytes in base64 and its "
               "rank",
               source, line, printed(row), kMaxRankedToken);
    if (rank >= std::ssize(ranks.tokens)) ranks.tokens.resize(static_cast<size_t>(rank) + 1);
    HONE_CHECK(ranks.tokens[static_cast<size_t>(rank)].empty(), corrupt,
               "{}: line {} gives rank {} a second time", source, line, rank);
    ranks.tokens.set(static_cast<size_t>(rank), *bytes);
    ranks.largest = std::max(ranks.largest, rank);
  }
  HONE_CHECK(!ranks.tokens.empty(), corrupt, "{}: it holds no ranks", source);
  return ranks;
}

// Merging by rank joins any two neighbours that are a token together, the lowest rank first. As a
// list of merges: every cut of every token into two tokens, by rank.
std::string merges_of(const Ranks& ranks, const Vocabulary& vocabulary, const std::string& source) {
  std::vector<std::pair<int32_t, int32_t>> cuts;
  size_t bytes = 0;
  for (std::string_view token : ranks.tokens) {
    const auto first = std::ssize(cuts);
    for (size_t cut = 1; cut < token.size(); ++cut) {
      const int32_t left = vocabulary.find(token.substr(0, cut));
      if (left < 0) continue;
      const int32_t right = vocabulary.find(token.substr(cut));
      if (right < 0) continue;
      cuts.emplace_back(left, right);
      bytes += 2 * token.size() + 4;  // at most: a letter has one or two bytes
      HONE_CHECK(std::ssize(cuts) <= kMaxRankedMerges && bytes <= kMaxMergeBytes, corrupt,
                 "{}: its tokens come of more than {} merges, or these take more than {} bytes",
                 source, kMaxRankedMerges, kMaxMergeBytes);
    }
    std::sort(cuts.begin() + first, cuts.end());
  }
  std::string out;
  for (const auto& [left, right] : cuts) {
    if (!out.empty()) out += ',';
    out += json_text(bytes_to_letters(vocabulary.text(left)) + ' ' +
                     bytes_to_letters(vocabulary.text(right)));
  }
  return out;
}

// Whether merging makes every token of its own bytes. Where not, a word that is a token has to be
// looked up first.
bool merges_reach_all(const Vocabulary& vocabulary) {
  std::vector<float> scores(static_cast<size_t>(vocabulary.size()));
  for (size_t id = 0; id < scores.size(); ++id) scores[id] = -static_cast<float>(id);
  const Bpe bpe(vocabulary, scores, std::vector<bool>(scores.size(), true), {});
  std::vector<int32_t> ids;
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    if (vocabulary.text(id).empty()) continue;
    ids.clear();
    bpe.encode(vocabulary.text(id), ids);
    if (ids.size() != 1) return false;
  }
  return true;
}

// The ids that a vocab.json gives to `names`, by name.
std::map<std::string, int64_t> ids_of(const std::vector<std::string>& names,
                                      const std::string& vocab_json, const std::string& source) {
  const std::set<std::string_view> wanted(names.begin(), names.end());
  std::map<std::string, int64_t> ids;
  const auto file = read_tokenizer_file("{\"model\":{\"vocab\":" + vocab_json + "}}", source);
  for (const auto& [text, id] : file.vocabulary) {
    if (wanted.contains(text)) ids.emplace(text, id);
  }
  return ids;
}

const Kind* kind_of(const std::string& file, const Json& config) {
  const std::string name = tokenizer_class(config);
  for (const std::string& wanted : {name, file}) {
    for (const Kind& kind : rank_kinds()) {
      if (std::find(kind.names.begin(), kind.names.end(), wanted) != kind.names.end()) return &kind;
    }
  }
  return nullptr;
}

// The special tokens with their ids: the known ones behind the ranks, and those that the
// configuration lists by id, which read_added_tokens adds.
Json special_tokens(const Kind* kind, const Json& config, int64_t next) {
  Json list = Json::array();
  std::set<std::string> listed;
  if (config.contains("added_tokens_decoder")) {
    for (const auto& [id, token] : config["added_tokens_decoder"].items())
      listed.insert(token.at("content").get<std::string>());
  }
  if (!kind || !listed.empty()) return list;
  for (const std::string text : kind->specials) {
    const size_t percent = text.find('%');
    if (percent == text.npos) {
      if (!text.empty()) list.push_back(added_token(text, next));
      ++next;
      continue;
    }
    const size_t dash = text.find('-', percent), end = text.find('|', dash);
    const int first = std::stoi(text.substr(percent + 1)), last = std::stoi(text.substr(dash + 1));
    for (int i = first; i <= last; ++i)
      list.push_back(
          added_token(text.substr(0, percent) + std::to_string(i) + text.substr(end), next++));
  }
  return list;
}

}  // namespace

std::string tokenizer_class(const Json& config) {
  return config.contains("tokenizer_class") && config["tokenizer_class"].is_string()
             ? config["tokenizer_class"].get<std::string>()
             : "";
}

std::string json_from_ranks(std::string_view text, const std::string& file, const Json& config,
                            const std::string& source) {
  const Kind* kind = kind_of(file, config);
  std::vector<std::string> patterns;
  bool nfc = false;
  if (config.contains("pat_str")) {
    patterns = {config["pat_str"].get<std::string>()};
  } else {
    HONE_CHECK(kind, unsupported,
               "{}: which expression splits a text is not known for the class {}; a \"pat_str\" in "
               "tokenizer_config.json would say it",
               source, printed(tokenizer_class(config)));
    const PreTokenizerFamily& family = pretokenizer_family(kind->family, source);
    patterns = patterns_of(family);
    nfc = family.nfc;
  }
  const Ranks ranks = read_ranks(text, source);
  Vocabulary vocabulary(static_cast<int32_t>(ranks.tokens.size()));
  std::string entries;
  for (size_t id = 0; id < ranks.tokens.size(); ++id) {
    if (ranks.tokens[id].empty()) continue;
    HONE_CHECK(vocabulary.add(ranks.tokens[id], static_cast<int32_t>(id)), corrupt,
               "{}: the token of rank {} appears twice", source, id);
    if (!entries.empty()) entries += ',';
    entries += json_text(bytes_to_letters(ranks.tokens[id])) + ':' + std::to_string(id);
  }
  for (int b = 0; b < 256; ++b) {
    const char byte = static_cast<char>(b);
    HONE_CHECK(vocabulary.find({&byte, 1}) >= 0, corrupt, "{}: it has no rank for the byte {:#04x}",
               source, b);
  }
  const Json head = {{"version", "1.0"},
                     {"added_tokens", special_tokens(kind, config, ranks.largest + 1)},
                     {"normalizer", nfc ? Json{{"type", "NFC"}} : Json()},
                     {"pre_tokenizer", byte_level(patterns, false)},
                     {"post_processor", nullptr},
                     {"decoder", {{"type", "ByteLevel"}}}};
  const char* ignore = merges_reach_all(vocabulary) ? "false" : "true";
  return join(head, fmt::format("{{\"type\":\"BPE\",\"ignore_merges\":{},\"vocab\":{{{}}},"
                                "\"merges\":[{}]}}",
                                ignore, entries, merges_of(ranks, vocabulary, source)));
}

std::string json_from_merges(const std::string& vocab_json, std::string_view merges,
                             const Json& config, const std::string& source) {
  const std::string name = tokenizer_class(config);
  HONE_CHECK(name.find("CLIP") == name.npos && name.find("OpenAIGPT") == name.npos, unsupported,
             "{}: a BPE model with end_of_word_suffix is not supported", source);
  const bool qwen = name.starts_with("Qwen2"), roberta = name.starts_with("Roberta");
  std::string list;
  while (!merges.empty()) {
    const size_t end = std::min(merges.find('\n'), merges.size());
    std::string_view row = merges.substr(0, end);
    merges.remove_prefix(std::min(end + 1, merges.size()));
    if (row.ends_with('\r')) row.remove_suffix(1);
    if (row.empty() || row.starts_with("#version")) continue;
    HONE_CHECK(is_valid_utf8(row), corrupt, "{}: a merge that is not UTF-8", source);
    if (!list.empty()) list += ',';
    list += json_text(row);
  }
  // The specials' ids are those of the vocabulary, whose text goes as it is into the new file.
  Json added = Json::array();
  std::vector<std::string> specials = named_specials(config);
  if (specials.empty()) specials = {"<|endoftext|>"};
  auto ids = ids_of(specials, vocab_json, source);
  for (const std::string& text : specials) {
    const auto entry = ids.extract(text);  // a name may come twice
    if (entry && entry.mapped() >= 0) added.push_back(added_token(text, entry.mapped()));
  }
  Json post;
  const auto special = [&](const char* key) -> Json {
    const Json& value = config.contains(key) ? config[key] : Json();
    const auto text = value.is_object() ? value.at("content") : value;
    for (const Json& token : added) {
      if (token["content"] == text) return {text, token["id"]};
    }
    return {};
  };
  if (roberta && !special("sep_token").is_null() && !special("cls_token").is_null())
    post = {{"type", "RobertaProcessing"},
            {"sep", special("sep_token")},
            {"cls", special("cls_token")}};
  const PreTokenizerFamily& family = pretokenizer_family(qwen ? "qwen2" : "gpt-2", source);
  const bool prefix = flag_of(config, "add_prefix_space", false);
  const Json head = {
      {"version", "1.0"},
      {"added_tokens", added},
      {"normalizer", family.nfc ? Json{{"type", "NFC"}} : Json()},
      {"pre_tokenizer", qwen ? byte_level(patterns_of(family), prefix) : byte_level({}, prefix)},
      {"post_processor", post},
      {"decoder", {{"type", "ByteLevel"}}}};
  return join(head, "{\"type\":\"BPE\",\"vocab\":" + vocab_json + ",\"merges\":[" + list + "]}");
}

std::string json_from_wordpieces(std::string_view text, const Json& config,
                                 const std::string& source) {
  const std::string name = tokenizer_class(config);
  HONE_CHECK(name.find("BertJapanese") == name.npos, unsupported,
             "{}: the class {} splits a text by a dictionary, which is not supported", source,
             printed(name));
  const bool lower = flag_of(config, "do_lower_case", true);
  const std::string cls_text = token_of(config, "cls_token", "[CLS]");
  const std::string sep_text = token_of(config, "sep_token", "[SEP]");
  std::string entries;
  Json added = Json::array();
  std::vector<std::string> specials = named_specials(config);
  if (specials.empty()) specials = {"[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"};
  const std::set<std::string_view> is_special(specials.begin(), specials.end());
  int64_t id = 0;
  std::optional<int64_t> cls, sep;
  for (; !text.empty(); ++id) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view row = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (row.ends_with('\r')) row.remove_suffix(1);
    HONE_CHECK(is_valid_utf8(row), corrupt, "{}: line {} is not UTF-8", source, id + 1);
    entries += (entries.empty() ? "" : ",") + json_text(row) + ':' + std::to_string(id);
    if (is_special.contains(row)) added.push_back(added_token(std::string(row), id));
    if (row == cls_text) cls = id;
    if (row == sep_text) sep = id;
  }
  Json post;
  if (cls && sep)
    post = {{"type", "BertProcessing"}, {"sep", {sep_text, *sep}}, {"cls", {cls_text, *cls}}};
  const Json strip = config.contains("strip_accents") ? config["strip_accents"] : Json();
  const Json head = {{"version", "1.0"},
                     {"added_tokens", added},
                     {"normalizer",
                      {{"type", "BertNormalizer"},
                       {"clean_text", true},
                       {"handle_chinese_chars", flag_of(config, "tokenize_chinese_chars", true)},
                       {"strip_accents", strip},
                       {"lowercase", lower}}},
                     {"pre_tokenizer", {{"type", "BertPreTokenizer"}}},
                     {"post_processor", post},
                     {"decoder", {{"type", "WordPiece"}, {"prefix", "##"}, {"cleanup", true}}}};
  return join(
      head,
      "{\"type\":\"WordPiece\",\"unk_token\":\"[UNK]\",\"continuing_subword_prefix\":\"##\","
      "\"max_input_chars_per_word\":100,\"vocab\":{" +
          entries + "}}");
}

}  // namespace hone
