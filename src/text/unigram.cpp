#include "text/unigram.h"

#include <algorithm>

#include "base/error.h"
#include "text/unicode.h"

namespace hone {
namespace {

ByteTrie trie_of(const Vocabulary& vocabulary, const std::vector<bool>& matched) {
  std::vector<ByteTrie::Key> keys;
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    if (matched[id]) keys.emplace_back(vocabulary.text(id), id);
  }
  return ByteTrie(std::move(keys));
}

// Scratch that a long word made large is given back.
constexpr size_t kKeptPlaces = 1 << 16;

}  // namespace

Unigram::Unigram(Vocabulary vocabulary, std::vector<double> scores,
                 const std::vector<bool>& matched, UnigramOptions options)
    : WordModel(std::move(vocabulary)),
      scores_(std::move(scores)),
      options_(options),
      trie_(trie_of(vocabulary_, matched)) {
  HONE_ASSERT(std::ssize(scores_) == vocabulary_.size());
}

void Unigram::walk(std::string_view word, std::vector<Place>& places) const {
  places.assign(word.size() + 1, {0, 0, kNone});
  const auto offer = [&](size_t from, size_t to, int32_t id, double score) {
    double sum = places[from].score + score;
    if (options_.float_sums) sum = static_cast<float>(sum);
    Place& p = places[to];
    if (p.id == kNone || sum > p.score) p = {sum, static_cast<uint32_t>(from), id};
  };
  for (size_t at = 0; at < word.size();) {
    const auto size = static_cast<size_t>(utf8_at(word, at).size);
    bool known = false;  // the character is a token
    trie_.prefixes(word.substr(at), [&](size_t n, int32_t id) {
      offer(at, at + n, id, scores_[id]);
      known |= n == size;
    });
    if (!known) offer(at, at + size, options_.unk.value_or(kUnknown), options_.unk_score);
    at += size;
  }
}

void Unigram::put_unknown(std::string_view part, std::vector<int32_t>& reversed) const {
  // Characters that are no tokens may be one together.
  if (const int32_t id = vocabulary_.find(part); id >= 0) {
    reversed.push_back(id);
    return;
  }
  if (options_.byte_fallback) {
    const size_t begin = reversed.size();
    for (size_t i = part.size(); i > 0; --i) {
      const int32_t id = vocabulary_.find(byte_token_text(static_cast<uint8_t>(part[i - 1])));
      if (id < 0) break;
      reversed.push_back(id);
    }
    if (reversed.size() - begin == part.size()) return;
    reversed.resize(begin);
  }
  HONE_CHECK(options_.unk, invalid_argument,
             "tokenizer: it has no token for {}, and no unknown token", printed(part));
  reversed.push_back(*options_.unk);
}

void Unigram::encode_uncached(std::string_view word, std::vector<int32_t>& out) const {
  if (word.empty()) return;
  thread_local std::vector<Place> places;
  walk(word, places);
  const size_t begin = out.size();
  const int32_t unk = options_.unk.value_or(kUnknown);
  // From the end back; unknown stretches that touch are one.
  for (size_t at = word.size(), end = at; at > 0;) {
    const Place& p = places[at];
    const bool more = p.id == unk && p.from > 0 && places[p.from].id == unk;
    if (p.id != unk) {
      out.push_back(p.id);
    } else if (!more) {
      put_unknown(word.substr(p.from, end - p.from), out);
    }
    at = p.from;
    if (!more) end = at;
  }
  std::reverse(out.begin() + static_cast<int64_t>(begin), out.end());
  if (places.size() > kKeptPlaces) places = {};
}

}  // namespace hone
