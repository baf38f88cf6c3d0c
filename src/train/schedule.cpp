#include "train/schedule.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace hone {
namespace {

// From 1 at x = 0 to 0 at x = 1.
double fall(const std::string& shape, double x) {
  if (shape == "linear") return 1 - x;
  if (shape == "1-sqrt") return 1 - std::sqrt(x);
  return 0.5 * (1 + std::cos(M_PI * x));
}

double between(double least, double x) { return x * (1 - least) + least; }

// a/b of whole numbers.
double ratio(int64_t a, int64_t b) {
  return static_cast<double>(a) / static_cast<double>(std::max<int64_t>(b, 1));
}

}  // namespace

void ScheduleOptions::visit(OptionVisitor& v) {
  v.option("schedule", schedule, "of lr: constant, linear, cosine, inverse_sqrt or wsd");
  v.option("warmup_steps", warmup_steps, "steps over which the learning rate rises from 0");
  v.option("min_ratio", min_ratio, "cosine, wsd: where the factor of the learning rate ends");
  v.option("decay_steps", decay_steps, "wsd: steps of the decay at the end");
  v.option("decay", decay, "wsd: linear, cosine or 1-sqrt");
}

Schedule::Schedule(const ScheduleOptions& o, int64_t steps) : options_(o), steps_(steps) {
  const std::string& s = o.schedule;
  HONE_CHECK(s == "constant" || s == "linear" || s == "cosine" || s == "inverse_sqrt" || s == "wsd",
             invalid_argument,
             "schedule {}: expected one of constant, linear, cosine, inverse_sqrt, wsd", s);
  HONE_CHECK(steps >= 0, invalid_argument, "steps {}: expected 0 or more", steps);
  HONE_CHECK(o.warmup_steps >= 0, invalid_argument, "warmup_steps {}: expected 0 or more",
             o.warmup_steps);
  HONE_CHECK(o.min_ratio >= 0 && o.min_ratio <= 1, invalid_argument,
             "min_ratio {}: expected 0 to 1", o.min_ratio);
  HONE_CHECK(o.min_ratio == 0 || s == "cosine" || s == "wsd", invalid_argument,
             "schedule {}: min_ratio belongs to cosine and wsd", s);
  HONE_CHECK((o.decay_steps == 0 && o.decay == ScheduleOptions().decay) || s == "wsd",
             invalid_argument, "schedule {}: decay_steps and decay belong to wsd", s);
  HONE_CHECK(o.decay == "linear" || o.decay == "cosine" || o.decay == "1-sqrt", invalid_argument,
             "decay {}: expected one of linear, cosine, 1-sqrt", o.decay);
  HONE_CHECK(o.decay_steps >= 0 && o.decay_steps <= std::max<int64_t>(0, steps - o.warmup_steps),
             invalid_argument,
             "decay_steps {}: expected 0 to what {} steps leave behind a warm-up of {}",
             o.decay_steps, steps, o.warmup_steps);
}

double Schedule::factor(int64_t done) const {
  const ScheduleOptions& o = options_;
  const int64_t warmup = o.warmup_steps;
  if (done < warmup) {
    const double rise = ratio(done, warmup);
    return o.schedule == "wsd" ? between(o.min_ratio, rise) : rise;
  }
  if (o.schedule == "constant") return 1;
  if (o.schedule == "inverse_sqrt") {
    const int64_t scale = warmup > 0 ? warmup : 10000;
    return 1 / std::sqrt(ratio(done - warmup + scale, scale));
  }
  if (o.schedule == "wsd") {
    const int64_t begin = steps_ - o.decay_steps;
    if (done < begin) return 1;
    if (done >= steps_) return o.min_ratio;
    return between(o.min_ratio, fall(o.decay, ratio(done - begin, o.decay_steps)));
  }
  const double x = std::min(1.0, ratio(done - warmup, steps_ - warmup));
  return o.schedule == "linear" ? 1 - x : between(o.min_ratio, fall("cosine", x));
}

}  // namespace hone
