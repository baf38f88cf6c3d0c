#include "hub/client.h"

#include <curl/curl.h>
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <thread>

#include "base/log.h"
#include "hub/names.h"

namespace hone {
namespace {

HttpOptions http_options(const HubSettings& s, const std::string& version,
                         const std::atomic<bool>* stop) {
  HttpOptions o;
  o.connect_seconds = s.connect_seconds;
  o.stall_seconds = s.stall_seconds;
  o.ca_file = s.ca_file;
  o.user_agent = "hone/" + version;
  o.stop = stop;
  return o;
}

// A whole number in all of `text`, or −1.
int64_t whole_number(const std::string& text) {
  if (text.empty() || text.size() > 18) return -1;
  if (text.find_first_not_of("0123456789") != text.npos) return -1;
  return std::atoll(text.c_str());
}

}  // namespace

bool is_busy(int status) {
  return status == 408 || status == 429 || status == 500 || (status >= 502 && status <= 504);
}

std::optional<double> asked_to_wait(const HttpAnswer& answer) {
  if (const std::string text = answer.header("retry-after"); !text.empty()) {
    if (const int64_t n = whole_number(text); n >= 0) return double(n);
    const time_t date = curl_getdate(text.c_str(), nullptr);
    if (date != -1) return std::max(0.0, std::difftime(date, std::time(nullptr)));
  }
  // "api";r=0;t=17
  const std::string limit = answer.header("ratelimit");
  const size_t t = limit.find(";t=");
  if (answer.status != 429 || t == limit.npos) return {};
  const size_t end = limit.find_first_not_of("0123456789", t + 3);
  const int64_t n = whole_number(limit.substr(t + 3, end == limit.npos ? end : end - t - 3));
  return n >= 0 ? std::optional(double(n)) : std::nullopt;
}

Patience::Patience(const HubSettings& settings, const std::atomic<bool>* stop)
    : settings_(settings), stop_(stop) {}

bool Patience::wait(const std::string& why, std::optional<double> asked) {
  if (++failed_ >= settings_.tries || (stop_ != nullptr && stop_->load())) return false;
  const double own = std::min(settings_.first_wait_seconds * std::ldexp(1.0, failed_ - 1), 60.0);
  const double seconds = std::max(own, asked.value_or(0));
  if (seconds > settings_.longest_wait_seconds) return false;
  log_info("{}; trying again in {}", why, human_seconds(seconds));
  const double until = monotonic_seconds() + seconds;
  for (double left; (left = until - monotonic_seconds()) > 0;) {
    if (stop_ != nullptr && stop_->load()) return false;
    std::this_thread::sleep_for(std::chrono::duration<double>(std::min(left, 0.05)));
  }
  return true;
}

HubClient::HubClient(const HubSettings& settings, std::string repository,
                     const std::string& version, const std::atomic<bool>* stop)
    : settings_(settings),
      repository_(std::move(repository)),
      stop_(stop),
      http_(http_options(settings, version, stop)) {
  check_repository_name(repository_);
}

HttpAnswer HubClient::ask(HttpRequest request) {
  request.token = settings_.token;
  Patience patience(settings_, stop_);
  while (true) {
    try {
      HttpAnswer answer = http_.run(request);
      const std::string why = fmt::format("{}: status {}", settings_.endpoint, answer.status);
      if (!is_busy(answer.status) || !patience.wait(why, asked_to_wait(answer))) return answer;
    } catch (const TransferError& e) {
      if (!patience.wait(e.what())) throw;
    }
  }
}

HubListing HubClient::listing(const std::string& revision) {
  check_revision(revision);
  HttpRequest request;
  request.url = fmt::format("{}/api/models/{}/revision/{}", settings_.endpoint,
                            url_encoded(repository_, true), url_encoded(revision, false));
  const HttpAnswer answer = ask(request);
  if (answer.status != 200) refuse(answer, revision, "");
  return parse_hub_listing(answer.body, repository_);
}

std::string HubClient::file_url(const std::string& commit, const std::string& name) const {
  return fmt::format("{}/{}/resolve/{}/{}", settings_.endpoint, url_encoded(repository_, true),
                     url_encoded(commit, false), url_encoded(name, true));
}

RemoteFile HubClient::file(const std::string& commit, const std::string& name) {
  HttpRequest request;
  request.url = file_url(commit, name);
  request.head = true;
  request.leave_origin = false;  // the hub says what the file is, not where its bytes lie
  const HttpAnswer answer = ask(request);
  const std::string source = repository_ + "/" + name;
  std::string etag = answer.linked_header("x-linked-etag");
  if (etag.empty()) etag = answer.header("etag");
  const bool moved = answer.status >= 300 && answer.status < 400 && !etag.empty();
  if (answer.status != 200 && !moved) refuse(answer, commit, name);
  const std::string at = answer.linked_header("x-repo-commit");
  HONE_CHECK(at.empty() || at == commit, corrupt, "{}: asked for commit {}, got {}", source, commit,
             one_line(at));
  HONE_CHECK(!etag.empty(), corrupt, "{}: the hub names no etag, the file's hash", source);
  RemoteFile file{name, blob_name(etag, source)};
  std::string size = answer.linked_header("x-linked-size");
  if (size.empty() && answer.status == 200) size = answer.header("content-length");
  file.size = whole_number(size);
  HONE_CHECK(size.empty() || (file.size >= 0 && file.size <= kMostBytes), corrupt,
             "{}: the hub says the size is '{}'", source, one_line(size));
  return file;
}

HttpAnswer HubClient::fetch(const std::string& commit, const std::string& name, int64_t from,
                            HttpReceiver& receiver) {
  HttpRequest request;
  request.url = file_url(commit, name);
  request.token = settings_.token;
  request.from = from;
  HttpAnswer answer = http_.run(request, &receiver);
  // 416: there is nothing behind `from`.
  const bool good = (answer.status >= 200 && answer.status < 300) || answer.status == 416;
  if (!good && !is_busy(answer.status)) refuse(answer, commit, name);
  return answer;
}

void HubClient::refuse(const HttpAnswer& answer, const std::string& revision,
                       const std::string& file) const {
  const std::string& hub = settings_.endpoint;
  const std::string code = answer.header("x-error-code");
  const std::string said = one_line(answer.header("x-error-message"));
  const std::string what = file.empty() ? repository_ : repository_ + "/" + file;
  const bool has_token = !settings_.token.empty();
  const int status = answer.status;
  const std::string token_page = hub + "/settings/tokens";
  const auto io = ErrorKind::io;
  if (code == "GatedRepo" && !has_token)
    fail(io, "{} is gated: accept its terms at {}/{}, then set HF_TOKEN to a token of {}",
         repository_, hub, repository_, token_page);
  if (code == "GatedRepo")
    fail(io, "{} is gated, and the token that was sent has no access: ask for it at {}/{}",
         repository_, hub, repository_);
  if (code == "RevisionNotFound")
    fail(io, "{} has no revision '{}'", repository_, one_line(revision));
  if (code == "EntryNotFound") fail(io, "{}: no such file at {}", what, one_line(revision));
  if (code == "DisabledRepo") fail(io, "{} has been disabled by the hub", repository_);
  if (status == 401 && !has_token)
    fail(io,
         "{}: no such model at {}, or it is private: check the name, or set HF_TOKEN to a token "
         "of {}",
         repository_, hub, token_page);
  if (status == 401)
    fail(io, "{}: no such model at {}, or the token that was sent is not valid or has no access",
         repository_, hub);
  if (status == 403)
    fail(io, "{}: access is refused{}{}", what, said.empty() ? "" : ": ",
         said.empty() ? (has_token ? " to the token that was sent" : "; HF_TOKEN is not set")
                      : said);
  if (status == 404) fail(io, "{}: no such model at {}", what, hub);
  if (is_busy(status)) {
    const auto wait = asked_to_wait(answer);
    fail(io, "{}: {} is busy (status {}){}; what has come is kept, try again later", what, hub,
         status, wait ? fmt::format(" and asks to wait {}", human_seconds(*wait)) : "");
  }
  fail(io, "{}: {} answers with status {}{}{}", what, hub, status, said.empty() ? "" : ": ", said);
}

}  // namespace hone
