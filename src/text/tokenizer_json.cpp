// A tokenizer from Hugging Face's tokenizer.json (models "BPE", "Unigram" and "WordPiece") and
// tokenizer_config.json.
//
// Of the configuration this reads the special tokens' names, add_bos_token and add_eos_token (which
// overrule the post_processor, as transformers' Llama tokenizers do), chat_template, and added
// tokens that tokenizer.json lacks.
#include <nlohmann/json.hpp>

#include <algorithm>
#include <map>

#include "base/error.h"
#include "text/bpe.h"
#include "text/json_components.h"
#include "text/longest_match.h"
#include "text/pretokenizer_names.h"
#include "text/tokenizer_file.h"
#include "text/unicode.h"
#include "text/unigram.h"

namespace hone {
namespace {

// What is wrong where a field has another type, in the words of the JSON library.
template <typename F>
auto reading(const std::string& source, F&& read) {
  try {
    return read();
  } catch (const nlohmann::json::exception& e) {
    fail(ErrorKind::corrupt, "{}: not a tokenizer: {}", source, printed(e.what()));
  }
}

// The value of a key, or null where the key is absent.
const Json& field(const Json& object, const char* key) {
  static const Json kNull;
  const auto it = object.find(key);
  return it == object.end() ? kNull : *it;
}

// How much less than the least score of a token an unknown character has.
constexpr double kUnknownPenalty = 10;

class JsonReader {
 public:
  JsonReader(TokenizerFile file, const Json& config, const std::string& source)
      : file_(std::move(file)),
        tokenizer_(file_.document),
        model_(tokenizer_.at("model")),
        config_(config),
        components_(parts_) {
    parts_.spec.source = source;
  }

  TokenizerParts read() {
    check_model();
    read_vocabulary();
    read_added_tokens();
    components_.add_normalizer(field(tokenizer_, "normalizer"));
    components_.add_pretokenizer(field(tokenizer_, "pre_tokenizer"));
    add_matchers();
    read_model();
    components_.add_post_processor(field(tokenizer_, "post_processor"));
    if (field(tokenizer_, "decoder").is_null()) parts_.decode.between = " ";
    components_.add_decoder(field(tokenizer_, "decoder"));
    read_config();
    describe_for_gguf();
    return std::move(parts_);
  }

 private:
  TokenizerSpec& spec() { return parts_.spec; }
  const std::string& source() const { return parts_.spec.source; }

  // Old files do not name the model.
  std::string model_type() const {
    const char* guess = file_.has_merges                              ? "BPE"
                        : file_.has_scores                            ? "Unigram"
                        : model_.contains("max_input_chars_per_word") ? "WordPiece"
                                                                      : "BPE";
    return model_.value("type", std::string(guess));
  }

  void check_model() {
    const std::string type = model_type();
    if (type == "Unigram" || type == "WordPiece") {
      HONE_CHECK(!file_.has_vocabulary || file_.has_scores == (type == "Unigram"), corrupt,
                 "{}: the vocabulary of a {} model {} scores", source(), type,
                 file_.has_scores ? "has" : "has no");
      return;
    }
    HONE_CHECK(type == "BPE" && file_.has_merges && !file_.has_scores, unsupported,
               "{}: the tokenizer model {}; expected 'BPE', 'Unigram' or 'WordPiece'", source(),
               printed(type));
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      const Json& value = field(model_, key);
      HONE_CHECK(value.is_null() || value.get<std::string>().empty(), unsupported,
                 "{}: a BPE model with {} is not supported", source(), key);
    }
    const Json& dropout = field(model_, "dropout");
    HONE_CHECK(dropout.is_null() || dropout.get<double>() == 0, unsupported,
               "{}: a BPE model with dropout gives random ids", source());
  }

  // Makes room for the id and gives it the token; false where it has another one.
  bool set_token(int64_t id, const std::string& text) {
    HONE_CHECK(id >= 0 && id < kMaxVocabulary, corrupt, "{}: token {} has id {}; expected 0 to {}",
               source(), printed(text), id, kMaxVocabulary - 1);
    auto& tokens = spec().tokens;
    if (id >= static_cast<int64_t>(tokens.size())) {
      tokens.resize(id + 1);
      used_.resize(id + 1);
    }
    if (used_[id]) return false;
    used_[id] = true;
    tokens.set(id, text);
    return true;
  }

