#include "eval/text_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "eval/report_svg.h"
#include "eval/report_text.h"
#include "eval/training_curves.h"

namespace hone {
namespace {

namespace plots = report_plots;
namespace text = report_text;
using namespace training_curves;

// What a character is drawn in; the escape sequence of each.
enum class Ink { none, axis, line, mark };
constexpr const char* kInks[] = {"", "\033[2m", "\033[36m", "\033[33m"};
constexpr const char* kNoInk = "\033[0m";

struct Glyphs {
  const char *tick, *wall, *corner, *floor, *floor_tick, *line, *mark;
  int across, down;  // dots of a character
};
constexpr Glyphs kBraille = {"┤", "│", "└", "─", "┬", "⠒⠒", "●", 2, 4};
constexpr Glyphs kAscii = {"+", "|", "+", "-", "+", "..", "o", 1, 2};

/// Characters with ink, a row after another, joined into lines.
class Page {
 public:
  Page(int width, int height) : width_(width), cells_(static_cast<size_t>(width * height)) {}

  void put(int x, int y, std::string glyph, Ink ink) {
    if (x < 0 || x >= width_) return;
    cells_[static_cast<size_t>(y * width_ + x)] = {std::move(glyph), ink};
  }
  /// One column for each code point.
  void write(int x, int y, std::string_view words, Ink ink) {
    for (size_t at = 0; at < words.size(); ++x) {
      size_t end = at + 1;
      while (end < words.size() && (words[end] & 0xC0) == 0x80) ++end;
      put(x, y, std::string(words.substr(at, end - at)), ink);
      at = end;
    }
  }

  std::string lines(bool colours) const {
    std::string out;
    for (size_t row = 0; row < cells_.size(); row += static_cast<size_t>(width_)) {
      size_t used = static_cast<size_t>(width_);
      while (used > 0 && cells_[row + used - 1].glyph == " ") --used;
      Ink ink = Ink::none;
      auto change_to = [&](Ink next) {
        if (!colours || next == ink) return;
        if (ink != Ink::none) out += kNoInk;
        out += kInks[static_cast<int>(ink = next)];
      };
      for (size_t i = row; i < row + used; ++i) {
        change_to(cells_[i].ink);
        out += cells_[i].glyph;
      }
      change_to(Ink::none);
      out += '\n';
    }
    return out;
  }

 private:
  struct Cell {
    std::string glyph = " ";
    Ink ink = Ink::none;
  };
  int width_;
  std::vector<Cell> cells_;
};

/// Dots on a grid finer than characters.
class Canvas {
 public:
  Canvas(int columns, int rows, const Glyphs& glyphs)
      : glyphs_(glyphs),
        columns_(columns),
        rows_(rows),
        bits_(static_cast<size_t>(columns * rows), 0) {}

  double width() const { return columns_ * glyphs_.across - 1; }
  double height() const { return rows_ * glyphs_.down - 1; }

  /// A straight line between two dots within the canvas.
  void line(double x1, double y1, double x2, double y2) {
    const int steps = static_cast<int>(std::ceil(std::max(std::abs(x2 - x1), std::abs(y2 - y1))));
    for (int i = 0; i <= steps; ++i) {
      const double share = steps > 0 ? double(i) / steps : 0;
      dot(static_cast<int>(std::lround(x1 + share * (x2 - x1))),
          static_cast<int>(std::lround(y1 + share * (y2 - y1))));
    }
  }

  void draw(Page& page, int left) const {
    for (int y = 0; y < rows_; ++y)
      for (int x = 0; x < columns_; ++x)
        if (int bits = bits_[static_cast<size_t>(y * columns_ + x)])
          page.put(left + x, y, glyph(bits), Ink::line);
  }

 private:
  void dot(int x, int y) {
    // The order of Unicode's bits: three rows of the left column, three of the right, the fourth.
    constexpr int kBits[4][2] = {{0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}};
    bits_[static_cast<size_t>(y / glyphs_.down * columns_ + x / glyphs_.across)] |=
        kBits[y % glyphs_.down][x % glyphs_.across];
  }
  std::string glyph(int bits) const {
    if (glyphs_.down == 2) return std::string(1, " '.:"[bits]);
    return {'\xE2', static_cast<char>(0xA0 | bits >> 6), static_cast<char>(0x80 | (bits & 0x3F))};
  }

