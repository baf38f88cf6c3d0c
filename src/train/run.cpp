#include "train/run.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/files.h"
#include "base/fingerprint.h"
#include "base/log.h"
#include "base/memory.h"
#include "formats/safetensors.h"
#include "kernels/select.h"
#include "text/tokenized_data.h"

namespace hone {
namespace {

constexpr const char* kIndex = "run.json";
constexpr const char* kCheckpoint = "checkpoint.safetensors";
constexpr const char* kTeacher = "teacher.logits";
constexpr const char* kOwn[] = {kIndex, kCheckpoint, kTeacher, "data.tokens", "held-out.tokens"};

class JsonOptions : public OptionVisitor {
 public:
  explicit JsonOptions(const std::string& method) : method_(method) {}
  Json all = Json::object();
  void option(const char* name, int64_t& v, const char*) override { add(name, v); }
  void option(const char* name, double& v, const char*) override { add(name, v); }
  void option(const char* name, bool& v, const char*) override { add(name, v); }
  void option(const char* name, std::string& v, const char*) override { add(name, v); }

 private:
  template <typename T>
  void add(const char* name, const T& v) {
    if (belongs_to(method_)) all[name] = v;
  }
  const std::string& method_;
};

}  // namespace

Json options_json(TrainingOptions& options) {
  JsonOptions v(options.method);
  options.visit(v);
  v.all["method"] = options.method;
  return v.all;
}

TrainingRun::TrainingRun(LoadedModel& model, TrainingOptions options, RunPlace place)
    : model_(model), options_(std::move(options)), place_(std::move(place)) {
  lock();
  check_identity();
  load_data();
  method_ = prepare_training(model_, options_);
  parameters_ = method_->parameters();
  teacher_.open(model_, options_.teacher, *train_, options_.trainer.steps,
                place_.directory / kTeacher);
}

TrainingRun::~TrainingRun() = default;

TrainingRun::Lock::~Lock() {
  if (fd < 0) return;
  std::error_code ignored;
  if (!fs::exists(directory / kCheckpoint, ignored)) fs::remove_all(directory, ignored);
  ::close(fd);
}

int64_t TrainingRun::trained_parameters() const {
  int64_t n = 0;
  for (const Parameter& p : parameters_) n += p.value.numel();
  return n;
}

void TrainingRun::lock() {
  const fs::path& d = place_.directory;
  if (fs::exists(fs::symlink_status(d))) {
    bool ours = fs::is_directory(d);
    if (ours)
      for (const auto& e : fs::directory_iterator(d)) {
        const std::string name = e.path().filename().string();
        ours = ours &&
               std::ranges::any_of(kOwn, [&](const char* own) { return name.starts_with(own); });
      }
    HONE_CHECK(ours, io, "{}: it stands where the run's state goes, and is none; move it away",
               d.string());
  }
  fs::create_directories(d);
  lock_.fd = ::open(d.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  HONE_CHECK(lock_.fd >= 0, io, "{}: cannot be opened", d.string());
  if (::flock(lock_.fd, LOCK_EX | LOCK_NB) != 0) {
    ::close(std::exchange(lock_.fd, -1));
    fail(ErrorKind::io, "{}: another run is writing it", d.string());
  }
  lock_.directory = d;
}

void TrainingRun::check_identity() {
  const fs::path index = place_.directory / kIndex, checkpoint = place_.directory / kCheckpoint;
  Json identity = options_json(options_);
  // These change when things are said or written, not what is trained.
  for (const char* key : {"eval_every", "eval_batches", "save_every"}) identity.erase(key);
  // The files' bytes, not their names; and all that makes ids of them.
  auto print = [](const std::string& file) {
    return fs::is_regular_file(file) ? fmt::format("{:016x}", file_fingerprint(file)) : file;
  };
  for (const std::string& file : options_.data) identity["data"].push_back(print(file));
  identity["evaluate"] = print(options_.evaluate);
  if (model_.tokenizer != nullptr)
    identity["tokenizer"] = fmt::format("{:016x}", tokenizer_fingerprint(*model_.tokenizer));
  identity["chat template"] = model_.chat_template;
  identity["seed"] = options_.trainer.seed;
  identity["instruction set"] =
      kernels::table().isa + std::string(kernels::uses_bf16_dots() ? ", dots of bf16" : "");
  for (const auto& [key, value] : place_.identity.items()) identity[key] = value;
  if (place_.restart || !fs::exists(checkpoint)) {
    fs::remove(checkpoint);
    fs::remove(place_.directory / kTeacher);
    write_text_file(index, identity.dump(2) + "\n");
    return;
  }
  HONE_CHECK(place_.resume, invalid_argument,
             "{}: an interrupted run left its state here; use --resume to go on, or --restart to "
             "begin anew",
             place_.directory.string());
  const Json before = parse_json(read_text_file(index), index.string());
  for (const auto& [key, value] : identity.items())
    HONE_CHECK(before.contains(key) && before[key] == value, invalid_argument,
               "cannot resume: {} was {} and is now {}", key,
               before.contains(key) ? before[key].dump().substr(0, 120) : "absent",
               value.dump().substr(0, 120));
}

void TrainingRun::load_data() {
  HONE_CHECK(model_.tokenizer != nullptr, unsupported, "{} has no tokenizer", model_.path);
  const int64_t room = model_.model->context;
  HONE_CHECK(options_.batches.length <= room, invalid_argument,
             "length {}: the model has a context of {}", options_.batches.length, room);
  model_.model->set_reach(options_.batches.length);
  auto open = [&](const std::vector<fs::path>& files, const char* cache) {
    return open_tokenized(files, *model_.tokenizer, model_.chat_template, options_.text,
                          place_.directory / cache);
  };
  const auto data = open({options_.data.begin(), options_.data.end()}, "data.tokens");
  BatchOptions b = options_.batches;
  if (!options_.evaluate.empty()) b.held_out = 0;
  train_ = std::make_unique<Batches>(data, b,
                                     b.held_out > 0 ? Batches::Part::train : Batches::Part::all);
  if (!options_.evaluate.empty())
    held_out_ = std::make_unique<Batches>(open({options_.evaluate}, "held-out.tokens"), b,
                                          Batches::Part::all);
  else if (b.held_out > 0)
    held_out_ = std::make_unique<Batches>(data, b, Batches::Part::held_out);
  if (train_->left().targets > 0)
    log_warning("{} tokens to learn are cut off: they lie behind the first {} of their examples",
                train_->left().targets, b.length);
}

double TrainingRun::evaluate(Trainer& trainer) {
  double sum = 0;
  int64_t targets = 0;
  const int64_t count = std::min(options_.eval_batches, held_out_->steps());
  for (int64_t i = 0; i < count; ++i) {
    const TrainingBatch batch = held_out_->pass_batch(i);
    sum += trainer.evaluate({&batch, 1}, targets_) * static_cast<double>(batch.target_count);
    targets += batch.target_count;
  }
  return sum / static_cast<double>(targets);
}

void TrainingRun::run(TrainingObserver& observer) {
  Model& model = *model_.model;
  Trainer trainer(model, parameters_, options_.trainer, [&] { method_->values_changed(); });
  const int64_t rows = (options_.batches.rows + options_.accumulate - 1) / options_.accumulate;
  const MemoryPlan plan = plan_memory(model, trainer, teacher_.rehearsed(), rows,
                                      options_.batches.length, options_.accumulate);
  observer.planned(plan);
  require_memory(plan.total() - resident_bytes(), "the training");
  if (!restore(trainer)) method_->begin();
  const int64_t steps = options_.trainer.steps;
  observer.begin(trainer.steps_done(), steps);
  auto due = [&](int64_t every) {
    const int64_t done = trainer.steps_done();
    return done == steps || (every > 0 && done % every == 0);
  };
  int64_t skipped = 0;
  while (trainer.steps_done() < steps) {
    const double started = monotonic_seconds();
    const TrainingBatch batch = train_->batch(trainer.steps_done());
    const std::vector<TrainingBatch> parts =
        split_batch(batch, std::min(options_.accumulate, batch.rows()));
    const StepResult r = trainer.step(parts, teacher_.objective());
    // A loss scale looks for its size by skipping; without one nothing will ever be finite again.
    skipped = r.skipped ? skipped + 1 : 0;
    HONE_CHECK(std::isfinite(r.loss) || options_.trainer.precision == Activations::f16,
               invalid_argument, "step {}: the loss is {}; a lower lr may help", r.step, r.loss);
    HONE_CHECK(skipped < 100, invalid_argument,
               "step {}: no finite gradients in the last 100 steps (loss {}, loss scale {})",
               r.step, r.loss, r.loss_scale);
    observer.step(r, monotonic_seconds() - started);
    if (held_out_ != nullptr && due(options_.eval_every))
      observer.evaluated(trainer.steps_done(), evaluate(trainer));
    if (options_.save_every > 0 && due(options_.save_every)) save(trainer);
  }
  rounded_ = trainer.recorder().counts();
  // A step's loss is that in front of it: what the last one made has not been seen.
  const TrainingBatch last = train_->batch(steps - 1);
  const std::vector<TrainingBatch> parts =
      split_batch(last, std::min(options_.accumulate, last.rows()));
  // (f16 names the operations behind it.)
  HONE_CHECK(options_.trainer.precision == Activations::f16 ||
                 std::isfinite(trainer.evaluate({parts.data(), 1}, targets_)),
             invalid_argument,
             "behind step {} the loss is not finite: the training has ruined the model and writes "
             "nothing; a lower lr may help",
             steps);
  method_->finish();
}

void TrainingRun::save(const Trainer& trainer) {
  std::vector<NamedTensor> all;
  for (const Parameter& p : parameters_) all.push_back({"parameter." + p.name, p.value.detached()});
  for (NamedTensor& t : trainer.state()) all.push_back({"state." + t.name, std::move(t.value)});
  SafetensorsWriter writer(place_.directory / kCheckpoint);
  std::map<std::string, const Tensor*> by_name;
  for (const NamedTensor& t : all) {
    writer.declare(t.name, t.value.dtype(), t.value.shape());
    by_name[t.name] = &t.value;
  }
  for (const std::string& name : writer.order()) writer.write(name, *by_name.at(name));
  writer.finish();
}

bool TrainingRun::restore(Trainer& trainer) {
  const fs::path path = place_.directory / kCheckpoint;
  if (!fs::exists(path)) return false;
  const SafetensorsFile file = SafetensorsFile::open(path);
  std::vector<NamedTensor> state;
  for (const SafetensorsEntry& e : file.entries())
    if (e.name.starts_with("state.")) state.push_back({e.name.substr(6), file.tensor(e.name)});
  for (Parameter& p : parameters_) {
    const Tensor t = file.tensor("parameter." + p.name);
    HONE_CHECK(t.shape() == p.value.shape() && t.dtype() == p.value.dtype(), corrupt,
               "{}: parameter {}: expected {}, got {}", path.string(), p.name,
               shape_string(p.value.shape()), shape_string(t.shape()));
    std::copy_n(t.raw(), t.byte_size(), p.value.mutable_raw());
  }
  trainer.load_state(state);
  method_->values_changed();
  return true;
}

void TrainingRun::remove() {
  std::error_code ignored;
  fs::remove_all(place_.directory, ignored);
}

}  // namespace hone
