// Tokens found in the text before any splitting: special tokens and those that were added to a
// trained vocabulary. The leftmost match counts, and of those the longest.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace hone {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;      // left alone unless the caller lets special tokens be parsed
  bool single_word = false;  // only where no word character adjoins
  bool lstrip = false;       // takes the whitespace before it
  bool rstrip = false;       // takes the whitespace after it
  bool normalized = false;   // looked for in the normalised text
};

/// Longest content of an added token in bytes; the search is O(text · content) at worst.
inline constexpr size_t kMaxAddedToken = 1024;
inline constexpr size_t kMaxAddedTokenTrie = size_t{4} << 20;

class AddedTokenMatcher {
 public:
  /// Of equal contents the first stays. Raises corrupt, naming `source`, on an empty content, one
  /// over kMaxAddedToken bytes, or contents that need more than kMaxAddedTokenTrie nodes.
  void add(AddedToken token, const std::string& source);
  bool empty() const { return tokens_.empty(); }

  /// Calls on_text with each stretch between tokens and on_token with each token, in order.
  /// Stretches are not empty.
  void split(std::string_view text, bool parse_special,
             const std::function<void(std::string_view)>& on_text,
             const std::function<void(int32_t)>& on_token) const;

 private:
  struct Node {
    int32_t token = -1;  // index in tokens_
    std::vector<std::pair<char, int32_t>> next;
  };
  int32_t child(int32_t node, char c) const;
  /// Index in tokens_ of the longest token at text[at], or -1.
  int32_t longest_at(std::string_view text, size_t at) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> trie_{Node{}};
  bool begins_[256] = {};  // bytes that begin a token
};

}  // namespace hone
