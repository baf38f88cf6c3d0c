// A tokenizer.json read in one pass: the long lists, vocabulary and merges, straight into vectors,
// everything else as a Json document. (As Json values the lists would take a hundred times as
// long.)
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/strings.h"

namespace hone {

struct TokenizerFile {
  Json document;  // without model.vocab and model.merges
  bool has_vocabulary = false, has_merges = false;
  std::vector<std::pair<std::string, int64_t>> vocabulary;  // in file order
  bool has_scores = false;           // the vocabulary is a list of [token, score], as Unigram's is
  std::vector<double> scores;        // of each id
  Strings merges;                    // "left right", however the file spells them
  std::vector<uint32_t> merge_cuts;  // where the space between stands
};

/// Raises corrupt, naming `source`, on bad syntax, invalid UTF-8, a key that appears twice (but in
/// the vocabulary, which the caller checks), nesting deeper than 64 levels, or lists of other
/// things.
TokenizerFile read_tokenizer_file(std::string_view text, const std::string& source);

}  // namespace hone
