// Internal to the report: escaping, axes and the few SVG shapes its figures are made of.
//
// Text in an SVG shrinks with it, so the large figures are drawn twice, once for a wide column and
// once for a phone, and the style sheet shows one. Colours come from CSS classes, never from
// attributes, so that dark mode and paper can change them; everything visible is stroke or fill, as
// browsers drop background colours when they print.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace hone::report_plots {

enum class Fit { wide, narrow };

/// Safe as HTML text and inside quoted attributes; broken UTF-8 and control characters become
/// U+FFFD.
std::string escape(std::string_view text);
/// Escaped, with "2.1e-05" written as 2.1×10⁻⁵.
std::string number(const std::string& shown);

/// Positive and of a size that a measurement can have; the figures leave out what is not, as its
/// logarithm or its ticks would have no end.
inline bool plottable(double value) { return value > 1e-30 && value < 1e30; }

/// A stretch of values laid onto a stretch of pixels. Values outside are drawn at its ends.
struct Axis {
  double low, high;
  bool logarithmic;
  double from, to;  // pixels at low and high

  double at(double value) const;
};

/// An axis around [low, high] with `margin` of its length to spare on both sides.
Axis make_axis(double low, double high, bool logarithmic, double from, double to, double margin);
/// About `most` round values within the axis.
std::vector<double> ticks_of(const Axis& axis, int most);
/// "0.01", "2", "10⁻⁴".
std::string tick_number(double value);
/// "400", "20k", "1.5M".
std::string tick_count(double value);
/// "6 MB", "0.5 GB": round values need no digits to spare.
std::string tick_bytes(double value);

// Shapes; `css_class` and `anchor` are ours, `content`, `title` and `description` get escaped.
std::string open_svg(double width, double height, Fit fit, std::string_view description);
std::string line(double x1, double y1, double x2, double y2, std::string_view css_class);
std::string label(double x, double y, std::string_view anchor, std::string_view css_class,
                  std::string_view content);
std::string rectangle(double x, double y, double width, double height, std::string_view css_class,
                      std::string_view title = {});
/// A horizontal bar filling `fraction` of its box; `back` draws a paler one behind it.
std::string bar(double fraction, std::string_view css_class, double back = 0);

}  // namespace hone::report_plots
