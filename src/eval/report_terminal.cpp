// The terminal's table of variants and the headline.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "eval/report.h"
#include "eval/report_memory.h"
#include "eval/report_text.h"

namespace hone {
namespace {

namespace text = report_text;

constexpr int kTableWidth = 120;
constexpr int kNameWidth = 32;
constexpr int kNarrowestName = 10;

struct TerminalColumn {
  const char* title;
  const char* unit;
  double ReportVariant::*value;
  int better;  // +1: more is better, -1: less is, 0: neither
  std::string (*show)(double);
};

std::string with_two_decimals(double value) { return text::fixed(value, 2); }
std::string in_megabytes(double value) { return text::fixed(value / 1e6, 1); }
std::string kilobytes(double value) { return text::fixed(value / 1e3, 1); }

const TerminalColumn kTerminalColumns[] = {
    {"size", "MB", &ReportVariant::model_bytes, -1, in_megabytes},
    {"bits", "/weight", &ReportVariant::bits_per_weight, 0, with_two_decimals},
    {"perplexity", "", &ReportVariant::perplexity, -1, text::perplexity},
    {"KL mean", "nats", &ReportVariant::kl_mean, -1, text::significant},
    {"KL p99", "nats", &ReportVariant::kl_p99, -1, text::significant},
    {"same", "top-1 %", &ReportVariant::top1_agreement, +1, text::percent},
    {"prefill", "tok/s", &ReportVariant::prefill_tokens_per_second, +1, text::speed},
    {"decode", "tok/s", &ReportVariant::decode_tokens_per_second, +1, text::speed},
    {"memory", "peak MB", &ReportVariant::peak_rss_bytes, -1, in_megabytes},
    {"KV", "kB/token", &ReportVariant::kv_bytes_per_token, -1, kilobytes},
    {"made in", "", &ReportVariant::seconds_to_make, 0, text::seconds},
};

/// Names end up on a terminal: no control characters, no broken UTF-8.
std::string plain_name(const std::string& name) {
  std::string result = text::valid_utf8(name);
  for (char& c : result)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
  return result;
}

std::string pad_left(const std::string& cell, int width) {
  return std::string(std::max(0, width - text::columns(cell)), ' ') + cell;
}

struct Cells {
  std::vector<std::string> shown;  // one per variant
  std::vector<bool> best;
  int width = 0;
};

Cells column_cells(const Report& report, const TerminalColumn& column) {
  Cells cells;
  double best = text::best_of(report, column.value, column.better);
  cells.width = std::max(text::columns(column.title), text::columns(column.unit));
  for (const auto& variant : report.variants) {
    double value = variant.*column.value;
    cells.shown.push_back(column.show(value));
    cells.best.push_back(text::is_candidate(variant) && value == best);
    cells.width = std::max(cells.width, text::columns(cells.shown.back()));
  }
  return cells;
}

}  // namespace

std::string report_table(const Report& report, bool ansi) {
  std::vector<const TerminalColumn*> columns;
  std::vector<Cells> cells;
  int numbers_width = 0;
  for (const auto& column : kTerminalColumns) {
    bool measured = std::any_of(report.variants.begin(), report.variants.end(),
                                [&](const auto& v) { return !std::isnan(v.*column.value); });
    if (!measured) continue;
    if (column.value == &ReportVariant::kv_bytes_per_token && !report_memory::differ(report))
      continue;
    columns.push_back(&column);
    cells.push_back(column_cells(report, column));
    numbers_width += cells.back().width + 2;  // a space before, a star or a space after
  }
  int name_width = text::columns("variant");
  for (const auto& variant : report.variants)
    name_width = std::max(name_width, text::columns(plain_name(variant.name)));
  int room = std::min(kNameWidth, kTableWidth - 2 - numbers_width);
  name_width = std::min(name_width, std::max(room, kNarrowestName));

  std::string out, units(name_width + 2, ' ');
  auto line = [&out](std::string text) {
    text.erase(text.find_last_not_of(' ') + 1);
    out += text + "\n";
  };
  std::string titles = "  variant" + std::string(name_width - text::columns("variant"), ' ');
  for (size_t c = 0; c < columns.size(); ++c) {
    titles += " " + pad_left(columns[c]->title, cells[c].width) + " ";
    units += " " + pad_left(columns[c]->unit, cells[c].width) + " ";
  }
  line(titles);
  line(units);
  bool stars = false, output = false, floor = false;
  for (size_t row = 0; row < report.variants.size(); ++row) {
    const auto& variant = report.variants[row];
    output |= variant.is_output;
    floor |= variant.noise_floor;
    std::string name = text::shorten(plain_name(variant.name), name_width);
    std::string text = variant.is_output ? "> " : variant.noise_floor ? "~ " : "  ";
    text += name + std::string(name_width - text::columns(name), ' ');
    for (const auto& column : cells) {
      bool best = column.best[row];
      stars |= best;
      std::string padded = pad_left(column.shown[row], column.width);
      text += ansi && best ? fmt::format(" \033[1m{}\033[0m ", padded)
                           : fmt::format(" {}{}", padded, best ? '*' : ' ');
    }
    line(ansi && variant.noise_floor ? "\033[2m" + text + "\033[0m" : text);
  }
  std::string legend;
  if (output) legend += "  > written";
  if (floor) legend += "  ~ noise floor: a mere cast";
  if (stars) legend += ansi ? "  bold: best of those tried" : "  * best of those tried";
  if (!legend.empty()) line(legend);
  return out;
}

std::string report_headline(const Report& report) {
  const ReportVariant* after = text::output(report);
  if (!after) return "Nothing was written";
  const ReportVariant* before = text::original(report);
  ReportVariant nothing;
  if (!before) before = &nothing;

  std::vector<std::string> parts;
  auto add = [&](std::string part) {
    if (!part.empty()) parts.push_back(std::move(part));
  };
  add(text::change(before->model_bytes, after->model_bytes, "smaller", "larger", "same size",
                   0.005));
  std::string relative = text::relative(before->perplexity, after->perplexity);
  std::string old_value = text::perplexity(before->perplexity);
  std::string new_value = text::perplexity(after->perplexity);
  if (std::isinf(after->perplexity))
    add("perplexity no longer finite: the model is broken");
  else if (!relative.empty())
    add(old_value == new_value
            ? fmt::format("perplexity unchanged at {}", new_value)
            : fmt::format("perplexity {} → {} ({})", old_value, new_value, relative));
  add(text::change(before->sequence_bytes, after->sequence_bytes, "less memory a sequence",
                   "more memory a sequence", "", 0.005));
  add(text::change(before->decode_tokens_per_second, after->decode_tokens_per_second,
                   "slower decode", "faster decode", "same decode speed", 0.03));
  if (std::isfinite(after->decode_of_limit))
    add(fmt::format("decode at {} % of the machine's limit",
                    text::percent(after->decode_of_limit)));
  if (parts.empty())
    return fmt::format("{}: nothing to compare was measured", plain_name(after->name));

  // Without a size nobody can say that nothing was gained; comparisons with NaN are false.
  bool gained = text::relative(before->model_bytes, after->model_bytes).empty() ||
                after->model_bytes < 0.995 * before->model_bytes ||
                after->decode_tokens_per_second > 1.03 * before->decode_tokens_per_second ||
                after->prefill_tokens_per_second > 1.03 * before->prefill_tokens_per_second ||
                after->peak_rss_bytes < 0.97 * before->peak_rss_bytes ||
                after->sequence_bytes < 0.995 * before->sequence_bytes ||
                after->perplexity < 0.995 * before->perplexity;
  return fmt::format("{}{}", gained ? "" : "No gain: ", fmt::join(parts, ", "));
}

}  // namespace hone
