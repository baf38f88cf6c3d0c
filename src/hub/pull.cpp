#include "hub/pull.h"

#include <fmt/core.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "base/log.h"
#include "hub/client.h"
#include "hub/download.h"
#include "hub/names.h"

namespace hone {
namespace {

// A worker's turn: raises to end all.
using Task = std::function<void(HubClient& client, size_t i)>;

class Puller {
 public:
  Puller(const HubSettings& settings, const PullOptions& options)
      : settings_(settings), options_(options), cache_(settings.cache, options.name) {}

  Pulled run() {
    HubClient client = make_client();
    const HubListing listing = client.listing(options_.revision);
    result_.commit = listing.commit;
    result_.snapshot = cache_.snapshot(listing.commit);
    for (const std::string& name :
         chosen_files(listing.files, options_.include, options_.exclude, options_.name))
      result_.files.push_back({name});
    find_cached();
    ask_for_rest();
    if (options_.dry_run) return result_;
    check_space();
    download();
    cache_.set_commit(options_.revision, result_.commit);
    return result_;
  }

 private:
  HubClient make_client() { return HubClient(settings_, options_.name, options_.version, &stop_); }

  // A commit's files never change: what the snapshot has needs no request.
  void find_cached() {
    for (PulledFile& f : result_.files) {
      const fs::path at = result_.snapshot / f.name;
      std::error_code why;
      const auto size = fs::file_size(at, why);
      if (why) continue;
      if (options_.verify && !is_whole(f, at)) continue;
      f.size = static_cast<int64_t>(size);
      f.cached = true;
    }
  }

  // Removes nothing: a blob may be in another run's hands, and a dry run only looks.
  bool is_whole(const PulledFile& f, const fs::path& at) {
    if (!fs::is_symlink(at)) return true;  // a copy, whose name promises nothing
    const fs::path blob = at.parent_path() / fs::read_symlink(at);
    if (blob_mismatch(blob).empty()) return true;
    log_warning("{}: damaged in the cache{}", f.name,
                options_.dry_run ? "" : "; fetching it again");
    damaged_.insert(blob.filename().string());
    return false;
  }

  void ask_for_rest() {
    std::vector<size_t> missing;
    for (size_t i = 0; i < result_.files.size(); ++i)
      if (!result_.files[i].cached) missing.push_back(i);
    remote_.resize(missing.size());
    for_each(missing.size(), [&](HubClient& client, size_t i) {
      remote_[i] = client.file(result_.commit, result_.files[missing[i]].name);
    });
    int64_t total = 0;
    // Files of the same content are one blob.
    for (size_t i = 0; i < missing.size(); ++i) {
      total += std::max<int64_t>(0, remote_[i].size);
      HONE_CHECK(total <= kMostBytes, corrupt, "{}: the hub says the files are more than {}",
                 options_.name, human_bytes(double(kMostBytes)));
      result_.files[missing[i]].size = remote_[i].size;
      std::vector<size_t>& same = of_blob_[remote_[i].etag];
      if (same.empty()) blobs_.push_back(i);
      same.push_back(missing[i]);
    }
  }

  int64_t missing_bytes() const {
    int64_t n = 0;
    for (size_t i : blobs_) {
      std::error_code why;
      const std::string& etag = remote_[i].etag;
      const bool damaged = damaged_.contains(etag);
      if (!damaged && fs::exists(cache_.blob(etag), why)) continue;
      // A damaged one makes room for what comes.
      const auto begun = fs::file_size(damaged ? cache_.blob(etag) : cache_.incomplete(etag), why);
      n += std::max<int64_t>(0, remote_[i].size - (why ? 0 : static_cast<int64_t>(begun)));
    }
    return n;
  }

  void check_space() {
    fs::create_directories(cache_.folder());
    std::error_code why;
    const fs::space_info space = fs::space(cache_.folder(), why);
    const int64_t need = missing_bytes();
    HONE_CHECK(why || need <= 0 || static_cast<uint64_t>(need) <= space.available, io,
               "{}: {} to fetch, {} free in {}", options_.name, human_bytes(double(need)),
               human_bytes(double(space.available)), settings_.cache.string());
  }

