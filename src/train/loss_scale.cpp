#include "train/loss_scale.h"

#include <cmath>

#include "base/error.h"

namespace hone {

void LossScaleOptions::visit(OptionVisitor& v) {
  v.option("loss_scale", initial, "first factor of the loss (f16)");
  v.option("loss_scale_growth", growth, "factor of the scale after enough good steps");
  v.option("loss_scale_backoff", backoff, "factor of the scale after gradients overflowed");
  v.option("loss_scale_interval", interval, "good steps in a row before the scale grows");
}

LossScale::LossScale(const LossScaleOptions& o)
    : options_(o), state_{static_cast<float>(o.initial), 0} {
  HONE_CHECK(state_.scale > 0 && std::isfinite(state_.scale), invalid_argument,
             "loss_scale {}: expected a positive number", o.initial);
  HONE_CHECK(o.growth > 1 && std::isfinite(o.growth), invalid_argument,
             "loss_scale_growth {}: expected more than 1", o.growth);
  HONE_CHECK(o.backoff > 0 && o.backoff < 1, invalid_argument,
             "loss_scale_backoff {}: expected more than 0 and less than 1", o.backoff);
  HONE_CHECK(o.interval > 0, invalid_argument, "loss_scale_interval {}: expected 1 or more",
             o.interval);
}

bool LossScale::update(bool finite) {
  if (!finite) {
    state_ = {static_cast<float>(state_.scale * options_.backoff), 0};
    return false;
  }
  if (++state_.good_steps < options_.interval) return true;
  const auto grown = static_cast<float>(state_.scale * options_.growth);
  if (std::isfinite(grown)) state_.scale = grown;
  state_.good_steps = 0;
  return true;
}

void LossScale::load_state(const State& state) {
  HONE_CHECK(state.scale >= 0 && std::isfinite(state.scale) && state.good_steps >= 0, corrupt,
             "loss scale: {} after {} good steps: expected a finite scale and 0 steps or more",
             state.scale, state.good_steps);
  state_ = state;
}

}  // namespace hone
