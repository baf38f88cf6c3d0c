#include "ops/tape.h"

#include <utility>

#include "ops/dense.h"
#include "ops/rounding.h"

namespace hone {
namespace {

thread_local Tape* t_current = nullptr;
thread_local const TrainingStep* t_step = nullptr;

}  // namespace

Tape::Tape() : outer_(std::exchange(t_current, this)) {}
Tape::~Tape() { t_current = outer_; }
Tape* Tape::current() { return t_current; }

TapePause::TapePause() : outer_(std::exchange(t_current, nullptr)) {}
TapePause::~TapePause() { t_current = outer_; }

TrainingStep::TrainingStep(uint64_t seed) : seed_(seed), outer_(std::exchange(t_step, this)) {}
TrainingStep::~TrainingStep() { t_step = outer_; }
const TrainingStep* TrainingStep::current() { return t_step; }

TrainingPause::TrainingPause() : outer_(std::exchange(t_step, nullptr)) {}
TrainingPause::~TrainingPause() { t_step = outer_; }

void Tape::backward(const Tensor& y, const Tensor& seed) {
  HONE_ASSERT(y.requires_gradient() && seed.numel() == y.numel());
  // What a backward computes is not itself recorded.
  TapePause pause;
  add_gradient(y, seed);
  while (!records_.empty()) {
    Record r = std::move(records_.back());
    records_.pop_back();
    // What nothing of the result depends on got none.
    if (r.of->sum.empty_handle()) continue;
    Tensor dy = std::exchange(r.of->sum, {});
    r.backward(dy);
  }
}

bool recorded(std::initializer_list<const Tensor*> inputs) {
  if (t_current == nullptr) return false;
  for (const Tensor* x : inputs)
    if (x != nullptr && x->requires_gradient()) return true;
  return false;
}

void record(Tensor& y, Tape::Backward backward) {
  HONE_ASSERT(t_current != nullptr);
  y.require_gradient();
  t_current->records_.push_back({y.gradient_node(), std::move(backward)});
}

void record_all(const std::vector<Tensor*>& results,
                std::function<void(const std::vector<Tensor>& dy)> backward) {
  auto all = std::make_shared<std::vector<Tensor>>(results.size());
  // Stands below the results on the tape, so that it comes behind them; a gradient of any of them
  // is one of it.
  Tensor anchor = Tensor::zeros({1}, DType::f32);
  record(anchor, [all, backward = std::move(backward)](const Tensor&) { backward(*all); });
  for (size_t i = 0; i < results.size(); ++i)
    record(*results[i], [all, i, anchor](const Tensor& dy) {
      (*all)[i] = dy;
      gradient_of(anchor);
    });
}

void add_gradient(const Tensor& x, Tensor dx) {
  if (!x.requires_gradient()) return;
  HONE_ASSERT(dx.numel() == x.numel());
  Tensor& sum = x.gradient_node()->sum;
  if (sum.empty_handle())
    sum = std::move(dx);
  else
    ops::add_in_place(sum, dx);
}

Tensor& gradient_of(const Tensor& x) {
  Tensor& sum = x.gradient_node()->sum;
  if (sum.empty_handle()) sum = Tensor::zeros(x.shape(), DType::f32);
  return sum;
}

Tensor checkpoint(const std::function<Tensor(const Tensor&)>& f, const Tensor& x) {
  if (Tape::current() == nullptr) return f(x);
  Tensor y = [&] {
    TapePause pause;
    ops::FlightRecorder::Pause counted_below;
    return f(x);
  }();
  // Recorded whatever x requires: f may have parameters of its own.
  record(y, [f, x](const Tensor& dy) {
    Tape tape;
    Tensor again = x.detached();
    if (x.requires_gradient()) again.require_gradient();
    const Tensor same = f(again);
    if (!same.requires_gradient()) return;
    tape.backward(same, dy);
    if (x.requires_gradient()) add_gradient(x, std::exchange(again.gradient_node()->sum, {}));
  });
  return y;
}

}  // namespace hone