  void read_vocabulary() {
    HONE_CHECK(file_.has_vocabulary, corrupt, "{}: the model has no vocabulary", source());
    spec().tokens.reserve(std::min<size_t>(file_.vocabulary.size(), kMaxVocabulary));
    for (const auto& [text, id] : file_.vocabulary) {
      HONE_CHECK(set_token(id, text), corrupt, "{}: the tokens {} and {} both have id {}", source(),
                 printed(spec().tokens[id]), printed(text), id);
    }
    model_ids_ = Vocabulary(static_cast<int32_t>(spec().tokens.size()));
    for (const auto& [text, id] : file_.vocabulary) {
      HONE_CHECK(model_ids_.add(text, static_cast<int32_t>(id)), corrupt,
                 "{}: the token {} appears twice", source(), printed(text));
    }
  }

  void add_token(const Json& token, int64_t id) {
    AddedToken added{.id = 0,
                     .content = token.at("content").get<std::string>(),
                     .special = token.value("special", false),
                     .single_word = token.value("single_word", false),
                     .lstrip = token.value("lstrip", false),
                     .rstrip = token.value("rstrip", false)};
    added.normalized = token.value("normalized", !added.special);
    const int32_t known = model_ids_.find(added.content);
    const bool same = id >= 0 && id < std::ssize(used_) && spec().tokens[id] == added.content;
    HONE_CHECK(known < 0 ? same || set_token(id, added.content) : known == id, corrupt,
               "{}: the added token {} has id {}, which belongs to another token, or has two ids",
               source(), printed(added.content), id);
    added.id = static_cast<int32_t>(id);
    if (added.content.empty()) return;
    added_.try_emplace(added.id, std::move(added));
  }

  void read_added_tokens() {
    for (const Json& token : field(tokenizer_, "added_tokens")) {
      add_token(token, json_integer(token.at("id"), "id of an added token", source()));
    }
    for (const auto& [key, token] : field(config_, "added_tokens_decoder").items()) {
      const int64_t id =
          key.size() < 10 && key.find_first_not_of("0123456789") == key.npos && !key.empty()
              ? std::stoll(key)
              : -1;
      add_token(token, id);
    }
    auto& types = spec().token_types;
    types.assign(spec().tokens.size(), static_cast<int32_t>(TokenType::normal));
    for (size_t id = 0; id < used_.size(); ++id) {
      if (!used_[id]) types[id] = static_cast<int32_t>(TokenType::unused);
    }
    for (const auto& [id, token] : added_) {
      types[id] =
          static_cast<int32_t>(token.special ? TokenType::control : TokenType::user_defined);
    }
  }

  void add_matchers() {
    for (const auto& [id, token] : added_) {
      if (!token.normalized) {
        parts_.raw_added.add(token, source());
        continue;
      }
      AddedToken normal = token;
      normal.content = parts_.normalizer.apply(token.content);
      if (!normal.content.empty()) parts_.normalized_added.add(std::move(normal), source());
    }
  }

  std::optional<int32_t> model_token(const char* key) {
    const Json& name = field(model_, key);
    if (name.is_null()) return std::nullopt;
    const int32_t id = model_ids_.find(name.get<std::string>());
    HONE_CHECK(id >= 0, corrupt, "{}: {} {} is not a token", source(), key,
               printed(name.get<std::string>()));
    return id;
  }

  void read_model() {
    const std::string type = model_type();
    if (type == "BPE") return read_merges();
    // The words come spelled in the byte alphabet, as the tokens are.
    if (components_.byte_level()) components_.spell_last();
    parts_.spelled = false;
    if (type == "Unigram") return read_unigram();
    unk_ = model_token("unk_token");
    WordPieceOptions options{.prefix = model_.value("continuing_subword_prefix", "##"),
                             .unk = unk_};
    if (const Json& max = field(model_, "max_input_chars_per_word"); !max.is_null()) {
      const int64_t n = json_integer(max, "max_input_chars_per_word", source());
      options.max_characters = static_cast<size_t>(std::max<int64_t>(n, 0));
    }
    parts_.model = std::make_unique<WordPiece>(model_ids_, options);
  }

  void read_unigram() {
    std::vector<double> scores = std::move(file_.scores);
    UnigramOptions options{.byte_fallback = model_.value("byte_fallback", false)};
    if (const Json& unk = field(model_, "unk_id"); !unk.is_null()) {
      const int64_t id = json_integer(unk, "unk_id", source());
      HONE_CHECK(id >= 0 && id < std::ssize(scores), corrupt,
                 "{}: unk_id is {}; the model has {} tokens", source(), id, scores.size());
      options.unk = unk_ = static_cast<int32_t>(id);
    }
    const auto least = std::min_element(scores.begin(), scores.end());
    options.unk_score = (least == scores.end() ? 0 : *least) - kUnknownPenalty;
    if (options.byte_fallback) mark_byte_tokens();
    scores.resize(static_cast<size_t>(model_ids_.size()));
    const std::vector<bool> matched(scores.size(), true);
    parts_.model = std::make_unique<Unigram>(model_ids_, std::move(scores), matched, options);
  }

