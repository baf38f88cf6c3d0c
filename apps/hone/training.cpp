#include "training.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>

#include "base/files.h"
#include "base/fingerprint.h"
#include "base/log.h"
#include "base/median.h"
#include "base/temporary.h"
#include "base/threads.h"
#include "eval/live_chart.h"
#include "eval/training_log.h"
#include "eval/training_page.h"
#include "kernels/machine.h"
#include "kernels/select.h"
#include "models/adapter_file.h"
#include "models/export.h"
#include "models/initial.h"

namespace hone {
namespace {

// The log, its chart on the terminal, and what the summary says.
class Watch : public TrainingObserver {
 public:
  Watch(std::filesystem::path path, TrainingLog head)
      : path_(std::move(path)), head_(std::move(head)) {}

  void planned(const MemoryPlan& p) override {
    plan = p;
    log_info("memory: {} for the model, {} for steps, {} for the optimizer, {} for the rest: {}",
             human_bytes(double(p.weights)), human_bytes(double(p.step)),
             human_bytes(double(p.optimizer)), human_bytes(double(p.rest)),
             human_bytes(double(p.total())));
  }
  void begin(int64_t resumed_at, int64_t steps) override {
    TrainingLog log = head_;
    if (resumed_at > 0) {
      log_info("going on behind step {}", resumed_at);
      if (fs::exists(path_)) log = read_training_log(path_);
      log.truncate(resumed_at);
    }
    file_.emplace(path_, log);
    chart_.emplace(steps, resumed_at);
  }
  void step(const StepResult& r, double seconds) override {
    file_->add({r.step, r.loss, r.norm, r.lr, r.tokens, seconds, r.loss_scale, r.skipped});
    if (r.skipped && !r.overflow.empty())
      log_info("step {}: loss scale {} was too large: {} overflowed", r.step, r.loss_scale,
               r.overflow);
    chart_->update(file_->log());
  }
  void evaluated(int64_t step, double loss) override {
    file_->add(TrainingLog::Evaluation{step, loss});
    chart_->update(file_->log());
  }
  void end() {
    chart_->finish(log());
    chart_.reset();
  }
  const TrainingLog& log() const { return file_->log(); }

  double speed() const {
    std::vector<double> speeds;
    for (const auto& s : log().steps) speeds.push_back(static_cast<double>(s.tokens) / s.seconds);
    return speeds.empty() ? 0 : median(speeds);
  }
  int64_t skipped() const {
    return std::ranges::count_if(log().steps, [](const auto& s) { return s.skipped; });
  }
  /// Mean of the last tenth of the steps.
  double last_loss() const {
    const auto& steps = log().steps;
    const size_t n = std::max<size_t>(1, steps.size() / 10);
    double sum = 0;
    for (size_t i = steps.size() - n; i < steps.size(); ++i) sum += steps[i].loss;
    return sum / static_cast<double>(n);
  }

  MemoryPlan plan;

