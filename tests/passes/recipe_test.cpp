// Recipes: what parses, what is refused and why; runs that are interrupted and resumed.
#include "passes/recipe.h"

#include "base/files.h"
#include "base/threads.h"
#include "passes/optimize.h"
#include "testing.h"

namespace hone {
namespace {

using testing::golden;
using testing::TemporaryDirectory;

std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

TEST(Recipe, RefusesWhatItDoesNotKnowWithLineAndReason) {
  auto error = [](const std::string& yaml) {
    return error_of([&] { parse_recipe(yaml, "r.yaml"); });
  };
  EXPECT_NE(error("steps: [{pass: gptk}]").find("no pass is called 'gptk'"), std::string::npos);
  EXPECT_NE(error("steps:\n - {pass: rtn, bitz: 4}").find("r.yaml:2"), std::string::npos);
  EXPECT_NE(error("steps: [{pass: rtn, bits: four}]").find("whole number"), std::string::npos);
  EXPECT_NE(error("steps: [{pass: rtn, bits: 9}]").find("2 to 8"), std::string::npos);
  EXPECT_NE(error("stepz: []").find("unknown key"), std::string::npos);
  EXPECT_NE(error("name: x\nsteps: [{pass: gptk}]").find("r.yaml:2"), std::string::npos);
  EXPECT_NE(error("steps: 3").find("list"), std::string::npos);
  EXPECT_NE(error("steps: []").find("at least one"), std::string::npos);
  EXPECT_NE(error("steps: [{pass: rtn}]\nsteps: [{pass: nf4}]").find("twice"), std::string::npos);
  EXPECT_NE(error("steps: [{pass: rtn, bits: 4, bits: 3}]").find("twice"), std::string::npos);
  EXPECT_NE(error("{").find("not valid YAML"), std::string::npos);
  EXPECT_NE(error("a: b").find("unknown key"), std::string::npos);
}

LoadedModel tiny() {
  LoadOptions o;
  o.inference = false;
  return load_model(golden("families/llama"), o);
}

TEST(Recipe, RefusesToQuantiseAModuleTwice) {
  LoadedModel m = tiny();
  Recipe r = parse_recipe("steps: [{pass: nf4}, {pass: int8}]", "r");
  EXPECT_NE(error_of([&] { check_recipe(r.main, m); }).find("a second time"), std::string::npos);
  Recipe cast_first = parse_recipe("steps: [{pass: cast, to: f16}, {pass: int8}]", "r");
  EXPECT_NO_THROW(check_recipe(cast_first.main, m));
  Recipe nothing = parse_recipe("steps: [{pass: nf4, modules: 'encoder.*'}]", "r");
  EXPECT_NE(error_of([&] { check_recipe(nothing.main, m); }).find("selects nothing"),
            std::string::npos);
}

TEST(Recipe, RtnTakesTheShorthandsOfLoadAs) {
  auto form = [](const char* type) {
    Recipe r = parse_recipe(fmt::format("steps: [{{pass: rtn, encoding: {}}}]", type), "test");
    return r.main.steps[0].made->form(128);
  };
  EXPECT_EQ(form("int8").encoding, "int8_row");
  EXPECT_EQ(form("int3").encoding, "int_group");
  EXPECT_EQ(form("int3").params.bits, 3);
  EXPECT_EQ(form("int_group").params.bits, 4);
  EXPECT_EQ(form("nf4").params.block, 64);
}

TEST(ModuleFilter, MatchesGlobsAndAlternatives) {
  ModuleFilter f("*.mlp.*|lm_head");
  EXPECT_TRUE(f.matches("model.layers.3.mlp.up_proj"));
  EXPECT_TRUE(f.matches("lm_head"));
  EXPECT_FALSE(f.matches("model.layers.3.self_attn.q_proj"));
  EXPECT_TRUE(ModuleFilter("a?c").matches("abc"));
}

// The bytes of every file of a directory.
std::map<std::string, std::string> contents(const fs::path& dir) {
  std::map<std::string, std::string> all;
  for (const auto& e : fs::directory_iterator(dir))
    all[e.path().filename().string()] = read_text_file(e.path());
  return all;
}

class OptimizeTest : public ::testing::Test {
 protected:
  OptimizeOptions options(const fs::path& out) {
    OptimizeOptions o;
    o.model = testing::source_file("models/hone-austen-3m");
    o.recipe = parse_recipe(
        "calibration: {samples: 2, length: 64}\n"
        "steps: [{pass: gptq, bits: 4, group: 64}, {pass: rtn, modules: '*embed_tokens', encoding: "
        "f16}]",
        "test");
    o.recipe.decode_to = "f16";
    o.calibration = testing::source_file("examples/text/calibration.txt");
    o.out = out;
    return o;
  }

