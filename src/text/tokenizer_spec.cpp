// A tokenizer from GGUF metadata, with the meaning llama.cpp gives it.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/threads.h"
#include "text/pipeline.h"
#include "text/pretokenizer_names.h"
#include "text/unicode.h"

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
      {"bos", &spec.bos},     {"eos", &spec.eos}, {"unknown", &spec.unk},
      {"padding", &spec.pad}, {"eot", &spec.eot}, {"eom", &spec.eom}};
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

Bpe byte_level_bpe(const TokenizerSpec& spec, bool ignore_merges) {
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
  return Bpe(std::move(vocabulary), merges, {.bytes = true, .ignore_merges = ignore_merges});
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
  parts.bpe = byte_level_bpe(parts.spec, family.ignore_merges);
  parts.decode.byte_letters = true;
  if (!parts.spec.add_bos) parts.spec.add_bos = family.add_bos && parts.spec.bos;
}

void build_llama(TokenizerParts& parts) {
  TokenizerSpec& spec = parts.spec;
  const auto n = static_cast<int32_t>(spec.tokens.size());
  HONE_CHECK(!spec.scores.empty(), corrupt,
             "{}: tokenizer.ggml.scores is missing; the model 'llama' merges by score",
             spec.source);
  const auto defaults_to = [&](std::optional<int32_t>& id, int32_t value, TokenType type) {
    const bool fits = value < n && spec.token_types[value] == static_cast<int32_t>(type);
    if (!id && fits) id = value;
  };
  defaults_to(spec.unk, 0, TokenType::unknown);
  defaults_to(spec.bos, 1, TokenType::control);
  defaults_to(spec.eos, 2, TokenType::control);
  if (!spec.add_bos) spec.add_bos = spec.bos.has_value();
  if (!spec.add_space_prefix) spec.add_space_prefix = true;

  Vocabulary vocabulary(n);
  std::vector<bool> joins(n);
  for (int32_t id = 0; id < n; ++id) {
    HONE_CHECK(std::isfinite(spec.scores[id]), corrupt, "{}: the score of token {} is {}",
               spec.source, id, spec.scores[id]);
    if (spec.tokens[id].empty()) continue;
    const auto type = static_cast<TokenType>(spec.token_types[id]);
    vocabulary.add(spec.tokens[id], id);
    joins[id] =
        type == TokenType::normal || type == TokenType::user_defined || type == TokenType::unused;
  }
  const bool prefix = *spec.add_space_prefix;
  parts.normalizer.add([prefix](std::string& text) {
    text = (prefix ? std::string(kMetaspace) : "") + replace_all(text, " ", kMetaspace);
  });
  parts.pretokenizer.add(cut_at_metaspace(vocabulary));
  parts.bpe = Bpe(std::move(vocabulary), spec.scores, joins,
                  {.bytes = false, .byte_fallback = true, .fuse_unk = true, .unk = spec.unk});
  parts.decode.byte_fallback = true;
  parts.decode.replace = {{std::string(kMetaspace), " "}};
  parts.decode.strip_start = prefix ? 1 : 0;
}

}  // namespace

std::unique_ptr<Tokenizer> tokenizer_from_spec(TokenizerSpec spec) {
  if (!spec.tokenizer_json.empty()) {
    return tokenizer_from_json(spec.tokenizer_json, spec.tokenizer_config_json, spec.source);
  }
  check_lists(spec);
  TokenizerParts parts;
  parts.spec = std::move(spec);
  if (parts.spec.model == "gpt2") {
    build_gpt2(parts);
  } else if (parts.spec.model == "llama") {
    build_llama(parts);
  } else {
    fail(ErrorKind::unsupported, "{}: tokenizer.ggml.model {}; expected 'gpt2' or 'llama'",
         parts.spec.source, printed(parts.spec.model));
  }
  add_special_matches(parts);
  TokenizerSpec& s = parts.spec;
  if (!s.add_bos) s.add_bos = false;
  if (!s.add_eos) s.add_eos = false;
  HONE_CHECK(!*s.add_bos || s.bos, corrupt, "{}: add_bos_token without a bos_token_id", s.source);
  HONE_CHECK(!*s.add_eos || s.eos, corrupt, "{}: add_eos_token without an eos_token_id", s.source);
  if (*s.add_bos) parts.prefix = {*s.bos};
  if (*s.add_eos) parts.suffix = {*s.eos};
  return make_pipeline_tokenizer(std::move(parts));
}

}  // namespace hone
