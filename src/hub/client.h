// Requests to one hub: its URLs, its token, tries again where that may help, and what its refusals
// mean.
#pragma once

#include <atomic>
#include <functional>
#include <optional>
#include <string>

#include "hub/http.h"
#include "hub/listing.h"
#include "hub/settings.h"

namespace hone {

/// No file, nor all that one pull takes, is larger; a hub that says so is not believed.
constexpr int64_t kMostBytes = int64_t{1} << 50;

/// What a hub says of one file at a commit.
struct RemoteFile {
  std::string name;
  std::string etag;   ///< the blob's name: SHA-256 of large files, git's SHA-1 of small ones
  int64_t size = -1;  ///< −1 where the hub does not say
};

/// How long a server asks to wait: Retry-After, in seconds or as a date, or the reset of a
/// "ratelimit" header; nothing where it does not say.
std::optional<double> asked_to_wait(const HttpAnswer& answer);
/// A status that may be another one later.
bool is_busy(int status);

/// Counts tries that brought nothing and waits between them, twice as long each time.
class Patience {
 public:
  Patience(const HubSettings& settings, const std::atomic<bool>* stop);
  /// False, at once, where it is over: too many tries, or the server asks for too long a wait.
  /// `why` is said on stderr.
  bool wait(const std::string& why, std::optional<double> asked = {});
  void progress() { failed_ = 0; }

 private:
  const HubSettings& settings_;
  const std::atomic<bool>* stop_;
  int failed_ = 0;
};

/// One for each thread.
class HubClient {
 public:
  /// `version` is hone's, for the user agent; *stop ends requests and waits.
  HubClient(const HubSettings& settings, std::string repository, const std::string& version,
            const std::atomic<bool>* stop);

  /// Raises, with what to do, where the hub refuses.
  HubListing listing(const std::string& revision);
  RemoteFile file(const std::string& commit, const std::string& name);
  /// One try of a file's bytes from `from` on. Raises TransferError where another may help; gives
  /// the answer where it is not 2xx and is_busy().
  HttpAnswer fetch(const std::string& commit, const std::string& name, int64_t from,
                   HttpReceiver& receiver);

  const HubSettings& settings() const { return settings_; }
  const std::atomic<bool>* stop() const { return stop_; }

 private:
  HttpAnswer ask(HttpRequest request);
  std::string file_url(const std::string& commit, const std::string& name) const;
  [[noreturn]] void refuse(const HttpAnswer& answer, const std::string& revision,
                           const std::string& file) const;

  const HubSettings& settings_;
  std::string repository_;
  const std::atomic<bool>* stop_;
  HttpClient http_;
};

}  // namespace hone
