#include "text/word_model.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <memory>

#include "base/error.h"

namespace hone {
namespace {

// A small direct-mapped table of words and their ids, one in each thread: text repeats itself.
class WordCache {
 public:
  static WordCache& of(uint64_t owner) {
    thread_local std::unique_ptr<WordCache> cache;
    if (!cache) cache = std::make_unique<WordCache>();
    if (cache->owner_ != owner) {
      cache->owner_ = owner;
      for (Entry& e : cache->entries_) e.size = 0;
    }
    return *cache;
  }

  struct Entry {
    uint8_t size = 0, count = 0;
    char word[22];
    std::array<int32_t, 10> ids;

    bool holds(std::string_view w) const {
      return size == w.size() && std::memcmp(word, w.data(), w.size()) == 0;
    }
    static bool fits(std::string_view w) { return !w.empty() && w.size() <= sizeof word; }
    void set(std::string_view w, const int32_t* begin, size_t n) {
      if (n > ids.size()) return;
      size = static_cast<uint8_t>(w.size());
      count = static_cast<uint8_t>(n);
      std::memcpy(word, w.data(), w.size());
      std::copy_n(begin, n, ids.begin());
    }
  };

  Entry& entry(std::string_view word) { return entries_[hash_bytes(word) % kEntries]; }

 private:
  static constexpr size_t kEntries = 8192;
  uint64_t owner_ = 0;
  std::vector<Entry> entries_{kEntries};
};

std::atomic<uint64_t> next_serial{1};

}  // namespace

WordModel::WordModel(Vocabulary vocabulary)
    : vocabulary_(std::move(vocabulary)), serial_(next_serial++) {}

void WordModel::encode(std::string_view word, std::vector<int32_t>& out) const {
  HONE_CHECK(word.size() < INT32_MAX, invalid_argument,
             "tokenizer: a word of {} bytes; the limit is 2 GiB", word.size());
  if (!WordCache::Entry::fits(word)) return encode_uncached(word, out);
  WordCache::Entry& entry = WordCache::of(serial_).entry(word);
  if (entry.holds(word)) {
    out.insert(out.end(), entry.ids.begin(), entry.ids.begin() + entry.count);
    return;
  }
  const size_t begin = out.size();
  encode_uncached(word, out);
  entry.set(word, out.data() + begin, out.size() - begin);
}

}  // namespace hone
