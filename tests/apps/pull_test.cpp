// hone pull as a command, and pulled names in place of paths.
#include <nlohmann/json.hpp>

#include "apps/command.h"
#include "hub/fake_hub.h"

namespace hone::testing {
namespace {

// A hub with a tiny model, and the environment that leads to it.
struct PullCommand : ::testing::Test {
  PullCommand() {
    TinyModel().write(scratch / "model");
    hub.files.clear();
    for (const std::string& name : names_below(scratch / "model"))
      hub.files[name] = read_bytes(scratch / "model" / name);
    set("HF_ENDPOINT", hub.hub.url());
    set("HF_HOME", (scratch / "home").string());
    set("HF_HUB_DOWNLOAD_TIMEOUT", "2");
    for (const char* name : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH",
                             "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "http_proxy"})
      ::unsetenv(name);
  }
  ~PullCommand() override {
    for (const std::string& name : set_) ::unsetenv(name.c_str());
  }
  void set(const std::string& name, const std::string& value) {
    ::setenv(name.c_str(), value.c_str(), 1);
    set_.push_back(name);
  }
  std::string snapshot() const {
    return (scratch / "home/hub/models--org--name/snapshots").string() + "/" + hub.commit;
  }

  TemporaryDirectory scratch;
  FakeHub hub;
  std::vector<std::string> set_;
};

TEST_F(PullCommand, PrintsTheSnapshot) {
  Outcome run = run_hone({"pull", "org/name"});
  EXPECT_EQ(run.status, 0) << run.err;
  EXPECT_EQ(run.out, snapshot() + "\n");
  int others = -1;
  const Json j = last_json(run_hone({"pull", "org/name", "--json"}).out, &others);
  EXPECT_EQ(others, 0);
  EXPECT_EQ(j.value("snapshot", ""), snapshot());
  EXPECT_EQ(j.value("commit", ""), hub.commit);
  EXPECT_EQ(j.value("fetched_bytes", -1), 0);
  EXPECT_EQ(j["files"].size(), hub.files.size());
  run = run_hone({"pull", "org/name", "--quiet"});
  EXPECT_EQ(run.err, "");
  EXPECT_EQ(run.out, snapshot() + "\n");
}

TEST_F(PullCommand, ADryRunListsFiles) {
  Outcome run = run_hone({"pull", "org/name", "--dry-run"});
  EXPECT_EQ(run.status, 0) << run.err;
  for (const auto& [name, bytes] : hub.files)
    EXPECT_NE(run.out.find(name), std::string::npos) << run.out;
  EXPECT_FALSE(fs::exists(scratch / "home"));
}

TEST_F(PullCommand, TheTokenFileIsRead) {
  fs::create_directories(scratch / "home");
  write_bytes(scratch / "home/token", "hf_filed\n");
  hub.token = "hf_filed";
  EXPECT_EQ(run_hone({"pull", "org/name"}).status, 0);
  for (const ServerRequest& r : hub.cdn.requests()) EXPECT_FALSE(r.has("authorization"));
  EXPECT_EQ(hub.cdn.requests().size(), 1u);
}

TEST_F(PullCommand, RefusalsAreOneLine) {
  expect_refusal(run_hone({"pull", "org/name", "--revision", "v9"}), 1, {"no revision 'v9'"});
  expect_refusal(run_hone({"pull", "org/other"}), 1, {"no such model"});
  expect_refusal(run_hone({"pull", "../x"}), 1, {"no name of a model"});
  expect_refusal(run_hone({"pull", "org/name", "--include", "*.onnx"}), 1, {"--include"});
  expect_refusal(run_hone({"pull", "org/name", "--jobs", "0"}), 2, {"--jobs"});
  expect_refusal(run_hone({"pull"}), 2, {"NAME is required"});
  set("HF_HUB_OFFLINE", "1");
  expect_refusal(run_hone({"pull", "org/name"}), 1, {"HF_HUB_OFFLINE"});
  set("HF_HUB_OFFLINE", "0");
  set("HF_ENDPOINT", "ftp://x");
  expect_refusal(run_hone({"pull", "org/name"}), 1, {"HF_ENDPOINT"});
}

TEST_F(PullCommand, ANameIsAModelOfEveryCommand) {
  expect_refusal(run_hone({"info", "org/name"}), 1, {"hone pull org/name"});
  ASSERT_EQ(run_hone({"pull", "org/name"}).status, 0);
  set("HF_ENDPOINT", "http://127.0.0.1:1");  // from here on the cache is enough
  const Json j = last_json(run_hone({"info", "org/name", "--json"}).out);
  EXPECT_EQ(j.value("name", ""), "name");
  const std::string text = (scratch / "text.txt").string(), out = (scratch / "out").string();
  std::string words;
  for (int i = 0; i < 12; ++i) words += "the sea and the whale ";
  write_bytes(text, words);
  write_adapter(scratch / "adapter");
  const std::string adapter = (scratch / "adapter").string();
  const std::vector<std::vector<std::string>> commands = {
      {"generate", "org/name", "--prompt", "x", "--max-tokens", "2"},
      {"chat", "org/name", "--message", "x", "--max-tokens", "2"},
      {"eval", "org/name", "--text", text, "--context", "64", "--reference", "org/name@main"},
      {"bench", "org/name", "--prompt", "4", "--decode", "2", "--runs", "1"},
      {"precision", "org/name", "--text", text, "--to", "f16", "--context", "32"},
      {"quantize", "org/name", "--method", "rtn", "--group", "32", "--out", out + "1"},
      {"convert", "org/name", "--layout", "gguf", "--out", out + ".gguf"},
      {"convert", adapter, "--base", "org/name", "--layout", "gguf", "--out", out + "a.gguf"},
      {"merge", "org/name", "--adapter", adapter, "--out", out + "2"},
      {"tune", "org/name", "--method", "distill", "--teacher", "org/name", "--data", text,
       "--steps", "1", "--length", "16", "--out", out + "3"},
  };
  for (const auto& arguments : commands) {
    const Outcome run = run_hone(arguments);
    EXPECT_EQ(run.status, 0) << arguments[0] << ": " << run.err;
  }
  expect_refusal(run_hone({"generate", "org/name", "--adapter", "org/lora=0.5"}), 1,
                 {"hone pull org/lora"});
  expect_refusal(run_hone({"info", "org/name@v1"}), 1, {"--revision v1"});
}

TEST_F(PullCommand, APathWinsOverAName) {
  ASSERT_EQ(run_hone({"pull", "org/name"}).status, 0);
  const fs::path before = fs::current_path();
  fs::current_path(scratch.path());
  fs::create_directories("org");
  expect_refusal(run_hone({"info", "org/name"}), 1, {"org/name"});  // no such file
  TinyModel other;
  other.layers = 1;
  other.write("org/name");
  EXPECT_EQ(last_json(run_hone({"info", "org/name", "--json"}).out).value("layers", 0), 1);
  fs::current_path(before);
}

TEST_F(PullCommand, AGgufRepositoryIsItsFile) {
  ASSERT_EQ(run_hone({"convert", (scratch / "model").string(), "--layout", "gguf", "--out",
                      (scratch / "m.gguf").string()})
                .status,
            0);
  hub.files.clear();
  hub.files["m-Q8_0.gguf"] = read_bytes(scratch / "m.gguf");
  hub.files["m-F32.gguf"] = read_bytes(scratch / "m.gguf");
  expect_refusal(run_hone({"pull", "org/name"}), 1, {"2 GGUF models", "--include"});
  ASSERT_EQ(run_hone({"pull", "org/name", "--include", "*Q8_0*"}).status, 0);
  EXPECT_EQ(run_hone({"info", "org/name"}).status, 0);
  ASSERT_EQ(run_hone({"pull", "org/name", "--include", "*"}).status, 0);
  expect_refusal(run_hone({"info", "org/name"}), 1, {"org/name/m-Q8_0.gguf"});
  EXPECT_EQ(run_hone({"info", "org/name/m-Q8_0.gguf"}).status, 0);
}

}  // namespace
}  // namespace hone::testing
