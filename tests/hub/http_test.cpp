// One request: redirects and the token, limits, timeouts.
#include "hub/http.h"

#include "base/log.h"
#include "hub/server.h"
#include "testing.h"

namespace hone {
namespace {

using testing::Server;
using testing::ServerAnswer;
using testing::ServerRequest;

HttpOptions quick() {
  HttpOptions o;
  o.connect_seconds = 0.5;
  o.stall_seconds = 1;
  return o;
}

ServerAnswer redirect(const std::string& to, int status = 302) {
  ServerAnswer a;
  a.status = status;
  a.headers = {{"Location", to}};
  return a;
}

HttpAnswer get(const std::string& url, const std::string& token = "", int64_t from = 0) {
  HttpRequest request;
  request.url = url;
  request.token = token;
  request.from = from;
  return HttpClient(quick()).run(request);
}

std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const std::exception& e) {
    return e.what();
  }
  return "";
}

TEST(Http, StatusHeadersAndBody) {
  Server server([](const ServerRequest& r) {
    ServerAnswer a;
    a.status = 404;
    a.headers = {{"X-Error-CODE", " EntryNotFound "}};
    a.body = r.path + r.headers.at("user-agent");
    return a;
  });
  const HttpAnswer a = get(server.url() + "/a%20b");
  EXPECT_EQ(a.status, 404);
  EXPECT_EQ(a.header("x-error-code"), "EntryNotFound");
  EXPECT_EQ(a.body, "/a%20bhone");
}

TEST(Http, TheTokenStaysWithItsOrigin) {
  Server other([](const ServerRequest& r) {
    return r.path == "/back" ? ServerAnswer() : redirect("/again");
  });
  std::string home;
  Server server([&](const ServerRequest& r) -> ServerAnswer {
    if (r.path == "/relative") return redirect("/end");
    if (r.path == "/port") return redirect(other.url() + "/back");
    if (r.path == "/host") return redirect(home + "/end");
    return {};
  });
  home = server.url("localhost");  // the same server, by another name
  get(server.url() + "/relative", "secret");
  for (const ServerRequest& r : server.requests())
    EXPECT_EQ(r.headers.at("authorization"), "Bearer secret") << r.path;
  get(server.url() + "/port", "secret");
  ASSERT_EQ(other.requests().size(), 1u);
  EXPECT_FALSE(other.requests()[0].has("authorization"));
  get(server.url() + "/host", "secret");
  EXPECT_EQ(server.requests().back().path, "/end");
  EXPECT_FALSE(server.requests().back().has("authorization"));
}

TEST(Http, TheTokenDoesNotComeBackWithARedirectHome) {
  std::string home;
  Server other([&](const ServerRequest&) { return redirect(home + "/end"); });
  Server server([&](const ServerRequest& r) -> ServerAnswer {
    return r.path == "/start" ? redirect(other.url() + "/x") : ServerAnswer();
  });
  home = server.url();
  get(home + "/start", "secret");
  ASSERT_EQ(server.requests().size(), 2u);
  EXPECT_TRUE(server.requests()[0].has("authorization"));
  EXPECT_FALSE(server.requests()[1].has("authorization"));
}

TEST(Http, RedirectsEnd) {
  Server server([](const ServerRequest& r) { return redirect(r.path + "x"); });
  EXPECT_NE(error_of([&] { get(server.url() + "/"); }).find("more than 10"), std::string::npos);
  EXPECT_EQ(server.requests().size(), 11u);
}

TEST(Http, RedirectsGoToTheWebAlone) {
  for (const char* to : {"file:///etc/passwd", "gopher://127.0.0.1/", "dict://127.0.0.1:1/"}) {
    Server server([to](const ServerRequest&) { return redirect(to); });
    try {
      get(server.url());
      ADD_FAILURE() << to;
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::corrupt) << to;
      EXPECT_NE(std::string(e.what()).find("expected http"), std::string::npos) << e.what();
    }
  }
}

TEST(Http, ARedirectElsewhereMayBeTheAnswer) {
  Server server([](const ServerRequest&) { return redirect("http://127.0.0.1:1/never"); });
  HttpRequest request;
  request.url = server.url();
  request.leave_origin = false;
  EXPECT_EQ(HttpClient(quick()).run(request).status, 302);
}

TEST(Http, ALargeAnswerIsCutOff) {
  Server server([](const ServerRequest& r) {
    ServerAnswer a;
    a.status = r.path == "/error" ? 500 : 200;
    a.body = std::string(1 << 20, 'x');
    return a;
  });
  HttpRequest request;
  request.url = server.url();
  request.max_body = 1000;
  EXPECT_NE(error_of([&] { HttpClient(quick()).run(request); }).find("more than 1000"),
            std::string::npos);
  request.url += "/error";
  const HttpAnswer a = HttpClient(quick()).run(request);
  EXPECT_EQ(a.status, 500);
  EXPECT_LE(a.body.size(), size_t{64} << 10);
}

TEST(Http, HeadersEnd) {
  Server server([](const ServerRequest&) {
    ServerAnswer a;
    for (int i = 0; i < 5000; ++i)
      a.headers.emplace_back("X-" + std::to_string(i), std::string(90, 'x'));
    return a;
  });
  EXPECT_NE(error_of([&] { get(server.url()); }), "");
}

TEST(Http, WhatBringsNothingMayBeTriedAgain) {
  Server server([](const ServerRequest& r) {
    ServerAnswer a;
    a.body = std::string(1000, 'x');
    if (r.path == "/cut") a.cut_at = 500;
    if (r.path == "/silent") a.wait_seconds = 3;
    if (r.path == "/stall") a.stall_seconds = 3;
    return a;
  });
  const double begun = monotonic_seconds();
  EXPECT_THROW(get(server.url() + "/cut"), TransferError);
  EXPECT_THROW(get(server.url() + "/silent"), TransferError);
  EXPECT_THROW(get(server.url() + "/stall"), TransferError);
  EXPECT_LT(monotonic_seconds() - begun, 9);
  EXPECT_THROW(get("http://127.0.0.1:1/"), TransferError);
}

TEST(Http, AQueryIsNotShown) {
  const std::string error = error_of([] { get("http://127.0.0.1:1/a?Signature=secret"); });
  EXPECT_NE(error.find("127.0.0.1:1/a"), std::string::npos) << error;
  EXPECT_EQ(error.find("secret"), std::string::npos) << error;
}

TEST(Http, OriginsHavePorts) {
  EXPECT_EQ(origin_of("HTTPS://Example.com/a"), "https://example.com:443");
  EXPECT_EQ(origin_of("http://example.com:80"), origin_of("http://EXAMPLE.com/x"));
  EXPECT_NE(origin_of("http://example.com"), origin_of("https://example.com"));
  EXPECT_THROW(origin_of("file:///etc/passwd"), Error);
  EXPECT_THROW(origin_of("nonsense"), Error);
}

}  // namespace
}  // namespace hone
