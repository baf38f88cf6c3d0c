// The tape: reverse-mode differentiation of what the functions of ops/, encodings/ and attention/
// compute.
//
// A Tensor may require a gradient (Tensor::require_gradient). While a Tape records on this thread,
// a function whose input requires one marks its result and records how the result's gradient flows
// back: a closure that holds exactly the tensors it needs. backward() walks the records from the
// last to the first and forgets each, so that memory falls as it goes. Without a Tape, or where
// nothing requires a gradient, functions record nothing and cost nothing.
//
// Gradients are f32 and are added up in the order of the walk: the result does not depend on
// threads. Tensors whose storage is written after a function saw them give wrong gradients; the
// functions named _in_place say what they do under a tape.
#pragma once

#include <functional>
#include <initializer_list>
#include <memory>
#include <vector>

#include "tensor/tensor.h"

namespace hone {

class Tape {
 public:
  /// Records on this thread until it is destroyed; tapes nest, the innermost records.
  Tape();
  ~Tape();
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  using Backward = std::function<void(const Tensor& dy)>;
  /// Lets `seed`, dL/dy with the elements of y, flow back to everything recorded that y depends on;
  /// the records are gone afterwards. Gradients of tensors that were not made on this tape stay, in
  /// Tensor::gradient(), added to what was there.
  void backward(const Tensor& y, const Tensor& seed);
  size_t size() const { return records_.size(); }

  /// The tape that records on this thread, or null.
  static Tape* current();

 private:
  friend void record(Tensor& y, Backward backward);
  struct Record {
    std::shared_ptr<Gradient> of;  // of the result
    Backward backward;
  };
  std::vector<Record> records_;
  Tape* outer_;
};

/// Nothing is recorded on this thread while it lives.
class TapePause {
 public:
  TapePause();
  ~TapePause();
  TapePause(const TapePause&) = delete;
  TapePause& operator=(const TapePause&) = delete;

 private:
  Tape* outer_;
};

/// The model is in training on this thread while it lives: dropout works, with random numbers that
/// are a function of `seed` and of where it stands in the model, so that what runs again in a
/// checkpoint drops the same.
class TrainingStep {
 public:
  explicit TrainingStep(uint64_t seed);
  ~TrainingStep();
  TrainingStep(const TrainingStep&) = delete;
  TrainingStep& operator=(const TrainingStep&) = delete;
  uint64_t seed() const { return seed_; }
  /// The one that lives on this thread, or null.
  static const TrainingStep* current();

 private:
  uint64_t seed_;
  const TrainingStep* outer_;
};

/// No step of training on this thread while it lives: for another model that runs in between.
class TrainingPause {
 public:
  TrainingPause();
  ~TrainingPause();
  TrainingPause(const TrainingPause&) = delete;
  TrainingPause& operator=(const TrainingPause&) = delete;

 private:
  const TrainingStep* outer_;
};

/// Whether a function of these inputs (null = none) must be recorded.
bool recorded(std::initializer_list<const Tensor*> inputs);
/// Marks y, a function's result, and keeps how its gradient flows back.
void record(Tensor& y, Tape::Backward backward);
/// The same for a function of several results: its backward runs once, behind all that read any of
/// them, and gets an empty handle for those to which no gradient came.
void record_all(const std::vector<Tensor*>& results,
                std::function<void(const std::vector<Tensor>& dy)> backward);
/// x's gradient += dx (the elements of x), which may be taken over; nothing where x requires none.
void add_gradient(const Tensor& x, Tensor dx);
/// x's gradient, zeros where there was none: for functions that add to it themselves.
Tensor& gradient_of(const Tensor& x);

/// Runs `f` on x without keeping what its gradient needs; in backward() f runs again, recorded.
/// f must give the same result each time (random numbers by counter) and write nothing else.
/// Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".
Tensor checkpoint(const std::function<Tensor(const Tensor&)>& f, const Tensor& x);

}  // namespace hone