  const Glyphs& glyphs_;
  int columns_, rows_;
  std::vector<int> bits_;
};

/// Round values with as many decimals as tell them apart.
std::vector<std::string> tick_labels(const std::vector<double>& ticks) {
  const double step = ticks.size() > 1 ? ticks[1] - ticks[0] : 1;
  const double largest =
      ticks.empty() ? 0 : std::max(std::abs(ticks.front()), std::abs(ticks.back()));
  const int decimals = std::max(0, static_cast<int>(-std::floor(std::log10(step) + 1e-9)));
  std::vector<std::string> labels;
  for (double tick : ticks)
    labels.push_back(largest < 1e6 && decimals < 7 ? fmt::format("{:.{}f}", tick, decimals)
                                                   : fmt::format("{:.3g}", tick));
  return labels;
}

void draw_step_axis(Page& page, const plots::Axis& across, int left, int right, int y,
                    const Glyphs& glyphs) {
  page.put(left - 1, y, glyphs.corner, Ink::axis);
  for (int x = left; x < right; ++x) page.put(x, y, glyphs.floor, Ink::axis);
  int free = left - 2;
  for (double tick : plots::ticks_of(across, (right - left) / 8)) {
    if (tick != std::floor(tick)) continue;
    const std::string label = plots::tick_count(tick);
    const int x = left + static_cast<int>(across.at(tick)) / glyphs.across;
    const int begin = std::min(x - text::columns(label) / 2, right - text::columns(label));
    page.put(x, y, glyphs.floor_tick, Ink::axis);
    if (begin <= free) continue;
    page.write(begin, y + 1, label, Ink::axis);
    free = begin + text::columns(label);
  }
}

std::string loss_text(double loss) { return text::fixed(loss, 3); }

}  // namespace

std::string text_chart(const TrainingLog& log, const TextChartStyle& style) {
  HONE_ASSERT(style.width >= style.kNarrowest && style.height >= style.kLowest);
  const Curve training = smoothed(curve(log, &TrainingLog::Step::loss));
  const Curve held_out = evaluations(log);
  const Range steps = steps_of({&training, &held_out}),
              losses = values_of({&training, &held_out}, {});
  if (losses.empty()) return {};
  const Glyphs& glyphs = style.utf8 ? kBraille : kAscii;
  const int rows = style.height - 3;  // a legend above; the axis of steps and its labels below

  plots::Axis up = plots::make_axis(losses.low, losses.high, false, 0, 0, 0.03);
  const auto ticks = plots::ticks_of(up, rows / 2);
  const auto labels = tick_labels(ticks);
  size_t widest = 0;
  for (const auto& label : labels) widest = std::max(widest, label.size());
  const int left = static_cast<int>(widest) + 2;

  Canvas canvas(style.width - left, rows, glyphs);
  up.from = canvas.height();
  const plots::Axis across{steps.low, steps.high, false, 0, canvas.width()};
  for (size_t i = 0; i < training.size(); ++i) {
    const Point &from = training[i > 0 ? i - 1 : 0], &to = training[i];
    canvas.line(across.at(from.step), up.at(from.value), across.at(to.step), up.at(to.value));
  }

  Page page(style.width, rows + 2);
  canvas.draw(page, left);
  auto row_of = [&](double value) {
    return static_cast<int>(std::lround(up.at(value))) / glyphs.down;
  };
  for (int y = 0; y < rows; ++y) page.put(left - 1, y, glyphs.wall, Ink::axis);
  for (size_t i = 0; i < ticks.size(); ++i) {
    page.write(left - 2 - static_cast<int>(labels[i].size()), row_of(ticks[i]), labels[i],
               Ink::axis);
    page.put(left - 1, row_of(ticks[i]), glyphs.tick, Ink::axis);
  }
  for (const Point& p : held_out)
    page.put(left + static_cast<int>(std::lround(across.at(p.step))) / glyphs.across,
             row_of(p.value), glyphs.mark, Ink::mark);
  draw_step_axis(page, across, left, style.width, rows, glyphs);

  Page legend(style.width, 1);
  int x = 0;
  auto write = [&](const std::string& words, Ink ink) {
    if (x + text::columns(words) <= style.width) legend.write(x, 0, words, ink);
    x += text::columns(words);
  };
  write("loss", Ink::none);
  if (!training.empty()) {
    write(fmt::format("   {} ", glyphs.line), Ink::line);
    write("training " + loss_text(training.back().value), Ink::none);
  }
  if (!held_out.empty()) {
    write(fmt::format("   {} ", glyphs.mark), Ink::mark);
    write("held out " + loss_text(held_out.back().value), Ink::none);
    write(", perplexity " + text::perplexity(perplexity_of(held_out.back().value)), Ink::none);
  }
  return legend.lines(style.colours) + page.lines(style.colours);
}

std::string training_status(const TrainingLog& log, int64_t steps, double seconds_left) {
  const Curve training = smoothed(curve(log, &TrainingLog::Step::loss));
  const int64_t done = log.steps.empty() ? 0 : log.steps.back().step;
  const double speed = recent_speed(log);
  std::string line = fmt::format("step {:>{}}/{}  loss {:>6}", done, std::to_string(steps).size(),
                                 steps, training.empty() ? "-" : loss_text(training.back().value));
  line += fmt::format("  held out {:>6}",
                      log.evaluations.empty() ? "-" : loss_text(log.evaluations.back().loss));
  line += fmt::format("  lr {:<7}", log.steps.empty() ? "-" : learning_rate(log.steps.back().lr));
  line += fmt::format("  {:>7} tok/s", std::isnan(speed) ? "-" : grouped(std::llround(speed)));
  if (seconds_left >= 0 && seconds_left < 1e9) line += "  " + human_seconds(seconds_left) + " left";
  return line;
}

}  // namespace hone
