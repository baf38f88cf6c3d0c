// Output appears whole or not at all: refused places, full disks, killed runs and what they leave.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/wait.h>

#include <chrono>
#include <csignal>
#include <nlohmann/json.hpp>
#include <thread>

#include "apps/command.h"
#include "formats/gguf.h"
#include "formats/safetensors.h"

namespace hone::testing {
namespace {

struct Output : ::testing::Test {
  Output() : model((scratch / "model").string()), out((scratch / "out").string()) {
    TinyModel().write(model);
    write_adapter(scratch / "adapter");
  }
  std::vector<std::string> merge(const std::string& to) const {
    return {"merge", model, "--adapter", (scratch / "adapter").string(), "--out", to, "--quiet"};
  }
  std::vector<std::string> convert(const std::string& to, const char* layout = "hf") const {
    return {"convert", model, "--layout", layout, "--out", to, "--quiet"};
  }
  std::vector<std::string> quantize(const std::string& to) const {
    return {"quantize", model, "--method", "rtn", "--group", "32", "--out", to, "--quiet"};
  }
  std::vector<std::string> names() const { return names_below(scratch.path()); }

  TemporaryDirectory scratch;
  std::string model, out;
};

TEST_F(Output, IsNotPutOverWhatIsThere) {
  fs::create_directory(out);
  write_bytes(out + "/mine.txt", "mine");
  write_bytes(out + ".gguf", "mine");
  std::vector<std::string> before = names();
  for (const auto& arguments :
       {convert(out), convert(out + "/"), convert(out, "gguf"), convert(out + ".gguf", "gguf"),
        quantize(out), quantize(out + ".gguf"), convert("."), merge(out), merge(out + ".gguf")})
    expect_refusal(run_hone(arguments), 1, {"exists already"});
  EXPECT_EQ(names(), before);
  EXPECT_EQ(read_bytes(out + ".gguf"), "mine");
}

TEST_F(Output, NeedsADirectoryThatExistsAndMayBeWritten) {
  std::vector<std::string> before = names();
  const std::string nowhere = (scratch / "no" / "where").string();
  const std::string in_file = model + "/config.json/out";
  for (const std::string& path : {nowhere, in_file, std::string("/proc/hone-out")}) {
    expect_refusal(run_hone(convert(path)), 1, {path});
    expect_refusal(run_hone(convert(path, "gguf")), 1, {path});
    expect_refusal(run_hone(quantize(path)), 1, {path});
    expect_refusal(run_hone(merge(path)), 1, {path});
  }
  std::vector<std::string> reported = quantize(out);
  reported.insert(reported.end(), {"--text", model + "/config.json", "--report", nowhere});
  expect_refusal(run_hone(reported), 1, {nowhere});
  expect_refusal(run_hone(convert("")), 1, {"name"});
  EXPECT_EQ(names(), before);
}

TEST_F(Output, FillsAnEmptyDirectory) {
  fs::create_directory(out);
  EXPECT_EQ(run_hone(convert(out)).status, 0);
  EXPECT_TRUE(fs::exists(out + "/model.safetensors"));
  fs::create_directory(out + ".gguf");
  expect_refusal(run_hone(convert(out + ".gguf", "gguf")), 1, {out + ".gguf"});
}

TEST_F(Output, AFullDiskLeavesNothing) {
  std::vector<std::string> before = names();
  RunOptions small;
  small.max_file_bytes = 50000;
  expect_refusal(run_hone(convert(out), small), 1, {out, "File too large"});
  expect_refusal(run_hone(convert(out, "gguf"), small), 1, {out, "File too large"});
  expect_refusal(run_hone(merge(out), small), 1, {out, "File too large"});
  EXPECT_EQ(names(), before);
  // A limit that lets the weights pass and the journal not.
  expect_refusal(run_hone(quantize(out), small), 1, {"File too large"});
  EXPECT_FALSE(fs::exists(out));
}

TEST_F(Output, AFullStandardOutputIsAFailure) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "needs /dev/full, which is not here";
  RunOptions full;
  full.output = "/dev/full";
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"info", model},
        {"info", model, "--json"},
        {"generate", model, "--prompt", "x", "--max-tokens", "2"}})
    expect_refusal(run_hone(arguments, full), 1, {"standard output"});
}

TEST_F(Output, WhatALayoutCannotHoldIsRefusedBeforeTheWork) {
  std::vector<std::string> before = names();
  expect_refusal(
      run_hone({"quantize", model, "--method", "nf4", "--layout", "gptq", "--out", out, "--quiet"}),
      1, {"nf4"});
  EXPECT_EQ(names(), before);
}

