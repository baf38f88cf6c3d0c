#include "train/trainer.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <utility>

#include "base/random.h"
#include "base/threads.h"
#include "ops/elementwise.h"
#include "ops/tape.h"
#include "train/bptt.h"
#include "train/gradients.h"
#include "train/model_batch.h"

namespace hone {

std::unique_ptr<LogitLoss> Objective::loss(const TrainingBatch&, std::span<const int64_t>,
                                           std::span<const int32_t> targets) {
  return std::make_unique<CrossEntropy>(targets);
}

Activations training_precision(const std::string& name) {
  if (name == "f32") return Activations::f32;
  if (name == "bf16") return Activations::bf16;
  if (name == "f16") return Activations::f16;
  if (name == "tf32") return Activations::tf32;
  HONE_CHECK(name == "tf32_truncated", invalid_argument,
             "precision '{}': expected f32, bf16, f16, tf32 or tf32_truncated", name);
  return Activations::tf32_truncated;
}

namespace {
// Values of an f16 parameter that rounding made infinite.
int64_t infinities(const Tensor& t) {
  const auto* bits = reinterpret_cast<const uint16_t*>(t.raw());
  std::atomic<int64_t> count = 0;
  parallel_for(t.numel(), 1 << 16, [&](int64_t b, int64_t e) {
    count += std::count_if(bits + b, bits + e, [](uint16_t v) { return (v & 0x7fff) == 0x7c00; });
  });
  return count;
}
}  // namespace

Trainer::Trainer(Model& model, std::vector<Parameter> parameters, TrainerOptions options,
                 std::function<void()> values_changed)
    : model_(model),
      parameters_(std::move(parameters)),
      options_(std::move(options)),
      values_changed_(std::move(values_changed)),
      optimizer_(make_optimizer(options_.optimizer)),
      schedule_(options_.schedule, options_.steps) {
  HONE_CHECK(!parameters_.empty(), invalid_argument, "nothing of the model is trained");
  HONE_CHECK(options_.max_norm >= 0, invalid_argument, "max_norm {}: expected 0 or more",
             options_.max_norm);
  options_.optimizer = options_.optimizer.resolved();
  if (options_.precision == Activations::f16) scale_.emplace(options_.loss_scale);
  model_.set_precision(options_.precision);
}

double Trainer::run(const TrainingBatch& b, Objective& objective, float gradient) {
  ModelBatch in = model_batch(model_, b);
  in.batch.activations = options_.precision;
  in.batch.checkpointing = options_.checkpointing;
  if (in.rows.empty()) return 0;
  if (options_.segment > 0) {
    auto loss_of_group = [&](const Tensor& hidden, std::span<const int64_t> rows,
                             std::span<const int32_t> targets) {
      return loss_of(hidden, *objective.loss(b, rows, targets), gradient);
    };
    return run_segments(model_, in, options_.segment, options_.bptt, loss_of_group);
  }
  std::unique_ptr<LogitLoss> loss = objective.loss(b, in.rows, in.targets);
  // Blocks before the loss: what an adapter does to a head is one of its products.
  Tensor hidden = model_.forward(in.batch);
  if (std::ssize(in.rows) < in.batch.size()) hidden = ops::gather_rows(hidden, in.rows);
  return loss_of(hidden, *loss, gradient);
}

double Trainer::loss_of(const Tensor& hidden, LogitLoss& loss, float gradient) {
  const LinearLoss l = model_.loss(hidden, loss, gradient, options_.precision);
  if (Tape* tape = Tape::current(); tape != nullptr && l.root.requires_gradient())
    tape->backward(l.root, Tensor::from(std::vector<float>{1}));
  return l.sum;
}

StepResult Trainer::step(std::span<const TrainingBatch> parts, Objective& objective) {
  StepResult r;
  for (const TrainingBatch& b : parts) {
    r.targets += b.target_count;
    r.tokens += std::ssize(b.tokens);
  }
  HONE_ASSERT(r.targets > 0);
  r.loss_scale = scale_ ? scale_->scale() : 1;
  const auto gradient = static_cast<float>(r.loss_scale / static_cast<double>(r.targets));
  clear_gradients(parameters_);
  if (!counted_) count_infinities();
  uint64_t part = 0;
  for (const TrainingBatch& b : parts) {
    // Dropout draws anew in every micro-batch.
    TrainingStep scope(mix64(mix64(options_.seed) ^ static_cast<uint64_t>(done_)) + part++);
    Tape tape;
    r.loss += run(b, objective, gradient);
  }
  r.loss /= static_cast<double>(r.targets);
  const double unscale = scale_ ? double{scale_->unscale_factor()} : 1;
  r.norm = total_norm(gradient_norms(parameters_)) * unscale;
  const bool finite = std::isfinite(r.norm);
  r.skipped = scale_ ? !scale_->update(finite) : !finite;
  if (r.skipped) r.overflow = recorder_.first_overflow();
  // What overflows from here on, weights of the next step, is what stops that one.
  recorder_.forget_overflow();
  r.lr = options_.optimizer.lr * schedule_.factor(done_);
  r.step = ++done_;
  if (!r.skipped) {
    optimizer_->step(parameters_, r.lr, unscale * clip_factor(r.norm, options_.max_norm), done_);
    const std::vector<int64_t>& unchanged = optimizer_->unchanged();
    for (size_t i = 0; i < unchanged.size(); ++i) stagnated_[parameters_[i].name] += unchanged[i];
    values_changed_();
    count_infinities();
  }
  clear_gradients(parameters_);
  return r;
}

// Without masters a step itself rounds.
void Trainer::count_infinities() {
  counted_ = true;
  for (const Parameter& p : parameters_)
    if (p.value.dtype() == DType::f16)
      recorder_.add(p.name, {p.value.numel(), infinities(p.value), 0});
}

void Trainer::rehearse(const TrainingBatch& batch, Objective& objective, int64_t parts) {
  clear_gradients(parameters_);
  TrainingStep scope(0);
  ops::FlightRecorder unseen;  // what a rehearsal rounds is no part of the run
  for (int64_t i = 0; i < parts; ++i) {
    Tape tape;
    run(batch, objective, 1);
  }
  clear_gradients(parameters_);
}

double Trainer::evaluate(std::span<const TrainingBatch> batches, Objective& objective) {
  ops::FlightRecorder unseen;  // the run's counts are those of its steps
  double sum = 0;
  int64_t targets = 0;
  for (const TrainingBatch& b : batches) {
    sum += run(b, objective, 0);
    targets += b.target_count;
  }
  return targets == 0 ? 0 : sum / static_cast<double>(targets);
}

namespace {
constexpr const char* kSteps = "trainer.steps";
constexpr const char* kScale = "trainer.loss_scale";
constexpr const char* kGoodSteps = "trainer.good_steps";
}  // namespace

std::vector<NamedTensor> Trainer::state() const {
  std::vector<NamedTensor> all = optimizer_->state();
  all.push_back({kSteps, Tensor::from(std::vector<int64_t>{done_})});
  if (scale_) {
    all.push_back({kScale, Tensor::from(std::vector<float>{scale_->state().scale})});
    all.push_back({kGoodSteps, Tensor::from(std::vector<int64_t>{scale_->state().good_steps})});
  }
  return all;
}

void Trainer::load_state(const std::vector<NamedTensor>& state) {
  std::vector<NamedTensor> rest;
  const Tensor *steps = nullptr, *scale = nullptr, *good = nullptr;
  for (const NamedTensor& t : state)
    if (t.name == kSteps)
      steps = &t.value;
    else if (t.name == kScale)
      scale = &t.value;
    else if (t.name == kGoodSteps)
      good = &t.value;
    else
      rest.push_back(t);
  auto fits = [](const Tensor* t, DType type) {
    return t != nullptr && t->numel() == 1 && t->dtype() == type;
  };
  HONE_CHECK(fits(steps, DType::i64) && steps->data<int64_t>()[0] >= 0, corrupt,
             "the training state says nothing of its steps");
  if (scale_) {
    HONE_CHECK(fits(scale, DType::f32) && fits(good, DType::i64), corrupt,
               "the training state has no loss scale: was it made with another precision?");
    scale_->load_state({scale->data<float>()[0], good->data<int64_t>()[0]});
  }
  optimizer_->load_state(parameters_, rest);
  done_ = steps->data<int64_t>()[0];
}

}  // namespace hone
