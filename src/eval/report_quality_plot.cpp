// The plot of quality against size, and the search for places for its labels.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "eval/report_plots.h"
#include "eval/report_text.h"

namespace hone::report_plots {
namespace {

namespace text = report_text;

struct Box {
  double left, top, right, bottom;
  bool meets(const Box& other) const {
    return left < other.right && other.left < right && top < other.bottom && other.top < bottom;
  }
};

struct Point {
  const ReportVariant* variant;
  double x, y;  // pixels
  double size, distance;
};

/// What the vertical axis shows of a variant: KL, or the relative change of perplexity in percent.
double distance_of(const Report& report, const ReportVariant& variant, bool kl) {
  if (kl) return variant.kl_mean;
  const ReportVariant* original = text::original(report);
  return original ? 100 * (variant.perplexity / original->perplexity - 1) : kNotMeasured;
}

std::vector<Point> points_of(const Report& report, bool kl) {
  std::vector<Point> points;
  for (const auto& variant : report.variants) {
    double distance = distance_of(report, variant, kl);
    if (variant.is_original || !(std::abs(distance) < 1e30)) continue;
    if (!plottable(variant.model_bytes)) continue;
    points.push_back({&variant, 0, 0, variant.model_bytes, distance});
  }
  return points;
}

struct Segment {
  double x1, y1, x2, y2;
};

/// What a label should stay clear of: never cover a box, rather not cross a line.
struct Obstacles {
  std::vector<Box> boxes;
  std::vector<Segment> lines;
};

bool crosses(const Segment& s, const Box& box) {
  constexpr int kSteps = 60;  // finer than a letter on the longest line
  for (int i = 0; i <= kSteps; ++i) {
    double t = double(i) / kSteps, x = s.x1 + t * (s.x2 - s.x1), y = s.y1 + t * (s.y2 - s.y1);
    if (x > box.left && x < box.right && y > box.top && y < box.bottom) return true;
  }
  return false;
}

double marker_radius(const Point& point) { return point.variant->is_output ? 11 : 6; }

/// A label's place near its point, and the line that ties it to the point if it is not beside it.
struct LabelSpot {
  Box box;
  double step;  // pixels between the marker and the label
  Segment leader;
  double cost;
  bool has_leader() const { return step > 8; }
};
constexpr double kCovers = 1000;  // cost of a label that covers something

LabelSpot find_spot(const Point& point, double width, double height, const Box& frame,
                    const Obstacles& obstacles) {
  constexpr std::array<std::array<double, 2>, 12> kDirections = {{{1, 0},
                                                                  {-1, 0},
                                                                  {0.7, -0.7},
                                                                  {0.7, 0.7},
                                                                  {-0.7, -0.7},
                                                                  {-0.7, 0.7},
                                                                  {0, -1},
                                                                  {0, 1},
                                                                  {0.9, -0.4},
                                                                  {0.9, 0.4},
                                                                  {-0.9, -0.4},
                                                                  {-0.9, 0.4}}};
  LabelSpot best{{}, 0, {}, 1e300};
  for (double step : {3.0, 8.0, 14.0, 22.0, 32.0, 44.0, 58.0, 74.0, 94.0}) {
    double reach = marker_radius(point) + step;
    for (auto [dx, dy] : kDirections) {
      double x = point.x + dx * reach + (dx > 0.1 ? 0 : dx < -0.1 ? -width : -width / 2);
      double y = point.y + dy * reach - height / 2 + dy * height / 2;
      Box box{x, y, x + width, y + height};
      LabelSpot spot{box, step, {}, step};
      spot.leader = {point.x, point.y, std::clamp(point.x, box.left, box.right),
                     std::clamp(point.y, box.top + 3, box.bottom - 3)};
      if (x < frame.left || y < frame.top || box.right > frame.right || box.bottom > frame.bottom)
        spot.cost += 5 * kCovers;
      for (const Box& other : obstacles.boxes) {
        spot.cost += box.meets(other) ? kCovers : 0;
        bool own = other.left < point.x && point.x < other.right && other.top < point.y &&
                   point.y < other.bottom;
        spot.cost += spot.has_leader() && !own && crosses(spot.leader, other) ? 60 : 0;
      }
      for (const Segment& other : obstacles.lines) spot.cost += crosses(other, box) ? 30 : 0;
      if (spot.cost < best.cost) best = spot;
    }
  }
  return best;
}

std::string marker(const Point& point) {
  const ReportVariant& v = *point.variant;
  std::string title = fmt::format("{}: {}, ", v.name, text::bytes(v.model_bytes));
  title += std::isfinite(v.kl_mean) ? "KL " + text::significant(v.kl_mean) + " nats a token, " : "";
  title += "perplexity " + text::perplexity(v.perplexity);
  std::string shape;
  if (v.is_output)
    shape = fmt::format(
        "<circle cx='{0:.1f}' cy='{1:.1f}' r='9' class='halo'/><circle cx='{0:.1f}' "
        "cy='{1:.1f}' r='5.5' class='mark output'/>",
        point.x, point.y);
  else
    shape = fmt::format("<circle cx='{:.1f}' cy='{:.1f}' r='4.5' class='mark {}'/>", point.x,
                        point.y, v.noise_floor ? "cast" : "tried");
  return fmt::format("<g><title>{}</title>{}</g>", escape(title), shape);
}

/// The variants that no other beats in both size and distance, smallest first, joined by lines.
std::vector<Segment> frontier(std::vector<Point> points) {
  std::sort(points.begin(), points.end(), [](const Point& a, const Point& b) {
    return a.size != b.size ? a.size < b.size : a.distance < b.distance;
  });
  std::vector<Segment> lines;
  const Point* last = nullptr;
  for (const auto& point : points) {
    if (last && point.distance >= last->distance) continue;
    if (last) lines.push_back({last->x, last->y, point.x, point.y});
    last = &point;
  }
  return lines;
}

/// The labels of all points, the output's first, as it must have the best place.
std::string labels(std::vector<Point> points, double letter, const Box& frame,
                   Obstacles obstacles) {
  for (const auto& point : points) {
    double r = marker_radius(point) + 2;  // a label that touches a marker seems to be its own
    obstacles.boxes.push_back({point.x - r, point.y - r, point.x + r, point.y + r});
  }
  std::stable_sort(points.begin(), points.end(), [](const Point& a, const Point& b) {
    return a.variant->is_output > b.variant->is_output;
  });
  std::string out;
  for (const auto& point : points) {
    std::string name = text::shorten(text::valid_utf8(point.variant->name), 26);
    double width = (point.variant->is_output ? 1.12 : 1) * letter * text::columns(name);  // bold
    double height = 2 * letter;
    LabelSpot spot = find_spot(point, width, height, frame, obstacles);
    if (spot.cost >= kCovers) continue;  // in a crowd the marker's tooltip and the table must do
    obstacles.boxes.push_back(spot.box);
    double middle = (spot.box.top + spot.box.bottom) / 2;
    if (spot.has_leader()) {
      const Segment& s = spot.leader;
      obstacles.lines.push_back(s);
      out += line(s.x1, s.y1, s.x2, s.y2, "leader");
    }
    // Anchored at the side that faces the point, so that a wrong guess of its width shows less.
    bool left_of = spot.box.right <= point.x, right_of = spot.box.left >= point.x;
    double x = left_of    ? spot.box.right
               : right_of ? spot.box.left
                          : (spot.box.left + spot.box.right) / 2;
    out += label(x, middle + 0.65 * letter,
                 left_of    ? "end"
                 : right_of ? "start"
                            : "middle",
                 point.variant->is_output ? "name strong" : "name", name);
  }
  return out;
}

}  // namespace

bool plots_kl(const Report& report) { return points_of(report, true).size() >= 2; }

std::string quality_plot(const Report& report, Fit fit) {
  bool kl = plots_kl(report), wide = fit == Fit::wide;
  std::vector<Point> points = points_of(report, kl);
  if (points.size() < 2) return {};
  const double width = wide ? 860 : 360, height = wide ? 410 : 400, letter = 7.1;
  const Box frame{kl ? (wide ? 52.0 : 42.0) : 56.0, 34, width - (wide ? 16 : 8), height - 44};

  double small = 1e300, large = 0, floor = 0, low = 1e300, high = -1e300;
  for (const auto& point : points) {
    small = std::min(small, point.size), large = std::max(large, point.size);
    if (point.variant->noise_floor) floor = std::max(floor, std::abs(point.distance));
    if (kl && !plottable(point.distance)) continue;  // no place on a log scale; drawn at its foot
    low = std::min(low, point.distance), high = std::max(high, point.distance);
  }
  const ReportVariant* original = text::original(report);
  bool has_size = original && plottable(original->model_bytes);
  if (has_size) {
    small = std::min(small, original->model_bytes);
    large = std::max(large, original->model_bytes);
  }
  if (low > high) low = 1e-6, high = 1e-5;
  if (!kl) low = std::min({low, -floor, 0.0}), high = std::max({high, floor, 0.0});
  Axis across =
      make_axis(small, large, large > 3 * small, frame.left, frame.right, wide ? 0.07 : 0.14);
  Axis up = make_axis(low, high, kl, frame.bottom, frame.top, 0.09);
  for (auto& point : points) point.x = across.at(point.size), point.y = up.at(point.distance);

  std::string out =
      open_svg(width, height, fit,
               kl ? "KL divergence against model size" : "Change of perplexity against model size");
  Obstacles obstacles;
  if (floor > 0) {
    double top = up.at(floor), bottom = kl ? frame.bottom : up.at(-floor);
    out += rectangle(frame.left, top, frame.right - frame.left, bottom - top, "band");
    out += line(frame.left, top, frame.right, top, "band-edge");
    std::string words = wide ? "noise floor: what a mere cast changes" : "noise floor of a cast";
    out += label(frame.left + 8, top + 16, "start", "tick", words);
    obstacles.lines.push_back({frame.left, top, frame.right, top});
    obstacles.boxes.push_back(
        {frame.left, top, frame.left + 8 + letter * text::columns(words), top + 22});
  }
  for (double tick : ticks_of(up, 7)) {
    out += line(frame.left, up.at(tick), frame.right, up.at(tick), "grid");
    out +=
        label(frame.left - 7, up.at(tick) + 4, "end", "tick",
              kl ? tick_number(tick) : (tick > 0 ? "+" : "") + number(fmt::format("{:g} %", tick)));
  }
  for (double tick : ticks_of(across, wide ? 8 : 4)) {
    out += line(across.at(tick), frame.bottom, across.at(tick), frame.bottom + 4, "axis");
    out += label(across.at(tick), frame.bottom + 19, "middle", "tick", tick_bytes(tick));
  }
  out += line(frame.left, frame.bottom, frame.right, frame.bottom, "axis");
  out += label(
      0, 14, "start", "title",
      kl ? (wide ? "KL divergence from the original, nats a token, log scale: lower is better"
                 : "KL divergence, nats a token, log scale")
         : (wide ? "change of perplexity, percent: lower is better" : "change of perplexity, %"));
  out += label(frame.right, height - 6, "end", "title",
               across.logarithmic ? "size of the weights, log scale" : "size of the weights");
  if (has_size) {
    double x = across.at(original->model_bytes);
    std::string words = "original, " + text::bytes(original->model_bytes);
    bool left = x > (frame.left + frame.right) / 2;
    double long_ = letter * text::columns(words) + 8;
    out += line(x, frame.top, x, frame.bottom, "original");
    out += label(left ? x - 6 : x + 6, frame.top + 12, left ? "end" : "start", "tick", words);
    obstacles.lines.push_back({x, frame.top, x, frame.bottom});
    obstacles.boxes.push_back(
        {left ? x - long_ : x, frame.top, left ? x : x + long_, frame.top + 18});
  }
  for (const auto& s : frontier(points)) {
    out += line(s.x1, s.y1, s.x2, s.y2, "frontier");
    obstacles.lines.push_back(s);
  }
  for (const auto& point : points) out += marker(point);
  return out + labels(points, letter, frame, obstacles) + "</svg>";
}

}  // namespace hone::report_plots
