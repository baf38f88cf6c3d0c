#include "eval/training_curves.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace hone::training_curves {
namespace {

bool drawable(double value) { return std::abs(value) <= kLargest; }  // false for NaN

}  // namespace

Curve curve(const TrainingLog& log, double TrainingLog::Step::*number, double largest) {
  Curve points;
  for (const auto& s : log.steps)
    if (std::abs(s.*number) <= largest) points.push_back({double(s.step), s.*number});
  return points;
}

Curve tokens_per_second(const TrainingLog& log) {
  Curve points;
  for (const auto& s : log.steps)
    if (s.seconds > 0 && drawable(double(s.tokens) / s.seconds))
      points.push_back({double(s.step), double(s.tokens) / s.seconds});
  return points;
}

Curve evaluations(const TrainingLog& log) {
  Curve points;
  for (const auto& e : log.evaluations)
    if (drawable(e.loss)) points.push_back({double(e.step), e.loss});
  return points;
}

Curve smoothed(const Curve& curve) {
  const size_t n = curve.size(), reach = n / 50;
  std::vector<double> sums{0};  // of the first 0, 1, ... values
  sums.reserve(n + 1);
  for (const Point& p : curve) sums.push_back(sums.back() + p.value);
  Curve result;
  result.reserve(n);
  for (size_t i = 0; i < n; ++i) {
    const size_t here = std::min(reach, i), begin = i - here, end = std::min(i + here + 1, n);
    result.push_back({curve[i].step, (sums[end] - sums[begin]) / double(end - begin)});
  }
  return result;
}

Curve thinned(const Curve& curve, int columns) {
  if (curve.size() <= 2 * static_cast<size_t>(columns)) return curve;
  const double first = curve.front().step;
  const double pitch = (curve.back().step - first) / columns;
  Curve result;
  for (size_t begin = 0; begin < curve.size();) {
    size_t end = begin, low = begin, high = begin;
    const double column = std::floor((curve[begin].step - first) / pitch);
    for (; end < curve.size() && std::floor((curve[end].step - first) / pitch) <= column; ++end) {
      if (curve[end].value < curve[low].value) low = end;
      if (curve[end].value > curve[high].value) high = end;
    }
    result.push_back(curve[std::min(low, high)]);
    if (low != high) result.push_back(curve[std::max(low, high)]);
    begin = end;
  }
  return result;
}

Range steps_of(std::initializer_list<const Curve*> curves) {
  Range range{1e300, -1e300};
  for (const Curve* curve : curves) {
    if (curve->empty()) continue;
    range.low = std::min(range.low, curve->front().step);
    range.high = std::max(range.high, curve->back().step);
  }
  if (!range.empty()) range.high = std::max(range.high, range.low + 1);
  return range;
}

Range values_of(std::initializer_list<const Curve*> lines, const Curve& cloud) {
  Range range{1e300, -1e300};
  auto include = [&](double value) {
    range.low = std::min(range.low, value);
    range.high = std::max(range.high, value);
  };
  for (const Curve* line : lines)
    for (const Point& p : *line) include(p.value);
  std::vector<double> values;
  for (const Point& p : cloud) values.push_back(p.value);
  for (double share : {0.01, 0.99}) {
    if (values.empty()) break;
    auto at = values.begin() + std::lround(share * double(values.size() - 1));
    std::nth_element(values.begin(), at, values.end());
    include(*at);
  }
  return range;
}

double recent_speed(const TrainingLog& log) {
  const size_t count = std::max<size_t>(1, log.steps.size() / 10);
  double tokens = 0, seconds = 0;
  for (size_t i = log.steps.size() - std::min(count, log.steps.size()); i < log.steps.size(); ++i) {
    if (!(log.steps[i].seconds > 0)) continue;
    tokens += double(log.steps[i].tokens);
    seconds += log.steps[i].seconds;
  }
  const double speed = tokens / seconds;
  return drawable(speed) ? speed : std::numeric_limits<double>::quiet_NaN();
}

std::string grouped(int64_t value, std::string_view space) {
  std::string digits = std::to_string(value), result;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0 && digits[i - 1] != '-') result += space;
    result += digits[i];
  }
  return result;
}

std::string learning_rate(double value) {
  if (value == 0 || !drawable(value)) return value == 0 ? "0" : "-";
  std::string text = fmt::format("{:.2e}", value);
  const size_t exponent = text.find('e') + 2;  // behind its sign
  if (text[exponent] == '0') text.erase(exponent, 1);
  return text;
}

}  // namespace hone::training_curves
