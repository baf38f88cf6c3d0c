// Dynamic loss scaling for f16 (Micikevicius et al. 2018), step by step as torch.amp.GradScaler.
//
// The loss is multiplied by scale(); gradients are multiplied by unscale_factor() after all of a
// step's accumulation. Where one of them is not finite, the step is skipped and the scale backs
// off; after `interval` steps in a row that were not skipped it grows, unless it would become
// infinite. Powers of two, so that nothing but the exponents of gradients changes.
#pragma once

#include <cstdint>

#include "base/options.h"

namespace hone {

struct LossScaleOptions {
  double initial = 65536;
  double growth = 2;
  double backoff = 0.5;
  int64_t interval = 2000;

  void visit(OptionVisitor& v);
};

class LossScale {
 public:
  /// What a checkpoint holds.
  struct State {
    float scale;
    int64_t good_steps;  ///< in a row, since the scale last changed
  };

  /// Raises invalid_argument where an option is out of range.
  explicit LossScale(const LossScaleOptions& options);

  float scale() const { return state_.scale; }
  /// float(1/double(scale)).
  float unscale_factor() const { return static_cast<float>(1.0 / double{state_.scale}); }
  /// After each backward pass, once: whether all gradients were finite. Returns whether the step is
  /// to be done, which is the same.
  bool update(bool finite);

  const State& state() const { return state_; }
  /// Raises corrupt where the state cannot be one.
  void load_state(const State& state);

 private:
  LossScaleOptions options_;
  State state_;
};

}  // namespace hone
