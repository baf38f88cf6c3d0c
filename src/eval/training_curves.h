// Internal to the drawings of a training: its numbers as curves over the steps.
#pragma once

#include <string>
#include <vector>

#include "eval/training_log.h"

namespace hone::training_curves {

struct Point {
  double step, value;
};
using Curve = std::vector<Point>;

/// Beyond it sums lose what the other values are.
inline constexpr double kLargest = 1e12;

/// One number of each step, where it is finite and no larger than `largest`.
Curve curve(const TrainingLog& log, double TrainingLog::Step::*number, double largest = kLargest);
Curve tokens_per_second(const TrainingLog& log);
Curve evaluations(const TrainingLog& log);

/// The mean over a fiftieth of the points on either side, which neither lags nor leads; fewer on
/// both sides at the beginning, where losses fall fast. The last is the mean of the last fiftieth.
Curve smoothed(const Curve& curve);
/// The smallest and the largest point of each of `columns` stretches of steps: looks as the whole
/// curve does on as many pixels.
Curve thinned(const Curve& curve, int columns);

struct Range {
  double low, high;
  bool empty() const { return low > high; }
};
/// Steps from the first to the last that has a point in any of the curves, at least one apart.
Range steps_of(std::initializer_list<const Curve*> curves);
/// The values of all `lines` and the middle 98 % of those of `cloud`, of which outliers should not
/// flatten the rest.
Range values_of(std::initializer_list<const Curve*> lines, const Curve& cloud);

/// Tokens a second over the last tenth of the steps; NaN where no time was measured.
double recent_speed(const TrainingLog& log);

/// "1 400", "18 000 000": groups of three digits, `space` between them.
std::string grouped(int64_t value, std::string_view space = " ");
/// "4.23e-4": three digits in always the same width, "0" for none.
std::string learning_rate(double value);

}  // namespace hone::training_curves
