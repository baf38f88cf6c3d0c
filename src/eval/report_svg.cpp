#include "eval/report_svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "eval/report_text.h"

namespace hone::report_plots {
namespace {

std::vector<double> linear_ticks(double low, double high, int most) {
  double raw = (high - low) / most;
  double power = std::pow(10, std::floor(std::log10(raw)));
  double step = 10 * power;
  for (double factor : {5.0, 2.0, 1.0})
    if (factor * power >= raw) step = factor * power;
  std::vector<double> ticks;
  for (double i = std::ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; ++i)
    ticks.push_back(i * step + 0.0);  // + 0.0 makes −0 a plain zero
  return ticks;
}

/// The densest of: every decade and its halves (1 2 5), every decade, every second decade...
std::vector<double> log_ticks(double low, double high, int most) {
  std::vector<double> ticks;
  for (int stride = 0; stride < 20; ++stride) {
    ticks.clear();
    for (int decade = static_cast<int>(std::floor(std::log10(low))); decade <= std::log10(high);
         ++decade) {
      if (stride > 1 && decade % stride != 0) continue;
      for (double factor : {1.0, 2.0, 5.0}) {
        double tick = factor * std::pow(10, decade);
        if ((factor == 1 || stride == 0) && tick >= low && tick <= high) ticks.push_back(tick);
      }
    }
    if (ticks.size() <= static_cast<size_t>(most)) break;
  }
  return ticks;
}

}  // namespace

std::string escape(std::string_view raw) {
  std::string out;
  for (char c : report_text::valid_utf8(raw)) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '\n':
      case '\t':
        out += c;
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F)
          out += "\xEF\xBF\xBD";
        else
          out += c;
    }
  }
  return out;
}

std::string number(const std::string& shown) {
  size_t e = shown.find('e');
  int power = 0;
  if (e == std::string::npos || e == 0) return escape(shown);
  const char* first = shown.data() + e + 1;
  if (*first == '+') ++first;
  if (std::from_chars(first, shown.data() + shown.size(), power).ec != std::errc{})
    return escape(shown);
  const char* digits[] = {"⁰", "¹", "²", "³", "⁴", "⁵", "⁶", "⁷", "⁸", "⁹"};
  std::string out = shown.substr(0, e) + "×10" + (power < 0 ? "⁻" : "");
  for (char digit : std::to_string(std::abs(power))) out += digits[digit - '0'];
  return out;
}

double Axis::at(double value) const {
  double v = std::clamp(value, low, high);
  double share = logarithmic ? std::log(v / low) / std::log(high / low) : (v - low) / (high - low);
  return from + share * (to - from);
}

Axis make_axis(double low, double high, bool logarithmic, double from, double to, double margin) {
  if (logarithmic) {
    double factor = std::pow(std::max(high / low, 1.5), margin);
    return {low / factor, high * factor, true, from, to};
  }
  double length = std::max(high - low, std::max(std::abs(high) * 0.1, 1e-9));
  return {low - margin * length, high + margin * length, false, from, to};
}

std::vector<double> ticks_of(const Axis& axis, int most) {
  // Over less than a decade even steps give more to read.
  bool decades = axis.logarithmic && axis.high >= 10 * axis.low;
  return decades ? log_ticks(axis.low, axis.high, most) : linear_ticks(axis.low, axis.high, most);
}

std::string tick_number(double value) {
  constexpr std::string_view kOneTimes = "1×";
  double power = value > 0 ? std::log10(value) : 0;
  bool far = power < -3.1 || power > 4.1;
  if (!far || std::abs(power - std::round(power)) > 1e-6)
    return number(fmt::format("{:.6g}", value));
  return number(fmt::format("{:.0e}", value)).substr(kOneTimes.size());
}

std::string tick_count(double value) {
  const char* units[] = {"", "k", "M", "G", "T"};
  int unit = 0;
  for (bool long_ = value >= 10000; long_ && value >= 1000 && unit < 4; ++unit) value /= 1000;
  return fmt::format("{:.6g}{}", value, units[unit]);
}

std::string tick_bytes(double value) {
  const char* units[] = {"B", "kB", "MB", "GB", "TB"};
  int unit = 0;
  for (; value >= 1000 && unit < 4; ++unit) value /= 1000;
  return fmt::format("{:.4g} {}", value, units[unit]);
}

std::string line(double x1, double y1, double x2, double y2, std::string_view css_class) {
  return fmt::format("<line x1='{:.1f}' y1='{:.1f}' x2='{:.1f}' y2='{:.1f}' class='{}'/>", x1, y1,
                     x2, y2, css_class);
}

std::string label(double x, double y, std::string_view anchor, std::string_view css_class,
                  std::string_view content) {
  return fmt::format("<text x='{:.1f}' y='{:.1f}' text-anchor='{}' class='{}'>{}</text>", x, y,
                     anchor, css_class, escape(content));
}

std::string rectangle(double x, double y, double width, double height, std::string_view css_class,
                      std::string_view title) {
  return fmt::format(
      "<rect x='{:.1f}' y='{:.1f}' width='{:.1f}' height='{:.1f}' class='{}'>{}</rect>", x, y,
      std::max(width, 0.0), std::max(height, 0.0), css_class,
      title.empty() ? "" : fmt::format("<title>{}</title>", escape(title)));
}

std::string open_svg(double width, double height, Fit fit, std::string_view description) {
  return fmt::format("<svg class='{}' viewBox='0 0 {:.0f} {:.0f}' role='img' aria-label='{}'>",
                     fit == Fit::wide ? "wide" : "narrow", width, height, escape(description));
}

std::string bar(double fraction, std::string_view css_class, double back) {
  auto share = [](double f) { return 100 * std::clamp(std::isfinite(f) ? f : 0, 0.0, 1.0); };
  return fmt::format(
      "<svg class='bar' viewBox='0 0 100 8' preserveAspectRatio='none' aria-hidden='true'><rect "
      "width='100' height='8' class='rail'/><rect width='{:.2f}' height='8' class='before'/><rect "
      "width='{:.2f}' height='8' class='{}'/></svg>",
      share(back), share(fraction), css_class);
}

}  // namespace hone::report_plots
