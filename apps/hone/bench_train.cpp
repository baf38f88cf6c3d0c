#include "bench_train.h"

#include <fmt/core.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/log.h"
#include "base/median.h"
#include "base/random.h"
#include "base/threads.h"
#include "kernels/select.h"
#include "models/roofline.h"
#include "train/method.h"

namespace hone {
namespace {

TrainingBatch random_batch(const TrainBenchFlags& f, int64_t vocabulary, uint64_t step) {
  TrainingBatch b;
  auto token = [&](int64_t i) {
    return static_cast<int32_t>(random_uniform(step, static_cast<uint64_t>(i)) *
                                static_cast<double>(vocabulary));
  };
  for (int64_t row = 0; row < f.batch; ++row) {
    b.row_spans.push_back(row);
    b.spans.push_back({row * f.length, (row + 1) * f.length});
    for (int64_t t = 0; t < f.length; ++t) {
      b.tokens.push_back(token(std::ssize(b.tokens)));
      b.targets.push_back(token(std::ssize(b.tokens)));
    }
  }
  b.row_spans.push_back(f.batch);
  b.target_count = std::ssize(b.targets);
  return b;
}

// Multiply-adds count twice. A product is done forward, back to its input, and, where its weight is
// trained, to the weight; attention's pairs are 4 operations a channel forward and 10 back. A
// teacher runs forward.
double operations_of(Model& m, const TrainBenchFlags& f, bool weights_trained, bool taught) {
  double weights = 0, pairs = 0;
  for (Linear* l : m.linears()) weights += double(l->out_features()) * double(l->in_features());
  for (const Work::Attention& a : work_of(m, Activations::f32).layers)
    for (int64_t t = 1; t <= f.length; ++t)
      pairs += a.pair_operations * double(std::min(t, a.reach));
  const int products = (weights_trained ? 6 : 4) + (taught ? 2 : 0);
  return double(f.batch) * (double(f.length) * weights * products + pairs * (taught ? 4.5 : 3.5));
}

}  // namespace

void add_train_bench_flags(CLI::App& app, TrainBenchFlags& f) {
  std::vector<std::string> methods;
  for (const TrainingMethodName& m : training_methods()) methods.emplace_back(m.name);
  for (const AdapterMethod& m : adapter_methods()) methods.push_back(m.name);
  auto group = "Training steps";
  app.add_option("--train", f.method, "measure steps of this method of hone tune instead")
      ->check(one_of(methods))
      ->type_name("NAME")
      ->group(group);
  auto number = [&](const char* name, int64_t& field, double high, const char* help) {
    app.add_option(name, field, help)
        ->check(between(1, high))
        ->type_name("N")
        ->capture_default_str()
        ->group(group);
  };
  number("--length", f.length, 1 << 20, "tokens of each of the --batch sequences");
  number("--steps", f.steps, 1000, "steps that count, behind one that warms up");
  app.add_option("--rank", f.rank, "lora, dora: columns of B (default 16)")
      ->check(between(1, 65536))
      ->type_name("N")
      ->group(group);
  auto name = [&](const char* flag, std::string& field, const char* help) {
    app.add_option(flag, field, help)->type_name("NAME")->capture_default_str()->group(group);
  };
  name("--checkpointing", f.checkpointing, "none, cheap, block or root");
  name("--precision", f.precision, "f32, bf16, f16, tf32 or tf32_truncated");
  name("--optimizer", f.optimizer, "adamw, adamw8bit, adafactor, sgd or lion");
}

void run_train_bench(const ModelArgument& argument, const TrainBenchFlags& f,
                     const CommonOptions& common) {
  const bool model_trained = trains_the_model(f.method), scales = f.method == "dwq";
  if (model_trained && !scales && !argument.load_as.empty())
    throw UsageError("--load-as goes with an adapter or dwq");
  TrainingOptions o;
  o.method = f.method;
  o.data = {"-"};
  // The model itself, as it is in its file.
  if (scales || f.method == "distill") o.teacher.teacher = argument.path;
  if (f.rank > 0) {
    try {
      o.check_given("rank", "--rank");
    } catch (const Error& e) {
      throw UsageError(e.what());
    }
    o.adapter.rank = f.rank;
    o.adapter.alpha = double(f.rank);
  }
  o.checkpointing = f.checkpointing;
  o.precision = f.precision;
  o.trainer.optimizer.optimizer = f.optimizer;
  o.trainer.schedule.schedule = "constant";
  o.trainer.steps = f.steps + 1;
  o.batches.rows = f.batch;
  o.finish(common.seed);
  LoadedModel m = argument.load(!model_trained);
  HONE_CHECK(f.length <= m.model->context, invalid_argument,
             "--length {}: the model has a context of {}", f.length, m.model->context);
  const std::unique_ptr<TrainingMethod> method = prepare_training(m, o);
  Teacher teacher;
  teacher.open_beside(m, o.teacher);
  Trainer trainer(*m.model, method->parameters(), o.trainer, [&] { method->values_changed(); });
  std::vector<double> seconds, peaks;
  double loss = 0;
  // The peak is measured between steps: the machine's speed changes from second to second.
  const kernels::RoofMeter meter;
  for (int64_t i = 0; i <= f.steps; ++i) {
    const TrainingBatch b = random_batch(f, m.model->vocabulary(), static_cast<uint64_t>(i));
    const double started = monotonic_seconds();
    loss = trainer.step({&b, 1}, teacher.objective()).loss;
    const double took = monotonic_seconds() - started;
    peaks.push_back(meter.measure(true).fma_per_second);
    if (i > 0) seconds.push_back(took);
  }
  const double step = median(seconds),
               operations = operations_of(*m.model, f, model_trained, !o.teacher.teacher.empty());
  const double of_peak = operations / step / median(peaks);
  const double tokens = double(f.batch) * double(f.length);
  if (common.json)
    return print_json({{"method", f.method},
                       {"train_tokens_per_second", tokens / step},
                       {"step_seconds", step},
                       {"operations", operations},
                       {"of_f32_peak", of_peak},
                       {"f32_peak", median(peaks)},
                       {"loss", loss},
                       {"peak_rss_bytes", peak_rss_bytes() - kernels::RoofMeter::kBytes},
                       {"threads", thread_count()},
                       {"isa", kernels::table().isa}});
  print_text(text_table(
      {{"training", "batch", "step", "tokens/s", "GFLOP/s", "of f32 peak", "memory"},
       {f.method, fmt::format("{} x {}", f.batch, f.length), human_seconds(step),
        fmt::format("{:.1f}", tokens / step), fmt::format("{:.1f}", operations / step / 1e9),
        fmt::format("{:.0f} %", 100 * of_peak),
        human_bytes(double(peak_rss_bytes() - kernels::RoofMeter::kBytes))}}));
}

}  // namespace hone
