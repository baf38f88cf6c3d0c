// The cache of models, in huggingface_hub's layout: both may use it at once.
//
//   models--ORG--NAME/blobs/ETAG                 contents, under their hash; ETAG.incomplete while
//                                                they arrive, always a beginning of the whole
//                    /refs/REVISION              the commit that a branch or tag stands for
//                    /snapshots/COMMIT/FILE      a link to the blob
//   .locks/models--ORG--NAME/ETAG.lock           held (flock) while the blob is written
#pragma once

#include <atomic>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace hone {

namespace fs = std::filesystem;

class HubCache {
 public:
  /// Creates nothing. Raises invalid_argument where `repository` is no name.
  HubCache(fs::path root, std::string repository);

  const std::string& repository() const { return repository_; }
  fs::path folder() const;
  fs::path blob(const std::string& etag) const { return folder() / "blobs" / etag; }
  fs::path incomplete(const std::string& etag) const;
  fs::path lock(const std::string& etag) const;
  fs::path snapshot(const std::string& commit) const { return folder() / "snapshots" / commit; }

  /// The commit that a revision stood for when it was pulled; a commit is one itself.
  std::optional<std::string> commit_of(const std::string& revision) const;
  void set_commit(const std::string& revision, const std::string& commit) const;
  /// The branches and tags that were pulled.
  std::vector<std::string> revisions() const;

  /// Puts a blob into a snapshot under a file's name: a relative link, or a copy where the file
  /// system has no links. In one step; what was there goes.
  void link(const std::string& commit, const std::string& file, const std::string& etag) const;

  /// The snapshot of a revision, if there is one.
  std::optional<fs::path> find(const std::string& revision) const;

 private:
  fs::path root_;
  std::string repository_;
};

/// A lock that processes of both libraries respect. Waits for it, and says so; raises io where the
/// file cannot be made, or where *stop becomes true.
class HubLock {
 public:
  HubLock(const fs::path& path, const std::string& what, const std::atomic<bool>* stop);
  ~HubLock();
  HubLock(const HubLock&) = delete;
  HubLock& operator=(const HubLock&) = delete;

 private:
  int fd_ = -1;
};

/// A pulled model as commands name it: "org/name", "org/name@REVISION", and either with "/FILE"
/// behind. Gives the path of a directory with a config.json, of its only GGUF file (of a split one,
/// the first part), or of FILE. Nothing where `name` is no such name, or is one without an
/// organisation that is not in the cache. Raises, with what to do, where the model or the file is
/// not there, or there are several.
std::optional<fs::path> pulled_model(const fs::path& cache, const std::string& name);

}  // namespace hone
