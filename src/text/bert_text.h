// What BERT's tokenizer does to a text, as Hugging Face tokenizers has it: its classes of
// characters are those of Unicode 8, where later characters have none.
#pragma once

#include <string>
#include <string_view>

#include "text/pretokenizer.h"

namespace hone {

struct BertNormalizerOptions {
  bool clean_text = true;        // control characters go, every space becomes ' '
  bool space_ideographs = true;  // a space on both sides of each Chinese character
  bool strip_accents = true;     // normal form D without nonspacing marks
  bool lowercase = true;
};
std::string bert_normalize(std::string_view text, const BertNormalizerOptions& options);

/// Punctuation: ASCII's, with its symbols, or general category P.
bool is_bert_punctuation(char32_t code);

/// Cuts at whitespace, which goes, and around each punctuation character.
PreTokenizer::Step split_as_bert();

/// SentencePiece's clean-up before normalisation ("Nmt"): controls go, odd spaces become ' '.
std::string nmt_normalize(std::string_view text);

}  // namespace hone
