#include "base/files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>

#include "base/error.h"

namespace hone {
namespace {

constexpr size_t kWriteBuffer = size_t{1} << 20;

// Closes a descriptor on every way out of a scope.
struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

int open_for_reading(const fs::path& path, struct stat* info) {
  int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  HONE_CHECK(fd >= 0, io, "{}: cannot open: {}", path.string(), std::strerror(errno));
  if (::fstat(fd, info) != 0 || !S_ISREG(info->st_mode)) {
    ::close(fd);
    fail(ErrorKind::io, "{}: not a regular file", path.string());
  }
  return fd;
}

// Pages of a file are read ahead in units of so many bytes,
constexpr uintptr_t kUnit = uintptr_t{64} << 10;
// and touching one maps all that the kernel keeps together with it, up to so many.
constexpr uintptr_t kMappedAround = uintptr_t{2} << 20;

constexpr size_t kReadAhead = size_t{32} << 20;

struct Map {
  size_t size = 0;
  size_t asked = 0;  // bytes that are to be read ahead
};
// The live maps by their first address.
struct Maps {
  std::mutex mutex;
  std::map<uintptr_t, Map> all;

  // The one that holds an address, or the end; the mutex is held.
  auto around(uintptr_t at) {
    auto map = all.upper_bound(at);
    if (map == all.begin()) return all.end();
    --map;
    return at < map->first + map->second.size ? map : all.end();
  }
};

Maps& maps() {
  // Never destroyed: maps may outlive every static object.
  static auto* m = new Maps;
  return *m;
}

}  // namespace

std::shared_ptr<const MappedFile> MappedFile::open(const fs::path& path) {
  struct stat info {};
  Descriptor file{open_for_reading(path, &info)};
  size_t size = static_cast<size_t>(info.st_size);
  if (size == 0) return std::shared_ptr<MappedFile>(new MappedFile(path, nullptr, 0));
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.fd, 0);
  HONE_CHECK(data != MAP_FAILED, io, "{}: cannot map {} bytes: {}", path.string(), size,
             std::strerror(errno));
  std::shared_ptr<MappedFile> mapped;
  try {
    mapped.reset(new MappedFile(path, static_cast<const std::byte*>(data), size));
  } catch (...) {
    ::munmap(data, size);
    throw;
  }
  std::lock_guard lock(maps().mutex);
  maps().all[reinterpret_cast<uintptr_t>(data)] = {size};
  return mapped;
}

MappedFile::~MappedFile() {
  if (data_ == nullptr) return;
  {
    std::lock_guard lock(maps().mutex);
    maps().all.erase(reinterpret_cast<uintptr_t>(data_));
  }
  ::munmap(const_cast<std::byte*>(data_), size_);
}

void release_file_pages(const std::byte* begin, size_t size) {
  const auto at = reinterpret_cast<uintptr_t>(begin);
  std::lock_guard lock(maps().mutex);
  auto map = maps().around(at);
  if (size == 0 || map == maps().all.end()) return;
  const uintptr_t before = at / kMappedAround * kMappedAround;
  const uintptr_t first = std::max(map->first, before - std::min(before, kMappedAround));
  const uintptr_t last = std::min(map->first + map->second.size, at + size + kMappedAround);
  ::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

void read_file_ahead(const std::byte* from) {
  const auto at = reinterpret_cast<uintptr_t>(from);
  std::lock_guard lock(maps().mutex);
  auto map = maps().around(at);
  if (map == maps().all.end()) return;
  auto& [size, asked] = map->second;
  const size_t here = (at - map->first) / kUnit * kUnit;
  const size_t begin = std::max(here, asked), end = std::min(size, here + kReadAhead);
  // In large pieces, since each is a call.
  if (end < begin + kReadAhead / 4 && end < size) return;
  if (begin >= end) return;
  asked = (end + kUnit - 1) / kUnit * kUnit;
  ::madvise(reinterpret_cast<void*>(map->first + begin), end - begin, MADV_WILLNEED);
}

std::string read_text_file(const fs::path& path, size_t limit) {
  struct stat info {};
  Descriptor file{open_for_reading(path, &info)};
  size_t size = static_cast<size_t>(info.st_size);
  HONE_CHECK(size <= limit, corrupt, "{}: {} bytes, more than the {} that such a file may have",
             path.string(), size, limit);
  std::string text(size, '\0');
  size_t done = 0;
  while (done < size) {
    ssize_t n = ::read(file.fd, text.data() + done, size - done);
    if (n < 0 && errno == EINTR) continue;
    HONE_CHECK(n > 0, io, "{}: read {} of {} bytes", path.string(), done, size);
    done += static_cast<size_t>(n);
  }
  return text;
}

AtomicFile::AtomicFile(const fs::path& target) : temporary_(target, Temporary::Kind::file) {
  buffer_.reserve(kWriteBuffer);
}

void AtomicFile::write(const void* data, size_t size) {
  buffer_.append(static_cast<const char*>(data), size);
  position_ += static_cast<int64_t>(size);
  if (buffer_.size() >= kWriteBuffer) flush();
}

void AtomicFile::pad_to(size_t alignment) {
  size_t rest = static_cast<size_t>(position_) % alignment;
  if (rest != 0) write(std::string(alignment - rest, '\0'));
}

void AtomicFile::flush() {
  size_t done = 0;
  while (done < buffer_.size()) {
    ssize_t n = ::write(temporary_.descriptor(), buffer_.data() + done, buffer_.size() - done);
    if (n < 0 && errno == EINTR) continue;
    HONE_CHECK(n > 0, io, "{}: write failed: {}", temporary_.target().string(),
               std::strerror(errno));
    done += static_cast<size_t>(n);
  }
  buffer_.clear();
}

void AtomicFile::commit() {
  flush();
  temporary_.commit();
}

void write_text_file(const fs::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

void check_new_output(const fs::path& path) {
  HONE_CHECK(!path.empty(), invalid_argument, "the output needs a name");
  std::error_code why;
  bool free = !fs::exists(path, why) || (fs::is_directory(path, why) && fs::is_empty(path, why));
  HONE_CHECK(free, invalid_argument, "{}: it exists already; choose another name or remove it",
             path.string());
  fs::path parent = (path.has_filename() ? path : path.parent_path()).parent_path();
  if (parent.empty()) parent = ".";
  HONE_CHECK(fs::is_directory(parent, why), io, "{}: no such directory: {}", path.string(),
             parent.string());
  HONE_CHECK(::access(parent.c_str(), W_OK | X_OK) == 0, io, "{}: cannot write into {}: {}",
             path.string(), parent.string(), std::strerror(errno));
}

}  // namespace hone
