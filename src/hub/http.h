// HTTP as a hub needs it, over libcurl: one GET or HEAD with redirects, limits and timeouts.
//
// The token goes to the origin (scheme, host and port) of the request's own URL. Redirects are
// followed here and not by libcurl: the first hop to another origin drops the token for good, a hop
// from https to http is refused, and so is the eleventh.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "base/error.h"

namespace hone {

struct HttpOptions {
  double connect_seconds = 10;
  double stall_seconds = 10;  ///< a transfer that brings nothing for so long has ended
  std::string ca_file;        ///< empty = the system's
  std::string user_agent = "hone";
  /// Where it is set and becomes true, transfers end.
  const std::atomic<bool>* stop = nullptr;
};

struct HttpRequest {
  std::string url;
  bool head = false;
  std::string token;                   ///< "Authorization: Bearer ..."; empty = none
  int64_t from = 0;                    ///< "Range: bytes=N-" where above 0
  size_t max_body = size_t{64} << 20;  ///< of what comes without a receiver
  bool leave_origin = true;            ///< false: a redirect to another origin is the answer
};

struct HttpAnswer {
  int status = 0;
  std::string url;                             ///< that answered
  std::map<std::string, std::string> headers;  ///< by name in lower case
  /// X-Linked-* and X-Repo-Commit of all hops, the first one's; other headers are the last hop's.
  std::map<std::string, std::string> linked;
  std::string body;

  /// Empty where there is none.
  std::string header(const std::string& name) const;
  std::string linked_header(const std::string& name) const;
};

/// What brought no answer, or only a part of one, and may do so when tried again.
class TransferError : public Error {
 public:
  explicit TransferError(const std::string& message) : Error(ErrorKind::io, message) {}
};

/// Takes the body of an answer of 2xx.
class HttpReceiver {
 public:
  virtual ~HttpReceiver() = default;
  virtual void begin(const HttpAnswer& head) = 0;
  virtual void data(std::string_view bytes) = 0;
};

/// One for each thread: it keeps its connections.
class HttpClient {
 public:
  explicit HttpClient(HttpOptions options);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  /// Raises TransferError where trying again may help, Error(io) where not, Error(corrupt) for
  /// answers larger than they may be, and what the receiver raises. Any status is an answer.
  HttpAnswer run(const HttpRequest& request, HttpReceiver* receiver = nullptr);

 private:
  struct Hop;
  void hop(Hop& hop, const HttpRequest& request, bool with_token);

  HttpOptions options_;
  void* curl_;
};

/// "https://host:port" of a URL, with the port always there. Raises invalid_argument.
std::string origin_of(const std::string& url);

}  // namespace hone
