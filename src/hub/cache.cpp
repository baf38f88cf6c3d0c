#include "hub/cache.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "hub/names.h"

namespace hone {
namespace {

// "a/b" becomes "models--a--b".
std::string folder_name(const std::string& repository) {
  std::string out = "models--" + repository;
  if (const size_t slash = out.find('/'); slash != out.npos) out.replace(slash, 1, "--");
  return out;
}

// A name of its own: several runs may put the same thing there at once.
fs::path beside(const fs::path& path) {
  static std::atomic<int> count{0};
  fs::path out = path;
  out += fmt::format(".hone-{}-{}", ::getpid(), count++);
  return out;
}

bool still_named(int fd, const fs::path& path) {
  struct stat open {
  }, named{};
  return ::fstat(fd, &open) == 0 && ::stat(path.c_str(), &named) == 0 &&
         open.st_ino == named.st_ino && open.st_dev == named.st_dev;
}

// A split model counts as its first part.
bool is_first_part(const std::string& name) {
  const size_t of = name.rfind("-of-");
  return of == name.npos || of < 6 || name.substr(of - 6, 6) == "-00001";
}

std::vector<std::string> gguf_files(const fs::path& snapshot) {
  std::vector<std::string> out;
  for (const auto& e : fs::recursive_directory_iterator(snapshot)) {
    // Not fs::relative, which follows links.
    const std::string name = e.path().lexically_relative(snapshot).string();
    if (name.ends_with(".gguf") && is_first_part(name)) out.push_back(name);
  }
  std::sort(out.begin(), out.end());
  return out;
}

fs::path model_in(const fs::path& snapshot, const std::string& name) {
  std::error_code ignored;
  if (fs::exists(snapshot / "config.json", ignored)) return snapshot;
  const std::vector<std::string> files = gguf_files(snapshot);
  if (files.size() == 1) return snapshot / files[0];
  if (files.empty()) return snapshot;  // what is missing, the loader says best
  std::string list;
  for (const std::string& f : files)
    list += fmt::format("{}{}/{}", list.empty() ? "" : ", ", name, f);
  fail(ErrorKind::invalid_argument, "{} holds several models: name one of {}", name,
       list.substr(0, 600));
}

// "org/name@revision/file" in its parts; the last two may be empty.
struct PulledName {
  std::string repository, revision, file;
  explicit PulledName(const std::string& text) {
    const size_t slash = text.find('/');
    const size_t at = text.find('@');
    size_t end = slash == text.npos ? text.npos : text.find('/', slash + 1);
    // A revision may itself hold slashes, which are written %2F.
    repository = text.substr(0, std::min(end, at));
    if (at != text.npos && (end == text.npos || at < end))
      revision = text.substr(at + 1, end == text.npos ? end : end - at - 1);
    for (size_t p; (p = revision.find("%2F")) != revision.npos;) revision.replace(p, 3, "/");
    if (end != text.npos) file = text.substr(end + 1);
  }
};

[[noreturn]] void not_there(const HubCache& cache, const std::string& revision) {
  std::string others;
  for (const std::string& r : cache.revisions())
    others += fmt::format(" {}@{}", cache.repository(), r);
  const std::string flag = revision == "main" ? "" : " --revision " + one_line(revision);
  fail(ErrorKind::io, "{}{}: neither a path nor a model in the cache; hone pull {}{} fetches it{}",
       cache.repository(), revision == "main" ? "" : "@" + one_line(revision), cache.repository(),
       flag, others.empty() ? "" : "; in the cache there is" + others.substr(0, 300));
}

}  // namespace

HubCache::HubCache(fs::path root, std::string repository)
    : root_(std::move(root)), repository_(std::move(repository)) {
  check_repository_name(repository_);
}

fs::path HubCache::folder() const { return root_ / folder_name(repository_); }
fs::path HubCache::incomplete(const std::string& etag) const {
  return folder() / "blobs" / (etag + ".incomplete");
}
fs::path HubCache::lock(const std::string& etag) const {
  return root_ / ".locks" / folder_name(repository_) / (etag + ".lock");
}

std::optional<std::string> HubCache::commit_of(const std::string& revision) const {
  if (is_commit(revision)) return revision;
  if (!is_safe_path(revision)) return {};
  const fs::path ref = folder() / "refs" / revision;
  std::error_code ignored;
  if (!fs::is_regular_file(ref, ignored)) return {};
  std::string commit = read_text_file(ref, 4096);
  while (!commit.empty() && (commit.back() == '\n' || commit.back() == '\r')) commit.pop_back();
  HONE_CHECK(is_commit(commit), corrupt, "{}: expected a commit", ref.string());
  return commit;
}

void HubCache::set_commit(const std::string& revision, const std::string& commit) const {
  check_revision(revision);
  if (revision == commit || commit_of(revision) == commit) return;
  const fs::path ref = folder() / "refs" / revision;
  fs::create_directories(ref.parent_path());
  const fs::path temporary = beside(ref);
  write_text_file(temporary, commit);
  fs::rename(temporary, ref);
}

std::vector<std::string> HubCache::revisions() const {
  std::vector<std::string> out;
  std::error_code why;
  const fs::path refs = folder() / "refs";
  for (fs::recursive_directory_iterator it(refs, why), end; !why && it != end; it.increment(why))
    if (it->is_regular_file()) out.push_back(it->path().lexically_relative(refs).string());
  std::sort(out.begin(), out.end());
  return out;
}

void HubCache::link(const std::string& commit, const std::string& file,
                    const std::string& etag) const {
  const fs::path at = snapshot(commit) / file;
  fs::create_directories(at.parent_path());
  const fs::path temporary = beside(at);
  std::error_code why;
  fs::create_symlink(blob(etag).lexically_relative(at.parent_path()), temporary, why);
  if (why) fs::copy_file(blob(etag), temporary);
  fs::rename(temporary, at);
}

std::optional<fs::path> HubCache::find(const std::string& revision) const {
  const auto commit = commit_of(revision);
  if (!commit) return {};
  std::error_code ignored;
  if (!fs::is_directory(snapshot(*commit), ignored)) return {};
  return snapshot(*commit);
}

HubLock::HubLock(const fs::path& path, const std::string& what, const std::atomic<bool>* stop) {
  fs::create_directories(path.parent_path());
  for (bool said = false;;) {
    fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    HONE_CHECK(fd_ >= 0, io, "{}: cannot be made: {}", path.string(), std::strerror(errno));
    // A file system without locks grants all; a lock file may have been removed while we waited.
    const bool held = ::flock(fd_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK;
    if (held && still_named(fd_, path)) return;
    ::close(fd_);
    if (!held && !said) log_info("{}: another run is fetching it; waiting", what);
    said = said || !held;
    HONE_CHECK(stop == nullptr || !stop->load(), io, "{}: stopped", what);
    std::this_thread::sleep_for(std::chrono::milliseconds(held ? 1 : 100));
  }
}

HubLock::~HubLock() { ::close(fd_); }

std::optional<fs::path> pulled_model(const fs::path& cache, const std::string& name) {
  const PulledName parts(name);
  if (!is_repository_name(parts.repository)) return {};
  if (!parts.file.empty() && !is_safe_path(parts.file)) return {};
  const std::string revision = parts.revision.empty() ? "main" : parts.revision;
  const HubCache there(cache, parts.repository);
  std::error_code ignored;
  const bool has_organisation = parts.repository.find('/') != std::string::npos;
  if (!has_organisation && !fs::is_directory(there.folder(), ignored)) return {};
  const auto snapshot = there.find(revision);
  // "dir/sub/file" is a path that does not exist, as likely as a file of a model.
  if (!snapshot && !parts.file.empty() && !fs::is_directory(there.folder(), ignored)) return {};
  if (!snapshot) not_there(there, revision);
  const std::string shown =
      parts.revision.empty() ? parts.repository : parts.repository + "@" + parts.revision;
  if (parts.file.empty()) return model_in(*snapshot, shown);
  HONE_CHECK(fs::exists(*snapshot / parts.file, ignored), io,
             "{} has no file {} in the cache; hone pull {} --include '{}' fetches it", shown,
             parts.file, parts.repository, parts.file);
  return *snapshot / parts.file;
}

}  // namespace hone
