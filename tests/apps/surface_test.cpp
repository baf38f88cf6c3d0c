// What is made of the parser's own tables: shell completion and the man page.
#include <cstdio>
#include <nlohmann/json.hpp>

#include "apps/command.h"

namespace hone::testing {
namespace {

const std::vector<std::string> kSome = {"info", "quantize", "pull", "completion", "man"};

// What a shell prints on both streams; its status in *status.
std::string shell(const std::string& line, int* status = nullptr) {
  std::FILE* pipe = ::popen((line + " 2>&1").c_str(), "r");
  std::string out;
  char chunk[4096];
  for (size_t n; (n = std::fread(chunk, 1, sizeof(chunk), pipe)) > 0;) out.append(chunk, n);
  const int ended = ::pclose(pipe);
  if (status != nullptr) *status = WEXITSTATUS(ended);
  return out;
}
bool has(const std::string& program) {
  int status = 1;
  shell("command -v " + program, &status);
  return status == 0;
}

struct Surface : ::testing::Test {
  std::string script(const std::string& of) {
    const Outcome run = run_hone({"completion", of});
    EXPECT_EQ(run.status, 0);
    const fs::path at = scratch / of;
    write_bytes(at, run.out);
    return at.string();
  }
  // What bash offers for the last of `words`, sorted.
  std::vector<std::string> bash(const std::string& words) {
    const std::string run = "cd " + scratch.path().string() + "; source " + script("bash") +
                            "; COMP_WORDS=(hone " + words +
                            "); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _hone; "
                            "printf \"%s\\n\" \"${COMPREPLY[@]}\" | sort";
    write_bytes(scratch / "run", run);
    return lines_of(shell("bash --norc " + (scratch / "run").string()));
  }
  using Words = std::vector<std::string>;
  TemporaryDirectory scratch;
};

TEST_F(Surface, BashCompletesSubcommandsFlagsAndValues) {
  if (!has("bash")) GTEST_SKIP() << "needs bash, which is not here";
  EXPECT_EQ(bash("quan"), (Words{"quantize"}));
  EXPECT_EQ(bash("help quan"), (Words{"quantize"}));
  EXPECT_EQ(bash("quantize m --layo"), (Words{"--layout"}));
  EXPECT_EQ(bash("quantize m --layout gg"), (Words{"gguf"}));
  EXPECT_EQ(bash("quantize m --method gp"), (Words{"gptq"}));
  EXPECT_EQ(bash("info m --is"), (Words{"--isa"}));
  EXPECT_EQ(bash("completion ba"), (Words{"bash"}));
  EXPECT_EQ(bash("info m --threads ''"), (Words{""}));
  // Flags that another subcommand has.
  EXPECT_EQ(bash("info m --layout"), (Words{""}));
}

TEST_F(Surface, BashCompletesFilesAndPulledModels) {
  if (!has("bash")) GTEST_SKIP() << "needs bash, which is not here";
  fs::create_directories(scratch / "hub/models--org--name-it");
  fs::create_directories(scratch / "hub/models--alone");
  fs::create_directories(scratch / "hub/models--bad--$(touch ran)");
  fs::create_directories(scratch / "hub/datasets--org--data");
  ::setenv("HF_HUB_CACHE", (scratch / "hub").c_str(), 1);
  write_bytes(scratch / "model.gguf", "");
  EXPECT_EQ(bash("info or"), (Words{"org/name-it"}));
  EXPECT_EQ(bash("info al"), (Words{"alone"}));
  EXPECT_EQ(bash("info bad"), (Words{""}));
  EXPECT_FALSE(fs::exists(scratch / "ran"));
  EXPECT_EQ(bash("info mod"), (Words{"model.gguf"}));
  EXPECT_EQ(bash("eval x --reference or"), (Words{"org/name-it"}));
  EXPECT_EQ(bash("eval x --text mod"), (Words{"model.gguf"}));
  ::unsetenv("HF_HUB_CACHE");
}

TEST_F(Surface, FishCompletes) {
  const std::string file = script("fish");
  if (!has("fish")) GTEST_SKIP() << "needs fish, which is not here";
  auto fish = [&](const std::string& line) {
    const std::string home = "HOME=" + scratch.path().string() + " ";
    return shell(home + "fish --no-config -c 'source " + file + "; complete -C \"" + line + "\"'");
  };
  EXPECT_NE(fish("hone quan").find("quantize\t"), std::string::npos);
  EXPECT_NE(fish("hone quantize --lay").find("--layout\t"), std::string::npos);
  EXPECT_EQ(lines_of(fish("hone quantize --layout ggu")).at(0).substr(0, 4), "gguf");
}

TEST_F(Surface, ZshTakesTheScript) {
  const std::string file = script("zsh");
  if (!has("zsh")) GTEST_SKIP() << "needs zsh, which is not here";
  EXPECT_EQ(shell("zsh -n " + file), "");
  EXPECT_EQ(shell("zsh -f -c 'autoload -Uz compinit; compinit -D; source " + file +
                  "; echo $_comps[hone]'"),
            "_hone\n");
}

TEST_F(Surface, ScriptsNameEverySubcommandAndEveryFlag) {
  const std::string all = run_hone({"--help"}).out;
  for (const char* of : {"bash", "zsh", "fish"}) {
    const std::string text = run_hone({"completion", of}).out;
    for (const std::string& name : kSome) EXPECT_NE(text.find(name), std::string::npos) << name;
    for (const char* flag : {"calibration", "revision", "kv-cache", "no-act-order"})
      EXPECT_NE(text.find(flag), std::string::npos) << of << " " << flag;
  }
}

TEST_F(Surface, TheManPageIsCleanAndWhole) {
  const Outcome run = run_hone({"man"});
  ASSERT_EQ(run.status, 0);
  for (const std::string& name : kSome)
    EXPECT_NE(run.out.find("hone " + name), std::string::npos) << name;
  for (const char* part : {".SH NAME", ".SH EXIT STATUS", "HF_TOKEN", "\\-\\-calibration"})
    EXPECT_NE(run.out.find(part), std::string::npos) << part;
  if (!has("groff")) GTEST_SKIP() << "needs groff, which is not here";
  write_bytes(scratch / "hone.1", run.out);
  const std::string page = (scratch / "hone.1").string();
  EXPECT_EQ(shell("groff -man -Tutf8 -ww -b -z " + page), "");
  const std::string text = shell("groff -man -Tutf8 -P-cbou " + page);
  EXPECT_NE(text.find("--kv-cache TYPE"), std::string::npos);
  EXPECT_NE(text.find("hone quantize MODEL --method nf4 --out nf4"), std::string::npos);
}

TEST_F(Surface, InJsonTheyAreFields) {
  EXPECT_EQ(last_json(run_hone({"man", "--json"}).out).value("page", ""), run_hone({"man"}).out);
  const Json j = last_json(run_hone({"completion", "bash", "--json"}).out);
  EXPECT_EQ(j.value("script", ""), run_hone({"completion", "bash"}).out);
}

}  // namespace
}  // namespace hone::testing
