// Models by name: what of the cache a name of a command means.
#include "hub/cache.h"

#include <sys/file.h>

#include "base/error.h"
#include "base/files.h"
#include "testing.h"

namespace hone {
namespace {

using testing::put_file;
using testing::TemporaryDirectory;

const std::string kCommit(40, 'a'), kOther(40, 'b');

struct Cache : ::testing::Test {
  void add(const std::string& repository, const std::string& commit, const std::string& file) {
    const HubCache cache(root, repository);
    fs::create_directories(cache.folder() / "blobs");
    put_file(cache.blob("e"), "x");
    cache.link(commit, file, "e");
  }
  fs::path snapshot(const std::string& commit) const {
    return HubCache(root, "org/name").snapshot(commit);
  }
  std::string refusal(const std::string& name) const {
    try {
      pulled_model(root, name);
    } catch (const Error& e) {
      return e.what();
    }
    ADD_FAILURE() << "no refusal of " << name;
    return "";
  }
  void expect(const std::string& text, const std::string& part) const {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  }
  TemporaryDirectory scratch;
  fs::path root = scratch / "hub";
};

TEST_F(Cache, ANameMeansADirectoryOrItsOnlyGguf) {
  add("org/name", kCommit, "config.json");
  HubCache(root, "org/name").set_commit("main", kCommit);
  EXPECT_EQ(pulled_model(root, "org/name"), snapshot(kCommit));
  EXPECT_EQ(pulled_model(root, "org/name@main"), snapshot(kCommit));
  EXPECT_EQ(pulled_model(root, "org/name@" + kCommit), snapshot(kCommit));
  EXPECT_EQ(pulled_model(root, "org/name/config.json"), snapshot(kCommit) / "config.json");
  add("org/name", kOther, "sub/m-00001-of-00002.gguf");
  add("org/name", kOther, "sub/m-00002-of-00002.gguf");
  HubCache(root, "org/name").set_commit("refs/pr/1", kOther);
  EXPECT_EQ(pulled_model(root, "org/name@refs%2Fpr%2F1"),
            snapshot(kOther) / "sub/m-00001-of-00002.gguf");
  add("org/name", kOther, "n.gguf");
  expect(refusal("org/name@" + kOther), "/n.gguf");
  EXPECT_EQ(pulled_model(root, "org/name@" + kOther + "/n.gguf"), snapshot(kOther) / "n.gguf");
}

TEST_F(Cache, WhatIsNotThereIsToBePulled) {
  expect(refusal("org/name"), "hone pull org/name ");
  expect(refusal("org/name@v1"), "hone pull org/name --revision v1");
  add("org/name", kCommit, "config.json");
  HubCache(root, "org/name").set_commit("v1", kCommit);
  expect(refusal("org/name"), "org/name@v1");
  expect(refusal("org/name@v1/m.gguf"), "--include 'm.gguf'");
}

TEST_F(Cache, OtherNamesAreNoneOfItsBusiness) {
  for (const char* name : {"gpt2", "./org/name", "../x", "/org/name", "a/b/c", "a/b/c.gguf", "",
                           "x.gguf", "a b/c", "org/name/../x", "org/"})
    EXPECT_FALSE(pulled_model(root, name)) << name;
  add("gpt2", kCommit, "config.json");
  HubCache(root, "gpt2").set_commit("main", kCommit);
  EXPECT_TRUE(pulled_model(root, "gpt2"));
}

TEST_F(Cache, RefsAreRewrittenAndCommitsNeedNone) {
  const HubCache cache(root, "org/name");
  EXPECT_FALSE(cache.commit_of("main"));
  cache.set_commit("main", kCommit);
  EXPECT_EQ(cache.commit_of("main"), kCommit);
  cache.set_commit("main", kOther);
  EXPECT_EQ(read_text_file(cache.folder() / "refs/main"), kOther);
  cache.set_commit(kOther, kOther);
  EXPECT_EQ(cache.revisions(), (std::vector<std::string>{"main"}));
  EXPECT_EQ(cache.commit_of(kCommit), kCommit);
  put_file(cache.folder() / "refs/main", "../../../x");
  EXPECT_THROW(cache.commit_of("main"), Error);
}

TEST_F(Cache, ALockIsWaitedFor) {
  const fs::path path = HubCache(root, "org/name").lock("e");
  EXPECT_EQ(path, root / ".locks/models--org--name/e.lock");
  const HubLock held(path, "file", nullptr);
  std::atomic<bool> stop{true};
  EXPECT_THROW(HubLock(path, "file", &stop), Error);
}

}  // namespace
}  // namespace hone
