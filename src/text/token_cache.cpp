#include "text/token_cache.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <fstream>

#include "base/checked.h"
#include "base/error.h"
#include "base/fingerprint.h"
#include "base/threads.h"

namespace hone {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr std::string_view kMagic = "honetok\n";
constexpr uint32_t kVersion = 1;
constexpr int64_t kFront = 16, kBack = 24, kAlign = 8;
constexpr int64_t kMaxDescription = int64_t{1} << 20;
constexpr size_t kChunk = size_t{1} << 20;  // bytes that are hashed at once
constexpr int32_t kNarrowVocabulary = 1 << 16;
constexpr int64_t kSlab = int64_t{4} << 20;    // tokens that are checked between two releases
constexpr size_t kRelease = size_t{16} << 20;  // bytes that are summed between two releases

template <typename T>
T read_at(std::string_view bytes, int64_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(T));
  return value;
}

std::string_view view(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

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
  for (; at % kAlign != 0; ++at)
    if (bytes[static_cast<size_t>(at)] != 0) return false;
  return true;
}

}  // namespace

uint64_t token_cache_checksum(std::string_view bytes) {
  uint64_t sum = 0;
  for (size_t at = 0; at < bytes.size(); at += kChunk)
    sum = bytes_fingerprint(bytes.substr(at, kChunk), sum);
  return sum;
}

bool TokenCache::is_cache(const fs::path& path) {
  char front[kMagic.size()] = {};
  std::ifstream(path, std::ios::binary).read(front, sizeof front);
  return std::string_view(front, sizeof front) == kMagic;
}

std::shared_ptr<const TokenCache> TokenCache::open(const fs::path& path) {
  std::shared_ptr<TokenCache> cache(new TokenCache);
  cache->map(MappedFile::open(path));
  cache->check(path.string());
  cache->file_->release(cache->file_->bytes().data(), cache->file_->bytes().size());
  return cache;
}

