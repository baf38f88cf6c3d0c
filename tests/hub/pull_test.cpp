// Whole pulls from a hub that behaves, and from one that does not.
#include "hub/pull.h"

#include <openssl/evp.h>

#include "base/files.h"
#include "base/log.h"
#include "hub/fake_hub.h"

namespace hone {
namespace {

using testing::FakeHub;
using testing::hash_of;
using testing::put_file;
using testing::Server;
using testing::ServerAnswer;
using testing::ServerRequest;

const std::string kModel = "model.safetensors";

struct Pull : ::testing::Test {
  Pull() : settings(hub.settings()) {
    options.name = hub.name;
    options.version = "test";
    set_log_level(LogLevel::quiet);
  }
  ~Pull() override { set_log_level(LogLevel::info); }

  Pulled pull() { return pull_model(settings, options); }
  std::string refusal() {
    try {
      pull();
    } catch (const Error& e) {
      return e.what();
    }
    ADD_FAILURE() << "no refusal";
    return "";
  }
  void expect_refusal(const std::vector<std::string>& parts) {
    const std::string error = refusal();
    for (const std::string& part : parts)
      EXPECT_NE(error.find(part), std::string::npos) << "no '" << part << "' in: " << error;
    EXPECT_LT(error.size(), 900u);
  }
  HubCache cache() const { return HubCache(settings.cache, hub.name); }
  void expect_all_there() {
    const fs::path snapshot = cache().snapshot(hub.commit);
    for (const auto& [name, bytes] : hub.files) {
      EXPECT_EQ(read_text_file(snapshot / name), bytes) << name;
      EXPECT_TRUE(fs::is_symlink(snapshot / name)) << name;
      EXPECT_TRUE(fs::read_symlink(snapshot / name).is_relative()) << name;
      EXPECT_EQ(fs::read_symlink(snapshot / name).filename(), hub.etag(name)) << name;
    }
    EXPECT_EQ(read_text_file(cache().folder() / "refs" / "main"), hub.commit);
    expect_nothing_half();
  }
  void expect_nothing_half() {
    if (!fs::exists(settings.cache)) return;
    for (const auto& e : fs::recursive_directory_iterator(settings.cache)) {
      EXPECT_EQ(e.path().string().find(".incomplete"), std::string::npos) << e.path();
      EXPECT_EQ(e.path().string().find(".hone-"), std::string::npos) << e.path();
    }
  }
  // Spoils the first answer of the CDN only.
  void spoil_first(const std::function<void(ServerAnswer&)>& spoil) {
    hub.spoil_cdn = [this, spoil](const ServerRequest&, ServerAnswer& a) {
      if (hub.cdn.requests().size() == 1) spoil(a);
    };
  }

