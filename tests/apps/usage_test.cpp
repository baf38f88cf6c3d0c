// The command's surface: help, wrong usage, the keys of --json, and what goes to which stream.
#include <fstream>
#include <nlohmann/json.hpp>

#include "apps/command.h"
#include "kernels/machine.h"
#include "kernels/select.h"

namespace hone::testing {
namespace {

const char* const kSubcommands[] = {"info",     "generate", "chat",    "eval",      "bench",
                                    "optimize", "quantize", "convert", "precision", "train",
                                    "tune",     "merge",    "explain", "pull",      "completion",
                                    "man",      "doctor",   "prune"};

struct Usage : ::testing::Test {
  Usage() : model((scratch / "model").string()), adapter((scratch / "adapter").string()) {
    TinyModel().write(model);
    write_adapter(adapter);
    text = (scratch / "text.txt").string();
    std::string words;
    for (int i = 0; i < 12; ++i) words += "the sea and the whale ";
    write_bytes(text, words);
  }
  TemporaryDirectory scratch;
  std::string model, adapter, text;
};

TEST(Help, IsPrintedForEverySubcommand) {
  Outcome all = run_hone({"--help"});
  EXPECT_EQ(all.status, 0);
  for (const char* name : kSubcommands) {
    EXPECT_NE(all.out.find(std::string("\n  ") + name), std::string::npos) << name;
    Outcome run = run_hone({name, "--help"});
    EXPECT_EQ(run.status, 0) << name;
    EXPECT_EQ(run.err, "") << name;
    const std::string first = std::string(name) == "train"        ? " CONFIG"
                              : std::string(name) == "explain"    ? " TOPIC"
                              : std::string(name) == "pull"       ? " NAME"
                              : std::string(name) == "completion" ? " SHELL"
                              : std::string(name) == "man"        ? " [OPTIONS]"
                                                                  : " MODEL";
    EXPECT_NE(run.out.find(std::string("Usage: hone ") + name + first), std::string::npos)
        << run.out;
    EXPECT_NE(run.out.find(std::string("\nExamples:\n  hone ")), std::string::npos) << run.out;
    for (const char* flag : {"--json", "--quiet", "--threads", "--seed", "--help"})
      EXPECT_NE(run.out.find(flag), std::string::npos) << name << " " << flag;
    for (const std::string& line : lines_of(run.out)) EXPECT_LE(line.size(), 100u) << line;
  }
}

TEST(Help, TheWordHelpsToo) {
  EXPECT_EQ(run_hone({"help"}).out, run_hone({"--help"}).out);
  Outcome of_info = run_hone({"help", "info"});
  EXPECT_EQ(of_info.status, 0);
  EXPECT_EQ(of_info.out, run_hone({"info", "--help"}).out);
}

TEST(Help, VersionIsOneLine) {
  Outcome run = run_hone({"--version"});
  EXPECT_EQ(run.status, 0);
  EXPECT_EQ(run.out.rfind("hone ", 0), 0u);
  EXPECT_EQ(lines_of(run.out).size(), 1u);
}

TEST_F(Usage, WrongUsageIsOneLineAndStatus2) {
  struct Case {
    std::vector<std::string> arguments;
    std::string part;
  };
  const std::string &m = model, &a = adapter;
  const std::string out = (scratch / "out").string();
  const std::vector<Case> cases = {
      {{}, "no subcommand"},
      {{"nope"}, "no subcommand 'nope'"},
      {{"--nope"}, "--nope"},
      {{"info"}, "MODEL is required"},
      {{"info", m, "--nope"}, "--nope (see hone info --help)"},
      {{"info", m, "more"}, "more"},
      {{"info", m, "--threads", "-1"}, "--threads"},
      {{"info", m, "--threads", "1000000"}, "--threads"},
      {{"info", m, "--threads", "two"}, "--threads"},
      {{"info", m, "--seed", "-1"}, "--seed"},
      {{"info", m, "--seed", "nan"}, "--seed"},
      {{"info", m, "--isa", "mmx"}, "--isa"},
      {{"info", m, "--activations", "fp4"}, "--activations"},
      {{"info", m, "--load-as", "q9_9"}, "q9_9"},
      {{"info", m, "--kv-cache", "int3"}, "--kv-cache"},
      {{"info", m, "--kv-cache", "f32,int8"}, "several types"},
      {{"generate", m, "--prompt", "x", "--kv-cache", "fp8,int8"}, "several types"},
      {{"eval", m, "--text", text, "--kv-cache", "f32,int3"}, "int3"},
      {{"eval", m, "--text", text, "--kv-cache", "f32,,int8"}, "--kv-cache"},
      {{"generate", m, "--prompt", "x", "--prompt-file", text}, "--prompt"},
      {{"generate", m, "--prompt", "\xff\xfe"}, "not UTF-8"},
      {{"generate", m, "--max-tokens", "-1"}, "--max-tokens"},
      {{"generate", m, "--max-tokens", "1.5"}, "--max-tokens"},
      {{"generate", m, "--max-tokens", "99999999999999"}, "--max-tokens"},
      {{"generate", m, "--temperature", "-1"}, "--temperature"},
      {{"generate", m, "--temperature", "nan"}, "--temperature"},
      {{"generate", m, "--temperature", "inf"}, "--temperature"},
      {{"generate", m, "--temperature", "warm"}, "--temperature"},
      {{"generate", m, "--top-k", "-1"}, "--top-k"},
      {{"generate", m, "--top-p", "0"}, "--top-p"},
      {{"generate", m, "--top-p", "1.5"}, "--top-p"},
      {{"generate", m, "--top-p", "nan"}, "--top-p"},
      {{"generate", m, "--min-p", "-0.1"}, "--min-p"},
      {{"generate", m, "--repetition-penalty", "0"}, "--repetition-penalty"},
      {{"generate", m, "--repetition-penalty", "nan"}, "--repetition-penalty"},
      {{"chat", m, "--temperature", "nan"}, "--temperature"},
      {{"eval", m}, "--text or --task is required"},
      {{"eval", m, "--text", text, "--context", "1"}, "--context"},
      {{"eval", m, "--text", text, "--context", "-5"}, "--context"},
      {{"eval", m, "--text", text, "--stride", "-1"}, "--stride"},
      {{"eval", m, "--text", text, "--context", "8", "--stride", "9"}, "--stride"},
      {{"eval", m, "--text", text, "--max-tokens", "-1"}, "--max-tokens"},
      {{"eval", m, "--text", text, "--convention", "mine"}, "--convention"},
      {{"eval", m, "--task", text, "--text", text}, "--text excludes --task"},
      {{"eval", m, "--task", text, "--context", "64"}, "--context excludes --task"},
      {{"eval", m, "--task", text, "--task-kind", "quiz"}, "--task-kind"},
      {{"eval", m, "--text", text, "--limit", "3"}, "--task"},
      {{"eval", m, "--task", text, "--limit", "-1"}, "--limit"},
      {{"eval", m, "--task", text, "--shots-file", text}, "--shots"},
      {{"eval", m, "--task", text, "--task", text, "--shots", "1", "--shots-file", text},
       "one --task"},
      {{"eval", m, "--task", text, "--kv-cache", "f32,int8"}, "one type of --kv-cache"},
      {{"precision"}, "MODEL is required"},
      {{"precision", m, "--to", "f12"}, "--to"},
      {{"precision", m, "--to", "f16", "bf16"}, "bf16"},
      {{"precision", m, "--max-kl", "-1"}, "--max-kl"},
      {{"precision", m, "--max-kl", "nan"}, "--max-kl"},
      {{"precision", m, "--departure", "nan"}, "--departure"},
      {{"precision", m, "--context", "1"}, "--context"},
      {{"precision", m, "--max-tokens", "-1"}, "--max-tokens"},
      {{"train", "--out", out}, "CONFIG is required"},
      {{"train", "c.yaml"}, "--out is required"},
      {{"tune", m, "--data", text, "--out", out}, "--method is required"},
      {{"tune", m, "--method", "magic", "--data", text, "--out", out}, "--method"},
      {{"tune", m, "--method", "lora", "--out", out}, "--data is required"},
      {{"tune", m, "--method", "lora", "--data", text, "--steps", "0", "--out", out}, "steps 0"},
      {{"tune", m, "--method", "lora", "--data", text, "--steps", "x", "--out", out}, "--steps"},
      {{"tune", m, "--method", "lora", "--data", text, "--rank", "0", "--out", out}, "rank 0"},
      {{"tune", m, "--method", "lora", "--data", text, "--lr", "nan", "--out", out}, "lr"},
      {{"tune", m, "--method", "lora", "--data", text, "--precision", "f8", "--out", out}, "f8"},
      {{"tune", m, "--method", "lora", "--data", text, "--optimizer", "magic", "--out", out},
       "magic"},
      {{"tune", m, "--method", "lora", "--data", text, "--train-only", "*", "--out", out},
       "--train-only belongs to full, distill, and the method is lora"},
      // Also where it is the default's value.
      {{"tune", m, "--method", "lora", "--data", text, "--bits", "4", "--out", out},
       "--bits belongs to qat, and the method is lora"},
      {{"tune", m, "--method", "qat", "--data", text, "--symmetric", "--rank", "4", "--out", out},
       "--rank belongs to lora, dora,"},
      {{"tune", m, "--method", "full", "--data", text, "--projection", "--out", out},
       "--projection belongs to prefix,"},
      {{"tune", m, "--method", "distill", "--data", text, "--out", out}, "needs a teacher"},
      {{"tune", m, "--method", "dwq", "--data", text, "--out", out}, "needs a teacher"},
      {{"tune", m, "--method", "lora", "--data", text, "--lambda", "0.5", "--out", out}, "lambda"},
      {{"tune", m, "--method", "distill", "--teacher", m, "--lambda", "2", "--data", text, "--out",
        out},
       "lambda 2"},
      {{"tune", m, "--method", "qat", "--bits", "9", "--data", text, "--out", out}, "bits 9"},
      {{"tune", m, "--method", "full", "--data", text, "--load-as", "nf4", "--out", out},
       "--load-as"},
      {{"bench", m, "--train", "magic"}, "--train"},
      {{"bench", m, "--train", "full", "--load-as", "nf4"}, "--load-as"},
      {{"bench", m, "--train", "qat", "--rank", "4"}, "--rank belongs to lora, dora,"},
      {{"bench", m, "--runs", "0"}, "--runs"},
      {{"bench", m, "--batch", "0"}, "--batch"},
      {{"bench", m, "--prompt", "-1"}, "--prompt"},
      {{"bench", m, "--depth", "1e9"}, "--depth"},
      {{"convert", m, "--out", out}, "--layout is required"},
      {{"convert", m, "--layout", "onnx", "--out", out}, "onnx"},
      {{"convert", m, "--layout", "hf", "--decode-to", "f8", "--out", out}, "--decode-to"},
      {{"quantize", m, "--out", out}, "--method is required"},
      {{"quantize", m, "--method", "magic", "--out", out}, "--method"},
      {{"quantize", m, "--method", "rtn", "--bits", "many", "--out", out}, "bits"},
      {{"quantize", m, "--method", "gptq", "--bits", "99", "--out", out}, "bits 99"},
      {{"quantize", m, "--method", "gptq", "--group", "-1", "--out", out}, "group -1"},
      {{"quantize", m, "--method", "gptq", "--damp", "nan", "--out", out}, "damp"},
      {{"quantize", m, "--method", "nf4", "--bits", "4", "--out", out},
       "nf4 takes no --bits; it takes --block, --double-quant"},
      {{"quantize", m, "--method", "gptq", "--type", "q4_k", "--out", out}, "--type"},
      {{"quantize", m, "--method", "rtn", "--type", "q4_k", "--bits", "4", "--out", out},
       "no --bits"},
      {{"quantize", m, "--method", "rtn", "--type", "q8_0", "--encoding", "q4_k", "--out", out},
       "--encoding"},
      {{"eval", m, "--text", text, "--exact-reference"}, "--reference"},
      {{"eval", m, "--text", text, "--stride", "4"}, "--stride belongs to --convention hf"},
      {{"eval", m, "--text", text, "--window", "8"}, "--streaming"},
      {{"eval", m, "--text", text, "--streaming", "--past-context"}, "--past-context"},
      {{"eval", m, "--text", text, "--streaming", "--reference", m}, "--reference"},
      {{"generate", m, "--sinks", "4"}, "--streaming"},
      {{"generate", m, "--streaming", "--sinks", "-1"}, "--sinks"},
      {{"chat", m, "--streaming", "--window", "0"}, "--window"},
      {{"quantize", m, "--method", "attention", "--pattern", "window(3)", "--out", out},
       "shows later keys"},
      {{"quantize", m, "--method", "attention", "--pattern", "causal & windw(3)", "--out", out},
       "at character 10"},
      {{"quantize", m, "--method", "attention", "--every", "2", "--offset", "2", "--out", out},
       "offset 2"},
      {{"bench"}, "MODEL or --machine is required"},
      {{"bench", m, "--prompt", "0", "--decode", "0"}, "nothing to measure"},
      {{"bench", "--machine", "--isa", "avx2"}, "every --isa"},
      {{"bench", "--machine", "--load-as", "nf4"}, "--load-as"},
      {{"bench", m, "--machine"}, "--machine takes no model"},
      {{"quantize", m, "--method", "rtn", "--type", "q9_9", "--out", out}, "q9_9"},
      {{"quantize", m, "--method", "rtn", "--head", "q9_9", "--out", out}, "q9_9"},
      {{"quantize", m, "--method", "rtn", "--report", "r.html", "--out", out}, "--text"},
      {{"quantize", m, "--method", "rtn", "--resume", "--restart", "--out", out}, "--re"},
      {{"optimize", m, "--out", out}, "--recipe is required"},
      {{"eval", m, "--text", text, "--adapter", a + "=much"}, "--adapter"},
      {{"generate", m, "--adapter", a + "=nan"}, "--adapter"},
      {{"bench", "--machine", "--adapter", a}, "--adapter"},
      {{"info", m, "--adapter", a}, "--adapter"},
      {{"convert", a, "--layout", "hf", "--base", m, "--out", out}, "peft and gguf"},
      {{"convert", m, "--layout", "peft", "--out", out}, "--base"},
      {{"convert", a, "--base", m, "--decode-to", "f16", "--layout", "gguf", "--out", out}, "--"},
      {{"explain"}, "TOPIC is required"},
      {{"explain", "weather", "--queries", "4"}, "weather"},
      {{"explain", "attention"}, "--queries is required"},
      {{"explain", "attention", "--queries", "0"}, "--queries"},
      {{"explain", "attention", "--queries", "4", "--keys", "99999999999"}, "--keys"},
      {{"explain", "attention", "--queries", "4", "--heads", "6", "--kv-heads", "4"},
       "no multiple of --kv-heads 4"},
      {{"explain", "attention", "--queries", "4", "--pattern", "causal & windw(3)"},
       "at character 10"},
      {{"explain", "attention", "--queries", "4", "--backward", "--kv-cache", "int8"},
       "--backward"},
      {{"explain", "attention", "--prefill", "9@8"}, "last of the keys"},
      {{"explain", "attention", "--decode", "16@"}, "N@KEYS"},
      {{"explain", "attention", "--decode", "0@8"}, "N@KEYS"},
      {{"explain", "attention", "--decode", "1@8x"}, "N@KEYS"},
      {{"explain", "attention", "--decode", "2@8", "--queries", "4"}, "--queries"},
      {{"merge", m, "--out", out}, "--adapter is required"},
      {{"merge", m, "--adapter", a}, "--out is required"},
      {{"merge", m, "--adapter", a + "=x", "--out", out}, "--adapter"},
      {{"merge", m, "--adapter", a, "--out", out, "--layout", "onnx"}, "onnx"},
      {{"merge", m, "--adapter", a, "--out", out, "--into-encoding", "q9_9"}, "q9_9"},
      {{"merge", m, "--adapter", a, "--out", out, "--context", "32"}, "--text"},
      {{"merge", m, "--adapter", a, "--out", out, "--advise"}, "--advise"},
      {{"merge", m, "--adapter", a, "--advise", "--unmerge"}, "--advise"},
      {{"merge", m, "--adapter", a, "--out", out, "--unmerge", "--into-encoding"}, "--unmerge"},
  };
  std::vector<std::string> before = names_below(scratch.path());
  for (const Case& c : cases) {
    SCOPED_TRACE(c.part);
    expect_refusal(run_hone(c.arguments), 2, {c.part, "--help"});
  }
  EXPECT_EQ(names_below(scratch.path()), before);
}

TEST_F(Usage, JsonIsOneObjectWithTheDesignsKeys) {
  const std::string recipe = (scratch / "recipe.yaml").string();
  write_bytes(recipe,
              "calibration: {samples: 2, length: 32}\nevaluate: {context: 32}\n"
              "steps: [{pass: rtn, bits: 8, group: 32}]\n");
  struct Case {
    std::vector<std::string> arguments;
    std::vector<std::string> keys;
  };
  const std::string task = (scratch / "task.jsonl").string();
  write_bytes(task,
              "{\"query\": \"the sea\", \"choices\": [\"and\", \"whale\"], \"gold\": 0}\n"
              "{\"query\": \"the\", \"choices\": [\"whale\", \"x\"], \"gold\": 0}\n");
  auto out = [&](const char* name) { return (scratch / name).string(); };
  const std::vector<Case> cases = {
      {{"info", model},
       {"name", "family", "parameters", "encodings", "weight_bytes", "running_bytes",
        "memory_bytes", "kv_bytes_per_token", "kv_bytes", "mixing", "context"}},
      {{"generate", model, "--prompt", "a", "--max-tokens", "3"},
       {"text", "tokens", "finish_reason", "prompt_tokens", "prefill_tokens_per_second",
        "decode_tokens_per_second", "precision", "kv_bytes", "peak_rss_bytes"}},
      {{"chat", model, "--message", "a", "--message", "b", "--max-tokens", "3"},
       {"answers", "messages", "precision"}},
      {{"eval", model, "--text", text, "--context", "32"},
       {"perplexity", "nll", "tokens", "bits_per_byte", "convention", "context", "activations"}},
      {{"eval", model, "--text", text, "--context", "32", "--reference", model},
       {"perplexity", "nll", "tokens", "kl_mean", "kl_median", "kl_p99", "top1_agreement"}},
      {{"eval", model, "--text", text, "--streaming", "--window", "20"},
       {"perplexity", "nll", "tokens", "ranges", "kv_bytes"}},
      {{"eval", model, "--task", task},
       {"task", "items", "accuracy", "accuracy_stderr", "accuracy_norm", "seconds", "tokens_run",
        "activations", "precision", "peak_rss_bytes"}},
      {{"eval", model, "--task", task, "--shots", "1", "--reference", model, "--exact-reference"},
       {"reference_accuracy", "accuracy_difference", "flips", "mcnemar_p"}},
      {{"eval", model, "--text", text, "--context", "200", "--convention", "hf", "--past-context"},
       {"perplexity", "ranges", "kv_bytes"}},
      {{"precision", model, "--text", text},
       {"text", "tokens", "perplexity", "kl_limit", "noise_floor", "types", "activations"}},
      {{"precision", model, "--to", "bf16", "--max-tokens", "40"}, {"model", "samples", "types"}},
      {{"bench", model, "--prompt", "8", "--decode", "4", "--runs", "1", "--batch", "3"},
       {"prefill_tokens_per_second", "decode_tokens_per_second", "model_bytes", "peak_rss_bytes",
        "threads", "isa", "prefill_of_limit", "decode_of_limit"}},
      {{"bench", "--machine", "--threads", "1"},
       {"cpu", "threads", "read", "peaks", "candidates", "best_isa"}},
      {{"quantize", model, "--method", "rtn", "--bits", "8", "--group", "32", "--out", out("q")},
       {"out", "peak_rss_bytes"}},
      {{"optimize", model, "--recipe", recipe, "--text", text, "--out", out("o")},
       {"out", "variants"}},
      {{"convert", model, "--layout", "gguf", "--out", out("m.gguf")}, {"out", "weight_bytes"}},
      {{"tune", model, "--method", "lora", "--data", text, "--steps", "2", "--length", "16",
        "--batch", "1", "--rank", "2", "--out", out("lora")},
       {"out", "method", "steps", "loss", "held_out_loss", "trained_parameters",
        "train_tokens_per_second", "skipped_steps", "seconds", "planned_peak_bytes",
        "peak_rss_bytes"}},
      {{"tune", model, "--method", "qat", "--bits", "4", "--group", "32", "--data", text, "--steps",
        "2", "--length", "16", "--batch", "1", "--out", out("qat")},
       {"out", "method", "loss"}},
      {{"tune", model, "--method", "dwq", "--load-as", "nf4", "--data", text, "--steps", "2",
        "--length", "16", "--batch", "1", "--out", out("dwq")},
       {"out", "method", "loss"}},
      {{"tune", out("qat"), "--method", "distill", "--teacher", model, "--teacher-top", "8",
        "--data", text, "--steps", "2", "--length", "16", "--batch", "1", "--out", out("back")},
       {"out", "method", "loss"}},
      {{"bench", model, "--train", "full", "--length", "16", "--steps", "1"},
       {"train_tokens_per_second", "step_seconds", "of_f32_peak", "peak_rss_bytes"}},
      {{"bench", model, "--train", "dwq", "--load-as", "nf4", "--length", "16", "--steps", "1"},
       {"train_tokens_per_second"}},
      {{"bench", model, "--train", "distill", "--length", "16", "--steps", "1"},
       {"train_tokens_per_second"}},
      {{"convert", adapter, "--base", model, "--out", out("a.gguf")}, {"out", "weight_bytes"}},
      {{"merge", model, "--adapter", adapter, "--text", text, "--context", "32", "--out", out("t")},
       {"out", "layers", "worst_ratio", "mean_ratio", "erased", "kl_mean", "perplexity",
        "unmerged_perplexity", "weight_bytes"}},
      {{"explain", "attention", "--queries", "64", "--keys", "4096", "--pattern",
        "causal & window(512)"},
       {"pattern", "isa", "threads", "kernel", "path", "units", "unit_rows", "splits", "tiles_kept",
        "tiles_full", "tiles_all", "operations", "bytes", "memory_bytes", "scores_bytes", "seconds",
        "refused"}},
      {{"explain", "attention", "--prefill", "512@4096", "--decode", "16@8192", "--decode", "1@9"},
       {"isa", "threads", "computing_units", "streaming_units", "operations", "bytes", "pace",
        "hidden", "prefill_seconds", "decode_seconds", "seconds", "bound"}},
      {{"merge", model, "--adapter", adapter, "--advise"},
       {"choices", "measured_on", "recommendation"}},
  };
  for (Case c : cases) {
    c.arguments.push_back("--json");
    Outcome run = run_hone(c.arguments);
    SCOPED_TRACE(c.arguments[0]);
    EXPECT_EQ(run.status, 0) << run.err;
    int others = -1;
    Json j = last_json(run.out, &others);
    EXPECT_EQ(others, 0) << run.out;
    for (const std::string& key : c.keys) EXPECT_TRUE(j.contains(key)) << key << " in " << run.out;
  }
}

// A verdict is an answer, whatever it is: status 0.
TEST_F(Usage, PrecisionAnswersForEachType) {
  Outcome run = run_hone({"precision", model, "--text", text, "--max-kl", "0", "--json"});
  ASSERT_EQ(run.status, 0) << run.err;
  Json j = last_json(run.out);
  for (const char* type : {"f16", "bf16", "f8_e4m3", "f8_e5m2"}) {
    SCOPED_TRACE(type);
    const Json& t = j["types"][type];
    for (const char* key :
         {"verdict", "converted", "keep_in_f32", "repaired", "first_offending", "kept_share",
          "largest", "row_scaled", "weights", "tensors", "activations"})
      EXPECT_TRUE(t.contains(key)) << key;
    for (const char* key : {"kl_mean", "kl_p99", "flips", "flip_share", "perplexity", "not_finite"})
      EXPECT_TRUE(t["converted"].contains(key)) << key;
    for (const char* key : {"values", "overflow", "underflow", "subnormal", "exact",
                            "relative_error_mean", "relative_error_max"})
      EXPECT_TRUE(t["tensors"][0].contains(key) && t["weights"].contains(key)) << key;
    EXPECT_TRUE(j["activations"][0][type].contains("departure"));
  }
  EXPECT_EQ(j["types"]["f8_e5m2"]["verdict"], "not safe");
  EXPECT_TRUE(j["types"]["f8_e4m3"]["row_scaled"].get<bool>());
  Outcome one = run_hone({"precision", model, "--text", text, "--to", "f8_e4m3", "--to", "bf16",
                          "--unscaled", "--json"});
  j = last_json(one.out);
  EXPECT_EQ(j["types"].size(), 2u);
  EXPECT_FALSE(j["types"]["f8_e4m3"]["row_scaled"].get<bool>());
  Outcome table = run_hone({"precision", model, "--text", text, "--all"});
  EXPECT_EQ(table.status, 0) << table.err;
  for (const char* part : {"noise floor", "model.layers.1.mlp.down_proj.weight", "lm_head output",
                           "block 1 after mixer"})
    EXPECT_NE(table.out.find(part), std::string::npos) << part << " in\n" << table.out;
}

TEST_F(Usage, TalkGoesToStderrAndQuietSilencesIt) {
  const std::vector<std::vector<std::string>> cases = {
      {"generate", model, "--prompt", "a", "--max-tokens", "3"},
      {"eval", model, "--text", text, "--context", "32"},
      {"precision", model, "--text", text},
      {"bench", model, "--prompt", "8", "--decode", "4", "--runs", "1"},
      {"convert", model, "--layout", "gguf", "--out", ""},
      {"quantize", model, "--method", "rtn", "--group", "32", "--out", ""},
  };
  int n = 0;
  for (std::vector<std::string> arguments : cases) {
    SCOPED_TRACE(arguments[0]);
    bool writes = arguments.back().empty();
    auto fresh = [&] {
      if (writes) arguments.back() = (scratch / ("out" + std::to_string(n++))).string();
    };
    fresh();
    Outcome run = run_hone(arguments);
    EXPECT_EQ(run.status, 0) << run.err;
    EXPECT_NE(run.err, "");
    EXPECT_EQ(run.out.empty(), writes) << run.out;
    fresh();
    arguments.push_back("--quiet");
    Outcome quiet = run_hone(arguments);
    EXPECT_EQ(quiet.status, 0) << quiet.err;
    EXPECT_EQ(quiet.err, "");
  }
}

TEST_F(Usage, ModelBytesCountWhatIsInMemory) {
  auto bytes = [&](const std::vector<std::string>& more) {
    std::vector<std::string> arguments{"bench", model,    "--prompt", "8",     "--decode",
                                       "4",     "--runs", "1",        "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return last_json(run_hone(arguments).out).value("model_bytes", int64_t{0});
  };
  Json info = last_json(run_hone({"info", model, "--json"}).out);
  EXPECT_EQ(bytes({}), info.value("running_bytes", int64_t{-1}));
  // The tied head of 288 x 64 (the embedding's rows stay in the file), norms of 5 x 64, and the
  // blocks, all f32.
  EXPECT_EQ(bytes({}), 4 * (288 * 64 + 5 * 64 + 2 * (64 * 64 * 2 + 32 * 64 * 2 + 3 * 64 * 96)));
  EXPECT_LT(bytes({"--load-as", "int8"}), bytes({}));
}

// What an adapter does is the same whether it is read from PEFT's files or llama.cpp's, or merged.
TEST_F(Usage, AdaptersRunFromEitherKindOfFileAndMerged) {
  const std::string gguf = (scratch / "a.gguf").string(), back = (scratch / "back").string(),
                    merged = (scratch / "merged").string();
  ASSERT_EQ(run_hone({"convert", adapter, "--base", model, "--out", gguf}).status, 0);
  ASSERT_EQ(run_hone({"convert", gguf, "--base", model, "--layout", "peft", "--out", back}).status,
            0);
  ASSERT_EQ(run_hone({"merge", model, "--adapter", adapter + "=2", "--out", merged}).status, 0);
  auto perplexity = [&](const std::string& of, const std::vector<std::string>& more) {
    std::vector<std::string> arguments{"eval", of,       "--text",        text, "--context",
                                       "32",   "--json", "--activations", "f32"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return last_json(run_hone(arguments).out).value("perplexity", 0.0);
  };
  const double plain = perplexity(model, {}), with = perplexity(model, {"--adapter", adapter});
  EXPECT_GT(std::abs(with / plain - 1), 1e-3);
  EXPECT_EQ(perplexity(model, {"--adapter", gguf}), with);
  EXPECT_EQ(perplexity(model, {"--adapter", back}), with);
  EXPECT_EQ(perplexity(model, {"--adapter", adapter + "=0"}), plain);
  EXPECT_NEAR(perplexity(model, {"--adapter", adapter + "=0.5", "--adapter", gguf + "=0.5"}) / with,
              1, 1e-5);
  EXPECT_NEAR(perplexity(merged, {}) / perplexity(model, {"--adapter", adapter + "=2"}), 1, 1e-4);
  const std::vector<std::vector<std::string>> others = {
      {"generate", model, "--prompt", "ab", "--max-tokens", "4"},
      {"chat", model, "--message", "ab", "--max-tokens", "4"},
      {"bench", model, "--prompt", "8", "--decode", "2", "--runs", "1"}};
  for (std::vector<std::string> arguments : others) {
    arguments.insert(arguments.end(), {"--adapter", adapter});
    EXPECT_EQ(run_hone(arguments).status, 0) << arguments[0];
  }
}

// Whether this CPU can run it or not, the parser knows every name.
TEST_F(Usage, EveryInstructionSetCanBeNamed) {
  for (const std::string& isa : kernels::isa_names()) {
    Outcome run = run_hone({"info", model, "--isa", isa});
    EXPECT_TRUE(run.status == 0 || (run.status == 1 && run.err.find("this CPU") != run.err.npos))
        << run.err;
  }
}

TEST_F(Usage, SpeedsStandBesideTheLimitsThatWereMeasured) {
  // A machine whose limits are what one would never reach.
  Json machine = {{"format", "hone machine"},
                  {"cpu", kernels::cpu_name()},
                  {"threads", 1},
                  {"best_isa", "baseline"}};
  machine["read"] = {{{"threads", 1}, {"huge_pages", true}, {"bytes_per_second", 1e15}}};
  for (const char* operation : {"fp32 FMA", "int8 dot"})
    machine["peaks"].push_back(
        {{"isa", "baseline"}, {"operation", operation}, {"per_second", 1e15}});
  machine["candidates"] = {{{"isa", "baseline"}, {"f32_per_second", 1}, {"int8_per_second", 1}}};
  machine["cache"] = {{"bytes", kernels::last_cache_bytes()}, {"bytes_per_second", 1e15}};
  const std::filesystem::path kept = cache_directory() / "hone";
  std::filesystem::create_directories(kept);
  write_bytes(kept / "machine.json", machine.dump());
  Outcome run = run_hone({"generate", model, "--prompt", "ab", "--max-tokens", "3", "--threads",
                          "1", "--json", "--ignore-eos"});
  Outcome talk = run_hone(
      {"generate", model, "--prompt", "ab", "--max-tokens", "3", "--threads", "1", "--ignore-eos"});
  Outcome others = run_hone({"generate", model, "--prompt", "ab", "--max-tokens", "3", "--threads",
                             "2", "--json", "--ignore-eos"});
  std::filesystem::remove_all(kept);
  ASSERT_EQ(run.status, 0) << run.err;
  Json j = last_json(run.out);
  for (const char* key : {"prefill_of_limit", "decode_of_limit"}) {
    EXPECT_GT(j.value(key, 0.0), 0) << key;
    EXPECT_LT(j.value(key, 1.0), 1e-3) << key;
    EXPECT_FALSE(last_json(others.out).contains(key)) << "limits of another number of threads";
  }
  EXPECT_NE(talk.err.find("(0 % of the machine's limit)"), std::string::npos) << talk.err;
}

TEST_F(Usage, ABatchThatWillNotFitIsRefusedFirst) {
  Outcome run = run_hone({"bench", model, "--batch", "1024", "--depth", "60", "--prompt", "1",
                          "--decode", "1", "--runs", "1", "--json"});
  EXPECT_EQ(run.status, 0) << run.err;
  Json config = Json::parse(std::ifstream(scratch / "model/config.json"));
  config["max_position_embeddings"] = 1 << 30;
  write_bytes(scratch / "model/config.json", config.dump());
  run = run_hone({"bench", model, "--batch", "1024", "--depth", "1000000"});
  EXPECT_EQ(run.status, 1);
  EXPECT_NE(run.err.find("KV cache of 1024 sequences"), std::string::npos) << run.err;
}

TEST_F(Usage, ASmallerKvCacheRuns) {
  for (auto [type, name] : {std::pair<std::string, std::string>("int8", "int8"),
                            {"int4", "int4"},
                            {"fp8", "fp8_e4m3"},
                            {"fp8_e5m2", "fp8_e5m2"}}) {
    Outcome run =
        run_hone({"generate", model, "--prompt", "ab", "--max-tokens", "3", "--kv-cache", type});
    EXPECT_EQ(run.status, 0) << run.err;
    EXPECT_NE(run.err.find("; " + name + " KV cache"), std::string::npos) << run.err;
  }
}

TEST_F(Usage, EvalComparesKvCaches) {
  Outcome run = run_hone(
      {"eval", model, "--text", text, "--context", "90", "--json", "--kv-cache", "f32,fp8,int4"});
  ASSERT_EQ(run.status, 0) << run.err;
  Json rows = last_json(run.out)["caches"];
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(rows[0]["kv_cache"], "f32");
  EXPECT_EQ(rows[1]["kv_cache"], "fp8_e4m3");
  EXPECT_EQ(rows[0]["kl_mean"], 0);
  for (const char* key : {"perplexity", "perplexity_stderr", "kl_mean", "kl_p99", "top1_agreement",
                          "rms_dp", "kv_bytes_per_token", "sequence_bytes"})
    for (const Json& row : rows) EXPECT_TRUE(row[key].is_number()) << key;
  EXPECT_GT(rows[0]["kv_bytes_per_token"], rows[1]["kv_bytes_per_token"]);
  EXPECT_GT(rows[1]["kv_bytes_per_token"], rows[2]["kv_bytes_per_token"]);
  run = run_hone({"eval", model, "--text", text, "--context", "90", "--kv-cache", "f32,fp8"});
  EXPECT_NE(run.out.find("fp8_e4m3"), std::string::npos) << run.out;
  EXPECT_NE(run.out.find("perplexity"), std::string::npos) << run.out;
}

TEST_F(Usage, EvalCountsTheBytesOfASequence) {
  Json j = last_json(run_hone({"eval", model, "--text", text, "--context", "64", "--json",
                               "--reference", model, "--exact-reference", "--kv-cache", "bf16"})
                         .out);
  EXPECT_EQ(j["kv_cache"], "bf16");
  EXPECT_EQ(j["reference_kv_cache"], "f32");
  EXPECT_EQ(2 * j["sequence_bytes"].get<int64_t>(), j["reference_sequence_bytes"].get<int64_t>());
  EXPECT_EQ(2 * j["kv_bytes_per_token"].get<double>(),
            j["reference_kv_bytes_per_token"].get<double>());
  EXPECT_EQ(j["state_bytes"], 0);
}

TEST_F(Usage, AHalfKvCacheTakesHalfAndIsNamed) {
  Json full = last_json(run_hone({"info", model, "--json"}).out);
  Json half = last_json(run_hone({"info", model, "--json", "--kv-cache", "bf16"}).out);
  EXPECT_EQ(full["kv_bytes_per_token"].get<int64_t>(),
            2 * half["kv_bytes_per_token"].get<int64_t>());
  Outcome run =
      run_hone({"generate", model, "--prompt", "ab", "--max-tokens", "3", "--kv-cache", "f16"});
  EXPECT_EQ(run.status, 0);
  EXPECT_NE(run.err.find("f16 KV cache"), std::string::npos) << run.err;
}

TEST_F(Usage, InfoCountsWhatRunsNotWhatIsStored) {
  // Integers in an order of their own have no integer form: they run as f32.
  const std::string out = (scratch / "out").string();
  Outcome run = run_hone({"quantize", model, "--method", "gptq", "--group", "32", "--act-order",
                          "--keep-better", "--calibration",
                          (fs::path(HONE_SOURCE_DIR) / "examples/text/calibration.txt").string(),
                          "--out", out, "--load-as", "int8"});
  EXPECT_EQ(run.status, 2);  // quantize has no --load-as
  const std::string recipe = (scratch / "recipe.yaml").string();
  write_bytes(recipe,
              "calibration: {samples: 4, length: 64}\n"
              "steps: [{pass: gptq, bits: 4, group: 32, act_order: true, keep_better: false}]\n");
  run = run_hone({"optimize", model, "--recipe", recipe, "--calibration",
                  (fs::path(HONE_SOURCE_DIR) / "examples/text/calibration.txt").string(), "--out",
                  out});
  ASSERT_EQ(run.status, 0) << run.err;
  Json before = last_json(run_hone({"info", model, "--json"}).out);
  Json after = last_json(run_hone({"info", out, "--json"}).out);
  EXPECT_LT(after.value("weight_bytes", int64_t{0}), before.value("weight_bytes", int64_t{0}));
  EXPECT_EQ(after.value("running_bytes", int64_t{0}), before.value("running_bytes", int64_t{0}));
}

}  // namespace
}  // namespace hone::testing