void TokenCache::map(std::shared_ptr<const MappedFile> file) {
  file_ = std::move(file);
  const std::string name = file_->path().string();
  const std::string_view bytes = view(file_->bytes());
  const auto size = static_cast<int64_t>(bytes.size());
  HONE_CHECK(bytes.starts_with(kMagic), corrupt, "{}: not a token cache", name);
  HONE_CHECK(size >= kFront + kBack && bytes.ends_with(kMagic), corrupt,
             "{}: the token cache is cut off", name);
  const auto version = read_at<uint32_t>(bytes, 8), width = read_at<uint32_t>(bytes, 12);
  HONE_CHECK(version == kVersion, corrupt, "{}: token cache of version {}, expected {}", name,
             version, kVersion);
  const auto length = read_at<uint64_t>(bytes, size - kBack);
  HONE_CHECK(
      length <= uint64_t{kMaxDescription} && static_cast<int64_t>(length) <= size - kFront - kBack,
      corrupt, "{}: a description of {} bytes in a token cache of {}", name, length, size);
  const int64_t description = size - kBack - static_cast<int64_t>(length);
  const Json json = parse_json(bytes.substr(static_cast<size_t>(description), length), name);
  auto count = [&](const char* key, int64_t limit) {
    HONE_CHECK(json.is_object() && json.contains(key), corrupt, "{}: the description lacks {}",
               name, key);
    const int64_t n = json_integer(json[key], key, name);
    HONE_CHECK(n >= 0 && n <= limit, corrupt, "{}: {} {}: expected 0 to {}", name, key, n, limit);
    return n;
  };
  const int64_t tokens = count("tokens", size), examples = count("examples", size);
  learned_ = count("learned", tokens);
  vocab_size_ = static_cast<int32_t>(count("vocab_size", INT32_MAX));
  HONE_CHECK(width == (vocab_size_ <= kNarrowVocabulary ? 2u : 4u), corrupt,
             "{}: tokens of {} bytes for a vocabulary of {}", name, width, vocab_size_);
  HONE_CHECK(json.contains("identity"), corrupt, "{}: the description lacks identity", name);
  identity_ = json["identity"];

  const char* what = "token cache";
  const int64_t tokens_end = checked_add(kFront, checked_mul(tokens, width, what), what);
  const int64_t bits_begin = round_up(tokens_end, kAlign);
  const int64_t bits_end = checked_add(bits_begin, ceil_div(tokens, 8), what);
  const int64_t offsets_begin = round_up(bits_end, kAlign);
  const int64_t end = checked_add(
      offsets_begin, checked_mul(checked_add(examples, 1, what), sizeof(int64_t), what), what);
  HONE_CHECK(end == description, corrupt,
             "{}: {} tokens in {} examples end at byte {}, and the description begins at {}", name,
             tokens, examples, end, description);
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

void TokenCache::check(const std::string& name) const {
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
  const auto* tokens_begin = file_->bytes().data() + kFront;
  const int64_t width = narrow_ ? 2 : 4;
  for (int64_t at = 0; at < tokens(); at += kSlab) {
    const int64_t n = std::min(kSlab, tokens() - at);
    parallel_for(n, 1 << 16, [&](int64_t first, int64_t last) {
      for (int64_t t = at + first; t < at + last; ++t)
        HONE_CHECK(token(t) >= 0 && token(t) < vocab_size_, corrupt,
                   "{}: token {} of a vocabulary of {}", name, token(t), vocab_size_);
    });
    file_->release(tokens_begin + at * width, static_cast<size_t>(n * width));
  }
  const std::string_view bytes = view(file_->bytes());
  const size_t summed = bytes.size() - 16;
  uint64_t sum = 0;
  for (size_t at = 0; at < summed; at += kChunk) {
    const size_t n = std::min(kChunk, summed - at);
    sum = bytes_fingerprint(bytes.substr(at, n), sum);
    if ((at + n) % kRelease == 0)
      file_->release(file_->bytes().data() + at + n - kRelease, kRelease);
  }
  HONE_CHECK(sum == read_at<uint64_t>(bytes, static_cast<int64_t>(summed)), corrupt,
             "{}: the checksum of the token cache is wrong", name);
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
    : file_(path), vocab_size_(vocab_size), narrow_(vocab_size <= kNarrowVocabulary) {
  const uint32_t front[2] = {kVersion, narrow_ ? 2u : 4u};
  put(kMagic.data(), kMagic.size());
  put(front, sizeof front);
}

void TokenCacheWriter::put(const void* data, size_t size) {
  pending_.append(static_cast<const char*>(data), size);
  position_ += static_cast<int64_t>(size);
  if (pending_.size() >= 4 * kChunk) write_chunks(false);
}

void TokenCacheWriter::pad() {
  const auto rest = static_cast<size_t>(round_up(position_, kAlign) - position_);
  put(std::string(rest, '\0').data(), rest);
}

void TokenCacheWriter::write_chunks(bool all) {
  std::string_view left = pending_;
  while (left.size() >= kChunk || (all && !left.empty())) {
    const std::string_view chunk = left.substr(0, kChunk);
    sum_ = bytes_fingerprint(chunk, sum_);
    file_.write(chunk);
    left.remove_prefix(chunk.size());
  }
  pending_.erase(0, pending_.size() - left.size());
}

void TokenCacheWriter::append(std::span<const int32_t> tokens, std::span<const uint8_t> learned) {
  HONE_ASSERT(tokens.size() == learned.size());
  HONE_ASSERT(tokens.empty() || tokens_ > offsets_.back() || learned[0] == 0);
  bits_.resize(static_cast<size_t>(ceil_div(tokens_ + static_cast<int64_t>(tokens.size()), 8)));
  for (size_t i = 0; i < tokens.size(); ++i, ++tokens_) {
    HONE_ASSERT(tokens[i] >= 0 && tokens[i] < vocab_size_);
    if (learned[i]) bits_[static_cast<size_t>(tokens_ >> 3)] |= uint8_t(1 << (tokens_ & 7));
    learned_ += learned[i] != 0;
  }
  if (!narrow_) return put(tokens.data(), tokens.size_bytes());
  const std::vector<uint16_t> narrow(tokens.begin(), tokens.end());
  put(narrow.data(), 2 * narrow.size());
}

void TokenCacheWriter::end_example() {
  if (tokens_ > offsets_.back()) offsets_.push_back(tokens_);
}

void TokenCacheWriter::finish(const Json& identity) {
  HONE_ASSERT(offsets_.back() == tokens_);
  pad();
  put(bits_.data(), bits_.size());
  pad();
  put(offsets_.data(), offsets_.size() * sizeof(int64_t));
  const std::string description = Json{
      {"tokens", tokens_},
      {"examples", static_cast<int64_t>(offsets_.size()) - 1},
      {"learned", learned_},
      {"vocab_size", vocab_size_},
      {"identity", identity}}.dump();
  HONE_CHECK(static_cast<int64_t>(description.size()) <= kMaxDescription, unsupported,
             "token cache: {} bytes describe its sources; at most {} are supported",
             description.size(), kMaxDescription);
  const uint64_t length = description.size();
  put(description.data(), description.size());
  put(&length, sizeof length);
  write_chunks(true);
  file_.write(&sum_, sizeof sum_);
  file_.write(kMagic);
  file_.commit();
}

}  // namespace hone
