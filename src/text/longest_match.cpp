#include "text/longest_match.h"

#include "base/error.h"
#include "text/unicode.h"

namespace hone {
namespace {

// The tokens that begin with `prefix`, without it.
ByteTrie trie_of(const Vocabulary& vocabulary, std::string_view prefix) {
  std::vector<ByteTrie::Key> keys;
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    const std::string_view text = vocabulary.text(id);
    if (text.starts_with(prefix)) keys.emplace_back(text.substr(prefix.size()), id);
  }
  return ByteTrie(std::move(keys));
}

size_t characters(std::string_view text) {
  size_t n = 0;
  for (char c : text) n += (static_cast<uint8_t>(c) & 0xC0) != 0x80;
  return n;
}

}  // namespace

WordPiece::WordPiece(Vocabulary vocabulary, WordPieceOptions options)
    : WordModel(std::move(vocabulary)),
      options_(std::move(options)),
      begins_(trie_of(vocabulary_, "")),
      continues_(trie_of(vocabulary_, options_.prefix)) {}

void WordPiece::encode_uncached(std::string_view word, std::vector<int32_t>& out) const {
  const size_t begin = out.size();
  bool known = characters(word) <= options_.max_characters;
  for (size_t at = 0; known && at < word.size();) {
    const ByteTrie& trie = at == 0 ? begins_ : continues_;
    const ByteTrie::Match match = trie.longest(word.substr(at));
    known = match.size > 0;
    if (known) out.push_back(match.value);
    at += match.size;
  }
  if (known) return;
  HONE_CHECK(options_.unk, invalid_argument,
             "tokenizer: it has no tokens for the word {}, and no unknown token", printed(word));
  out.resize(begin);
  out.push_back(*options_.unk);
}

GreedyBytes::GreedyBytes(Vocabulary vocabulary, const std::string& source)
    : WordModel(std::move(vocabulary)), trie_(trie_of(vocabulary_, "")) {
  for (int b = 0; b < 256; ++b) {
    const char byte = static_cast<char>(b);
    HONE_CHECK(trie_.longest({&byte, 1}).size == 1, corrupt,
               "{}: the vocabulary has no token for the byte {:#04x}", source, b);
  }
}

void GreedyBytes::encode_uncached(std::string_view word, std::vector<int32_t>& out) const {
  for (size_t at = 0; at < word.size();) {
    const ByteTrie::Match match = trie_.longest(word.substr(at));
    out.push_back(match.value);
    at += match.size;
  }
}

}  // namespace hone
