#include "base/files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

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

}  // namespace

std::shared_ptr<const MappedFile> MappedFile::open(const fs::path& path) {
  struct stat info {};
  Descriptor file{open_for_reading(path, &info)};
  size_t size = static_cast<size_t>(info.st_size);
  if (size == 0) return std::shared_ptr<MappedFile>(new MappedFile(path, nullptr, 0));
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.fd, 0);
  HONE_CHECK(data != MAP_FAILED, io, "{}: cannot map {} bytes: {}", path.string(), size,
             std::strerror(errno));
  return std::shared_ptr<MappedFile>(
      new MappedFile(path, static_cast<const std::byte*>(data), size));
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

void release_file_pages(const std::byte* begin, size_t size) {
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto at = reinterpret_cast<uintptr_t>(begin);
  uintptr_t first = (at + page - 1) / page * page, last = (at + size) / page * page;
  if (last > first) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
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

AtomicFile::AtomicFile(fs::path target) : target_(std::move(target)) {
  temporary_ = target_;
  temporary_ += fmt::format(".tmp-{}", ::getpid());
  fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  HONE_CHECK(fd_ >= 0, io, "{}: cannot create: {}", temporary_.string(), std::strerror(errno));
  buffer_.reserve(kWriteBuffer);
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
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
    ssize_t n = ::write(fd_, buffer_.data() + done, buffer_.size() - done);
    if (n < 0 && errno == EINTR) continue;
    HONE_CHECK(n > 0, io, "{}: write failed: {}", temporary_.string(), std::strerror(errno));
    done += static_cast<size_t>(n);
  }
  buffer_.clear();
}

void AtomicFile::commit() {
  HONE_ASSERT(fd_ >= 0);
  flush();
  HONE_CHECK(::fsync(fd_) == 0, io, "{}: sync failed: {}", temporary_.string(),
             std::strerror(errno));
  ::close(fd_);
  fd_ = -1;
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) {
    int why = errno;
    ::unlink(temporary_.c_str());
    fail(ErrorKind::io, "{}: cannot rename into place: {}", target_.string(), std::strerror(why));
  }
  // The rename itself must survive a power cut.
  fs::path directory = target_.has_parent_path() ? target_.parent_path() : fs::path(".");
  Descriptor d{::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (d.fd >= 0) ::fsync(d.fd);
}

void write_text_file(const fs::path& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

}  // namespace hone
