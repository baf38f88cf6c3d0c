#include "base/framed_file.h"

#include <algorithm>
#include <bit>

#include "base/checked.h"
#include "base/error.h"
#include "base/fingerprint.h"

namespace hone {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr int64_t kBack = 24, kMaxDescription = int64_t{1} << 20;
constexpr size_t kFrameChunk = size_t{1} << 20;  // bytes that are hashed at once
constexpr size_t kRelease = size_t{16} << 20;    // bytes that are hashed between two releases

}  // namespace

uint64_t frame_checksum(std::string_view bytes) {
  uint64_t sum = 0;
  for (size_t at = 0; at < bytes.size(); at += kFrameChunk)
    sum = bytes_fingerprint(bytes.substr(at, kFrameChunk), sum);
  return sum;
}

FramedFile::FramedFile(std::shared_ptr<const MappedFile> file, const FrameKind& kind)
    : file_(std::move(file)), kind_(kind), name_(file_->path().string()) {
  bytes_ = {reinterpret_cast<const char*>(file_->bytes().data()), file_->bytes().size()};
  const auto size = static_cast<int64_t>(bytes_.size());
  HONE_CHECK(bytes_.starts_with(kind.magic), corrupt, "{}: not a {}", name_, kind.name);
  HONE_CHECK(size >= kFront + kBack && bytes_.ends_with(kind.magic), corrupt,
             "{}: the {} is cut off", name_, kind.name);
  HONE_CHECK(read<uint32_t>(8) == kind.version, corrupt, "{}: {} of version {}, expected {}", name_,
             kind.name, read<uint32_t>(8), kind.version);
  const auto length = read<uint64_t>(size - kBack);
  HONE_CHECK(
      length <= uint64_t{kMaxDescription} && static_cast<int64_t>(length) <= size - kFront - kBack,
      corrupt, "{}: a description of {} bytes in a {} of {}", name_, length, kind.name, size);
  end_ = size - kBack - static_cast<int64_t>(length);
  description_ = parse_json(bytes_.substr(static_cast<size_t>(end_), length), name_);
}

void FramedFile::check_sum() const {
  const size_t summed = bytes_.size() - 16;
  uint64_t sum = 0;
  for (size_t at = 0; at < summed; at += kFrameChunk) {
    const size_t n = std::min(kFrameChunk, summed - at);
    sum = bytes_fingerprint(bytes_.substr(at, n), sum);
    if ((at + n) % kRelease == 0) release(static_cast<int64_t>(at + n - kRelease), kRelease);
  }
  HONE_CHECK(sum == read<uint64_t>(static_cast<int64_t>(summed)), corrupt,
             "{}: the checksum of the {} is wrong", name_, kind_.name);
  release(0, static_cast<int64_t>(bytes_.size()));
}

void FramedFile::release(int64_t begin, int64_t size) const {
  file_->release(file_->bytes().data() + begin, static_cast<size_t>(size));
}

const Json& FramedFile::member(const char* key) const {
  HONE_CHECK(description_.is_object() && description_.contains(key), corrupt,
             "{}: the description lacks {}", name_, key);
  return description_[key];
}

int64_t FramedFile::count(const char* key, int64_t least, int64_t most) const {
  const int64_t n = json_integer(member(key), key, name_);
  HONE_CHECK(n >= least && n <= most, corrupt, "{}: {} {}: expected {} to {}", name_, key, n, least,
             most);
  return n;
}

FramedWriter::FramedWriter(const fs::path& path, const FrameKind& kind, uint32_t width)
    : file_(path), kind_(kind) {
  HONE_ASSERT(kind.magic.size() == 8);
  put(kind.magic.data(), kind.magic.size());
  put(&kind.version, sizeof kind.version);
  put(&width, sizeof width);
}

void FramedWriter::put(const void* data, size_t size) {
  pending_.append(static_cast<const char*>(data), size);
  position_ += static_cast<int64_t>(size);
  if (pending_.size() >= 4 * kFrameChunk) write_chunks(false);
}

void FramedWriter::pad() {
  const auto rest = static_cast<size_t>(round_up(position_, FramedFile::kAlign) - position_);
  put(std::string(rest, '\0').data(), rest);
}

void FramedWriter::write_chunks(bool all) {
  std::string_view left = pending_;
  while (left.size() >= kFrameChunk || (all && !left.empty())) {
    const std::string_view chunk = left.substr(0, kFrameChunk);
    sum_ = bytes_fingerprint(chunk, sum_);
    file_.write(chunk);
    left.remove_prefix(chunk.size());
  }
  pending_.erase(0, pending_.size() - left.size());
}

void FramedWriter::finish(const Json& description) {
  const std::string text = description.dump();
  HONE_CHECK(static_cast<int64_t>(text.size()) <= kMaxDescription, unsupported,
             "{} bytes describe the {}; at most {} are supported", text.size(), kind_.name,
             kMaxDescription);
  const uint64_t length = text.size();
  put(text.data(), text.size());
  put(&length, sizeof length);
  write_chunks(true);
  file_.write(&sum_, sizeof sum_);
  file_.write(kind_.magic);
  file_.commit();
}

}  // namespace hone
