// What may be a repository, a file of one, a revision and a blob; and the environment's variables.
#include "hub/names.h"

#include "base/error.h"
#include "base/files.h"
#include "hub/settings.h"
#include "testing.h"

namespace hone {
namespace {

using testing::put_file;
using testing::TemporaryDirectory;

TEST(Names, Repositories) {
  for (const char* good : {"gpt2", "org/name", "HuggingFaceTB/SmolLM2-135M-Instruct", "a/b.c_d-1"})
    EXPECT_TRUE(is_repository_name(good)) << good;
  for (const char* bad : {"", "/", "a/", "/a", "a/b/c", "..", "a/..", "../a", "./a", "a/.b", "-a/b",
                          "a/b-", "a--b/c", "a/b..c", "a b/c", "a/b.git", "a\\b", "a/b?", "~/a"})
    EXPECT_FALSE(is_repository_name(bad)) << bad;
  EXPECT_FALSE(is_repository_name(std::string(97, 'a')));
  EXPECT_FALSE(is_repository_name(std::string("a\0b", 3)));
}

TEST(Names, FilesStayBelowTheirDirectory) {
  for (const char* good : {"a", "a/b/c.txt", ".gitattributes", "a..b", "...", "über.txt", "a b"})
    EXPECT_TRUE(is_safe_path(good)) << good;
  for (const char* bad : {"", "/a", "a/", "a//b", ".", "..", "../a", "a/..", "a/../b", "a/./b",
                          "..\\a", "a\\b", "a\nb", "\x7f"})
    EXPECT_FALSE(is_safe_path(bad)) << bad;
  EXPECT_FALSE(is_safe_path(std::string("a\0b", 3)));
  EXPECT_FALSE(is_safe_path(std::string(256, 'a')));
  EXPECT_FALSE(is_safe_path(std::string(4001, '/')));
  EXPECT_THROW(check_file_name("../x", "org/name"), Error);
  EXPECT_THROW(check_revision("../../x"), Error);
  EXPECT_NO_THROW(check_revision("refs/pr/1"));
}

TEST(Names, BlobsAreNamedByEtags) {
  EXPECT_EQ(blob_name("\"abc-1\"", "f"), "abc-1");
  EXPECT_EQ(blob_name("W/\"abc\"", "f"), "abc");
  EXPECT_EQ(blob_name("abc", "f"), "abc");
  for (const char* bad : {"", "\"\"", "\"../x\"", "a/b", ".", "a.incomplete", "\"a b\""})
    EXPECT_THROW(blob_name(bad, "f"), Error) << bad;
  EXPECT_THROW(blob_name(std::string(129, 'a'), "f"), Error);
}

TEST(Names, CommitsAreFortyDigits) {
  EXPECT_TRUE(is_commit(std::string(40, 'a')));
  EXPECT_FALSE(is_commit(std::string(40, 'g')));
  EXPECT_FALSE(is_commit(std::string(40, 'A')));
  EXPECT_FALSE(is_commit(std::string(39, 'a')));
  EXPECT_FALSE(is_commit("main"));
}

TEST(Names, InUrlsAndMessages) {
  EXPECT_EQ(url_encoded("refs/pr/1", false), "refs%2Fpr%2F1");
  EXPECT_EQ(url_encoded("a b/ü#?%.txt", true), "a%20b/%C3%BC%23%3F%25.txt");
  EXPECT_EQ(one_line("a\nb\x1b[31m"), "a?b?[31m");
  EXPECT_EQ(one_line(std::string(300, 'x')).size(), 203u);
}

struct Settings : ::testing::Test {
  HubSettings read() const {
    return HubSettings::from_environment([this](const char* name) -> const char* {
      auto it = variables.find(name);
      return it == variables.end() ? nullptr : it->second.c_str();
    });
  }
  TemporaryDirectory scratch;
  std::map<std::string, std::string> variables{{"HOME", scratch.path().string()}};
};

TEST_F(Settings, CacheAsHuggingFaceFindsIt) {
  const fs::path home = scratch.path();
  EXPECT_EQ(read().cache, home / ".cache/huggingface/hub");
  variables["XDG_CACHE_HOME"] = "/x";
  EXPECT_EQ(read().cache, "/x/huggingface/hub");
  variables["HF_HOME"] = "~/hf";
  EXPECT_EQ(read().cache, home / "hf/hub");
  variables["HUGGINGFACE_HUB_CACHE"] = "/old";
  EXPECT_EQ(read().cache, "/old");
  variables["HF_HUB_CACHE"] = "/new";
  EXPECT_EQ(read().cache, "/new");
}

TEST_F(Settings, Endpoint) {
  EXPECT_EQ(read().endpoint, "https://huggingface.co");
  variables["HF_ENDPOINT"] = "http://127.0.0.1:80/hub//";
  EXPECT_EQ(read().endpoint, "http://127.0.0.1:80/hub");
  for (const char* bad : {"huggingface.co", "ftp://h", "file:///etc", "https://a b", "https://h?x",
                          "https://u:p@h", "https://h\nX: y"}) {
    variables["HF_ENDPOINT"] = bad;
    EXPECT_THROW(read(), Error) << bad;
  }
}

TEST_F(Settings, TokenFromTheVariableOrTheFile) {
  EXPECT_EQ(read().token, "");
  fs::create_directories(scratch / ".cache/huggingface");
  put_file(scratch / ".cache/huggingface/token", "hf_file\n");
  EXPECT_EQ(read().token, "hf_file");
  put_file(scratch / "named", " hf_named\r\n");
  variables["HF_TOKEN_PATH"] = (scratch / "named").string();
  EXPECT_EQ(read().token, "hf_named");
  variables["HF_TOKEN"] = "hf_env";
  EXPECT_EQ(read().token, "hf_env");
  variables["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1";
  EXPECT_EQ(read().token, "");
}

TEST_F(Settings, ATokenThatWouldBeTwoHeadersIsRefusedAndNotShown) {
  variables["HF_TOKEN"] = "hf_secret\nX-Other: 1";
  try {
    read();
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(std::string(e.what()).find("secret"), std::string::npos);
    EXPECT_NE(std::string(e.what()).find("HF_TOKEN"), std::string::npos);
  }
}

TEST_F(Settings, OfflineAndTimeouts) {
  EXPECT_FALSE(read().offline);
  for (const char* yes : {"1", "true", "YES", "On"}) {
    variables["HF_HUB_OFFLINE"] = yes;
    EXPECT_TRUE(read().offline) << yes;
  }
  variables["HF_HUB_OFFLINE"] = "0";
  EXPECT_FALSE(read().offline);
  variables["HF_HUB_DOWNLOAD_TIMEOUT"] = "30";
  variables["HF_HUB_ETAG_TIMEOUT"] = "2.5";
  EXPECT_EQ(read().stall_seconds, 30);
  EXPECT_EQ(read().connect_seconds, 2.5);
  for (const char* bad : {"x", "-1", "0", "nan", "1e9", "1 s"}) {
    variables["HF_HUB_DOWNLOAD_TIMEOUT"] = bad;
    EXPECT_THROW(read(), Error) << bad;
  }
}

}  // namespace
}  // namespace hone
