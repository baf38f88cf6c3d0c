// Trainer: what one step of training is.
//
// A step runs its micro-batches forward and backward, adds up their gradients, and lets the
// optimizer change the parameters once. Losses are means over the target tokens of the whole step,
// so that k micro-batches give what one batch of all of them gives, however ragged they are
// (transformers#34191). What is trained is a list of tensors: a whole model's, or an adapter's.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "nn/model.h"
#include "ops/rounding.h"
#include "tensor/storage.h"
#include "text/batches.h"
#include "train/loss_scale.h"
#include "train/optimizer.h"
#include "train/schedule.h"

namespace hone {

/// What a model is trained towards; by default the targets' cross-entropy.
class Objective {
 public:
  virtual ~Objective() = default;
  /// The loss of the rows of `batch` that have a target, in order. `rows` are their indices,
  /// `targets` what stands there; both outlive the result.
  virtual std::unique_ptr<LogitLoss> loss(const TrainingBatch& batch, std::span<const int64_t> rows,
                                          std::span<const int32_t> targets);
};

struct TrainerOptions {
  OptimizerOptions optimizer;
  ScheduleOptions schedule;
  int64_t steps = 1000;
  double max_norm = 1;          ///< gradients are clipped to this norm; 0 = never
  LossScaleOptions loss_scale;  ///< of f16
  Checkpointing checkpointing = Checkpointing::none;
  Activations precision = Activations::f32;
  /// Tokens of a span that run at once; the next have the states that these leave. 0 = all.
  int64_t segment = 0;
  /// Segments through whose states gradients flow: truncated backpropagation through time. The
  /// first `bptt` of a span are one group, with a tape of its own, the next ones another. 0 = all.
  int64_t bptt = 0;
  uint64_t seed = 0;
};

/// "f32", "bf16", "f16", "tf32" or "tf32_truncated"; raises invalid_argument otherwise.
Activations training_precision(const std::string& name);

/// What a step was, for logs.
struct StepResult {
  int64_t step = 0;  ///< 1 for the first
  double loss = 0;   ///< mean over target tokens, nats
  double norm = 0;   ///< of all gradients before clipping
  double lr = 0;
  int64_t tokens = 0;  ///< all that ran
  int64_t targets = 0;
  double loss_scale = 1;
  bool skipped = false;  ///< a gradient was not finite
  std::string overflow;  ///< where skipped in mixed precision: the first operation that overflowed
};

class Trainer {
 public:
  /// `values_changed` is called after each step, when the parameters have new values.
  Trainer(Model& model, std::vector<Parameter> parameters, TrainerOptions options,
          std::function<void()> values_changed);

  StepResult step(std::span<const TrainingBatch> micro_batches, Objective& objective);
  /// Forward and backward as in a step, but nothing changes: for what it takes.
  void rehearse(const TrainingBatch& batch, Objective& objective, int64_t parts = 1);
  /// Bytes of the optimizer's state.
  int64_t state_bytes() const { return optimizer_->state_bytes(parameters_); }
  /// Mean loss over the targets of batches, with nothing recorded.
  double evaluate(std::span<const TrainingBatch> batches, Objective& objective);

  int64_t steps_done() const { return done_; }
  /// What rounding lost, by operation, in mixed precision.
  const ops::FlightRecorder& recorder() const { return recorder_; }
  /// Elements whose updates were too small to change them, by parameter (count_unchanged).
  const std::map<std::string, int64_t>& stagnated() const { return stagnated_; }
  std::span<const Parameter> parameters() const { return parameters_; }
  const TrainerOptions& options() const { return options_; }
  /// All that a resumed run needs beside the parameters' values; with it the next steps have the
  /// same bits.
  std::vector<NamedTensor> state() const;
  /// Raises corrupt where it does not belong to these parameters.
  void load_state(const std::vector<NamedTensor>& state);

 private:
  void count_infinities();
  // The sum of losses of one micro-batch; its gradients, times `gradient`, are added up.
  double run(const TrainingBatch& batch, Objective& objective, float gradient);
  double loss_of(const Tensor& hidden, LogitLoss& loss, float gradient);

  StorageReuse reuse_;
  Model& model_;
  std::vector<Parameter> parameters_;
  TrainerOptions options_;
  std::function<void()> values_changed_;
  std::unique_ptr<Optimizer> optimizer_;
  Schedule schedule_;
  std::optional<LossScale> scale_;
  ops::FlightRecorder recorder_;
  std::map<std::string, int64_t> stagnated_;
  bool counted_ = false;  // f16 weights as they were at the beginning
  int64_t done_ = 0;
};

}  // namespace hone
