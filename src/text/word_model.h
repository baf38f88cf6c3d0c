// What turns one word (or a whole text that nothing splits) into ids: BPE, Unigram, WordPiece or
// the greedy longest match. Each is a subclass; what they share is the vocabulary and a cache.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "text/vocabulary.h"

namespace hone {

class WordModel {
 public:
  virtual ~WordModel() = default;
  WordModel(const WordModel&) = delete;
  WordModel& operator=(const WordModel&) = delete;

  /// Appends the ids of one word to `out`. Raises invalid_argument on a word of 2 GiB or more, and
  /// where the model has neither a token for a part of it nor an unknown token. Threads may share
  /// the model; each remembers short words.
  void encode(std::string_view word, std::vector<int32_t>& out) const;
  const Vocabulary& vocabulary() const { return vocabulary_; }

 protected:
  explicit WordModel(Vocabulary vocabulary);
  virtual void encode_uncached(std::string_view word, std::vector<int32_t>& out) const = 0;

  Vocabulary vocabulary_;

 private:
  uint64_t serial_;  // names this object in the threads' caches
};

}  // namespace hone
