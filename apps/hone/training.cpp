#include "training.h"

#include <fmt/core.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/files.h"
#include "base/fingerprint.h"
#include "base/log.h"
#include "base/temporary.h"
#include "base/median.h"
#include "models/export.h"
#include "models/initial.h"

namespace hone {
namespace {

// Progress on stderr, and what the summary says.
class Watch : public TrainingObserver {
 public:
  void begin(int64_t resumed_at, int64_t steps) override {
    progress_.emplace("training", steps);
    if (resumed_at > 0) log_info("going on behind step {}", resumed_at);
  }
  void step(const StepResult& r, double seconds) override {
    if (std::isnan(first_loss)) first_loss = r.loss;
    last = r;
    smooth_ = std::isnan(smooth_) ? r.loss : 0.95 * smooth_ + 0.05 * r.loss;
    speeds_.push_back(static_cast<double>(r.tokens) / seconds);
    skipped += r.skipped;
    std::string note = fmt::format("loss {:.4f}  lr {:.2e}  {:.0f} tok/s", smooth_, r.lr, speed());
    if (!std::isnan(held_out)) note += fmt::format("  held out {:.4f}", held_out);
    progress_->update(r.step, note);
  }
  void evaluated(int64_t step, double loss) override {
    if (std::isnan(first_held_out)) first_held_out = loss;
    held_out = loss;
    log_info("step {}: held-out loss {:.4f}, perplexity {:.2f}", step, loss, std::exp(loss));
  }

  double speed() const { return speeds_.empty() ? 0 : median(speeds_); }
  double smooth_loss() const { return smooth_; }
  StepResult last;
  int64_t skipped = 0;
  double first_loss = std::nan(""), held_out = std::nan(""), first_held_out = std::nan("");

 private:
  std::optional<Progress> progress_;
  std::vector<double> speeds_;
  double smooth_ = std::nan("");
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

void write_output(const TrainingCommand& c, LoadedModel& model, TrainingRun& run) {
  if (Adapter* adapter = run.adapter()) {
    PeftAdapter files = adapter->save();
    files.config.base_model_name_or_path = c.model;
    files.config.inference_mode = true;
    write_peft_directory(c.out, files);
    return;
  }
  ExportOptions options;
  options.layout = c.out.ends_with(".gguf") ? "gguf" : "hf";
  export_model(model, c.out, options);
}

}  // namespace

void add_training_output(CLI::App& app, TrainingCommand& c) {
  app.add_option("--out", c.out, "a new directory for what was trained")
      ->type_name("DIR")
      ->required();
  auto* resume = app.add_flag("--resume", c.resume, "go on where an interrupted run stopped");
  app.add_flag("--restart", c.restart, "forget what an interrupted run left")->excludes(resume);
}

void run_training(TrainingCommand& c, const CommonOptions& common) {
  c.options.finish(common.seed);
  check_new_output(c.out);
  const bool adapter = c.options.method != "full";
  HONE_CHECK(adapter || c.load_as.empty(), invalid_argument,
             "--load-as freezes the model: it goes with an adapter, not with the method full");
  const fs::path place = c.out + ".training";
  Json identity{{"seed", common.seed}};
  LoadOptions load;
  load.inference = adapter;
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
  TrainingRun run(model, c.options, {place, identity, c.resume, c.restart});
  log_info("{} of {} parameters are trained; {} targets in an epoch of {} rows",
           run.trained_parameters(), model.model->parameter_count(), run.batches().targets(),
           run.batches().rows());
  Watch watch;
  const double started = monotonic_seconds();
  run.run(watch);
  const double seconds = monotonic_seconds() - started;
  write_output(c, model, run);
  run.remove();
  if (common.json) {
    Json j{{"out", c.out},
           {"method", c.options.method},
           {"steps", watch.last.step},
           {"loss", watch.smooth_loss()},
           {"held_out_loss", watch.held_out},
           {"trained_parameters", run.trained_parameters()},
           {"train_tokens_per_second", watch.speed()},
           {"skipped_steps", watch.skipped},
           {"seconds", seconds},
           {"peak_rss_bytes", peak_rss_bytes()}};
    print_json(j);
    return;
  }
  std::string line = fmt::format("{}: loss {:.4f} -> {:.4f} in {} steps, {} ({:.0f} tok/s)", c.out,
                                 watch.first_loss, watch.smooth_loss(), watch.last.step,
                                 human_seconds(seconds), watch.speed());
  if (!std::isnan(watch.held_out))
    line += fmt::format("; held-out perplexity {:.3f}", std::exp(watch.held_out));
  print_text(line + fmt::format("; peak memory {}\n", human_bytes(double(peak_rss_bytes()))));
}

}  // namespace hone
