#include "hub/download.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <vector>

#include "base/log.h"
#include "hub/content_hash.h"
#include "hub/names.h"

namespace hone {
namespace {

constexpr size_t kChunk = size_t{1} << 20;

// The beginning of a blob on disk, and its hash so far.
class Incomplete {
 public:
  Incomplete(fs::path path, const RemoteFile& file, const BytesCame& came)
      : path_(std::move(path)), file_(file), came_(came) {
    fs::create_directories(path_.parent_path());
    fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    check(fd_ >= 0, "cannot be made");
    struct stat info {};
    check(::fstat(fd_, &info) == 0 && S_ISREG(info.st_mode), "not a file");
    begin_hash();
    if (file_.size >= 0 && info.st_size > file_.size)
      restart();
    else
      read_what_is_there();
  }
  ~Incomplete() { ::close(fd_); }
  Incomplete(const Incomplete&) = delete;
  Incomplete& operator=(const Incomplete&) = delete;

  int64_t size() const { return size_; }
  bool is_whole() const { return file_.size >= 0 && size_ == file_.size; }
  bool checks() const { return hash_->checks(); }
  std::string mismatch() { return hash_->mismatch(); }

  void restart() {
    came_(-size_);
    size_ = 0;
    check(::ftruncate(fd_, 0) == 0 && ::lseek(fd_, 0, SEEK_SET) == 0, "cannot be emptied");
    begin_hash();
  }

  void append(std::string_view bytes) {
    HONE_CHECK(file_.size < 0 || std::ssize(bytes) <= file_.size - size_, corrupt,
               "{}: the server sends more than the {} bytes it named", file_.name, file_.size);
    for (size_t done = 0; done < bytes.size();) {
      const ssize_t n = ::write(fd_, bytes.data() + done, bytes.size() - done);
      if (n < 0 && errno == EINTR) continue;
      check(n > 0, "write failed");
      done += static_cast<size_t>(n);
    }
    added(bytes);
  }

  void commit(const fs::path& blob) {
    check(::fsync(fd_) == 0 || errno == EINVAL, "sync failed");
    check(::rename(path_.c_str(), blob.c_str()) == 0, "cannot be renamed into place");
    const int directory = ::open(blob.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0) return;
    ::fsync(directory);  // the rename itself must survive a power cut
    ::close(directory);
  }

 private:
  void check(bool good, const char* what) const {
    HONE_CHECK(good, io, "{}: {}: {}", path_.string(), what, std::strerror(errno));
  }
  void begin_hash() { hash_.emplace(file_.etag, file_.size); }
  void added(std::string_view bytes) {
    hash_->add(bytes);
    size_ += std::ssize(bytes);
    came_(std::ssize(bytes));
  }
  void read_what_is_there() {
    std::vector<char> chunk(kChunk);
    while (true) {
      const ssize_t n = ::read(fd_, chunk.data(), chunk.size());
      if (n < 0 && errno == EINTR) continue;
      check(n >= 0, "cannot be read");
      if (n == 0) return;
      added({chunk.data(), static_cast<size_t>(n)});
    }
  }

