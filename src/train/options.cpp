#include "train/options.h"

#include <cmath>

#include "train/method.h"

namespace hone {

void TrainingOptions::visit(OptionVisitor& v) {
  v.option("steps", trainer.steps, "how often the parameters change");
  v.option("batch", batches.rows, "rows of a batch");
  v.option("length", batches.length, "most tokens of a row");
  v.option("accumulate", accumulate, "parts of a batch that run one after the other");
  v.option("segment", trainer.segment,
           "tokens of a row that run at once, with carried state; 0: all");
  v.option("bptt", trainer.bptt, "segments that gradients flow back through; 0: all");
  v.option("packing", batches.packing, "cut, whole or single: how examples fill rows");
  v.option("evaluate", evaluate, "file to measure on; else a share of the data");
  v.option("held_out", batches.held_out, "share of the data that is kept for measuring");
  v.option("eval_every", eval_every, "steps between measurements; 0: at the end alone");
  v.option("eval_batches", eval_batches, "most batches of a measurement");
  v.option("save_every", save_every, "steps between checkpoints; 0: none");
  v.option("checkpointing", checkpointing, "none, cheap, block or root: what is computed twice");
  v.option("precision", precision, "f32, bf16, f16, tf32 or tf32_truncated: of products");
  v.option("max_norm", trainer.max_norm, "gradients are clipped to it; 0: never");
  v.belong_to("full, distill");
  v.option("masters", masters, "bf16 and f16: f32 weights are kept and rounded");
  v.option("train_only", train_only, "glob of the parameters that are trained");
  v.belong_to("");
  trainer.optimizer.visit(v);
  trainer.schedule.visit(v);
  trainer.loss_scale.visit(v);
  adapter.visit(v);
  qat.visit(v);
  teacher.visit(v);
  v.belong_to("prefix, prompt");
  v.option("initialise", initialise, "a text to begin with");
  v.belong_to("");
  text.visit(v);
}

namespace {

// Whose an option is.
class Owners : public OptionVisitor {
 public:
  Owners(std::string name, const std::string& method) : name_(std::move(name)), method_(method) {}
  void option(const char* name, int64_t&, const char*) override { see(name); }
  void option(const char* name, double&, const char*) override { see(name); }
  void option(const char* name, bool&, const char*) override { see(name); }
  void option(const char* name, std::string&, const char*) override { see(name); }
  std::string others;  // whose it is, where it is not the method's

 private:
  void see(const char* name) {
    if (name == name_ && !belongs_to(method_)) others = methods();
  }
  std::string name_;
  const std::string& method_;
};

Checkpointing checkpointing_from_name(const std::string& name) {
  if (name == "none") return Checkpointing::none;
  if (name == "cheap") return Checkpointing::cheap;
  if (name == "block") return Checkpointing::block;
  HONE_CHECK(name == "root", invalid_argument,
             "checkpointing '{}': expected none, cheap, block or root", name);
  return Checkpointing::root;
}

}  // namespace

void TrainingOptions::check_given(const std::string& name, const std::string& spelled) {
  Owners v(name, method);
  visit(v);
  HONE_CHECK(v.others.empty(), invalid_argument, "{} belongs to {}, and the method is {}", spelled,
             v.others, method);
}

void TrainingOptions::finish(uint64_t seed) {
  auto at_least = [](const char* name, int64_t value, int64_t least) {
    HONE_CHECK(value >= least, invalid_argument, "{} {}: expected {} or more", name, value, least);
  };
  at_least("steps", trainer.steps, 1);
  HONE_CHECK(trainer.steps <= 1'000'000'000, invalid_argument, "steps {}: expected at most 10⁹",
             trainer.steps);
  at_least("accumulate", accumulate, 1);
  at_least("segment", trainer.segment, 0);
  at_least("bptt", trainer.bptt, 0);
  HONE_CHECK(trainer.bptt == 0 || trainer.segment > 0, invalid_argument,
             "bptt {}: it counts segments, and none is given", trainer.bptt);
  HONE_CHECK(trainer.segment == 0 || teacher.teacher.empty(), invalid_argument,
             "segment {}: a teacher sees rows as a whole", trainer.segment);
  at_least("eval_every", eval_every, 0);
  at_least("eval_batches", eval_batches, 1);
  at_least("save_every", save_every, 0);
  HONE_CHECK(accumulate <= batches.rows, invalid_argument,
             "accumulate {}: a batch has {} rows to be cut into parts", accumulate, batches.rows);
  HONE_CHECK(!data.empty(), invalid_argument, "no data to learn from");
  const bool full = method == "full" || method == "distill";
  if (!trains_the_model(method)) {
    adapter_method(method);
    adapter.check();
  }
  HONE_CHECK(initialise.empty() || !adapter.projection, invalid_argument,
             "initialise: a projection makes the prefix, which then begins with no text");
  HONE_CHECK(std::isfinite(trainer.max_norm), invalid_argument, "max_norm {}: expected a number",
             trainer.max_norm);
  if (method == "qat") qat.check();
  teacher.finish(method);
  if (trainer.optimizer.lr == -1)
    trainer.optimizer.lr = default_learning_rate(method, trainer.optimizer.optimizer);
  if (method == "dwq" && trainer.optimizer.weight_decay < 0) trainer.optimizer.weight_decay = 0;
  trainer.checkpointing = checkpointing_from_name(checkpointing);
  HONE_CHECK(trainer.segment == 0 || trainer.bptt == 1 || checkpointing == "none" ||
                 checkpointing == "cheap",
             invalid_argument, "checkpointing {}: it cuts states, as bptt 1 does", checkpointing);
  trainer.precision = training_precision(precision);
  const bool half = precision == "bf16" || precision == "f16";
  HONE_CHECK(masters || (half && full), invalid_argument,
             "without masters weights are bf16 or f16: that needs one of these precisions and the "
             "method full or distill");
  trainer.seed = adapter.seed = batches.seed = seed;
  trainer.optimizer.seed = static_cast<int64_t>(seed >> 1);
  // With the method's defaults: what a log says, and what a run that goes on is compared with.
  trainer.optimizer = trainer.optimizer.resolved();
}

}  // namespace hone
