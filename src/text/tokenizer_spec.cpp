// A tokenizer from GGUF metadata, with the meaning llama.cpp gives it.
#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/threads.h"
#include "text/bert_text.h"
#include "text/bpe.h"
#include "text/charsmap.h"
#include "text/longest_match.h"
#include "text/pipeline.h"
#include "text/pretokenizer_names.h"
#include "text/unicode.h"
#include "text/unigram.h"

namespace hone {
namespace {

void check_lists(TokenizerSpec& spec) {
  const auto n = static_cast<int64_t>(spec.tokens.size());
  const std::string& source = spec.source;
  HONE_CHECK(n > 0 && n <= kMaxVocabulary, corrupt,
             "{}: tokenizer.ggml.tokens has {} entries; expected 1 to {}", source, n,
             kMaxVocabulary);
  if (spec.token_types.empty()) {
    spec.token_types.assign(n, static_cast<int32_t>(TokenType::normal));
  }
  HONE_CHECK(static_cast<int64_t>(spec.token_types.size()) == n, corrupt,
             "{}: tokenizer.ggml.token_type has {} entries, tokenizer.ggml.tokens {}", source,
             spec.token_types.size(), n);
  HONE_CHECK(spec.scores.empty() || static_cast<int64_t>(spec.scores.size()) == n, corrupt,
             "{}: tokenizer.ggml.scores has {} entries, tokenizer.ggml.tokens {}", source,
             spec.scores.size(), n);
  const std::pair<const char*, std::optional<int32_t>*> ids[] = {
      {"bos", &spec.bos},       {"eos", &spec.eos}, {"unknown", &spec.unk}, {"padding", &spec.pad},
      {"seperator", &spec.sep}, {"eot", &spec.eot}, {"eom", &spec.eom}};
  for (const auto& [name, id] : ids) {
    HONE_CHECK(!*id || (**id >= 0 && **id < n), corrupt,
               "{}: tokenizer.ggml.{}_token_id is {}; the vocabulary has {} tokens", source, name,
               **id, n);
  }
}

void add_special_matches(TokenizerParts& parts) {
  const TokenizerSpec& spec = parts.spec;
  for (size_t id = 0; id < spec.tokens.size(); ++id) {
    const auto type = static_cast<TokenType>(spec.token_types[id]);
    const bool special = type == TokenType::control || type == TokenType::unknown;
    const std::string_view text = spec.tokens[id];
    if ((!special && type != TokenType::user_defined) || text.empty()) continue;
    parts.raw_added.add(
        {.id = static_cast<int32_t>(id), .content = std::string(text), .special = special},
        spec.source);
  }
}

// The halves of "left right"; a token never begins with the space between them.
std::pair<std::string_view, std::string_view> halves(std::string_view merge, size_t rank,
                                                     const std::string& source) {
  const size_t space = merge.find(' ', 1);
  HONE_CHECK(!merge.empty() && space != merge.npos && space + 1 < merge.size(), corrupt,
             "{}: merge {} is {}; expected two tokens and a space between", source, rank,
             printed(merge));
  return {merge.substr(0, space), merge.substr(space + 1)};
}

std::unique_ptr<WordModel> byte_level_bpe(const TokenizerSpec& spec, bool ignore_merges) {
  Vocabulary vocabulary(static_cast<int32_t>(spec.tokens.size()));
  std::string bytes;
  for (size_t id = 0; id < spec.tokens.size(); ++id) {
    // A token that is not spelled in the byte alphabet is one of the added ones.
    if (!spec.tokens[id].empty() && letters_to_bytes(spec.tokens[id], bytes)) {
      vocabulary.add(bytes, static_cast<int32_t>(id));
    }
  }
  std::vector<Bpe::Merge> merges(spec.merges.size());
  parallel_for(std::ssize(merges), 4096, [&](int64_t begin, int64_t end) {
    std::string left, right;
    for (auto rank = static_cast<size_t>(begin); rank < static_cast<size_t>(end); ++rank) {
      const auto [a, b] = halves(spec.merges[rank], rank, spec.source);
      const bool spelled = letters_to_bytes(a, left) && letters_to_bytes(b, right);
      Bpe::Merge& m = merges[rank];
      m.left = spelled ? vocabulary.find(left) : -1;
      m.right = spelled ? vocabulary.find(right) : -1;
      m.result = spelled ? vocabulary.find(left += right) : -1;
      HONE_CHECK(m.left >= 0 && m.right >= 0 && m.result >= 0, corrupt,
                 "{}: merge {} ({}) names text that is not a token", spec.source, rank,
                 printed(spec.merges[rank]));
    }
  });
  return std::make_unique<Bpe>(std::move(vocabulary), merges,
                               BpeOptions{.bytes = true, .ignore_merges = ignore_merges});
}

void build_gpt2(TokenizerParts& parts) {
  const PreTokenizerFamily& family = pretokenizer_family(parts.spec.pre, parts.spec.source);
  if (family.nfc) {
    parts.normalizer.add([](std::string& text) { text = normalize(text, NormalForm::nfc); });
  }
  for (const char* pattern : family.patterns) {
    parts.pretokenizer.add(split_by_regex(std::make_shared<Regex>(pattern, parts.spec.source),
                                          SplitBehavior::isolated, false));
  }
  parts.model = byte_level_bpe(parts.spec, family.ignore_merges);
  parts.spelling = Spelling::letters;
  parts.decode.byte_letters = true;
  if (!parts.spec.add_bos) parts.spec.add_bos = family.add_bos && parts.spec.bos;
}

// Whitespace as SentencePiece writes it: a metaspace for each space, and one in front of the text;
// with `merge` one for a row of spaces, and none at the ends.
std::string escape_whitespace(std::string_view text, bool prefix, bool merge) {
  std::string out;
  out.reserve(text.size() + text.size() / 2);
  if (merge) text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
  if (text.empty()) return out;
  if (prefix) out += kMetaspace;
  bool after_space = false;
  for (char c : text) {
    if (c != ' ') {
      out += c;
    } else if (!merge || !after_space) {
      out += kMetaspace;
    }
    after_space = c == ' ';
  }
  while (merge && out.ends_with(kMetaspace)) out.resize(out.size() - kMetaspace.size());
  return out;
}

void set_default(const TokenizerSpec& spec, std::optional<int32_t>& id, int32_t value,
                 TokenType type) {
  const bool fits = value < std::ssize(spec.tokens) &&
                    spec.token_types[static_cast<size_t>(value)] == static_cast<int32_t>(type);
  if (!id && fits) id = value;
}

bool joins_text(TokenType type) {
  return type == TokenType::normal || type == TokenType::user_defined || type == TokenType::unused;
}

void check_scores(const TokenizerSpec& spec) {
  HONE_CHECK(!spec.scores.empty(), corrupt,
             "{}: tokenizer.ggml.scores is missing; the model '{}' needs them", spec.source,
             spec.model);
  for (size_t id = 0; id < spec.scores.size(); ++id) {
    HONE_CHECK(std::isfinite(spec.scores[id]), corrupt, "{}: the score of token {} is {}",
               spec.source, id, spec.scores[id]);
  }
}

void build_llama(TokenizerParts& parts) {
  TokenizerSpec& spec = parts.spec;
  const auto n = static_cast<int32_t>(spec.tokens.size());
  check_scores(spec);
  set_default(spec, spec.unk, 0, TokenType::unknown);
  set_default(spec, spec.bos, 1, TokenType::control);
  set_default(spec, spec.eos, 2, TokenType::control);
  if (!spec.add_bos) spec.add_bos = spec.bos.has_value();
  if (!spec.add_space_prefix) spec.add_space_prefix = true;

  Vocabulary vocabulary(n);
  std::vector<bool> joins(n);
  for (int32_t id = 0; id < n; ++id) {
    if (spec.tokens[id].empty()) continue;
    vocabulary.add(spec.tokens[id], id);
    joins[id] = joins_text(static_cast<TokenType>(spec.token_types[id]));
  }
  const bool prefix = *spec.add_space_prefix;
  // Only SentencePiece's own files say more than the prefix.
  if (!spec.precompiled_charsmap.empty()) {
    auto map = std::make_shared<Charsmap>(spec.precompiled_charsmap, spec.source);
    const bool merge = spec.remove_extra_whitespaces.value_or(false);
    parts.normalizer.add(
        [=](std::string& text) { text = escape_whitespace(map->rewrite(text), prefix, merge); });
    spec.gguf_obstacle = "GGUF has no word for its precompiled_charsmap";
  } else {
    parts.normalizer.add([prefix](std::string& text) {
      text = (prefix ? std::string(kMetaspace) : "") + replace_all(text, " ", kMetaspace);
    });
  }
  parts.pretokenizer.add(cut_at_metaspace(vocabulary));
  parts.model = std::make_unique<Bpe>(
      std::move(vocabulary), spec.scores, joins,
      BpeOptions{.bytes = false, .byte_fallback = true, .fuse_unk = true, .unk = spec.unk});
  parts.decode.byte_fallback = true;
  parts.decode.replace = {{std::string(kMetaspace), " "}};
  parts.decode.strip_start = prefix ? 1 : 0;
}

void build_t5(TokenizerParts& parts) {
  TokenizerSpec& spec = parts.spec;
  check_scores(spec);
  set_default(spec, spec.unk, 2, TokenType::unknown);
  set_default(spec, spec.eos, 1, TokenType::control);
  set_default(spec, spec.pad, 0, TokenType::control);
  if (!spec.add_eos) spec.add_eos = spec.eos.has_value();
  const bool prefix = spec.add_space_prefix.value_or(false);
  const bool merge = spec.remove_extra_whitespaces.value_or(false);

  const auto n = static_cast<int32_t>(spec.tokens.size());
  Vocabulary vocabulary(n);
  std::vector<double> scores(spec.scores.begin(), spec.scores.end());
  std::vector<bool> matched(static_cast<size_t>(n));
  bool bytes = false;
  float least = std::numeric_limits<float>::max();
  for (int32_t id = 0; id < n; ++id) {
    const auto type = static_cast<TokenType>(spec.token_types[id]);
    if (type == TokenType::normal) least = std::min(least, spec.scores[id]);
    if (type == TokenType::user_defined) scores[id] = 0;
    matched[id] = joins_text(type) && vocabulary.add(spec.tokens[id], id);
    // What an unknown character becomes, where there are such tokens.
    if (type == TokenType::byte) bytes |= vocabulary.add(spec.tokens[id], id);
  }
  auto map = std::make_shared<Charsmap>(spec.precompiled_charsmap, spec.source);
  parts.normalizer.add(
      [=](std::string& text) { text = escape_whitespace(map->rewrite(text), prefix, merge); });
  parts.model = std::make_unique<Unigram>(
      std::move(vocabulary), std::move(scores), matched,
      UnigramOptions{
          .unk = spec.unk, .byte_fallback = bytes, .unk_score = least - 10.0f, .float_sums = true});
  parts.decode.byte_fallback = true;
  parts.decode.replace = {{std::string(kMetaspace), " "}};
  parts.decode.strip_start = prefix ? 1 : 0;
  spec.gguf_obstacle = "hone writes no GGUF of a Unigram tokenizer";
}

void build_bert(TokenizerParts& parts) {
  TokenizerSpec& spec = parts.spec;
  set_default(spec, spec.bos, 101, TokenType::control);
  set_default(spec, spec.sep, 102, TokenType::control);
  set_default(spec, spec.unk, 100, TokenType::unknown);
  set_default(spec, spec.unk, 100, TokenType::control);
  set_default(spec, spec.pad, 0, TokenType::control);
  if (!spec.add_bos) spec.add_bos = spec.bos.has_value();
  const auto n = static_cast<int32_t>(spec.tokens.size());
  Vocabulary vocabulary(n);
  for (int32_t id = 0; id < n; ++id) {
    if (joins_text(static_cast<TokenType>(spec.token_types[id])))
      vocabulary.add(spec.tokens[id], id);
  }
  // Here a token that begins a word is marked, in tokenizer.json one that continues it.
  parts.normalizer.add([](std::string& text) { text = bert_normalize(text, {}); });
  parts.pretokenizer.add(split_as_bert());
  parts.pretokenizer.add([](std::string_view piece, bool, const EmitPiece& emit) {
    emit(std::string(kMetaspace).append(piece));
  });
  parts.model = std::make_unique<WordPiece>(
      std::move(vocabulary),
      WordPieceOptions{.prefix = "", .max_characters = SIZE_MAX, .unk = spec.unk});
  parts.decode.replace = {{std::string(kMetaspace), " "}};
  parts.decode.strip_start = 1;
  spec.gguf_obstacle = "hone writes no GGUF of a WordPiece tokenizer";
}

void build_rwkv(TokenizerParts& parts) {
  TokenizerSpec& spec = parts.spec;
  const auto n = static_cast<int32_t>(spec.tokens.size());
  Vocabulary vocabulary(n);
  for (int32_t id = 0; id < n; ++id) {
    const auto type = static_cast<TokenType>(spec.token_types[id]);
    if (type == TokenType::normal || type == TokenType::user_defined)
      vocabulary.add(unescape_bytes(spec.tokens[id]), id);
  }
  parts.model = std::make_unique<GreedyBytes>(std::move(vocabulary), spec.source);
  parts.spelling = Spelling::escapes;
}

}  // namespace

std::unique_ptr<Tokenizer> tokenizer_from_spec(TokenizerSpec spec) {
  if (!spec.tokenizer_json.empty()) {
    return tokenizer_from_json(spec.tokenizer_json, spec.tokenizer_config_json, spec.source);
  }
  check_lists(spec);
  TokenizerParts parts;
  parts.spec = std::move(spec);
  static constexpr std::pair<const char*, void (*)(TokenizerParts&)> kModels[] = {
      {"gpt2", build_gpt2},
      {"llama", build_llama},
      {"t5", build_t5},
      {"bert", build_bert},
      {"rwkv", build_rwkv}};
  const auto* model = std::find_if(std::begin(kModels), std::end(kModels),
                                   [&](const auto& m) { return parts.spec.model == m.first; });
  HONE_CHECK(model != std::end(kModels), unsupported,
             "{}: tokenizer.ggml.model {}; expected 'gpt2', 'llama', 't5', 'bert' or 'rwkv'",
             parts.spec.source, printed(parts.spec.model));
  model->second(parts);
  add_special_matches(parts);
  TokenizerSpec& s = parts.spec;
  if (!s.add_bos) s.add_bos = false;
  if (!s.add_eos) s.add_eos = false;
  HONE_CHECK(!*s.add_bos || s.bos, corrupt, "{}: add_bos_token without a bos_token_id", s.source);
  HONE_CHECK(!*s.add_eos || s.eos, corrupt, "{}: add_eos_token without an eos_token_id", s.source);
  if (*s.add_bos) parts.prefix = {*s.bos};
  if (*s.add_eos) parts.suffix = {*s.eos};
  if (s.sep && s.model == "bert") parts.suffix = {*s.sep};
  return make_pipeline_tokenizer(std::move(parts));
}

}  // namespace hone