  // Stops a run when so many units are in its journal.
  static void interrupt(OptimizeOptions o, int units) {
    o.unit_stored = [&](int64_t) {
      if (--units == 0) throw std::runtime_error("stopped");
    };
    EXPECT_THROW(optimize(o), std::runtime_error);
    EXPECT_EQ(units, 0);
  }
};

TEST_F(OptimizeTest, ResumesToTheSameBytesAfterEveryUnit) {
  TemporaryDirectory scratch;
  optimize(options(scratch / "whole"));
  auto expected = contents(scratch / "whole");
  EXPECT_GT(expected.size(), 3u);
  OptimizeOptions o = options(scratch / "part");
  for (int units : {1, 2, 4, 6}) {
    interrupt(o, units);
    EXPECT_FALSE(fs::exists(o.out));
    o.resume = true;
    optimize(o);
    EXPECT_EQ(contents(o.out), expected) << "interrupted after " << units;
    EXPECT_FALSE(fs::exists(scratch / "part.journal"));
    o.resume = false;
    fs::remove_all(o.out);
  }
}

TEST_F(OptimizeTest, BytesDoNotDependOnThreads) {
  TemporaryDirectory scratch;
  optimize(options(scratch / "all"));
  set_threads(1);
  optimize(options(scratch / "one"));
  set_threads(0);
  EXPECT_EQ(contents(scratch / "all"), contents(scratch / "one"));
}

TEST_F(OptimizeTest, RefusesAnotherRecipeWhenResuming) {
  TemporaryDirectory scratch;
  OptimizeOptions o = options(scratch / "out");
  interrupt(o, 1);
  EXPECT_NE(error_of([&] { optimize(o); }).find("--resume"), std::string::npos);
  o.resume = true;
  o.recipe =
      parse_recipe("calibration: {samples: 2, length: 64}\nsteps: [{pass: gptq, bits: 3}]", "t");
  EXPECT_NE(error_of([&] { optimize(o); }).find("cannot resume: steps"), std::string::npos);
}

// An output that proves impossible must not cost the work of the steps.
TEST_F(OptimizeTest, WhatTheStepsDoNotDependOnMayChangeWhenResuming) {
  TemporaryDirectory scratch;
  optimize(options(scratch / "whole"));
  OptimizeOptions o = options(scratch / "part");
  interrupt(o, 2);
  o.resume = true;
  int64_t first = -2;
  o.unit_stored = [&](int64_t unit) { first = first == -2 ? unit : first; };
  o.recipe = parse_recipe(
      "calibration: {length: 64, samples: 2}\n"
      "steps:\n  - {pass: gptq, bits: 4, group: 64}\n"
      "  - {pass: rtn, modules: '*embed_tokens', encoding: f16}\n"
      "output: {layout: gptq_v2, decode_to: f16}\nprompts: [Once]\n",
      "test");
  optimize(o);
  EXPECT_EQ(first, 2) << "finished units ran again";
  auto whole = contents(scratch / "whole"), part = contents(o.out);
  EXPECT_EQ(part["model.safetensors"], whole["model.safetensors"]);
}

TEST_F(OptimizeTest, LeavesAloneWhatIsNoJournal) {
  TemporaryDirectory scratch;
  OptimizeOptions o = options(scratch / "out");
  fs::create_directory(scratch / "out.journal");
  write_text_file(scratch / "out.journal" / "diary.txt", "mine");
  o.restart = true;
  EXPECT_NE(error_of([&] { optimize(o); }).find("move it away"), std::string::npos);
  EXPECT_EQ(read_text_file(scratch / "out.journal" / "diary.txt"), "mine");
}

TEST_F(OptimizeTest, TakesNoUnitsWithoutTheirIndex) {
  TemporaryDirectory scratch;
  OptimizeOptions o = options(scratch / "out");
  optimize(o);
  auto expected = contents(scratch / "out");
  fs::remove_all(o.out);
  OptimizeOptions other = o;
  other.seed = 77;
  other.calibration = testing::source_file("examples/text/heldout.txt");
  interrupt(other, 3);
  fs::remove(scratch / "out.journal" / "journal.json");
  optimize(o);
  EXPECT_EQ(contents(o.out), expected);
}

TEST_F(OptimizeTest, RefusesAnotherModelOfTheSameSizeWhenResuming) {
  TemporaryDirectory scratch;
  OptimizeOptions o = options(scratch / "out");
  fs::copy(o.model, scratch / "model");
  o.model = scratch / "model";
  interrupt(o, 1);
  fs::path weights = o.model / "model.safetensors";
  std::string bytes = read_text_file(weights);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  write_text_file(weights, bytes);
  o.resume = true;
  EXPECT_NE(error_of([&] { optimize(o); }).find("cannot resume: model"), std::string::npos);
}

TEST_F(OptimizeTest, RefusesWhatTheLayoutCannotHoldBeforeAnythingRuns) {
  TemporaryDirectory scratch;
  auto refused = [&](const char* steps, const char* layout, const char* reason) {
    OptimizeOptions o = options(scratch / "out");
    o.recipe = parse_recipe(std::string("calibration: {samples: 2, length: 64}\nsteps: ") + steps +
                                "\noutput: {layout: " + layout + "}",
                            "test");
    o.unit_stored = [](int64_t) { FAIL() << "it ran"; };
    std::string error = error_of([&] { optimize(o); });
    EXPECT_NE(error.find(reason), std::string::npos) << error;
    EXPECT_FALSE(fs::exists(scratch / "out"));
    EXPECT_FALSE(fs::exists(scratch / "out.journal"));
  };
  refused("[{pass: gptq, bits: 4}]", "bitsandbytes", "bitsandbytes holds");
  refused("[{pass: gptq, bits: 5}]", "gptq", "2, 3, 4 or 8 bits");
  refused("[{pass: nf4}]", "gguf", "GGUF has no type for nf4");
  refused("[{pass: cast, to: f8_e4m3}]", "hf", "row scales");
  refused("[{pass: nf4, modules: '*q_proj'}, {pass: int8, modules: '*k_proj'}]", "bitsandbytes",
          "not both");
}

TEST(Recipe, RefusesAShapeThatTheEncodingCannotHold) {
  LoadOptions canonical;
  canonical.inference = false;
  LoadedModel m = load_model(golden("families/llama"), canonical);
  Recipe r = parse_recipe("steps: [{pass: rtn, encoding: q4_k}]", "test");
  std::string error = error_of([&] { check_recipe(r.main, m); });
  EXPECT_NE(error.find("q_proj cannot be stored as q4_k"), std::string::npos) << error;
}

TEST_F(OptimizeTest, WrittenModelLoadsAndPredictsWhatWasMeasured) {
  TemporaryDirectory scratch;
  OptimizeOptions o = options(scratch / "out");
  o.text = testing::source_file("examples/text/heldout.txt");
  o.recipe.evaluate_context = 128;
  o.activations = Activations::f32;
  Report report = optimize(o);
  ASSERT_EQ(report.variants.size(), 2u);
  LoadedModel written = load_model(o.out);
  PerplexityOptions p;
  p.context = 128;
  p.activations = Activations::f32;
  Perplexity again = measure_perplexity(written, read_text_file(o.text), p);
  EXPECT_DOUBLE_EQ(again.perplexity, report.variants[1].perplexity);
  EXPECT_GT(report.variants[1].kl_mean, 0);
  EXPECT_LT(report.variants[1].perplexity, 1.1 * report.variants[0].perplexity);
}

}  // namespace
}  // namespace hone
