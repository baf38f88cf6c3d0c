// SentencePiece's table of rewrites ("precompiled_charsmap"): texts and what they become, as a
// double-array trie over bytes with the replacements behind it.
//
// Layout: u32 size of the trie in bytes; the trie, 32-bit units; the replacements, each ended by a
// zero byte. A unit holds the byte that leads to it (bits 0-7, and bit 31 must be 0), whether a key
// ends there (8), and its offset (bits 10-30, times 256 where bit 9 is set); a child is at
// node ^ offset ^ byte, a key's value (an offset into the replacements) at node ^ offset.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace hone {

class Charsmap {
 public:
  /// `bytes` as in the file; empty: rewrites nothing. Raises corrupt, naming `source`, where the
  /// sizes do not fit; what the trie's offsets miss is simply not found. Using a replacement of
  /// more than 4096 bytes raises corrupt too.
  Charsmap(std::string_view bytes, const std::string& source);

  struct Match {
    size_t size;             // bytes of the text
    std::string_view value;  // what they become
  };
  /// The longest key that `text` begins with: SentencePiece's rule.
  std::optional<Match> longest(std::string_view text) const;

  /// As SentencePiece rewrites a text: from left to right, the longest key at each place.
  std::string rewrite(std::string_view text) const;
  /// As Hugging Face tokenizers does: a grapheme of fewer than six bytes as a whole, else its
  /// characters; each becomes the value of the *shortest* key that it begins with.
  std::string rewrite_graphemes(std::string_view text) const;

 private:
  template <typename Found>
  void prefixes(std::string_view text, Found&& found) const;
  std::string_view replacement(size_t begin) const;
  std::optional<std::string_view> shortest(std::string_view text) const;

  std::vector<uint32_t> units_;
  std::string replacements_;
};

}  // namespace hone