  fs::path path_;
  const RemoteFile& file_;
  const BytesCame& came_;
  int fd_ = -1;
  int64_t size_ = 0;
  std::optional<ContentHash> hash_;
};

// "bytes 5-9/10": where what comes begins; −1 where that is not said.
int64_t range_begin(const std::string& text) {
  if (!text.starts_with("bytes ")) return -1;
  const size_t end = text.find('-', 6);
  if (end == text.npos || end == 6 || end > 24) return -1;
  const std::string number = text.substr(6, end - 6);
  if (number.find_first_not_of("0123456789") != number.npos) return -1;
  return std::atoll(number.c_str());
}

// Writes what comes behind what is there, or, from a server that ignores ranges, from the
// beginning.
struct Appender : HttpReceiver {
  Appender(Incomplete& to, const std::string& name) : file(to), name(name) {}
  void begin(const HttpAnswer& head) override {
    if (head.status == 206) {
      const int64_t at = range_begin(head.header("content-range"));
      HONE_CHECK(at == file.size(), corrupt, "{}: asked for the bytes from {} on, got '{}'", name,
                 file.size(), one_line(head.header("content-range")));
    } else if (file.size() > 0) {
      log_info("{}: the server cannot go on in the middle; from the beginning", name);
      file.restart();
    }
  }
  void data(std::string_view bytes) override {
    file.append(bytes);
    fetched += std::ssize(bytes);
  }
  Incomplete& file;
  const std::string& name;
  int64_t fetched = 0;
};

// Fetches until all is there, or the hub's patience or ours is over. Gives the bytes that came.
int64_t fill(HubClient& client, const std::string& commit, const RemoteFile& remote,
             Incomplete& file) {
  Patience patience(client.settings(), client.stop());
  int64_t fetched = 0;
  int64_t furthest = file.size();
  bool ended = false;  // a server that names no size has sent all it has
  // An empty file of unknown size needs a request as well.
  while (!file.is_whole() && !ended) {
    Appender appender(file, remote.name);
    std::string why;
    std::optional<double> asked;
    HttpAnswer answer;
    try {
      answer = client.fetch(commit, remote.name, file.size(), appender);
      if (answer.status == 416)
        file.restart();
      else if (is_busy(answer.status))
        asked = asked_to_wait(answer);
      else
        ended = remote.size < 0;
      why = fmt::format("{}: status {}", remote.name, answer.status);
      if (answer.status == 200 || answer.status == 206)
        why = fmt::format("{}: ended at {} of {} bytes", remote.name, file.size(), remote.size);
    } catch (const TransferError& e) {
      why = fmt::format("{} at {} bytes: {}", remote.name, file.size(), e.what());
    }
    fetched += appender.fetched;
    if (file.is_whole() || ended) break;
    // From a server that ignores ranges, the same beginning again is none.
    if (file.size() > furthest) patience.progress();
    furthest = std::max(furthest, file.size());
    if (!patience.wait(why, asked)) throw TransferError(why + "; what has come is kept");
  }
  return fetched;
}

bool is_there(const fs::path& blob, int64_t size) {
  std::error_code why;
  const auto there = fs::file_size(blob, why);
  return !why && (size < 0 || static_cast<int64_t>(there) == size);
}

}  // namespace

Downloaded download_blob(HubClient& client, const HubCache& cache, const std::string& commit,
                         const RemoteFile& remote, bool suspect, const BytesCame& came) {
  const fs::path blob = cache.blob(remote.etag);
  Downloaded done;
  const HubLock lock(cache.lock(remote.etag), remote.name, client.stop());
  // Another run may have mended it since.
  if (suspect && is_there(blob, -1) && !blob_mismatch(blob).empty()) fs::remove(blob);
  if (is_there(blob, remote.size)) {
    done.size = static_cast<int64_t>(fs::file_size(blob));
    came(done.size);
    return done;
  }
  Incomplete file(cache.incomplete(remote.etag), remote, came);
  for (bool again = false;; again = true) {
    done.fetched += fill(client, commit, remote, file);
    done.size = file.size();
    done.checked = file.checks();
    const std::string wrong = done.checked ? file.mismatch() : "";
    if (wrong.empty()) break;
    file.restart();
    if (again) {
      fs::remove(cache.incomplete(remote.etag));
      fail(ErrorKind::corrupt, "{}: what comes has the hash {} in place of {}", remote.name, wrong,
           remote.etag);
    }
    log_warning("{}: its hash is wrong; from the beginning, once more", remote.name);
  }
  file.commit(blob);
  return done;
}

std::string blob_mismatch(const fs::path& blob) {
  const int fd = ::open(blob.c_str(), O_RDONLY | O_CLOEXEC);
  HONE_CHECK(fd >= 0, io, "{}: cannot open: {}", blob.string(), std::strerror(errno));
  struct stat info {};
  ::fstat(fd, &info);
  ContentHash hash(blob.filename().string(), info.st_size);
  std::vector<char> chunk(kChunk);
  ssize_t n = 0;
  while (hash.checks() && (n = ::read(fd, chunk.data(), chunk.size())) > 0)
    hash.add({chunk.data(), static_cast<size_t>(n)});
  ::close(fd);
  HONE_CHECK(n >= 0, io, "{}: cannot be read", blob.string());
  return hash.checks() ? hash.mismatch() : "";
}

}  // namespace hone
