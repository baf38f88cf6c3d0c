// Byte-pair encoding of one word: start from single bytes or characters and, again and again, merge
// the adjacent pair that ranks first, leftmost where ranks tie (Sennrich et al. 2016).
//
// Two ways to rank a pair. By merges: a table of (left id, right id), as in tokenizer.json and
// GGUF's "gpt2". By scores: any pair whose joined text is a token, higher score first, as
// SentencePiece and GGUF's "llama" do it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/word_model.h"

namespace hone {

struct BpeOptions {
  bool bytes = true;                // symbols begin as bytes, else as UTF-8 characters
  bool byte_fallback = false;       // a character without a token becomes its bytes' tokens <0xNN>
  bool ignore_merges = false;       // a word that is a token is that token, merges or not
  bool fuse_unk = false;            // adjacent unknown characters give one unk
  std::optional<int32_t> unk = {};  // for what nothing else covers; without it such text is dropped
};

class Bpe final : public WordModel {
 public:
  struct Merge {
    int32_t left, right, result;
  };

  /// Ranked by the order of `merges`. Ids are those of `vocabulary`.
  Bpe(Vocabulary vocabulary, const std::vector<Merge>& merges, BpeOptions options);
  /// Ranked by `scores`, one for each id; ids where `joins` is false are never made by merging.
  Bpe(Vocabulary vocabulary, const std::vector<float>& scores, const std::vector<bool>& joins,
      BpeOptions options);

  const BpeOptions& options() const { return options_; }

 private:
  struct Symbol {
    uint32_t begin, size;
    int32_t id;
  };
  struct Joined {
    uint32_t rank;
    int32_t id;
  };
  struct PairSlot {
    uint64_t pair;
    Joined joined;
  };
  static constexpr Joined kNotJoined{UINT32_MAX, -1};

  void find_byte_tokens();
  int32_t byte_id(char byte) const { return byte_ids_[static_cast<unsigned char>(byte)]; }
  bool falls_back(std::string_view bytes) const;
  Joined join(std::string_view word, const Symbol& left, const Symbol& right) const;
  void split(std::string_view word, std::vector<Symbol>& symbols) const;
  void merge_short(std::string_view word, std::vector<Symbol>& symbols) const;
  void merge_long(std::string_view word, std::vector<Symbol>& symbols) const;
  void emit(std::string_view word, const std::vector<Symbol>& symbols,
            std::vector<int32_t>& out) const;
  /// Time is O(n log n).
  void encode_uncached(std::string_view word, std::vector<int32_t>& out) const override;

  BpeOptions options_;
  bool by_score_ = false;
  std::vector<PairSlot> pairs_;      // by merges: open addressing
  std::vector<uint32_t> rank_;       // by scores: of each id, UINT32_MAX where it does not join
  std::vector<int32_t> byte_ids_;    // 256: the token a byte falls back to, or -1
  std::vector<int32_t> letter_ids_;  // 256: the token of a single byte, or -1
};

}  // namespace hone