  void read_merges() {
    // Byte-level models are looked up by the bytes that their tokens spell.
    const bool bytes = components_.byte_level();
    Vocabulary vocabulary(static_cast<int32_t>(spec().tokens.size()));
    std::string spelled;
    for (int32_t id = 0; id < model_ids_.size(); ++id) {
      const std::string_view text = model_ids_.text(id);
      if (text.empty()) continue;
      if (!bytes) {
        vocabulary.add(text, id);
      } else if (letters_to_bytes(text, spelled)) {
        vocabulary.add(spelled, id);
      }
    }
    const std::vector<Bpe::Merge> merges = find_merges();
    unk_ = model_token("unk_token");
    bpe_ = {.bytes = bytes,
            .byte_fallback = model_.value("byte_fallback", false),
            .ignore_merges = model_.value("ignore_merges", false),
            .fuse_unk = model_.value("fuse_unk", false),
            .unk = unk_};
    if (!bytes && !bpe_.ignore_merges) {
      parts_.pretokenizer.add(cut_at_metaspace(vocabulary));
    }
    if (bpe_.byte_fallback) mark_byte_tokens();
    if (bytes) parts_.spelling = Spelling::letters;
    parts_.model = std::make_unique<Bpe>(std::move(vocabulary), merges, bpe_);
  }

  std::vector<Bpe::Merge> find_merges() {
    std::vector<Bpe::Merge> merges;
    merges.reserve(file_.merges.size());
    std::string joined;
    for (size_t rank = 0; rank < file_.merges.size(); ++rank) {
      const std::string_view text = file_.merges[rank];
      const std::string_view left = text.substr(0, file_.merge_cuts[rank]);
      const std::string_view right = text.substr(left.size() + 1);
      joined.assign(left).append(right);
      const Bpe::Merge m{model_ids_.find(left), model_ids_.find(right), model_ids_.find(joined)};
      HONE_CHECK(m.left >= 0 && m.right >= 0 && m.result >= 0, corrupt,
                 "{}: merge {} ({} and {}) is not two tokens that make a third", source(), rank,
                 printed(left), printed(right));
      if (joined.find(' ') != joined.npos) merges_hold_spaces_ = true;
      merges.push_back(m);
      results_.push_back(m.result);
    }
    spec().merges = std::move(file_.merges);
    return merges;
  }

  void mark_byte_tokens() {
    for (int b = 0; b < 256; ++b) {
      const int32_t id = model_ids_.find(byte_token_text(static_cast<unsigned char>(b)));
      if (id >= 0 && !added_.contains(id)) {
        spec().token_types[id] = static_cast<int32_t>(TokenType::byte);
      }
    }
  }

  // A special token of the configuration: a name, or an object with its content.
  std::optional<int32_t> config_token(const char* key) {
    const Json& value = field(config_, key);
    if (value.is_null()) return std::nullopt;
    const auto name = (value.is_object() ? value.at("content") : value).get<std::string>();
    const int32_t id = model_ids_.find(name);
    if (id >= 0) return id;
    for (const auto& [added_id, token] : added_) {
      if (token.content == name) return added_id;
    }
    return std::nullopt;  // a name that stands for no token, as some configurations have
  }

  void read_config() {
    TokenizerSpec& s = spec();
    s.bos = config_token("bos_token");
    s.eos = config_token("eos_token");
    s.unk = config_token("unk_token");
    s.pad = config_token("pad_token");
    if (!s.unk) s.unk = unk_;
    if (!s.bos && parts_.prefix.size() == 1) s.bos = parts_.prefix[0];
    if (!s.eos && parts_.suffix.size() == 1) s.eos = parts_.suffix[0];
    overrule("add_bos_token", s.bos, parts_.prefix, s.add_bos);
    overrule("add_eos_token", s.eos, parts_.suffix, s.add_eos);

    const Json& chat = field(config_, "chat_template");
    if (chat.is_string()) s.chat_template = chat.get<std::string>();
    if (!chat.is_array()) return;
    for (const Json& entry : chat) {
      if (s.chat_template.empty() || entry.at("name") == "default") {
        s.chat_template = entry.at("template").get<std::string>();
      }
    }
  }

