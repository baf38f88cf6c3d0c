// Learning rate schedules: what the learning rate is multiplied by at each step, as transformers'
// get_scheduler gives it.
//
//   constant      1
//   linear        falls to 0 at the last step
//   cosine        falls along half a cosine to min_ratio
//   inverse_sqrt  √(t/(step − warmup + t)), t the warm-up's steps (10000 without one)
//   wsd           warm-up, stable, decay (Hu et al. 2024): 1, then over the last decay_steps down
//   to
//                 min_ratio, linearly, along a cosine or as 1 − √x
//
// All begin with a linear warm-up, at 0 (wsd: at min_ratio). Behind the last step the value of the
// last one stays.
#pragma once

#include <cstdint>
#include <string>

#include "base/options.h"

namespace hone {

struct ScheduleOptions {
  std::string schedule = "linear";
  int64_t warmup_steps = 0;
  double min_ratio = 0;          ///< cosine and wsd
  int64_t decay_steps = 0;       ///< wsd
  std::string decay = "cosine";  ///< wsd: linear, cosine, 1-sqrt

  void visit(OptionVisitor& v);
};

class Schedule {
 public:
  /// `steps`: of the whole training. Raises invalid_argument where a name is unknown, a value out
  /// of range, or a value belongs to another schedule.
  Schedule(const ScheduleOptions& options, int64_t steps);

  /// The factor for the step that follows `done` steps: factor(0) is that of the first one (0 where
  /// there is a warm-up, as in transformers).
  double factor(int64_t done) const;

 private:
  ScheduleOptions options_;
  int64_t steps_;
};

}  // namespace hone
