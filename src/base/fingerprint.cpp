#include "base/fingerprint.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "base/threads.h"

namespace hone {
namespace {

constexpr int64_t kChunk = int64_t{4} << 20;

class ReadDescriptor {
 public:
  explicit ReadDescriptor(const std::filesystem::path& path)
      : path_(path.string()), fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    HONE_CHECK(fd_ >= 0, io, "{}: {}", path_, std::strerror(errno));
  }
  ~ReadDescriptor() { ::close(fd_); }
  ReadDescriptor(const ReadDescriptor&) = delete;
  ReadDescriptor& operator=(const ReadDescriptor&) = delete;

  int64_t size() const {
    struct stat s {};
    HONE_CHECK(::fstat(fd_, &s) == 0 && S_ISREG(s.st_mode), io, "{}: not a regular file", path_);
    return s.st_size;
  }
  void read(int64_t at, uint8_t* to, int64_t n) const {
    while (n > 0) {
      ssize_t got = ::pread(fd_, to, static_cast<size_t>(n), at);
      if (got < 0 && errno == EINTR) continue;
      HONE_CHECK(got > 0, io, "{}: cannot read at byte {}", path_, at);
      to += got;
      at += got;
      n -= got;
    }
  }

 private:
  std::string path_;
  int fd_;
};

uint64_t hash_bytes(const uint8_t* bytes, int64_t n, uint64_t seed) {
  // Four lanes, so that the multiplications do not wait for each other.
  uint64_t lane[4] = {seed, ~seed, seed << 1, seed + 3};
  int64_t i = 0;
  for (; i + 32 <= n; i += 32)
    for (int j = 0; j < 4; ++j) {
      uint64_t word;
      std::memcpy(&word, bytes + i + 8 * j, 8);
      lane[j] = mix64(lane[j] ^ word);
    }
  for (; i < n; ++i) lane[0] = mix64(lane[0] ^ bytes[i]);
  return mix64(lane[0] ^ mix64(lane[1] ^ mix64(lane[2] ^ mix64(lane[3]))));
}

}  // namespace

uint64_t file_fingerprint(const std::filesystem::path& path) {
  ReadDescriptor file(path);
  const int64_t size = file.size(), chunks = (size + kChunk - 1) / kChunk;
  std::vector<uint64_t> parts(static_cast<size_t>(chunks));
  parallel_for(chunks, 1, [&](int64_t first, int64_t last) {
    std::vector<uint8_t> buffer(static_cast<size_t>(std::min(kChunk, size)));
    for (int64_t c = first; c < last; ++c) {
      int64_t n = std::min(kChunk, size - c * kChunk);
      file.read(c * kChunk, buffer.data(), n);
      parts[c] = hash_bytes(buffer.data(), n, static_cast<uint64_t>(c));
    }
  });
  uint64_t all = mix64(static_cast<uint64_t>(size));
  for (uint64_t part : parts) all = mix64(all ^ part);
  return all;
}

uint64_t bytes_fingerprint(std::string_view bytes, uint64_t before) {
  const auto n = static_cast<int64_t>(bytes.size());
  return mix64(static_cast<uint64_t>(n) ^
               hash_bytes(reinterpret_cast<const uint8_t*>(bytes.data()), n, mix64(before)));
}

}  // namespace hone