  void download() {
    int64_t total = 0;
    for (size_t i : blobs_) total += std::max<int64_t>(0, remote_[i].size);
    Progress progress("pull " + options_.name, total);
    int64_t there = 0;
    size_t done = 0;
    std::mutex mutex;
    const double begun = monotonic_seconds();
    int64_t came = 0;  // over the network, nearly: what lay there already is read at once
    auto note = [&](int64_t change) {
      std::lock_guard lock(mutex);
      there += change;
      came += std::max<int64_t>(0, change);
      const double seconds = std::max(1e-3, monotonic_seconds() - begun);
      progress.update(there, fmt::format("{} of {}, {}/s, {} of {} files",
                                         human_bytes(double(there)), human_bytes(double(total)),
                                         human_bytes(double(came) / seconds), done, blobs_.size()));
    };
    for_each(blobs_.size(), [&](HubClient& client, size_t b) {
      const RemoteFile& remote = remote_[blobs_[b]];
      const Downloaded d = download_blob(client, cache_, result_.commit, remote,
                                         damaged_.contains(remote.etag), note);
      if (!d.checked) log_info("{}: the hub names no hash that could be checked", remote.name);
      const std::vector<size_t>& same = of_blob_.at(remote.etag);
      for (size_t i : same) {
        cache_.link(result_.commit, result_.files[i].name, remote.etag);
        result_.files[i].size = d.size;
      }
      result_.files[same[0]].fetched = d.fetched;
      std::lock_guard lock(mutex);
      ++done;
    });
  }

  // Runs tasks from several threads, each with connections of its own. The first error ends all.
  void for_each(size_t n, const Task& task) {
    std::atomic<size_t> next{0};
    std::exception_ptr raised;
    std::mutex mutex;
    auto work = [&] {
      try {
        HubClient client = make_client();
        for (size_t i; !stop_.load() && (i = next++) < n;) task(client, i);
      } catch (...) {
        std::lock_guard lock(mutex);
        if (!raised) raised = std::current_exception();
        stop_ = true;
      }
    };
    std::vector<std::thread> threads;
    const size_t jobs = std::min(n, static_cast<size_t>(std::max(1, options_.jobs)));
    for (size_t t = 0; t < jobs; ++t) threads.emplace_back(work);
    for (std::thread& t : threads) t.join();
    if (raised) std::rethrow_exception(raised);
  }

  const HubSettings& settings_;
  const PullOptions& options_;
  HubCache cache_;
  std::atomic<bool> stop_{false};
  Pulled result_;
  std::vector<RemoteFile> remote_;                      // of files that are not cached
  std::vector<size_t> blobs_;                           // of remote_, the first of each content
  std::set<std::string> damaged_;                       // etags
  std::map<std::string, std::vector<size_t>> of_blob_;  // etag to indices of result_.files
};

Pulled offline(const HubSettings& settings, const PullOptions& options) {
  const HubCache cache(settings.cache, options.name);
  check_revision(options.revision);
  const auto snapshot = cache.find(options.revision);
  HONE_CHECK(snapshot.has_value(), io,
             "{}: revision {} is not in the cache {}, and HF_HUB_OFFLINE forbids to fetch it",
             options.name, options.revision, settings.cache.string());
  Pulled out;
  out.snapshot = *snapshot;
  out.commit = snapshot->filename().string();
  std::vector<std::string> names;
  for (const auto& e : fs::recursive_directory_iterator(*snapshot))
    if (!e.is_directory()) names.push_back(e.path().lexically_relative(*snapshot).string());
  std::sort(names.begin(), names.end());
  const std::vector<std::string> all{"*"};
  for (const std::string& name : chosen_files(
           names, options.include.empty() ? all : options.include, options.exclude, options.name)) {
    PulledFile f{name, static_cast<int64_t>(fs::file_size(*snapshot / name))};
    f.cached = true;
    out.files.push_back(f);
  }
  return out;
}

}  // namespace

int64_t Pulled::bytes() const {
  int64_t n = 0;
  for (const PulledFile& f : files) n += std::max<int64_t>(0, f.size);
  return n;
}

int64_t Pulled::fetched() const {
  int64_t n = 0;
  for (const PulledFile& f : files) n += f.fetched;
  return n;
}

Pulled pull_model(const HubSettings& settings, const PullOptions& options) {
  check_repository_name(options.name);
  return settings.offline ? offline(settings, options) : Puller(settings, options).run();
}

}  // namespace hone
