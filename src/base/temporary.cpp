#include "base/temporary.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <mutex>
#include <set>

#include "base/error.h"

namespace hone {
namespace fs = std::filesystem;
namespace {

// The temporaries of this process. Never destroyed: a signal may come while the process exits.
struct Registry {
  std::mutex mutex;
  std::set<fs::path> paths;
};
Registry& registry() {
  static auto& r = *new Registry;
  return r;
}

// False where another open descriptor holds the lock. A file system without locks grants all.
bool lock(int fd) { return ::flock(fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK; }

bool has_name(int fd) {
  struct stat info {};
  return ::fstat(fd, &info) == 0 && info.st_nlink > 0;
}

[[noreturn]] void refuse_second_writer(const fs::path& target) {
  fail(ErrorKind::io, "{}: another run is writing it now", target.string());
}

void sync_directory(const fs::path& path) {
  int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  ::fsync(fd);
  ::close(fd);
}

}  // namespace

Temporary::Temporary(const fs::path& target, Kind kind)
    : target_(target.has_filename() ? target : target.parent_path()), path_(target_) {
  path_ += ".hone-tmp";
  std::lock_guard guard(registry().mutex);
  remove_leftover();
  create(kind);
  registry().paths.insert(path_);
}

void Temporary::remove_leftover() const {
  int fd = ::open(path_.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) return;  // nothing there, or what create() will report
  bool dead = lock(fd);
  std::error_code ignored;
  if (dead) fs::remove_all(path_, ignored);
  ::close(fd);
  if (!dead) refuse_second_writer(target_);
}

void Temporary::create(Kind kind) {
  if (kind == Kind::file)
    fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  else if (::mkdir(path_.c_str(), 0755) == 0)
    fd_ = ::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  HONE_CHECK(fd_ >= 0, io, "{}: cannot be created: {}", path_.string(), std::strerror(errno));
  // Another run may have taken it for a leftover before it was locked.
  if (lock(fd_) && has_name(fd_)) return;
  ::close(fd_);
  refuse_second_writer(target_);
}

Temporary::~Temporary() {
  if (fd_ < 0) return;
  std::lock_guard guard(registry().mutex);
  registry().paths.erase(path_);
  std::error_code ignored;
  fs::remove_all(path_, ignored);
  ::close(fd_);
}

void Temporary::commit() {
  HONE_ASSERT(fd_ >= 0);
  // EINVAL: a file system that cannot sync directories.
  HONE_CHECK(::fsync(fd_) == 0 || errno == EINVAL, io, "{}: sync failed: {}", target_.string(),
             std::strerror(errno));
  {
    std::lock_guard guard(registry().mutex);
    HONE_CHECK(::rename(path_.c_str(), target_.c_str()) == 0, io,
               "{}: cannot rename into place: {}", target_.string(), std::strerror(errno));
    registry().paths.erase(path_);
    ::close(fd_);
    fd_ = -1;
  }
  // The rename itself must survive a power cut.
  sync_directory(target_.has_parent_path() ? target_.parent_path() : fs::path("."));
}

void remove_temporaries() {
  registry().mutex.lock();  // for good: see the header
  for (const fs::path& path : registry().paths) {
    // A thread that is still writing may add a file behind the back of a removal.
    std::error_code why;
    for (int tries = 0; tries < 100 && fs::exists(path, why); ++tries) fs::remove_all(path, why);
  }
}

}  // namespace hone
