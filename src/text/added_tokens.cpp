#include "text/added_tokens.h"

#include <algorithm>

#include "base/error.h"
#include "text/unicode.h"

namespace hone {
namespace {

// The character that ends at text[end].
char32_t char_before(std::string_view text, size_t end) {
  size_t at = end - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return utf8_at(text, at).code;
}

size_t skip_spaces_back(std::string_view text, size_t at, size_t floor) {
  while (at > floor && is_space(char_before(text, at))) {
    do --at;
    while (at > floor && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80);
  }
  return at;
}

size_t skip_spaces(std::string_view text, size_t at) {
  while (at < text.size()) {
    const Utf8Char c = utf8_at(text, at);
    if (!is_space(c.code)) break;
    at += c.size;
  }
  return at;
}

}  // namespace

int32_t AddedTokenMatcher::child(int32_t node, char c) const {
  const auto& next = trie_[node].next;
  const auto it = std::lower_bound(next.begin(), next.end(), c,
                                   [](const auto& entry, char key) { return entry.first < key; });
  return it != next.end() && it->first == c ? it->second : -1;
}

void AddedTokenMatcher::add(AddedToken token, const std::string& source) {
  HONE_CHECK(!token.content.empty() && token.content.size() <= kMaxAddedToken, corrupt,
             "{}: the added token {} has {} bytes; expected 1 to {}", source, token.id,
             token.content.size(), kMaxAddedToken);
  HONE_CHECK(trie_.size() + token.content.size() <= kMaxAddedTokenTrie, corrupt,
             "{}: the added tokens have more than {} bytes in all", source, kMaxAddedTokenTrie);
  int32_t node = 0;
  for (char c : token.content) {
    int32_t to = child(node, c);
    if (to < 0) {
      to = static_cast<int32_t>(trie_.size());
      auto& next = trie_[node].next;
      const auto place =
          std::lower_bound(next.begin(), next.end(), c,
                           [](const auto& entry, char key) { return entry.first < key; });
      next.insert(place, {c, to});
      trie_.emplace_back();
    }
    node = to;
  }
  if (trie_[node].token >= 0) return;
  begins_[static_cast<unsigned char>(token.content[0])] = true;
  trie_[node].token = static_cast<int32_t>(tokens_.size());
  tokens_.push_back(std::move(token));
}

int32_t AddedTokenMatcher::longest_at(std::string_view text, size_t at) const {
  int32_t found = -1;
  for (int32_t node = 0; at < text.size(); ++at) {
    node = child(node, text[at]);
    if (node < 0) break;
    if (trie_[node].token >= 0) found = trie_[node].token;
  }
  return found;
}

void AddedTokenMatcher::split(std::string_view text, bool parse_special,
                              const std::function<void(std::string_view)>& on_text,
                              const std::function<void(int32_t)>& on_token) const {
  size_t done = 0;
  for (size_t at = 0; at < text.size();) {
    if (!begins_[static_cast<unsigned char>(text[at])]) {
      ++at;
      continue;
    }
    const int32_t found = longest_at(text, at);
    if (found < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[found];
    size_t begin = at, end = at + token.content.size();
    at = end;
    if (token.special && !parse_special) continue;
    if (token.single_word) {
      if (begin > 0 && is_word(char_before(text, begin))) continue;
      if (end < text.size() && is_word(utf8_at(text, end).code)) continue;
    }
    if (begin < done) continue;  // whitespace that the token before has taken
    if (token.lstrip) begin = skip_spaces_back(text, begin, done);
    if (token.rstrip) end = skip_spaces(text, end);
    if (begin > done) on_text(text.substr(done, begin - done));
    on_token(token.id);
    done = end;
    at = std::max(at, end);
  }
  if (done < text.size()) on_text(text.substr(done));
}

}  // namespace hone
