// The Unigram model (Kudo 2018): of all ways to write a word as tokens, the one whose scores, log
// probabilities, have the largest sum. One pass over the word keeps, for each place, the best way
// to reach it (Viterbi); a character that is no token is unknown, at a score below all others.
#pragma once

#include <optional>
#include <vector>

#include "text/byte_trie.h"
#include "text/word_model.h"

namespace hone {

struct UnigramOptions {
  std::optional<int32_t> unk = {};
  bool byte_fallback =
      false;                // an unknown stretch becomes its bytes' tokens <0xNN>, if all are there
  double unk_score = 0;     // of an unknown character
  bool float_sums = false;  // SentencePiece keeps sums in f32, Hugging Face tokenizers in f64
};

class Unigram final : public WordModel {
 public:
  /// `scores`: one for each id, finite. Ids where `matched` is false are never found in a text.
  Unigram(Vocabulary vocabulary, std::vector<double> scores, const std::vector<bool>& matched,
          UnigramOptions options);
  const UnigramOptions& options() const { return options_; }

 private:
  struct Place {
    double score;
    uint32_t from;
    int32_t id;  // the token that ends here; kNone: not reached
  };
  static constexpr int32_t kNone = -2, kUnknown = -1;

  void encode_uncached(std::string_view word, std::vector<int32_t>& out) const override;
  void walk(std::string_view word, std::vector<Place>& places) const;
  void put_unknown(std::string_view part, std::vector<int32_t>& reversed) const;

  std::vector<double> scores_;
  UnigramOptions options_;
  ByteTrie trie_;
};

}  // namespace hone
