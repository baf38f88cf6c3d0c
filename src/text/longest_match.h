// Models that take, again and again, the longest token that the rest of the word begins with.
//   WordPiece (Schuster and Nakajima 2012): tokens inside of a word carry a prefix ("##"), and a
//   word that cannot be written to its end is unknown as a whole.
//   GreedyBytes: the tokenizer of RWKV "world": any byte is a token, nothing splits the text.
#pragma once

#include <optional>
#include <string>

#include "text/byte_trie.h"
#include "text/word_model.h"

namespace hone {

struct WordPieceOptions {
  std::string prefix = "##";        // of tokens that continue a word
  size_t max_characters = 100;      // a longer word is unknown
  std::optional<int32_t> unk = {};  // without it, a word that is unknown is an error
};

class WordPiece final : public WordModel {
 public:
  WordPiece(Vocabulary vocabulary, WordPieceOptions options);
  const WordPieceOptions& options() const { return options_; }

 private:
  void encode_uncached(std::string_view word, std::vector<int32_t>& out) const override;

  WordPieceOptions options_;
  ByteTrie begins_, continues_;
};

class GreedyBytes final : public WordModel {
 public:
  /// The vocabulary's texts are bytes; all 256 single bytes must be among them, else it raises
  /// corrupt, naming `source`.
  GreedyBytes(Vocabulary vocabulary, const std::string& source);

 private:
  void encode_uncached(std::string_view word, std::vector<int32_t>& out) const override;

  ByteTrie trie_;
};

}  // namespace hone
