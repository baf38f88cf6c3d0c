#include "text/token_cache.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <fstream>

#include "base/checked.h"
#include "base/error.h"
#include "base/threads.h"

namespace hone {
namespace {

constexpr FrameKind kKind{"honetok\n", 1, "token cache"};
constexpr int32_t kNarrowVocabulary = 1 << 16;
constexpr int64_t kSlab = int64_t{4} << 20;  // tokens that are checked between two releases

int64_t popcount(const uint8_t* bits, int64_t n) {
  int64_t count = 0, i = 0;
  for (; i + 8 <= n; i += 8) {
    uint64_t word;
    std::memcpy(&word, bits + i, 8);
    count += std::popcount(word);
  }
  for (; i < n; ++i) count += std::popcount(bits[i]);
  return count;
}

// Zeros up to the next multiple of kAlign.
bool zero_padded(std::string_view bytes, int64_t at) {
  for (; at % FramedFile::kAlign != 0; ++at)
    if (bytes[static_cast<size_t>(at)] != 0) return false;
  return true;
}

}  // namespace

bool TokenCache::is_cache(const fs::path& path) {
  char front[kKind.magic.size()] = {};
  std::ifstream(path, std::ios::binary).read(front, sizeof front);
  return std::string_view(front, sizeof front) == kKind.magic;
}

std::shared_ptr<const TokenCache> TokenCache::open(const fs::path& path) {
  std::shared_ptr<TokenCache> cache(new TokenCache(FramedFile(MappedFile::open(path), kKind)));
  cache->map();
  cache->check();
  return cache;
}

void TokenCache::map() {
  const std::string& name = file_.name();
  const std::string_view bytes = file_.bytes();
  const auto size = static_cast<int64_t>(bytes.size());
  const int64_t tokens = file_.count("tokens", 0, size), width = file_.width();
  const int64_t examples = file_.count("examples", 0, size);
  learned_ = file_.count("learned", 0, tokens);
  vocab_size_ = static_cast<int32_t>(file_.count("vocab_size", 0, INT32_MAX));
  HONE_CHECK(width == (vocab_size_ <= kNarrowVocabulary ? 2 : 4), corrupt,
             "{}: tokens of {} bytes for a vocabulary of {}", name, width, vocab_size_);
  identity_ = file_.member("identity");

  constexpr int64_t kFront = FramedFile::kFront, kAlign = FramedFile::kAlign;
  const char* what = "token cache";
  const int64_t tokens_end = checked_add(kFront, checked_mul(tokens, width, what), what);
  const int64_t bits_begin = round_up(tokens_end, kAlign);
  const int64_t bits_end = checked_add(bits_begin, ceil_div(tokens, 8), what);
  const int64_t offsets_begin = round_up(bits_end, kAlign);
  const int64_t end = checked_add(
      offsets_begin, checked_mul(checked_add(examples, 1, what), sizeof(int64_t), what), what);
  HONE_CHECK(end == file_.end(), corrupt,
             "{}: {} tokens in {} examples end at byte {}, and the description begins at {}", name,
             tokens, examples, end, file_.end());
  HONE_CHECK(zero_padded(bytes, tokens_end) && zero_padded(bytes, bits_end), corrupt,
             "{}: the padding is not zero", name);
  const char* base = bytes.data();
  if (width == 2)
    narrow_ = reinterpret_cast<const uint16_t*>(base + kFront);
  else
    wide_ = reinterpret_cast<const int32_t*>(base + kFront);
  bits_ = reinterpret_cast<const uint8_t*>(base + bits_begin);
  offsets_ = {reinterpret_cast<const int64_t*>(base + offsets_begin),
              static_cast<size_t>(examples) + 1};
  HONE_CHECK(offsets_.front() == 0 && offsets_.back() == tokens, corrupt,
             "{}: the examples are not all of the tokens", name);
}

void TokenCache::check() const {
  const std::string& name = file_.name();
  for (int64_t i = 0; i < examples(); ++i)
    HONE_CHECK(begin(i) < end(i), corrupt,
               "{}: example {} of {}: it ends where it begins, or before", name, i, examples());
  // Offsets are ascending, so all lie in the file from here on.
  for (int64_t i = 0; i < examples(); ++i)
    HONE_CHECK(!is_learned(begin(i)), corrupt, "{}: example {}: its first token is learned", name,
               i);
  const int64_t tail = tokens() % 8;
  HONE_CHECK(tail == 0 || bits_[tokens() / 8] >> tail == 0, corrupt,
             "{}: bits behind the last token", name);
  const int64_t counted = popcount(bits_, ceil_div(tokens(), 8));
  HONE_CHECK(counted == learned_, corrupt, "{}: {} tokens are learned, expected {}", name, counted,
             learned_);
  // What was looked at is given back, so that a large cache never counts as memory.
  const int64_t width = narrow_ ? 2 : 4;
  for (int64_t at = 0; at < tokens(); at += kSlab) {
    const int64_t n = std::min(kSlab, tokens() - at);
    parallel_for(n, 1 << 16, [&](int64_t first, int64_t last) {
      for (int64_t t = at + first; t < at + last; ++t)
        HONE_CHECK(token(t) >= 0 && token(t) < vocab_size_, corrupt,
                   "{}: token {} of a vocabulary of {}", name, token(t), vocab_size_);
    });
    file_.release(FramedFile::kFront + at * width, n * width);
  }
  file_.check_sum();
}

int64_t TokenCache::count_learned(int64_t begin, int64_t end) const {
  int64_t n = 0;
  for (; begin < end && begin % 8 != 0; ++begin) n += is_learned(begin);
  const int64_t whole = std::max(begin, end / 8 * 8);
  n += popcount(bits_ + begin / 8, (whole - begin) / 8);
  for (int64_t t = whole; t < end; ++t) n += is_learned(t);
  return n;
}

TokenCacheWriter::TokenCacheWriter(const fs::path& path, int32_t vocab_size)
    : file_(path, kKind, vocab_size <= kNarrowVocabulary ? 2 : 4),
      vocab_size_(vocab_size),
      narrow_(vocab_size <= kNarrowVocabulary) {}

void TokenCacheWriter::append(std::span<const int32_t> tokens, std::span<const uint8_t> learned) {
  HONE_ASSERT(tokens.size() == learned.size());
  HONE_ASSERT(tokens.empty() || tokens_ > offsets_.back() || learned[0] == 0);
  bits_.resize(static_cast<size_t>(ceil_div(tokens_ + static_cast<int64_t>(tokens.size()), 8)));
  for (size_t i = 0; i < tokens.size(); ++i, ++tokens_) {
    HONE_ASSERT(tokens[i] >= 0 && tokens[i] < vocab_size_);
    if (learned[i]) bits_[static_cast<size_t>(tokens_ >> 3)] |= uint8_t(1 << (tokens_ & 7));
    learned_ += learned[i] != 0;
  }
  if (!narrow_) return file_.put(tokens.data(), tokens.size_bytes());
  const std::vector<uint16_t> narrow(tokens.begin(), tokens.end());
  file_.put(narrow.data(), 2 * narrow.size());
}

void TokenCacheWriter::end_example() {
  if (tokens_ > offsets_.back()) offsets_.push_back(tokens_);
}

void TokenCacheWriter::finish(const Json& identity) {
  HONE_ASSERT(offsets_.back() == tokens_);
  file_.pad();
  file_.put(bits_.data(), bits_.size());
  file_.pad();
  file_.put(offsets_.data(), offsets_.size() * sizeof(int64_t));
  file_.finish({{"tokens", tokens_},
                {"examples", static_cast<int64_t>(offsets_.size()) - 1},
                {"learned", learned_},
                {"vocab_size", vocab_size_},
                {"identity", identity}});
}

}  // namespace hone
