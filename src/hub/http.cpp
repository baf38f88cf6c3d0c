#include "hub/http.h"

#include <curl/curl.h>
#include <fmt/core.h>

#include <algorithm>
#include <exception>

#include "base/log.h"
#include "hub/names.h"

namespace hone {
namespace {

constexpr int kRedirects = 10;
constexpr size_t kMaxHeaders = size_t{256} << 10;
constexpr size_t kMaxErrorBody = size_t{64} << 10;

void start_curl() {
  static const CURLcode started = curl_global_init(CURL_GLOBAL_DEFAULT);
  HONE_CHECK(started == CURLE_OK, internal, "libcurl does not start");
}

struct Url {
  CURLU* handle = curl_url();
  Url() { HONE_ASSERT(handle != nullptr); }
  ~Url() { curl_url_cleanup(handle); }
  Url(const Url&) = delete;
  Url& operator=(const Url&) = delete;
  /// A relative one goes by what was set before.
  bool set(const std::string& text) {
    return curl_url_set(handle, CURLUPART_URL, text.c_str(), CURLU_NON_SUPPORT_SCHEME) == CURLUE_OK;
  }
  std::string part(CURLUPart which, unsigned flags = 0) const {
    char* text = nullptr;
    if (curl_url_get(handle, which, &text, flags) != CURLUE_OK) return {};
    std::string copy(text);
    curl_free(text);
    return copy;
  }
};

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

std::string_view trimmed(std::string_view text) {
  const char* space = " \t\r\n";
  const size_t begin = text.find_first_not_of(space);
  if (begin == text.npos) return {};
  return text.substr(begin, text.find_last_not_of(space) - begin + 1);
}

bool may_help_to_try_again(CURLcode code) {
  switch (code) {
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT:
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM:
    case CURLE_PARTIAL_FILE:
    case CURLE_OPERATION_TIMEDOUT:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
      return true;
    default:
      return false;
  }
}

bool is_redirect(int status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

bool is_web(const Url& u) {
  const std::string scheme = lower(u.part(CURLUPART_SCHEME));
  return scheme == "http" || scheme == "https";
}

// What is said of a URL: a query may be signed, and the signature is a secret.
std::string shown(const std::string& url) { return one_line(url.substr(0, url.find('?'))); }

}  // namespace

std::string origin_of(const std::string& url) {
  Url u;
  HONE_CHECK(u.set(url), invalid_argument, "'{}' is no URL", shown(url));
  HONE_CHECK(is_web(u), invalid_argument, "'{}': expected http or https", shown(url));
  return fmt::format("{}://{}:{}", lower(u.part(CURLUPART_SCHEME)), lower(u.part(CURLUPART_HOST)),
                     u.part(CURLUPART_PORT, CURLU_DEFAULT_PORT));
}

std::string HttpAnswer::header(const std::string& name) const {
  auto it = headers.find(name);
  return it == headers.end() ? "" : it->second;
}

std::string HttpAnswer::linked_header(const std::string& name) const {
  auto it = linked.find(name);
  return it == linked.end() ? "" : it->second;
}

// One request without redirects; what libcurl's callbacks fill.
struct HttpClient::Hop {
  HttpAnswer& answer;
  const HttpRequest& request;
  HttpReceiver* receiver;
  CURL* curl;
  const std::atomic<bool>* stop;
  size_t header_bytes = 0;
  bool begun = false, enough = false, stalled = false;
  // libcurl's own limit is of a mean over five seconds and more.
  double quiet_until = 0, stall_seconds = 0;
  std::exception_ptr raised = nullptr;

  bool is_good() const { return answer.status >= 200 && answer.status < 300; }

  void take_header(std::string_view line) {
    quiet_until = monotonic_seconds() + stall_seconds;
    header_bytes += line.size();
    HONE_CHECK(header_bytes <= kMaxHeaders, corrupt, "{}: the headers never end",
               shown(answer.url));
    line = trimmed(line);
    if (line.starts_with("HTTP/")) answer.headers.clear();  // behind a 1xx
    const size_t colon = line.find(':');
    if (colon == line.npos || colon == 0) return;
    const std::string name = lower(std::string(trimmed(line.substr(0, colon))));
    const std::string value(trimmed(line.substr(colon + 1)));
    answer.headers[name] = value;
    if (name.starts_with("x-linked-") || name == "x-repo-commit")
      answer.linked.emplace(name, value);
  }

  void begin() {
    if (begun) return;
    begun = true;
    long status = 0;
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    answer.status = static_cast<int>(status);
    if (receiver != nullptr && is_good()) receiver->begin(answer);
  }

  void take_body(std::string_view bytes) {
    quiet_until = monotonic_seconds() + stall_seconds;
    begin();
    if (receiver != nullptr && is_good()) return receiver->data(bytes);
    const size_t most = is_good() ? request.max_body : kMaxErrorBody;
    if (answer.body.size() + bytes.size() <= most) {
      answer.body += bytes;
      return;
    }
    HONE_CHECK(!is_good(), corrupt, "{}: an answer of more than {} bytes", shown(answer.url), most);
    enough = true;  // of an error page
  }