  FakeHub hub;
  HubSettings settings;
  PullOptions options;
};

TEST_F(Pull, FetchesAllFilesAndNothingTwice) {
  const Pulled p = pull();
  EXPECT_EQ(p.commit, hub.commit);
  EXPECT_EQ(p.snapshot, cache().snapshot(hub.commit));
  EXPECT_EQ(p.bytes(), p.fetched());
  EXPECT_EQ(p.files.size(), hub.files.size());
  expect_all_there();
  const size_t before = hub.hub.requests().size();
  const Pulled again = pull();
  EXPECT_EQ(again.fetched(), 0);
  EXPECT_EQ(again.bytes(), p.bytes());
  for (const PulledFile& f : again.files) EXPECT_TRUE(f.cached) << f.name;
  EXPECT_EQ(hub.hub.requests().size(), before + 1);
  EXPECT_EQ(hub.cdn.requests().size(), 1u);
}

TEST_F(Pull, TakesTheFilesThatAreAskedFor) {
  options.include = {"*.json", "sub/"};
  options.exclude = {"*notes*"};
  EXPECT_EQ(pull().files.size(), 1u);
  EXPECT_EQ(hub.cdn.requests().size(), 0u);
}

TEST_F(Pull, ADryRunFetchesAndWritesNothing) {
  options.dry_run = true;
  const Pulled p = pull();
  EXPECT_EQ(p.files.size(), hub.files.size());
  EXPECT_EQ(p.bytes(), 300000 + std::ssize(hub.files["config.json"]) + 6);
  EXPECT_EQ(hub.hub.count("GET", "resolve"), 0);
  EXPECT_FALSE(fs::exists(settings.cache));
}

TEST_F(Pull, OtherRevisionsHaveTheirOwnNames) {
  options.revision = "refs/pr/1";
  pull();
  EXPECT_EQ(read_text_file(cache().folder() / "refs/refs/pr/1"), hub.commit);
  EXPECT_FALSE(fs::exists(cache().folder() / "refs/main"));
  options.revision = hub.commit;
  EXPECT_EQ(pull().fetched(), 0);
  EXPECT_FALSE(fs::exists(cache().folder() / "refs" / hub.commit));
}

TEST_F(Pull, EqualFilesAreOneBlob) {
  hub.files["copy.safetensors"] = hub.files[kModel];
  pull();
  expect_all_there();
  EXPECT_EQ(hub.cdn.requests().size(), 1u);
}

TEST_F(Pull, TheTokenGoesToTheHubAlone) {
  hub.token = settings.token = "hf_secret";
  pull();
  expect_all_there();
  ASSERT_EQ(hub.cdn.requests().size(), 1u);
  EXPECT_FALSE(hub.cdn.requests()[0].has("authorization"));
  for (const ServerRequest& r : hub.cdn.requests())
    for (const auto& [name, value] : r.headers)
      EXPECT_EQ(value.find("hf_secret"), std::string::npos) << name;
}

TEST_F(Pull, ADroppedConnectionIsResumedWhereItBroke) {
  spoil_first([](ServerAnswer& a) { a.cut_at = 100000; });
  const Pulled p = pull();
  expect_all_there();
  EXPECT_EQ(p.fetched(), p.bytes());
  ASSERT_EQ(hub.cdn.requests().size(), 2u);
  EXPECT_EQ(hub.cdn.requests()[1].from, 100000);
}

TEST_F(Pull, AStalledServerIsAskedAgain) {
  spoil_first([](ServerAnswer& a) { a.stall_seconds = 3; });
  pull();
  expect_all_there();
  EXPECT_GT(hub.cdn.requests()[1].from, 0);
}

TEST_F(Pull, AnotherRunsBeginningIsUsed) {
  const fs::path half = cache().incomplete(hub.etag(kModel));
  fs::create_directories(half.parent_path());
  put_file(half, hub.files[kModel].substr(0, 250000));
  const Pulled p = pull();
  expect_all_there();
  EXPECT_EQ(hub.cdn.requests()[0].from, 250000);
  EXPECT_EQ(p.fetched(), p.bytes() - 250000);
}

TEST_F(Pull, ACompleteBeginningNeedsNoRequest) {
  const fs::path half = cache().incomplete(hub.etag(kModel));
  fs::create_directories(half.parent_path());
  put_file(half, hub.files[kModel]);
  pull();
  expect_all_there();
  EXPECT_EQ(hub.cdn.requests().size(), 0u);
}

TEST_F(Pull, AWrongBeginningIsThrownAway) {
  const fs::path half = cache().incomplete(hub.etag(kModel));
  fs::create_directories(half.parent_path());
  for (const size_t size : {1000u, 400000u}) {
    put_file(half, std::string(size, 'x'));
    pull();
    expect_all_there();
    fs::remove_all(settings.cache / "models--org--name");
    fs::create_directories(half.parent_path());
  }
}

TEST_F(Pull, AServerThatIgnoresRangesBeginsAgain) {
  hub.spoil_cdn = [this](const ServerRequest&, ServerAnswer& a) {
    a.status = 200;
    a.headers.clear();
    a.body = hub.files[kModel];
    if (hub.cdn.requests().size() == 1) a.cut_at = 200000;
  };
  const Pulled p = pull();
  expect_all_there();
  EXPECT_EQ(p.fetched(), p.bytes() + 200000);
}

TEST_F(Pull, AServerThatIgnoresRangesAndAlwaysBreaksIsGivenUp) {
  hub.spoil_cdn = [this](const ServerRequest&, ServerAnswer& a) {
    a = {};
    a.body = hub.files[kModel];
    a.cut_at = 200000;
  };
  expect_refusal({kModel, "200000", "kept"});
  EXPECT_EQ(hub.cdn.requests().size(), size_t(settings.tries));
}

TEST_F(Pull, ARangeFromElsewhereIsRefused) {
  hub.spoil_cdn = [this](const ServerRequest&, ServerAnswer& a) {
    if (hub.cdn.requests().size() == 1) a.cut_at = 1000;
    for (auto& [name, value] : a.headers)
      if (name == "Content-Range") value = "bytes 0-299999/300000";
  };
  expect_refusal({kModel, "from 1000 on"});
}

TEST_F(Pull, WrongBytesAreFetchedOnceMoreAndThenRefused) {
  spoil_first([](ServerAnswer& a) { a.body[7] ^= 1; });
  pull();
  expect_all_there();
  fs::remove_all(settings.cache);
  hub.spoil_cdn = [](const ServerRequest&, ServerAnswer& a) { a.body[7] ^= 1; };
  expect_refusal({kModel, "hash", hub.etag(kModel)});
  EXPECT_EQ(hub.cdn.requests().size(), 4u);
  expect_nothing_half();
  EXPECT_FALSE(fs::exists(cache().blob(hub.etag(kModel))));
  EXPECT_FALSE(fs::exists(cache().snapshot(hub.commit) / kModel));
  EXPECT_FALSE(fs::exists(cache().folder() / "refs/main"));
}

TEST_F(Pull, SmallFilesAreCheckedToo) {
  hub.spoil_hub = [](const ServerRequest& r, ServerAnswer& a) {
    if (r.path.ends_with("notes.txt")) a.body = "notez\n";
  };
  expect_refusal({"sub/notes.txt", "hash"});
}

TEST_F(Pull, AnEtagThatIsNoHashIsTakenAsAName) {
  hub.spoil_hub = [](const ServerRequest& r, ServerAnswer& a) {
    for (auto& [name, value] : a.headers)
      if (name == "ETag" && r.path.ends_with("notes.txt")) value = "W/\"v1-42\"";
  };
  pull();
  EXPECT_EQ(read_text_file(cache().blob("v1-42")), "notes\n");
}

TEST_F(Pull, AWrongLengthIsRefused) {
  // Too long: ended at the first byte too many, whatever else would come.
  hub.spoil_cdn = [](const ServerRequest&, ServerAnswer& a) { a.body += "more"; };
  expect_refusal({kModel, "more than the 300000"});
  // Too short, and the server thinks that is all.
  hub.spoil_cdn = [](const ServerRequest& r, ServerAnswer& a) {
    if (r.from == 0) a.body.resize(299999);
    if (r.from > 0) a.status = 503;
  };
  fs::remove_all(settings.cache);
  expect_refusal({kModel, "503"});
  hub.spoil_cdn = nullptr;
  pull();
  expect_all_there();
}

TEST_F(Pull, ABusyServerIsWaitedForAsItAsks) {
  for (const int status : {429, 503, 500}) {
    fs::remove_all(settings.cache);
    std::atomic<int> left{2};
    hub.spoil_hub = [&](const ServerRequest&, ServerAnswer& a) {
      if (left-- <= 0) return;
      a = {};
      a.status = status;
      a.headers = {{"Retry-After", left == 1 ? "1" : "0"}};
    };
    const double begun = monotonic_seconds();
    pull();
    expect_all_there();
    EXPECT_GE(monotonic_seconds() - begun, 1);
  }
}

TEST_F(Pull, ABusyServerIsNotWaitedForWithoutEnd) {
  hub.spoil_hub = [](const ServerRequest&, ServerAnswer& a) {
    a = {};
    a.status = 503;
  };
  expect_refusal({"busy", "503"});
  EXPECT_EQ(hub.hub.requests().size(), size_t(settings.tries));
  hub.spoil_hub = [](const ServerRequest&, ServerAnswer& a) {
    a = {};
    a.status = 429;
    a.headers = {{"Retry-After", "3600"}};
  };
  expect_refusal({"busy", "429", "1 h"});
  EXPECT_EQ(hub.hub.requests().size(), size_t(settings.tries) + 1);
}

TEST_F(Pull, ACdnThatNeverAnswersKeepsWhatCame) {
  hub.spoil_cdn = [](const ServerRequest& r, ServerAnswer& a) {
    a.cut_at = r.from == 0 ? 5000 : 0;
  };
  expect_refusal({kModel, "5000", "kept"});
  EXPECT_EQ(fs::file_size(cache().incomplete(hub.etag(kModel))), 5000u);
  EXPECT_FALSE(fs::exists(cache().folder() / "refs/main"));
  hub.spoil_cdn = nullptr;
  pull();
  expect_all_there();
}

TEST_F(Pull, RefusalsSayWhatToDo) {
  struct Case {
    int status;
    const char *code, *token;
    std::vector<std::string> parts;
  };
  const std::vector<Case> cases = {
      {401, "GatedRepo", "", {"gated", "terms", "HF_TOKEN"}},
      {403, "GatedRepo", "hf_x", {"gated", "no access", hub.name}},
      {401, "RepoNotFound", "", {"no such model", "private", "HF_TOKEN"}},
      {401, "", "hf_x", {"token", "not valid"}},
      {403, "", "hf_x", {"refused", "because\?"}},
      {404, "RevisionNotFound", "", {"no revision 'main'"}},
      {404, "RepoNotFound", "", {"no such model"}},
      {404, "", "", {"no such model"}},
      {451, "", "", {"451", "because\?"}},
      {418, "", "", {"418"}},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(fmt::format("{} {}", c.status, c.code));
    settings.token = c.token;
    hub.spoil_hub = [&](const ServerRequest&, ServerAnswer& a) {
      a = {};
      a.status = c.status;
      a.headers = {{"X-Error-Code", c.code}, {"X-Error-Message", "because\x1b"}};
    };
    expect_refusal(c.parts);
  }
  EXPECT_FALSE(fs::exists(settings.cache));
}

TEST_F(Pull, AnUnknownRevisionIsNamed) {
  options.revision = "v9";
  expect_refusal({"no revision 'v9'"});
  options.revision = "../../x";
  expect_refusal({"no revision"});
}

TEST_F(Pull, UnsafeNamesWriteNothing) {
  for (const std::string& bad :
       {std::string("../../../../escaped"), std::string("/tmp/escaped"),
        std::string("a/../../../../escaped"), std::string("esc\0aped", 8)}) {
    hub.files[bad] = "x";
    expect_refusal({"not safe"});
    hub.files.erase(bad);
  }
  EXPECT_FALSE(fs::exists(settings.cache));
}

TEST_F(Pull, UnsafeCommitsAndEtagsWriteNothing) {
  hub.spoil_hub = [](const ServerRequest& r, ServerAnswer& a) {
    if (r.path.starts_with("/api/")) a.body = R"({"sha": "../../../x", "siblings": []})";
  };
  expect_refusal({"no commit"});
  hub.spoil_hub = [](const ServerRequest&, ServerAnswer& a) {
    for (auto& [name, value] : a.headers)
      if (name == "ETag" || name == "X-Linked-Etag") value = "\"../../escaped\"";
  };
  expect_refusal({"etag"});
  hub.spoil_hub = [](const ServerRequest&, ServerAnswer& a) {
    for (auto& [name, value] : a.headers)
      if (name == "X-Repo-Commit") value = std::string(40, 'f');
  };
  expect_refusal({"commit"});
  EXPECT_FALSE(fs::exists(settings.cache / ".." / "escaped"));
}

TEST_F(Pull, AHugeListIsCutOff) {
  hub.spoil_hub = [](const ServerRequest& r, ServerAnswer& a) {
    if (r.path.starts_with("/api/")) a.body = std::string(70 << 20, ' ');
  };
  expect_refusal({"more than"});
  hub.spoil_hub = [](const ServerRequest& r, ServerAnswer& a) {
    if (r.path.starts_with("/api/")) a.body = std::string(1 << 20, '[');
  };
  expect_refusal({hub.name});
}

TEST_F(Pull, MoreThanTheDiskHoldsIsRefusedBeforehand) {
  hub.spoil_hub = [](const ServerRequest&, ServerAnswer& a) {
    for (auto& [name, value] : a.headers)
      if (name == "X-Linked-Size") value = "1000000000000000";
  };
  expect_refusal({"to fetch", "free in"});
  EXPECT_EQ(hub.cdn.requests().size(), 0u);
}

TEST_F(Pull, SizesThatNoHubHoldsAreRefused) {
  std::string size = "1125899906842625";
  hub.spoil_hub = [&](const ServerRequest&, ServerAnswer& a) {
    for (auto& [name, value] : a.headers)
      if (name == "X-Linked-Size") value = size;
  };
  options.dry_run = true;
  expect_refusal({kModel, "the size is '1125899906842625'"});
  size = "1125899906842624";  // alone it would do
  expect_refusal({hub.name, "more than"});
}

TEST_F(Pull, ARenamedRepositoryIsFollowed) {
  hub.spoil_hub = [this](const ServerRequest& r, ServerAnswer& a) {
    const size_t at = r.path.find("old/name");
    if (at == std::string::npos) return;
    a = {};
    a.status = 307;
    a.headers = {{"Location", std::string(r.path).replace(at, 8, hub.name)}};
  };
  options.name = "old/name";
  hub.token = settings.token = "hf_x";
  pull();
  EXPECT_EQ(read_text_file(HubCache(settings.cache, "old/name").snapshot(hub.commit) / kModel),
            hub.files[kModel]);
}

TEST_F(Pull, OfflineTheCacheIsAllThereIs) {
  settings.offline = true;
  expect_refusal({"not in the cache", "HF_HUB_OFFLINE"});
  settings.offline = false;
  pull();
  settings.offline = true;
  const size_t before = hub.hub.requests().size();
  const Pulled p = pull();
  EXPECT_EQ(p.snapshot, cache().snapshot(hub.commit));
  ASSERT_EQ(p.files.size(), hub.files.size());
  for (const PulledFile& f : p.files) {
    ASSERT_TRUE(hub.files.contains(f.name)) << f.name;
    EXPECT_EQ(f.size, std::ssize(hub.files[f.name])) << f.name;
  }
  EXPECT_EQ(hub.hub.requests().size(), before);
}

TEST_F(Pull, DamageInTheCacheIsFoundAndMended) {
  pull();
  const fs::path blob = cache().blob(hub.etag(kModel));
  std::string bytes = hub.files[kModel];
  bytes[0] ^= 1;
  put_file(blob, bytes);
  EXPECT_EQ(pull().fetched(), 0);
  options.verify = options.dry_run = true;
  EXPECT_EQ(pull().fetched(), 0);
  EXPECT_EQ(read_text_file(blob), bytes);
  options.dry_run = false;
  EXPECT_EQ(pull().fetched(), 300000);
  expect_all_there();
  EXPECT_EQ(pull().fetched(), 0);
  // A blob that is gone or of another size is noticed unasked.
  options.verify = false;
  fs::remove(blob);
  EXPECT_EQ(pull().fetched(), 300000);
  expect_all_there();
}

TEST_F(Pull, TwoAtOnceFetchOnce) {
  hub.spoil_cdn = [](const ServerRequest&, ServerAnswer& a) { a.stall_seconds = 0.3; };
  std::thread other([this] { pull_model(settings, options); });
  pull();
  other.join();
  expect_all_there();
  EXPECT_EQ(hub.cdn.requests().size(), 1u);
}

TEST_F(Pull, ALinkInTheWayIsNotFollowed) {
  const fs::path half = cache().incomplete(hub.etag(kModel));
  fs::create_directories(half.parent_path());
  put_file(hub.scratch / "mine", "mine");
  fs::create_symlink(hub.scratch / "mine", half);
  expect_refusal({".incomplete"});
  EXPECT_EQ(read_text_file(hub.scratch / "mine"), "mine");
}

}  // namespace
}  // namespace hone