TEST_F(Output, DoctorsCopyIsTheModelWhereNothingIsWrong) {
  const Outcome run = run_hone({"doctor", model, "--out", out, "--json", "--quiet"});
  ASSERT_EQ(run.status, 0) << run.err;
  const Json found = Json::parse(run.out);
  EXPECT_EQ(found["faults"], 0);
  EXPECT_EQ(found["mended"], Json::array());
  EXPECT_EQ(read_bytes(out + "/model.safetensors"), read_bytes(model + "/model.safetensors"));
  expect_refusal(run_hone({"doctor", model, "--out", out}), 1, {out});
}

TEST_F(Output, ADeadRunsTemporaryIsReplaced) {
  fs::create_directory(out + ".hone-tmp");
  write_bytes(out + ".hone-tmp/model.safetensors", "half");
  write_bytes(out + ".gguf.hone-tmp", "half");
  EXPECT_EQ(run_hone(convert(out)).status, 0);
  EXPECT_EQ(run_hone(convert(out + ".gguf", "gguf")).status, 0);
  EXPECT_EQ(run_hone({"info", out}).status, 0);
  for (const std::string& name : names()) EXPECT_EQ(name.find("hone-tmp"), std::string::npos);
  // A directory's temporary in the way of a file's.
  fs::create_directory(out + "2.gguf.hone-tmp");
  EXPECT_EQ(run_hone(convert(out + "2.gguf", "gguf")).status, 0);
}

TEST_F(Output, ALivingRunsTemporaryIsLeftAlone) {
  const std::string temporary = out + ".gguf.hone-tmp";
  write_bytes(temporary, "half");
  int fd = ::open(temporary.c_str(), O_RDONLY);
  ASSERT_EQ(::flock(fd, LOCK_EX), 0);
  expect_refusal(run_hone(convert(out + ".gguf", "gguf")), 1, {out + ".gguf", "another run"});
  EXPECT_EQ(read_bytes(temporary), "half");
  ::close(fd);
  EXPECT_EQ(run_hone(convert(out + ".gguf", "gguf")).status, 0);
}

