// The figures about layers: bytes by block, and output error along the depth of the model.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <map>
#include <vector>

#include "eval/report_plots.h"
#include "eval/report_text.h"

namespace hone::report_plots {
namespace {

namespace text = report_text;

/// A pruned layer has no bytes, a lossless one no error: zero is fine on a linear scale.
bool measured(double value) { return value == 0 || plottable(value); }

struct Mean {
  double sum = 0;
  int count = 0;
  void add(double value) {
    if (measured(value)) sum += value, ++count;
  }
  double value() const { return count ? sum / count : kNotMeasured; }
};

/// The errors of one kind of module; the key is the block, or the order of appearance.
struct ErrorSeries {
  std::string kind;
  std::map<int, std::array<Mean, 2>> errors;  // method, round to nearest
};

std::vector<ErrorSeries> error_series(const Report& report) {
  std::vector<ErrorSeries> all;
  for (const auto& layer : report.layers) {
    if (!std::isfinite(layer.method_error) && !std::isfinite(layer.rtn_error)) continue;
    Place place = place_of(layer.module);
    std::string kind = place.block < 0 ? "outside the blocks" : place.kind;
    auto found =
        std::find_if(all.begin(), all.end(), [&](const auto& s) { return s.kind == kind; });
    if (found == all.end()) found = all.insert(all.end(), {kind, {}});
    int position = place.block < 0 ? static_cast<int>(found->errors.size()) : place.block;
    auto& cell = found->errors[position];
    cell[0].add(layer.method_error);
    cell[1].add(layer.rtn_error);
  }
  return all;
}

std::string median_of(const ErrorSeries& series, int which) {
  std::vector<double> values;
  for (const auto& [block, means] : series.errors)
    if (means[which].count) values.push_back(means[which].value());
  if (values.empty()) return {};
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return number(text::significant(values[values.size() / 2]));
}

std::string error_panel(const ErrorSeries& series, const Axis& up) {
  constexpr double kWidth = 180, kHeight = 112, kLeft = 30, kRight = 174, kBottom = 94;
  double last = std::max(series.errors.rbegin()->first, 1);
  Axis across{0, last, false, kLeft + 5, kRight - 4};
  std::string out =
      fmt::format("<figure class='panel'><figcaption>{}<small>median <b class='method'>{}</b>",
                  escape(series.kind), median_of(series, 0));
  std::string rounded = median_of(series, 1);
  if (!rounded.empty()) out += fmt::format(" <b class='rtn'>{}</b>", rounded);
  out += fmt::format(
      "</small></figcaption><svg viewBox='0 0 {:.0f} {:.0f}' role='img' aria-label='Output error "
      "of {} "
      "by block'>",
      kWidth, kHeight, escape(series.kind));
  for (double tick : ticks_of(up, 6)) {
    out += line(kLeft, up.at(tick), kRight, up.at(tick), "grid");
    out += label(kLeft - 4, up.at(tick) + 3, "end", "tick small", tick_number(tick));
  }
  out += line(kLeft, kBottom, kRight, kBottom, "axis");
  for (double tick : {0.0, last})
    out +=
        label(across.at(tick), kBottom + 13, "middle", "tick small", fmt::format("{:.0f}", tick));
  const char* classes[] = {"method", "rtn"};
  for (int which : {1, 0}) {
    std::string path, dots;
    for (const auto& [block, means] : series.errors) {
      if (!means[which].count) continue;
      double value = means[which].value(), x = across.at(block), y = up.at(value);
      path += fmt::format("{}{:.1f},{:.1f}", path.empty() ? "" : " ", x, y);
      dots += fmt::format(
          "<circle cx='{:.1f}' cy='{:.1f}' r='1.7'><title>block {}: {}</title></circle>", x, y,
          block, number(text::significant(value)));
    }
    out += fmt::format("<g class='series {}'><polyline points='{}'/>{}</g>", classes[which], path,
                       dots);
  }
  return out + "</svg></figure>";
}

}  // namespace

Place place_of(const std::string& module) {
  Place place;
  std::string_view rest = module;
  while (!rest.empty()) {
    size_t dot = std::min(rest.find('.'), rest.size());
    std::string part(rest.substr(0, dot));
    rest.remove_prefix(std::min(dot + 1, rest.size()));
    int value = 0;
    auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
    bool whole = error == std::errc{} && end == part.data() + part.size() && value >= 0;
    if (whole && place.block < 0) {
      place.block = value;
      place.kind.clear();
    } else if (part != "weight") {
      // Outside the blocks the last component says enough: "model.embed_tokens".
      if (place.block < 0) place.kind.clear();
      place.kind += (place.kind.empty() ? "" : ".") + (whole ? "*" : part);
    }
  }
  if (place.kind.empty()) place.kind = module;
  return place;
}

std::string block_plot(const Report& report, Fit fit) {
  std::map<int, std::array<double, 2>> blocks;
  for (const auto& layer : report.layers) {
    int block = place_of(layer.module).block;
    if (block < 0 || !measured(layer.bytes_before) || !measured(layer.bytes_after)) continue;
    blocks[block][0] += layer.bytes_before;
    blocks[block][1] += layer.bytes_after;
  }
  if (blocks.empty()) return {};
  bool wide = fit == Fit::wide;
  const double width = wide ? 860 : 360, height = wide ? 200 : 190;
  const double left = wide ? 62 : 52, right = width - 4, top = 12, bottom = height - 30;
  double high = 1;
  for (const auto& [block, sizes] : blocks) high = std::max({high, sizes[0], sizes[1]});
  Axis up{0, high * 1.04, false, bottom, top};
  double pitch = (right - left) / double(blocks.size());
  double thick = std::min(pitch * 0.72, 40.0);
  std::string out = open_svg(width, height, fit, "Bytes of each block before and after");
  for (double tick : ticks_of(up, 4)) {
    out += line(left, up.at(tick), right, up.at(tick), "grid");
    out += label(left - 7, up.at(tick) + 4, "end", "tick", tick_bytes(tick));
  }
  int index = 0, every = static_cast<int>(std::ceil((wide ? 30 : 34) / pitch));
  for (const auto& [block, sizes] : blocks) {
    double middle = left + (index + 0.5) * pitch;
    std::string title = fmt::format("block {}: {} before, {} after", block, text::bytes(sizes[0]),
                                    text::bytes(sizes[1]));
    for (int when : {0, 1})
      out += rectangle(middle - thick / 2, up.at(sizes[when]), thick, bottom - up.at(sizes[when]),
                       when ? "after" : "before", title);
    if (index++ % every == 0)
      out += label(middle, bottom + 18, "middle", "tick", std::to_string(block));
  }
  return out + line(left, bottom, right, bottom, "axis") + "</svg>";
}

std::string error_panels(const Report& report) {
  std::vector<ErrorSeries> all = error_series(report);
  double low = 1e300, high = 0;
  for (const auto& series : all)
    for (const auto& [block, means] : series.errors)
      for (const auto& mean : means)
        if (mean.count && mean.value() > 0) {
          low = std::min(low, mean.value());
          high = std::max(high, mean.value());
        }
  if (high == 0) return {};
  bool logarithmic = high > 4 * low;
  Axis up = make_axis(logarithmic ? low : 0, high, logarithmic, 94, 8, 0.06);
  if (!logarithmic) up.low = 0;
  std::string out = "<div class='panels'>";
  for (const auto& series : all) out += error_panel(series, up);
  return out + "</div>";
}

}  // namespace hone::report_plots
