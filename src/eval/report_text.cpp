#include "eval/report_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/log.h"

namespace hone::report_text {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

/// Length of the valid UTF-8 sequence at the head of `text`; 0 if there is none. Overlong forms,
/// surrogates and code points past U+10FFFF are not valid.
size_t sequence_length(std::string_view text) {
  auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  unsigned char lead = byte(0);
  if (lead < 0x80) return 1;
  size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i)
    if ((byte(i) & 0xC0) != 0x80) return 0;
  unsigned char second = byte(1);
  bool outside = (lead == 0xE0 && second < 0xA0) || (lead == 0xED && second > 0x9F) ||
                 (lead == 0xF0 && second < 0x90) || (lead == 0xF4 && second > 0x8F);
  return outside ? 0 : length;
}

bool continues(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

bool usable(double value) { return std::isfinite(value) && value > 0; }

std::string not_finite(double value) {
  return std::isnan(value) ? std::string(kDash) : value > 0 ? "∞" : "−∞";
}

const ReportVariant* find(const Report& report, bool ReportVariant::*mark) {
  for (const auto& variant : report.variants)
    if (variant.*mark) return &variant;
  return nullptr;
}

}  // namespace

std::string valid_utf8(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  while (!text.empty()) {
    size_t length = sequence_length(text);
    result += length ? text.substr(0, length) : kReplacement;
    text.remove_prefix(std::max<size_t>(length, 1));
  }
  return result;
}

int columns(std::string_view text) {
  return static_cast<int>(text.size() - std::count_if(text.begin(), text.end(), continues));
}

std::string shorten(std::string_view text, int limit) {
  if (columns(text) <= limit) return std::string(text);
  size_t end = 0;
  for (int kept = 0; kept < limit - 1; ++kept) do
      ++end;
    while (end < text.size() && continues(text[end]));
  return std::string(text.substr(0, end)) + "…";
}

std::string fixed(double value, int decimals) {
  return std::abs(value) < 99999.5 ? fmt::format("{:.{}f}", value, decimals) : significant(value);
}

std::string significant(double value) {
  if (!std::isfinite(value)) return not_finite(value);
  double size = std::abs(value);
  if (size == 0) return "0";
  if (size < 1e-4 || size >= 99999.5) return fmt::format("{:.1e}", value);
  int whole_digits = static_cast<int>(std::floor(std::log10(size))) + 1;
  return fmt::format("{:.{}f}", value, std::clamp(3 - whole_digits, 0, 6));
}

std::string percent(double fraction) {
  double value = 100 * fraction;
  // 99.996 % must not read as 100: the difference is the point.
  if (value < 100) value = std::min(value, 99.99);
  return fixed(value, (value > 99.94 && value < 100) || std::abs(value) < 1 ? 2 : 1);
}

std::string perplexity(double value) {
  return value < 1000 ? fixed(value, value < 100 ? 2 : 1) : significant(value);
}

std::string bytes(double value) {
  return std::abs(value) < 1e17 ? human_bytes(value) : significant(value);
}

std::string seconds(double value) {
  return std::abs(value) < 1e9 ? human_seconds(value) : significant(value);
}

std::string count(double value) {
  if (value >= 1e9) return fmt::format("{:.2f} billion", value / 1e9);
  if (value >= 1e6) return fmt::format("{:.1f} million", value / 1e6);
  return fmt::format("{:.0f}", value);
}

std::string speed(double value) {
  return value < 99999.5 ? fixed(value, value < 99.95 ? 1 : 0) : significant(value);
}

std::string change(double before, double after, std::string_view less, std::string_view more,
                   std::string_view same, double tolerance) {
  if (!usable(before) || !usable(after)) return {};
  double ratio = std::max(before / after, after / before);
  if (ratio < 1 + tolerance) return std::string(same);
  std::string_view word = after < before ? less : more;
  // Below 1.1 a factor hides the change. Percent then counts from `before`, as people do.
  if (ratio < 1.1)
    return fmt::format("{:.{}f} % {}", 100 * std::abs(after / before - 1), ratio < 1.01 ? 1 : 0,
                       word);
  return fmt::format("{}× {}", fixed(ratio, ratio < 9.95 ? 1 : 0), word);
}

std::string relative(double before, double after) {
  if (!usable(before) || !usable(after)) return {};
  double value = 100 * (after / before - 1);
  int decimals = std::abs(value) < 0.095 ? 2 : std::abs(value) < 9.95 ? 1 : 0;
  return fmt::format("{}{} %", value < 0 ? "−" : "+", fixed(std::abs(value), decimals));
}

bool is_candidate(const ReportVariant& v) { return !v.is_original && !v.noise_floor; }

double best_of(const Report& report, double ReportVariant::*value, int better) {
  double best = kNotMeasured;
  int measured = 0;
  for (const auto& v : report.variants) {
    if (!is_candidate(v) || std::isnan(v.*value)) continue;
    if (measured++ == 0 || better * (v.*value) > better * best) best = v.*value;
  }
  return better != 0 && measured > 1 ? best : kNotMeasured;
}

const ReportVariant* original(const Report& report) {
  return find(report, &ReportVariant::is_original);
}
const ReportVariant* output(const Report& report) {
  return find(report, &ReportVariant::is_output);
}

}  // namespace hone::report_text
