#include "eval/training_plots.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "eval/report_text.h"

namespace hone::training_plots {
namespace {

using namespace report_plots;
using namespace training_curves;
namespace text = report_text;

struct Frame {
  double left, top, right, bottom;
};

std::string polyline(const Curve& curve, const Axis& across, const Axis& up,
                     std::string_view css_class) {
  const int columns = static_cast<int>(across.to - across.from);
  std::string points;
  for (const Point& p : thinned(curve, columns))
    points += fmt::format("{:.1f},{:.1f} ", across.at(p.step), up.at(p.value));
  return fmt::format("<polyline class='{}' points='{}'/>", css_class, points);
}

std::string step_axis(const Axis& across, const Frame& frame, int most) {
  std::string out = line(frame.left, frame.bottom, frame.right, frame.bottom, "axis");
  for (double tick : ticks_of(across, most)) {
    if (tick != std::floor(tick)) continue;
    out += line(across.at(tick), frame.bottom, across.at(tick), frame.bottom + 4, "axis");
    out += label(across.at(tick), frame.bottom + 18, "middle", "tick", tick_count(tick));
  }
  return out;
}

std::string tick_text(double tick, bool logarithmic) {
  if (tick >= 10000) return tick_count(tick);
  return logarithmic ? tick_number(tick) : number(fmt::format("{:.6g}", tick));
}

std::string value_axis(const Axis& up, const Frame& frame, int most) {
  std::string out;
  for (double tick : ticks_of(up, most)) {
    out += line(frame.left, up.at(tick), frame.right, up.at(tick), "grid");
    out += label(frame.left - 7, up.at(tick) + 4, "end", "tick", tick_text(tick, up.logarithmic));
  }
  return out;
}

/// Round perplexities where their logarithms stand on the axis of losses.
std::string perplexity_axis(const Axis& up, const Frame& frame, int most) {
  constexpr double kLargest = 40;  // e^40 is no perplexity to read
  if (up.low < 0 || up.high > kLargest) return {};
  const Axis perplexities{std::exp(up.low), std::exp(up.high), true, up.from, up.to};
  std::string out;
  for (double tick : ticks_of(perplexities, most)) {
    out += line(frame.right, up.at(std::log(tick)), frame.right + 4, up.at(std::log(tick)), "axis");
    out +=
        label(frame.right + 8, up.at(std::log(tick)) + 4, "start", "tick", tick_text(tick, true));
  }
  return out;
}

std::string evaluation_marks(const Curve& held_out, const Axis& across, const Axis& up) {
  std::string dots;
  for (const Point& p : thinned(held_out, 200))
    dots += fmt::format(
        "<circle cx='{:.1f}' cy='{:.1f}' r='3.6'><title>held out after {} steps: loss {}, "
        "perplexity {}</title></circle>",
        across.at(p.step), up.at(p.value), grouped(static_cast<int64_t>(p.step)),
        number(text::fixed(p.value, 3)), number(text::perplexity(perplexity_of(p.value))));
  return dots;
}

/// As an axis of logarithms shows the values: one outlier does not lift the line to itself.
Curve smoothed_logarithm(Curve curve) {
  for (Point& p : curve) p.value = std::log(p.value);
  curve = smoothed(curve);
  for (Point& p : curve) p.value = std::exp(p.value);
  return curve;
}

}  // namespace

std::string loss_plot(const TrainingLog& log, Fit fit) {
  const Curve raw = curve(log, &TrainingLog::Step::loss), smooth = smoothed(raw);
  const Curve held_out = evaluations(log);
  const Range steps = steps_of({&raw, &held_out}), losses = values_of({&smooth, &held_out}, raw);
  if (losses.empty()) return {};
  const bool wide = fit == Fit::wide;
  const double width = wide ? 860 : 360, height = wide ? 400 : 330;
  const Frame frame{wide ? 46.0 : 36.0, 30, width - (wide ? 52 : 40), height - 44};
  const Axis across{steps.low, steps.high, false, frame.left, frame.right};
  const Axis up = make_axis(losses.low, losses.high, false, frame.bottom, frame.top, 0.04);

  std::string out = open_svg(width, height, fit, "Loss over the steps of the training");
  out += label(0, 14, "start", "title", wide ? "loss, nats a token" : "loss");
  out += value_axis(up, frame, 7);
  const std::string perplexities = perplexity_axis(up, frame, 7);
  if (!perplexities.empty()) out += label(width, 14, "end", "title", "perplexity") + perplexities;
  out += step_axis(across, frame, wide ? 8 : 4);
  out += label(frame.right, height - 6, "end", "title", "steps");
  if (raw.size() > 1)
    out += polyline(raw, across, up, "curve raw") + polyline(smooth, across, up, "curve smooth");
  if (!held_out.empty())
    out += "<g class='held-out'>" + polyline(held_out, across, up, "curve") +
           evaluation_marks(held_out, across, up) + "</g>";
  return out + "</svg>";
}

std::string panel(const Panel& panel) {
  Curve points = panel.curve;
  if (panel.logarithmic) std::erase_if(points, [](const Point& p) { return !plottable(p.value); });
  if (points.empty()) return {};
  const Curve smooth = !panel.smooth       ? Curve{}
                       : panel.logarithmic ? smoothed_logarithm(points)
                                           : smoothed(points);
  const Range steps = steps_of({&points});
  Range values = panel.smooth ? values_of({&smooth}, points) : values_of({&points}, {});
  const double width = 360, height = 200;
  const Frame frame{52, 12, width - 6, height - 28};
  if (!panel.logarithmic) values.low = std::min(values.low, 0.0);
  Axis up = make_axis(values.low, values.high, panel.logarithmic, frame.bottom, frame.top, 0.06);
  if (!panel.logarithmic && values.low == 0) up.low = 0;
  const Axis across{steps.low, steps.high, false, frame.left, frame.right};

  std::string out = fmt::format(
      "<figure class='panel'><figcaption>{}<small>{}</small></figcaption><svg viewBox='0 0 {:.0f} "
      "{:.0f}' role='img' aria-label='{} over the steps'>",
      escape(panel.title), panel.hint, width, height, escape(panel.title));
  out += value_axis(up, frame, 5) + step_axis(across, frame, 4);
  out += polyline(points, across, up, panel.smooth ? "curve raw" : "curve smooth");
  if (panel.smooth) out += polyline(smooth, across, up, "curve smooth");
  for (double step : panel.marks)
    out += line(across.at(step), frame.top - 8, across.at(step), frame.top + 4, "skipped");
  return out + "</svg></figure>\n";
}

}  // namespace hone::training_plots
