// A training run: from a model, data and options to trained parameters, with measurements on the
// way, and checkpoints from which an interrupted run goes on to the same bits.
//
// A directory beside the output holds run.json, which pins everything that the result depends on,
// the tokens of the data, and the last checkpoint. Files appear whole or not at all.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "base/json.h"
#include "models/loader.h"
#include "train/memory_plan.h"
#include "train/method.h"
#include "train/options.h"
#include "train/teacher.h"

namespace hone {

/// Where a run keeps what it needs to go on.
struct RunPlace {
  std::filesystem::path directory;
  Json identity;  ///< of what the caller chose beside the options: the model, its encoding
  bool resume = false, restart = false;
};

/// Told of what happens, in order; a resumed run begins behind `resumed_at`.
class TrainingObserver {
 public:
  virtual ~TrainingObserver() = default;
  virtual void planned(const MemoryPlan&) {}
  virtual void begin(int64_t /*resumed_at*/, int64_t /*steps*/) {}
  virtual void step(const StepResult&, double /*seconds*/) {}
  /// Mean loss on held-out data after so many steps.
  virtual void evaluated(int64_t /*step*/, double /*loss*/) {}
};

class TrainingRun {
 public:
  /// `model` was loaded with inference for an adapter, else without; it must live as long. Raises
  /// what bad options and data raise, before anything is trained, and invalid_argument where the
  /// directory holds a run that is not to be resumed or is another.
  TrainingRun(LoadedModel& model, TrainingOptions options, RunPlace place);
  /// Removes the directory where it holds no checkpoint.
  ~TrainingRun();

  void run(TrainingObserver& observer);
  /// The adapter that was trained; null where the model itself was.
  Adapter* adapter() { return method_->adapter(); }
  int64_t trained_parameters() const;
  const Batches& batches() const { return *train_; }
  /// What rounding lost, by operation, since the run went on.
  const std::map<std::string, ops::FlightRecorder::Counts, std::less<>>& rounded() const {
    return rounded_;
  }
  /// Removes the directory, when its output is elsewhere.
  void remove();

 private:
  void lock();
  void check_identity();
  void load_data();
  void save(const Trainer& trainer);
  bool restore(Trainer& trainer);
  double evaluate(Trainer& trainer);

  LoadedModel& model_;
  TrainingOptions options_;
  RunPlace place_;
  // The directory's lock. Without a checkpoint there is nothing to go on from: then the directory
  // goes with it, also where the constructor throws.
  struct Lock {
    int fd = -1;
    std::filesystem::path directory;
    ~Lock();
  } lock_;
  std::unique_ptr<TrainingMethod> method_;
  std::vector<Parameter> parameters_;
  std::unique_ptr<Batches> train_, held_out_;
  Teacher teacher_;
  Objective targets_;  // what is measured, whatever is trained towards
  std::map<std::string, ops::FlightRecorder::Counts, std::less<>> rounded_;
};

/// The options that the method has, as they were given and meant, in the order of visit.
Json options_json(TrainingOptions& options);

}  // namespace hone
