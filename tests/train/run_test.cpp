// Training runs: an interrupted one goes on to the same bits, micro-batches add up to their batch,
// mixed precision skips and says why.
#include "train/run.h"

#include <array>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>

#include "adapters/adapter.h"
#include "models/session.h"
#include "testing.h"
#include "train/train_testing.h"

namespace hone {
namespace {

using testing::error_of;
using testing::relative_distance;
using testing::source_file;
using testing::TemporaryDirectory;

TrainingOptions few_steps(const std::string& method) {
  TrainingOptions o;
  o.method = method;
  o.data = {source_file("examples/text/calibration.txt")};
  o.trainer.steps = 8;
  o.trainer.optimizer.lr = 1e-3;
  o.batches.rows = 4;
  o.batches.length = 16;
  o.evaluate = source_file("examples/text/heldout.txt");
  o.eval_every = 3;
  o.eval_batches = 1;
  o.save_every = 4;
  o.adapter.rank = 4;
  return o;
}

// Stops a run in the middle, as a signal would.
struct Stop {};
struct Watch : TrainingObserver {
  int64_t stop_behind = -1, resumed_at = -1;
  std::vector<StepResult> steps;
  std::vector<double> held_out;
  void begin(int64_t at, int64_t) override { resumed_at = at; }
  void step(const StepResult& r, double) override {
    steps.push_back(r);
    if (r.step == stop_behind) throw Stop();
  }
  void evaluated(int64_t, double loss) override { held_out.push_back(loss); }
};

// One process's part of a run; what is trained, and the logits it gives.
class Part {
 public:
  Part(const std::filesystem::path& directory, TrainingOptions o, bool resume) {
    LoadOptions load;
    load.inference = !trains_the_model(o.method);
    if (o.method == "dwq") load.load_as = "nf4";
    model = load_model(source_file("models/hone-austen-3m"), load);
    o.finish(5);
    run.emplace(model, o, RunPlace{directory, Json::object(), resume, false});
  }
  Tensor logits() {
    Session s(*model.model, Activations::f32);
    return s.append(std::vector<int32_t>{5, 70, 300, 9});
  }
  LoadedModel model;
  std::optional<TrainingRun> run;
};

bool equal_runs(const Tensor& a, const Tensor& b) {
  return a.byte_size() == b.byte_size() &&
         std::memcmp(a.raw(), b.raw(), size_t(a.byte_size())) == 0;
}

class Resume : public ::testing::TestWithParam<const char*> {
 protected:
  TrainingOptions options() const {
    const std::string which = GetParam();
    TrainingOptions o = few_steps(which.starts_with("lora")   ? "lora"
                                  : which.starts_with("qat")  ? "qat"
                                  : which == "dwq"            ? "dwq"
                                  : which == "distill_cached" ? "distill"
                                                              : "full");
    if (which == "lora_dropout") o.adapter.dropout = 0.2;
    if (which == "f16") o.precision = "f16";
    if (which == "bf16_without_masters") {
      o.precision = "bf16";
      o.masters = false;
      o.trainer.optimizer.stochastic_rounding = true;
    }
    // Activations' steps begin as what the layers first see: not what a rehearsal has shown them.
    if (which == "qat_tensor") o.qat.activations = "tensor";
    if (o.method == "qat") o.qat.group = 32;
    if (o.method == "dwq" || o.method == "distill")
      o.teacher.teacher = source_file("models/hone-austen-3m");
    if (o.method == "distill") o.teacher.top = 16;
    if (which == "adamw8bit") o.trainer.optimizer.optimizer = "adamw8bit";
    return o;
  }
};

TEST_P(Resume, GoesOnToTheSameBits) {
  TemporaryDirectory scratch;
  Watch whole;
  Part straight(scratch / "a", options(), false);
  const Tensor before = straight.logits();
  straight.run->run(whole);
  ASSERT_EQ(whole.steps.size(), 8u);
  EXPECT_FALSE(equal_runs(straight.logits(), before));
  {
    Watch first;
    first.stop_behind = 6;
    Part begun(scratch / "b", options(), false);
    EXPECT_THROW(begun.run->run(first), Stop);
  }
  Watch rest;
  Part resumed(scratch / "b", options(), true);
  resumed.run->run(rest);
  EXPECT_EQ(rest.resumed_at, 4);
  ASSERT_EQ(rest.steps.size(), 4u);
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(rest.steps[i].loss, whole.steps[4 + i].loss) << i;
  EXPECT_EQ(rest.held_out.back(), whole.held_out.back());
  EXPECT_TRUE(equal_runs(resumed.logits(), straight.logits()));
}
INSTANTIATE_TEST_SUITE_P(Kinds, Resume,
                         ::testing::Values("full", "lora", "lora_dropout", "f16",
                                           "bf16_without_masters", "adamw8bit", "qat", "qat_tensor",
                                           "dwq", "distill_cached"));

TEST(TrainingRun, RefusesToGoOnAsAnotherRun) {
  TemporaryDirectory scratch;
  {
    Watch first;
    first.stop_behind = 5;
    Part begun(scratch / "run", few_steps("lora"), false);
    EXPECT_THROW(begun.run->run(first), Stop);
  }
  TrainingOptions other = few_steps("lora");
  other.adapter.rank = 8;
  EXPECT_NE(error_of([&] { Part(scratch / "run", other, true); }).find("rank was 4 and is now 8"),
            std::string::npos);
  EXPECT_NE(error_of([&] { Part(scratch / "run", few_steps("lora"), false); }).find("--resume"),
            std::string::npos);
  std::filesystem::create_directory(scratch / "other");
  testing::put_file(scratch / "other/notes.txt", "mine");
  EXPECT_NE(error_of([&] { Part(scratch / "other", few_steps("lora"), false); }).find("move it"),
            std::string::npos);
  EXPECT_TRUE(std::filesystem::exists(scratch / "other/notes.txt"));
}

TEST(TrainingRun, SaysThatItsLastStepRuinedTheModel) {
  TemporaryDirectory scratch;
  TrainingOptions o = few_steps("lora");
  o.trainer.steps = 1;
  o.trainer.optimizer.lr = 1e30;
  o.evaluate.clear();
  o.eval_every = o.save_every = 0;
  Part part(scratch / "run", o, false);
  Watch watch;
  try {
    part.run->run(watch);
    FAIL() << "a loss that is not finite was taken";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("ruined"), std::string::npos) << e.what();
  }
}

TEST(TrainingRun, RefusesToGoOnWithOtherData) {
  TemporaryDirectory scratch;
  TrainingOptions o = few_steps("lora");
  o.data = {(scratch / "data.txt").string()};
  testing::put_file(o.data[0], std::string(2000, 'a') + " b");
  {
    Watch first;
    first.stop_behind = 5;
    Part begun(scratch / "run", o, false);
    EXPECT_THROW(begun.run->run(first), Stop);
  }
  testing::put_file(o.data[0], std::string(2000, 'a') + " c");
  EXPECT_NE(error_of([&] { Part(scratch / "run", o, true); }).find("cannot resume: data"),
            std::string::npos);
}

// Rows of all of them, in an order that the seed gives: another order of files is another run.
TEST(TrainingRun, SeveralFilesAreMixed) {
  TemporaryDirectory scratch;
  for (const char c : {'a', 'b', 'c'})
    testing::put_file(scratch / std::string(1, c), std::string(600, c) + " the end");
  auto losses = [&](std::vector<std::string> names) {
    TemporaryDirectory place;
    TrainingOptions o = few_steps("lora");
    o.data.clear();
    for (const std::string& name : names) o.data.push_back(scratch / name);
    o.save_every = 0;
    Watch w;
    Part s(place / "run", o, false);
    s.run->run(w);
    std::vector<double> all{double(s.run->batches().targets())};
    for (const StepResult& r : w.steps) all.push_back(r.loss);
    return all;
  };
  const auto abc = losses({"a", "b", "c"}), ab = losses({"a", "b"});
  EXPECT_EQ(abc, losses({"a", "b", "c"}));
  EXPECT_GT(abc[0], ab[0]);
  EXPECT_NE(abc, losses({"c", "b", "a"}));
  TrainingOptions none = few_steps("lora");
  none.data.clear();
  EXPECT_NE(error_of([&] { none.finish(0); }).find("no data"), std::string::npos);
}

// What another teacher said before an interruption is not what this one says.
TEST(TrainingRun, BegunAnewItAsksItsTeacher) {
  TemporaryDirectory scratch;
  TrainingOptions o = few_steps("distill");
  o.teacher.teacher = source_file("models/hone-austen-3m");
  o.teacher.top = 4;
  const fs::path cache = scratch / "run/teacher.logits";
  fs::create_directory(scratch / "run");
  testing::put_file(cache, "of another");
  Part begun(scratch / "run", o, false);
  EXPECT_GT(fs::file_size(cache), 1000u);
}

// However ragged the parts are: means of means would differ (transformers#34191).
TEST(TrainingRun, MicroBatchesAddUpToTheirBatch) {
  auto course = [&](int64_t parts) {
    TemporaryDirectory scratch;
    TrainingOptions o = few_steps("full");
    o.data = {scratch / "data.jsonl"};
    testing::put_file(o.data[0],
                      R"({"prompt": "a b c d", "completion": "e"})"
                      "\n"
                      R"({"prompt": "x", "completion": "one two three four five six seven"})"
                      "\n"
                      R"({"prompt": "long prompt of many words", "completion": "no"})"
                      "\n"
                      R"({"prompt": "p", "completion": "a sentence that goes on and on"})"
                      "\n");
    o.batches.packing = "single";
    o.batches.length = 64;
    o.evaluate.clear();
    o.accumulate = parts;
    Watch w;
    Part s(scratch / "run", o, false);
    s.run->run(w);
    return std::pair(w.steps.back().loss, s.logits());
  };
  const auto [loss, logits] = course(1);
  const auto [loss4, logits4] = course(4);
  EXPECT_NEAR(loss, loss4, 1e-4);
  EXPECT_LT(relative_distance(logits.data<float>(), logits4.data<float>(), logits.numel()), 1e-3);
}

TEST(TrainingRun, NamesTheOperationBehindABackoff) {
  TemporaryDirectory scratch;
  TrainingOptions o = few_steps("full");
  o.precision = "f16";
  o.trainer.loss_scale.initial = 1e9;
  Watch w;
  Part s(scratch / "run", o, false);
  s.run->run(w);
  ASSERT_TRUE(w.steps[0].skipped);
  EXPECT_NE(w.steps[0].overflow.find("gradient"), std::string::npos) << w.steps[0].overflow;
  EXPECT_EQ(w.steps[1].loss_scale, w.steps[0].loss_scale / 2);
  const auto& counts = s.run->rounded();
  EXPECT_GT(counts.at(w.steps[0].overflow).overflows, 0);
}

// Whether f32 masters are rounded for products, or weights are stored as f16.
TEST(TrainingRun, WeightsThatF16CannotHoldAreNamed) {
  for (bool masters : {true, false}) {
    SCOPED_TRACE(masters);
    TemporaryDirectory scratch;
    TrainingOptions o = few_steps("full");
    o.precision = "f16";
    o.masters = masters;
    o.train_only = "*.up_proj.weight";
    o.trainer.steps = 2;
    o.save_every = 0;
    LoadOptions load;
    load.inference = false;
    LoadedModel m = load_model(source_file("models/hone-austen-3m"), load);
    Linear& up = m.model->blocks[1].mlp()->up;
    Tensor values = decode_weight(up.weight());
    values.mutable_data<float>()[3] = 7e4f;
    up.set_weight(float_weight(values));
    o.finish(5);
    TrainingRun run(m, o, RunPlace{scratch / "run", Json::object(), false, false});
    Watch w;
    run.run(w);
    const char* what = masters ? ", weight" : ".weight";
    ASSERT_TRUE(w.steps[0].skipped);
    EXPECT_EQ(w.steps[0].overflow, up.name() + what);
    EXPECT_GT(run.rounded().at(up.name() + what).overflows, 0);
    EXPECT_EQ(run.rounded().at(m.model->blocks[0].mlp()->up.name() + what).overflows, 0);
  }
}

// What is computed again in the backward is counted then, and not when it ran first.
TEST(TrainingRun, CheckpointingChangesNoCountOfRounding) {
  auto counts = [&](const char* checkpointing) {
    TemporaryDirectory scratch;
    TrainingOptions o = few_steps("full");
    o.precision = "f16";
    o.checkpointing = checkpointing;
    o.trainer.steps = 2;
    Watch w;
    Part s(scratch / "run", o, false);
    s.run->run(w);
    std::map<std::string, std::array<int64_t, 3>> all;
    for (const auto& [name, c] : s.run->rounded())
      all[name] = {c.values, c.overflows, c.underflows};
    return all;
  };
  const auto none = counts("none");
  EXPECT_GT(none.size(), 20u);
  for (const char* checkpointing : {"cheap", "block", "root"})
    EXPECT_EQ(counts(checkpointing), none) << checkpointing;
}

// The log and the comparison of a run that goes on hold what the method has.
TEST(TrainingRun, OptionsOfOtherMethodsAreNoneOfTheRuns) {
  TrainingOptions o = few_steps("lora");
  const Json lora = options_json(o);
  o.method = "qat";
  const Json qat = options_json(o);
  for (const char* name : {"rank", "targets"}) {
    EXPECT_TRUE(lora.contains(name)) << name;
    EXPECT_FALSE(qat.contains(name)) << name;
  }
  for (const char* name : {"bits", "grid"}) {
    EXPECT_FALSE(lora.contains(name)) << name;
    EXPECT_TRUE(qat.contains(name)) << name;
  }
  EXPECT_TRUE(lora.contains("lr") && qat.contains("lr"));
  EXPECT_EQ(error_of([&] { o.check_given("rank", "--rank"); }),
            "invalid_argument: --rank belongs to lora, dora, and the method is qat");
  o.check_given("bits", "--bits");
  o.check_given("lr", "--lr");
}

TEST(TrainingRun, RatesAreTheMethodsOwn) {
  auto rate = [](const std::string& method, const std::string& optimizer, double given = -1) {
    TrainingOptions o = few_steps(method);
    o.teacher.teacher = "MODEL";
    o.trainer.optimizer = {};
    o.trainer.optimizer.optimizer = optimizer;
    o.trainer.optimizer.lr = given;
    o.finish(0);
    return o.trainer.optimizer.lr;
  };
  EXPECT_EQ(rate("lora", "adamw"), 1e-3);
  EXPECT_EQ(rate("lora", "lion"), 1e-4);
  const std::map<std::string, double> expected = {{"full", 5e-5}, {"distill", 5e-5}, {"qat", 2e-5}};
  for (const auto& [method, lr] : expected) {
    EXPECT_EQ(rate(method, "adamw"), lr) << method;
    EXPECT_DOUBLE_EQ(rate(method, "lion"), rate(method, "adamw") / 10);
    EXPECT_EQ(rate(method, "adamw", 0.5), 0.5);
  }
  EXPECT_EQ(rate("dwq", "adamw"), 1e-6);
}

// What a mode costs on eight steps is far below what eight steps bring.
TEST(TrainingRun, PrecisionsFollowF32) {
  auto last = [&](const char* precision) {
    TemporaryDirectory scratch;
    TrainingOptions o = few_steps("full");
    o.precision = precision;
    o.trainer.loss_scale.initial = 1024;  // a skipped step would be another run
    Watch w;
    Part s(scratch / "run", o, false);
    s.run->run(w);
    for (const StepResult& r : w.steps) EXPECT_FALSE(r.skipped) << precision << ", " << r.step;
    return w.steps.back().loss;
  };
  const double exact = last("f32");
  EXPECT_NE(last("bf16"), exact);
  EXPECT_NEAR(last("bf16"), exact, 0.02);
  EXPECT_NEAR(last("f16"), exact, 0.01);
  EXPECT_NEAR(last("tf32"), exact, 0.01);
  EXPECT_NEAR(last("tf32_truncated"), exact, 0.01);
}

}  // namespace
}  // namespace hone