  void overrule(const char* key, std::optional<int32_t> id, std::vector<int32_t>& around,
                std::optional<bool>& adds) {
    const Json& wanted = field(config_, key);
    if (wanted.is_boolean() && id) {
      std::erase(around, *id);
      if (wanted.get<bool>()) around.push_back(*id);
    }
    adds = !around.empty();
  }

  // Fills what a GGUF needs, or says why it cannot.
  void describe_for_gguf();
  // Scores under which merging by score does what the merges do, but for ties: of two pairs with
  // one result, the leftmost goes first, not the one of lower rank.
  void describe_scores();

  TokenizerFile file_;
  const Json& tokenizer_;
  const Json& model_;
  const Json& config_;
  TokenizerParts parts_;
  JsonComponents components_;
  std::vector<bool> used_;
  Vocabulary model_ids_;                 // tokens of the model, without the added ones
  std::map<int32_t, AddedToken> added_;  // by id
  std::vector<int32_t> results_;         // of the merges
  bool merges_hold_spaces_ = false;
  std::optional<int32_t> unk_;  // the model's own
  BpeOptions bpe_;
};

void JsonReader::describe_for_gguf() {
  TokenizerSpec& s = spec();
  std::string& obstacle = s.gguf_obstacle;
  const auto only = [](const std::vector<int32_t>& around, std::optional<int32_t> id) {
    return around.empty() || (around.size() == 1 && id && around[0] == *id);
  };
  if (model_type() != "BPE") {
    obstacle = "hone writes no GGUF of a " + model_type() + " tokenizer";
  } else if (!components_.inexpressible().empty()) {
    obstacle = "GGUF has no word for " + components_.inexpressible().front();
  } else if (!only(parts_.prefix, s.bos) || !only(parts_.suffix, s.eos)) {
    obstacle = "the post_processor adds other tokens than bos and eos";
  } else if (components_.byte_level()) {
    const auto name =
        pretokenizer_name(components_.patterns(), bpe_.ignore_merges, components_.nfc());
    if (!name || merges_hold_spaces_) {
      obstacle = "no tokenizer.ggml.pre name stands for its pre-tokenizer and flags";
    } else {
      s.model = "gpt2";
      s.pre = *name;
    }
  } else if (!bpe_.byte_fallback || !components_.spaces_to_metaspace() || components_.nfc() ||
             !components_.patterns().empty() || bpe_.ignore_merges) {
    obstacle = "neither a byte-level BPE nor a SentencePiece one with byte fallback";
  } else {
    describe_scores();
  }
}

void JsonReader::describe_scores() {
  TokenizerSpec& s = spec();
  // What no merge makes ranks last.
  std::vector<float> scores(s.tokens.size(), -static_cast<float>(s.merges.size()) - 1);
  std::vector<bool> made(s.tokens.size());
  for (size_t rank = 0; rank < results_.size(); ++rank) {
    if (!made[results_[rank]]) scores[results_[rank]] = -static_cast<float>(rank);
    made[results_[rank]] = true;
  }
  for (size_t id = 0; id < s.tokens.size(); ++id) {
    const std::string_view text = s.tokens[id];
    const bool normal = s.token_types[id] == static_cast<int32_t>(TokenType::normal);
    if (normal && !made[id] && !text.empty() && utf8_at(text, 0).size < std::ssize(text)) {
      s.gguf_obstacle =
          fmt::format("no merge makes the token {}, but merging by score would", printed(text));
      return;
    }
  }
  s.model = "llama";
  s.pre = "default";
  s.scores = std::move(scores);
  s.add_space_prefix = components_.puts_space_first();
  if (s.unk) s.token_types[*s.unk] = static_cast<int32_t>(TokenType::unknown);
}

}  // namespace

std::unique_ptr<Tokenizer> tokenizer_from_json(std::string_view tokenizer_json,
                                               std::string_view tokenizer_config_json,
                                               const std::string& source) {
  const std::string config_source = source + " (tokenizer_config.json)";
  const Json config = tokenizer_config_json.empty()
                          ? Json::object()
                          : read_tokenizer_file(tokenizer_config_json, config_source).document;
  TokenizerParts parts = reading(source, [&] {
    return JsonReader(read_tokenizer_file(tokenizer_json, source), config, source).read();
  });
  parts.spec.tokenizer_json = tokenizer_json;
  parts.spec.tokenizer_config_json = tokenizer_config_json;
  return make_pipeline_tokenizer(std::move(parts));
}

}  // namespace hone