  // Exceptions must not pass through libcurl.
  template <typename F>
  size_t guarded(size_t n, F f) {
    try {
      f();
    } catch (...) {
      raised = std::current_exception();
    }
    return raised || enough ? 0 : n;
  }
  static size_t on_header(char* data, size_t size, size_t n, void* self) {
    auto* h = static_cast<Hop*>(self);
    return h->guarded(size * n, [&] { h->take_header({data, size * n}); });
  }
  static size_t on_body(char* data, size_t size, size_t n, void* self) {
    auto* h = static_cast<Hop*>(self);
    return h->guarded(size * n, [&] { h->take_body({data, size * n}); });
  }
  static int on_progress(void* self, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
    auto* h = static_cast<Hop*>(self);
    h->stalled = monotonic_seconds() > h->quiet_until;
    return h->stalled || (h->stop != nullptr && h->stop->load()) ? 1 : 0;
  }
};

HttpClient::HttpClient(HttpOptions options) : options_(std::move(options)) {
  start_curl();
  curl_ = curl_easy_init();
  HONE_CHECK(curl_ != nullptr, out_of_memory, "libcurl gives no handle");
}

HttpClient::~HttpClient() { curl_easy_cleanup(static_cast<CURL*>(curl_)); }

void HttpClient::hop(Hop& h, const HttpRequest& request, bool with_token) {
  CURL* curl = h.curl;
  curl_easy_reset(curl);
  char why[CURL_ERROR_SIZE] = "";
  auto set = [&](CURLoption option, auto value) {
    HONE_CHECK(curl_easy_setopt(curl, option, value) == CURLE_OK, internal,
               "libcurl refuses its option {}", int(option));
  };
  set(CURLOPT_URL, h.answer.url.c_str());
  set(CURLOPT_ERRORBUFFER, why);
  set(CURLOPT_NOSIGNAL, 1L);
  set(CURLOPT_PROTOCOLS_STR, "http,https");
  set(CURLOPT_FOLLOWLOCATION, 0L);
  set(CURLOPT_NOBODY, request.head ? 1L : 0L);
  set(CURLOPT_USERAGENT, options_.user_agent.c_str());
  set(CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(options_.connect_seconds * 1000));
  set(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
  if (!options_.ca_file.empty()) set(CURLOPT_CAINFO, options_.ca_file.c_str());
  // A small answer has no reason to trickle.
  if (h.receiver == nullptr)
    set(CURLOPT_TIMEOUT_MS, static_cast<long>(options_.stall_seconds * 6000));
  set(CURLOPT_HEADERFUNCTION, &Hop::on_header);
  set(CURLOPT_HEADERDATA, &h);
  set(CURLOPT_WRITEFUNCTION, &Hop::on_body);
  set(CURLOPT_WRITEDATA, &h);
  set(CURLOPT_NOPROGRESS, 0L);
  set(CURLOPT_XFERINFOFUNCTION, &Hop::on_progress);
  set(CURLOPT_XFERINFODATA, &h);
  const std::string range = fmt::format("{}-", request.from);
  if (request.from > 0) set(CURLOPT_RANGE, range.c_str());

  // Compressed lengths are not those that hashes and ranges are of.
  curl_slist* headers = curl_slist_append(nullptr, "Accept-Encoding: identity");
  if (with_token)
    headers = curl_slist_append(headers, ("Authorization: Bearer " + request.token).c_str());
  set(CURLOPT_HTTPHEADER, headers);
  h.stall_seconds = options_.stall_seconds;
  h.quiet_until = monotonic_seconds() + options_.connect_seconds + options_.stall_seconds;
  const CURLcode code = curl_easy_perform(curl);
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, nullptr);
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, nullptr);
  curl_slist_free_all(headers);

  if (h.raised) std::rethrow_exception(h.raised);
  if (code == CURLE_OK || h.enough) return;
  if (h.stalled)
    throw TransferError(fmt::format("{}: nothing came for {}", shown(h.answer.url),
                                    human_seconds(options_.stall_seconds)));
  const std::string message =
      fmt::format("{}: {}", shown(h.answer.url), *why != 0 ? why : curl_easy_strerror(code));
  if (may_help_to_try_again(code)) throw TransferError(message);
  fail(ErrorKind::io, "{}", message);
}

HttpAnswer HttpClient::run(const HttpRequest& request, HttpReceiver* receiver) {
  HttpAnswer answer;
  answer.url = request.url;
  std::string origin = origin_of(request.url);
  bool with_token = !request.token.empty();
  for (int hops = 0;; ++hops) {
    answer.headers.clear();
    answer.body.clear();
    Hop h{answer, request, receiver, static_cast<CURL*>(curl_), options_.stop};
    hop(h, request, with_token);
    h.begin();
    if (!is_redirect(answer.status) || answer.header("location").empty()) return answer;
    Url next;
    HONE_CHECK(next.set(answer.url) && next.set(answer.header("location")), corrupt,
               "{}: redirected to what is no URL", shown(answer.url));
    const std::string url = next.part(CURLUPART_URL);
    HONE_CHECK(is_web(next), corrupt, "{}: redirected to '{}': expected http or https",
               shown(answer.url), shown(url));
    const std::string to = origin_of(url);
    if (to != origin && !request.leave_origin) return answer;
    HONE_CHECK(!(origin.starts_with("https:") && to.starts_with("http:")), io,
               "{}: redirected from https to plain http, which is not followed", shown(answer.url));
    HONE_CHECK(hops < kRedirects, io, "{}: redirected more than {} times", shown(request.url),
               kRedirects);
    if (to != origin) with_token = false;
    origin = to;
    answer.url = url;
  }
}

}  // namespace hone
