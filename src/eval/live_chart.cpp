#include "eval/live_chart.h"

#include <algorithm>

#include "base/log.h"
#include "eval/report_text.h"
#include "eval/text_chart.h"

namespace hone {
namespace {

constexpr double kBetweenCharts = 0.5;  // seconds
// Lines come for each fiftieth of the training, but not sooner and not later than so.
constexpr double kBetweenLines = 5, kLongestSilence = 60;
constexpr int64_t kLines = 50;
constexpr int kTallest = 18;

}  // namespace

LiveChart::LiveChart(int64_t steps, int64_t done)
    : steps_(steps), done_before_(done), started_(monotonic_seconds()) {
  if (log_level() >= LogLevel::info && terminal()) standing_ = std::make_unique<StandingText>();
}

LiveChart::~LiveChart() = default;

void LiveChart::update(const TrainingLog& log) {
  if (log_level() < LogLevel::info || log.steps.empty()) return;
  const double now = monotonic_seconds();
  if (standing_ ? drawn_ < 0 || now - drawn_ >= kBetweenCharts : line_due(log, now)) draw(log);
}

void LiveChart::finish(const TrainingLog& log) {
  if (log_level() < LogLevel::info || log.steps.empty()) return;
  const bool shown = drawn_ >= 0 && drawn_step_ == log.steps.back().step &&
                     drawn_evaluations_ == log.evaluations.size();
  if (standing_ || !shown) draw(log);
  standing_.reset();
}

bool LiveChart::line_due(const TrainingLog& log, double now) const {
  if (drawn_ < 0 || log.evaluations.size() > drawn_evaluations_) return true;
  const bool far = (log.steps.back().step - drawn_step_) * kLines >= steps_;
  return now - drawn_ >= (far ? kBetweenLines : kLongestSilence);
}

void LiveChart::draw(const TrainingLog& log) {
  drawn_ = monotonic_seconds();
  drawn_step_ = log.steps.back().step;
  drawn_evaluations_ = log.evaluations.size();
  if (!standing_) {
    log_info("{}", status(log));
    return;
  }
  const auto screen = terminal();
  if (!screen) return;
  TextChartStyle style;
  style.width = screen->columns - 1;  // a full last column would break the line
  style.height = std::min(kTallest, screen->rows - 3);
  style.utf8 = screen->utf8;
  style.colours = true;
  const bool fits = style.width >= style.kNarrowest && style.height >= style.kLowest;
  std::string line = status(log);
  if (report_text::columns(line) > style.width) line.resize(static_cast<size_t>(style.width));
  standing_->show((fits ? text_chart(log, style) : "") + line + "\n");
}

std::string LiveChart::status(const TrainingLog& log) const {
  // By the clock, which also counts evaluations and checkpoints.
  const int64_t done = log.steps.back().step, here = done - done_before_;
  const double elapsed = monotonic_seconds() - started_;
  return training_status(
      log, steps_, here > 0 && done < steps_ ? elapsed / double(here) * double(steps_ - done) : -1);
}

}  // namespace hone
