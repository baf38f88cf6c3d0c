// hone pull: a model of a hub into the cache.
#pragma once

#include <string>
#include <vector>

#include "hub/cache.h"
#include "hub/settings.h"

namespace hone {

struct PullOptions {
  std::string name;                           ///< org/name
  std::string revision = "main";              ///< a branch, a tag or a commit
  std::vector<std::string> include, exclude;  ///< globs of file names
  int jobs = 8;                               ///< files at a time
  bool verify = false;   ///< read what is in the cache again and fetch what is damaged
  bool dry_run = false;  ///< ask for names and sizes alone
  std::string version;   ///< of hone, for the user agent
};

struct PulledFile {
  std::string name;
  int64_t size = -1;    ///< −1 where the hub does not say
  int64_t fetched = 0;  ///< bytes of this run
  bool cached = false;  ///< was there before
};

struct Pulled {
  std::string commit;
  fs::path snapshot;
  std::vector<PulledFile> files;
  int64_t bytes() const;
  int64_t fetched() const;
};

/// The branch or tag is written last: an interrupted pull leaves it where it was, and the next one
/// goes on. Offline it gives what is in the cache, and raises io where nothing is.
Pulled pull_model(const HubSettings& settings, const PullOptions& options);

}  // namespace hone
