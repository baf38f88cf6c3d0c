// LiveChart: a training to look at while it runs, on stderr.
//
// On a terminal the chart of losses and a status line are drawn anew in place, at most twice a
// second, and log lines go above them. Elsewhere a status line now and then. Nothing below
// LogLevel::info.
#pragma once

#include <memory>
#include <string>

#include "base/terminal.h"
#include "eval/training_log.h"

namespace hone {

class LiveChart {
 public:
  /// `steps`: of the whole training; `done`: those that a resumed one has behind it.
  explicit LiveChart(int64_t steps, int64_t done = 0);
  ~LiveChart();

  /// After each step and evaluation; costs nothing where nothing is due.
  void update(const TrainingLog& log);
  /// Draws the last state.
  void finish(const TrainingLog& log);

 private:
  void draw(const TrainingLog& log);
  bool line_due(const TrainingLog& log, double now) const;
  std::string status(const TrainingLog& log) const;

  int64_t steps_, done_before_;
  double started_;
  double drawn_ = -1;  // when; negative: not yet
  int64_t drawn_step_ = 0;
  size_t drawn_evaluations_ = 0;
  std::unique_ptr<StandingText> standing_;  // on a terminal
};

}  // namespace hone
