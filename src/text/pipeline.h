// The tokenizer behind every factory: added tokens, normalizer, pre-tokenizer, model (BPE, Unigram,
// ...), and the rules that turn tokens back into text. tokenizer_json.cpp and tokenizer_spec.cpp
// fill the parts.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "text/added_tokens.h"
#include "text/normalizer.h"
#include "text/pretokenizer.h"
#include "text/tokenizer.h"
#include "text/word_model.h"

namespace hone {

/// Most tokens a vocabulary may have, and one more than the largest id.
inline constexpr int64_t kMaxVocabulary = int64_t{1} << 22;

/// How the text of a token becomes bytes of the output.
struct DecodeRules {
  bool byte_letters = false;   // the token is spelled in the byte alphabet
  bool byte_fallback = false;  // "<0xNN>" is that byte
  std::vector<std::pair<std::string, std::string>> replace;  // in each token, in order
  std::string between;                                       // put between tokens
  int strip_start = 0;  // at most so many of strip_content go from the front of the text
  std::string strip_content = " ";
  bool strip_first_token = false;  // every strip_content goes from the first token
  // WordPiece: this prefix goes from a token that is not the first, or else a space comes before.
  std::optional<std::string> continuing_prefix = {};
  bool cleanup = false;  // WordPiece: no space before punctuation and contractions in a token
};

/// How the tokens' texts in the spec stand for the bytes that the model's vocabulary holds.
enum class Spelling {
  plain,    // they are the bytes
  letters,  // in the byte alphabet
  escapes,  // "\\n", "\\xff": RWKV
};

struct TokenizerParts {
  TokenizerSpec spec;                  // tokens, types and ids are read from here
  AddedTokenMatcher raw_added;         // looked for first
  Normalizer normalizer;               // then what lies between is normalised,
  AddedTokenMatcher normalized_added;  // searched again,
  PreTokenizer pretokenizer;           // and split into words;
  bool spelled = false;                // words come spelled in the byte alphabet
  std::unique_ptr<const WordModel> model;
  Spelling spelling = Spelling::plain;
  std::vector<int32_t> prefix, suffix;  // what add_special puts around the ids
  DecodeRules decode;
};

std::unique_ptr<Tokenizer> make_pipeline_tokenizer(TokenizerParts parts);

/// A step that cuts before each `metaspace` where no token of `vocabulary` could span the cut, so
/// that the words of a text without a pre-tokenizer are short, and the ids the same.
PreTokenizer::Step cut_at_metaspace(const Vocabulary& vocabulary);

}  // namespace hone
