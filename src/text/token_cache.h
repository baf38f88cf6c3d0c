// Tokenised training data in one file that is mapped when read.
//
// A framed file (base/framed_file.h), of the kind "honetok\n":
//
//   width            2 where the vocabulary has at most 65536 ids, else 4
//   tokens           u16 or i32, all examples end to end; padded with zeros to 8 bytes
//   learned          a bit for each token, lowest bit first; padded to 8 bytes
//   offsets          i64: where each example begins, and where the last one ends
//   description      counts, and the identity of what was tokenised
//
// The writer holds but the bits and the offsets.
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/framed_file.h"

namespace hone {

/// An open cache. Everything was checked when it was opened, so that no accessor has to: ids are
/// below the vocabulary's size, examples have at least one token, no first token is learned.
class TokenCache {
 public:
  /// Maps the file and checks all of it. Raises io, or corrupt for bytes that are no whole cache.
  static std::shared_ptr<const TokenCache> open(const fs::path& path);
  /// Whether the file begins as a cache does, of whatever version.
  static bool is_cache(const fs::path& path);

  int64_t examples() const { return static_cast<int64_t>(offsets_.size()) - 1; }
  int64_t tokens() const { return offsets_.back(); }
  /// Tokens that are learned.
  int64_t learned() const { return learned_; }
  int32_t vocab_size() const { return vocab_size_; }
  /// What was tokenised, as given to the writer.
  const Json& identity() const { return identity_; }

  /// Example i is the tokens [begin(i), end(i)) of all. 0 ≤ i < examples().
  int64_t begin(int64_t i) const { return offsets_[i]; }
  int64_t end(int64_t i) const { return offsets_[i + 1]; }
  int32_t token(int64_t at) const { return narrow_ ? narrow_[at] : wide_[at]; }
  bool is_learned(int64_t at) const { return bits_[at >> 3] >> (at & 7) & 1; }
  /// Learned tokens in [begin, end).
  int64_t count_learned(int64_t begin, int64_t end) const;

 private:
  explicit TokenCache(FramedFile file) : file_(std::move(file)) {}
  void map();
  void check() const;

  FramedFile file_;
  const uint16_t* narrow_ = nullptr;  // one of the two
  const int32_t* wide_ = nullptr;
  const uint8_t* bits_ = nullptr;
  std::span<const int64_t> offsets_;
  int64_t learned_ = 0;
  int32_t vocab_size_ = 0;
  Json identity_;
};

/// Writes a cache; the file appears when finish() returns, whole.
class TokenCacheWriter {
 public:
  TokenCacheWriter(const fs::path& path, int32_t vocab_size);

  /// Adds to the current example. Ids are the tokenizer's; a learned first token is a bug.
  void append(std::span<const int32_t> tokens, std::span<const uint8_t> learned);
  /// Closes the current example; one without tokens is left out.
  void end_example();
  void finish(const Json& identity);

 private:
  FramedWriter file_;
  int32_t vocab_size_;
  bool narrow_;
  int64_t tokens_ = 0, learned_ = 0;
  std::vector<uint8_t> bits_;
  std::vector<int64_t> offsets_{0};
};

}  // namespace hone