 private:
  std::filesystem::path path_;
  TrainingLog head_;
  std::optional<TrainingLogFile> file_;
  std::optional<LiveChart> chart_;
};

// What a model's bytes are, for a run that goes on.
Json identity_of(const std::filesystem::path& model) {
  if (!fs::is_directory(model)) return fmt::format("{:016x}", file_fingerprint(model));
  Json all = Json::object();
  std::map<std::string, std::string> files;
  for (const auto& e : fs::directory_iterator(model))
    if (e.path().extension() == ".safetensors" || e.path().filename() == "config.json")
      files[e.path().filename().string()] = fmt::format("{:016x}", file_fingerprint(e.path()));
  for (const auto& [name, print] : files) all[name] = print;
  return all;
}

// What rounding lost, the operations that lost most first; empty where nothing was rounded.
std::string precision_table(const TrainingRun& run) {
  std::vector<std::pair<std::string, ops::FlightRecorder::Counts>> all(run.rounded().begin(),
                                                                       run.rounded().end());
  std::erase_if(all, [](const auto& e) { return e.second.overflows + e.second.underflows == 0; });
  if (all.empty()) return {};
  std::ranges::stable_sort(all, std::greater{}, [](const auto& e) {
    return std::pair(e.second.overflows, e.second.underflows);
  });
  constexpr size_t kShown = 10;
  std::vector<std::vector<std::string>> rows{{"operation", "values", "overflowed", "became 0"}};
  for (size_t i = 0; i < std::min(kShown, all.size()); ++i)
    rows.push_back({all[i].first, std::to_string(all[i].second.values),
                    std::to_string(all[i].second.overflows),
                    std::to_string(all[i].second.underflows)});
  return text_table(rows);
}

ExportOptions export_options(const TrainingCommand& c, LoadedModel& model) {
  ExportOptions options;
  options.layout = fitting_layout(model, c.out, {});
  return options;
}

void check_output(const TrainingCommand& c, LoadedModel& model) {
  try {
    check_export(model, export_options(c, model), {});
  } catch (const Error& e) {
    if (c.options.method != "qat" || e.kind() != ErrorKind::unsupported) throw;
    fail(ErrorKind::unsupported,
         "no layout of files holds {} bits in groups of {}: take 2, 3, 4 or 8 bits, and groups of "
         "32, 64 or 128",
         c.options.qat.bits, c.options.qat.group);
  }
}

void write_output(const TrainingCommand& c, LoadedModel& model, TrainingRun& run) {
  if (Adapter* adapter = run.adapter()) {
    PeftAdapter files = adapter->save();
    files.config.base_model_name_or_path = c.model;
    files.config.inference_mode = true;
    write_adapter_directory(c.out, files, *model.family, model.config);
    return;
  }
  export_model(model, c.out, export_options(c, model));
}

}  // namespace

void add_training_output(CLI::App& app, TrainingCommand& c) {
  app.add_option("--out", c.out, "a new directory for what was trained")
      ->type_name("DIR")
      ->required();
  auto* resume = app.add_flag("--resume", c.resume, "go on where an interrupted run stopped");
  app.add_option("--report", c.report, "the loss curves as an HTML page")->type_name("FILE");
  app.add_flag("--restart", c.restart, "forget what an interrupted run left")->excludes(resume);
}

void finish_training(TrainingCommand& c, uint64_t seed) {
  const std::string& method = c.options.method;
  HONE_CHECK(c.load_as.empty() || method == "dwq" || !trains_the_model(method), invalid_argument,
             "--load-as freezes the model's codes: it goes with an adapter or dwq, not with {}",
             method);
  // What was quantised while loading has an original to go back to.
  if (method == "dwq" && !c.load_as.empty() && c.options.teacher.teacher.empty())
    c.options.teacher.teacher = c.model;
  // Random weights have nothing to lose by large steps.
  OptimizerOptions& optimizer = c.options.trainer.optimizer;
  if (c.model.empty() && optimizer.lr == -1) optimizer.lr = optimizer.resolved().lr;
  c.options.finish(seed);
  HONE_CHECK(trains_the_model(method) || !c.out.ends_with(".gguf"), invalid_argument,
             "{}: an adapter is written as a PEFT directory; hone convert makes a GGUF file of it",
             c.out);
  // Names are made of it.
  while (c.out.size() > 1 && c.out.ends_with('/')) c.out.pop_back();
  const fs::path report = c.report;
  HONE_CHECK(
      report.empty() || (fs::is_directory(report.has_parent_path() ? report.parent_path() : ".") &&
                         !fs::is_directory(report)),
      io, "{}: the report needs a file name in a directory that exists", c.report);
}

void run_training(TrainingCommand& c, const CommonOptions& common) {
  finish_training(c, common.seed);
  check_new_output(c.out);
  const fs::path place = c.out + ".training";
  Json identity{{"seed", common.seed}};
  LoadOptions load;
  load.inference = !trains_the_model(c.options.method);
  load.load_as = c.load_as;
  LoadedModel model;
  std::optional<Temporary> initial;
  if (c.model.empty()) {
    identity["architecture"] = c.architecture;
    // Its weights are drawn again when the run goes on, before the checkpoint replaces them.
    initial.emplace(c.out + ".initial", Temporary::Kind::directory);
    const fs::path at = initial->path() / "model";
    write_initial_model(at, c.architecture, c.tokenizer, common.seed);
    model = load_model(at, load);
  } else {
    identity["model"] = identity_of(c.model);
    identity["load as"] = c.load_as;
    model = load_model(c.model, load);
  }
  if (!c.options.teacher.teacher.empty())
    identity["teacher's files"] = identity_of(c.options.teacher.teacher);
  TrainingRun run(model, c.options, {place, identity, c.resume, c.restart});
  // Codes that no layout holds are refused before the work, not after it.
  if (run.adapter() == nullptr) check_output(c, model);
  log_info(
      "{} numbers are trained, the model has {}; {} targets in an epoch, batches of {} "
      "rows, {} with a learning rate of {}",
      run.trained_parameters(), model.model->parameter_count(), run.batches().targets(),
      c.options.batches.rows, c.options.trainer.optimizer.optimizer,
      c.options.trainer.optimizer.lr);
  TrainingLog head;
  head.title = "Training";
  head.model = model.name;
  head.method = c.options.method;
  head.machine =
      fmt::format("{}, {} threads, {}", kernels::cpu_name(), thread_count(), kernels::table().isa);
  head.settings = {{"data", fmt::format("{}", fmt::join(c.options.data, ", "))},
                   {"seed", std::to_string(common.seed)}};
  if (!c.load_as.empty()) head.settings.emplace_back("load_as", c.load_as);
  const Json settings = options_json(c.options);
  for (const auto& [key, value] : settings.items())
    head.settings.emplace_back(key, value.is_string() ? value.get<std::string>() : value.dump());
  Watch watch(c.out + ".log.jsonl", std::move(head));
  const double started = monotonic_seconds();
  run.run(watch);
  watch.end();
  const double seconds = monotonic_seconds() - started;
  write_output(c, model, run);
  if (!c.report.empty()) write_text_file(c.report, training_page(watch.log()));
  run.remove();
  const TrainingLog& log = watch.log();
  if (!common.json) {
    print_text(fmt::format("{}: {}; peak memory {} ({} planned)\n", c.out, training_headline(log),
                           human_bytes(double(peak_rss_bytes())),
                           human_bytes(double(watch.plan.total()))));
    print_text(precision_table(run));
    return;
  }
  Json j{{"out", c.out},
         {"method", c.options.method},
         {"steps", c.options.trainer.steps},
         {"loss", watch.last_loss()},
         {"held_out_loss", Json()},
         {"trained_parameters", run.trained_parameters()},
         {"train_tokens_per_second", watch.speed()},
         {"skipped_steps", watch.skipped()},
         {"seconds", seconds},
         {"planned_peak_bytes", watch.plan.total()},
         {"peak_rss_bytes", peak_rss_bytes()}};
  if (!log.evaluations.empty()) j["held_out_loss"] = log.evaluations.back().loss;
  print_json(j);
}

}  // namespace hone