// Sends `signal` once `begun` is there; false where the run ended otherwise.
bool ended_by(int signal, const std::vector<std::string>& arguments, const fs::path& begun) {
  int pid = start_hone(arguments), wait = 0;
  while (!fs::exists(begun)) {
    if (::waitpid(pid, &wait, WNOHANG) == pid) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  ::kill(pid, signal);
  ::waitpid(pid, &wait, 0);
  return WIFSIGNALED(wait) && WTERMSIG(wait) == signal;
}

// Interrupts a run that writes `output`. One that is done before the signal comes is tried again.
void interrupt(int signal, const std::vector<std::string>& arguments, const std::string& output,
               const fs::path& begun) {
  for (int tries = 0; tries < 50; ++tries) {
    if (ended_by(signal, arguments, begun) && !fs::exists(output)) return;
    fs::remove_all(output);
    fs::remove_all(output + ".journal");
  }
  ADD_FAILURE() << "no signal " << signal << " came in time for " << output;
}

struct Interrupted : Output {
  Interrupted() {
    TinyModel big;  // enough to be busy with
    big.width = 256;
    big.ffn = 1024;
    big.layers = 6;
    big.write(model);
  }
};

TEST_F(Interrupted, SignalsRemoveTemporariesAndTheNextRunWhatAKillLeft) {
  const std::string file = out + ".gguf";
  for (int signal : {SIGINT, SIGTERM, SIGHUP, SIGKILL}) {
    SCOPED_TRACE(signal);
    interrupt(signal, convert(file, "gguf"), file, file + ".hone-tmp");
    EXPECT_EQ(fs::exists(file + ".hone-tmp"), signal == SIGKILL);
    interrupt(signal, convert(out), out, out + ".hone-tmp");
    EXPECT_EQ(fs::exists(out + ".hone-tmp"), signal == SIGKILL);
  }
  EXPECT_EQ(run_hone(convert(file, "gguf")).status, 0);
  EXPECT_EQ(run_hone(convert(out)).status, 0);
  for (const std::string& name : names()) EXPECT_EQ(name.find("hone-tmp"), std::string::npos);
}

TEST_F(Interrupted, AResumeEndsInTheSameBytes) {
  std::vector<std::string> arguments = quantize(out);
  interrupt(SIGTERM, arguments, out, out + ".journal/step-0-unit-2.safetensors");
  expect_refusal(run_hone(arguments), 1, {"--resume"});
  arguments.push_back("--resume");
  EXPECT_EQ(run_hone(arguments).status, 0);
  EXPECT_EQ(run_hone(quantize(out + "-whole")).status, 0);
  EXPECT_EQ(read_bytes(out + "/model.safetensors"), read_bytes(out + "-whole/model.safetensors"));
  EXPECT_FALSE(fs::exists(out + ".journal"));
}

TEST_F(Output, AResumeWithoutAJournalBeginsAtTheBeginning) {
  // A run may be killed before its journal is there; the same command line must then work.
  std::vector<std::string> arguments = quantize(out);
  arguments.push_back("--resume");
  Outcome run = run_hone(arguments);
  EXPECT_EQ(run.status, 0) << run.err;
  expect_refusal(run_hone(arguments), 1, {"exists already"});
}

TEST_F(Output, DirectoriesSayTheFloatTypeTheyHold) {
  struct Case {
    const char *decode, *torch, *type;
  };
  for (const Case& c : {Case{"f16", "float16", "F16"}, Case{"bf16", "bfloat16", "BF16"},
                        Case{"f32", "float32", "F32"}}) {
    const std::string to = out + c.decode;
    std::vector<std::string> arguments = convert(to);
    arguments.insert(arguments.end(), {"--decode-to", c.decode});
    ASSERT_EQ(run_hone(arguments).status, 0);
    EXPECT_EQ(Json::parse(read_bytes(to + "/config.json"))["torch_dtype"], c.torch);
    // Vectors too.
    std::string bytes = read_bytes(to + "/model.safetensors");
    uint64_t length = 0;
    std::memcpy(&length, bytes.data(), 8);
    Json header = Json::parse(bytes.substr(8, length));
    header.erase("__metadata__");
    for (const auto& [name, entry] : header.items()) EXPECT_EQ(entry["dtype"], c.type) << name;
  }
}

TEST_F(Output, AGgufSaysWhichTokensSurroundATextAndKeepsVectorsInF32) {
  std::vector<std::string> arguments = convert(out + ".gguf", "gguf");
  arguments.insert(arguments.end(), {"--decode-to", "f16"});
  ASSERT_EQ(run_hone(arguments).status, 0);
  GgufFile file = GgufFile::open(out + ".gguf");
  EXPECT_EQ(file.find_bool("tokenizer.ggml.add_bos_token"), std::optional(false));
  EXPECT_EQ(file.find_bool("tokenizer.ggml.add_eos_token"), std::optional(false));
  EXPECT_EQ(file.find_tensor("output_norm.weight")->ggml_type, 0u);
}

TEST_F(Output, VectorsFollowTheMatricesWhereNothingIsLost) {
  TinyModel half;
  half.type = "bf16";
  half.write(scratch / "half");
  model = (scratch / "half").string();
  ASSERT_EQ(run_hone(convert(out)).status, 0);
  SafetensorsFile file = SafetensorsFile::open(out + "/model.safetensors");
  for (const SafetensorsEntry& e : file.entries()) EXPECT_EQ(e.type, "BF16") << e.name;
  // The f32 norms of an f32 model do not fit f16, which its cast matrices have.
  model = (scratch / "model").string();
  ASSERT_EQ(run_hone({"quantize", model, "--method", "cast", "--to", "f16", "--out", out + "-cast"})
                .status,
            0);
  file = SafetensorsFile::open(out + "-cast/model.safetensors");
  EXPECT_EQ(file.find("model.norm.weight")->type, "F32");
  EXPECT_EQ(file.find("model.embed_tokens.weight")->type, "F16");
  EXPECT_EQ(Json::parse(read_bytes(out + "-cast/config.json"))["torch_dtype"], "float16");
  // Beside integers, --decode-to is for what the layout cannot hold, and norms it can.
  ASSERT_EQ(run_hone({"quantize", model, "--method", "rtn", "--group", "32", "--decode-to", "f16",
                      "--out", out + "-gptq"})
                .status,
            0);
  file = SafetensorsFile::open(out + "-gptq/model.safetensors");
  EXPECT_EQ(file.find("model.norm.weight")->type, "F32");
}

TEST_F(Output, NumbersOfAGgufReachTheConfigAsTheyWere) {
  ASSERT_EQ(run_hone(convert(out + ".gguf", "gguf")).status, 0);
  ASSERT_EQ(run_hone({"convert", out + ".gguf", "--layout", "hf", "--out", out}).status, 0);
  std::string config = read_bytes(out + "/config.json");
  EXPECT_NE(config.find("\"rms_norm_eps\": 1e-05"), std::string::npos) << config;
  EXPECT_NE(config.find("\"rope_theta\": 10000.0"), std::string::npos) << config;
}

}  // namespace
}  // namespace hone::testing
