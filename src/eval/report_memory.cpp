#include "eval/report_memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "eval/report_svg.h"
#include "eval/report_text.h"

namespace hone {
namespace {

namespace text = report_text;
using report_plots::escape;
using report_plots::number;

// What both tables are made of: a title in two lines, and how a cell reads.
template <typename Row>
struct Column {
  std::string title, unit;
  double Row::*value;
  std::string (*show)(double);
};

std::string whole(double value) { return text::fixed(value, 0); }
std::string megabytes(double value) { return text::fixed(value / 1e6, 1); }
// What a cache costs is often in the third decimal.
std::string perplexity(double value) {
  return value < 1000 ? text::fixed(value, 3) : text::perplexity(value);
}

std::vector<Column<ReportCache>> cache_columns(int64_t length) {
  using C = ReportCache;
  return {
      {"a token", "bytes", &C::kv_bytes_per_token, whole},
      {length > 0 ? fmt::format("of {}", length) : "sequence", "MB", &C::sequence_bytes, megabytes},
      {"perplexity", "", &C::perplexity, perplexity},
      {"KL mean", "nats", &C::kl_mean, text::significant},
      {"KL p99", "nats", &C::kl_p99, text::significant},
      {"same", "top-1 %", &C::top1_agreement, text::percent},
      {"RMS Δp", "%", &C::rms_dp, text::percent}};
}

std::vector<Column<ReportVariant>> variant_columns(const Report& report) {
  using V = ReportVariant;
  return {
      {"KV cache", "a token", &V::kv_bytes_per_token, text::bytes},
      {"Sequence", fmt::format("of {}", report.sequence_length), &V::sequence_bytes, text::bytes},
      {"Recurrent", "state", &V::state_bytes, text::bytes}};
}

// "46.1 kB → 23.0 kB", or one of them where they read alike or nothing is known before.
std::string arrow(double before, double after) {
  const std::string old_value = text::bytes(before), new_value = text::bytes(after);
  return std::isnan(before) || old_value == new_value ? new_value : old_value + " → " + new_value;
}

template <typename Row>
std::string html_table(const char* head, const std::vector<Row>& rows, std::string Row::*name,
                       std::vector<Column<Row>> columns) {
  std::erase_if(columns, [&](const auto& c) {
    return std::ranges::all_of(rows, [&](const Row& r) { return std::isnan(r.*c.value); });
  });
  std::string out = fmt::format(
      "<table class='cards' role='table'><thead role='rowgroup'><tr role='row'><th "
      "role='columnheader' scope='col'>{}</th>",
      head);
  for (const auto& c : columns)
    out += fmt::format("<th role='columnheader' scope='col' class='num'>{}<small>{}</small></th>",
                       c.title, c.unit);
  out += "</tr></thead><tbody role='rowgroup'>\n";
  for (const Row& r : rows) {
    out += fmt::format("<tr role='row'><th role='rowheader' scope='row'>{}</th>", escape(r.*name));
    for (const auto& c : columns)
      out += fmt::format("<td role='cell' class='num{}' data-label='{} {}'>{}</td>",
                         std::isnan(r.*c.value) ? " empty" : "", c.title, c.unit,
                         number(c.show(r.*c.value)));
    out += "</tr>\n";
  }
  return out + "</tbody></table>\n";
}

}  // namespace

std::string report_memory_line(const Report& report) {
  const ReportVariant *after = text::output(report), *before = text::original(report);
  ReportVariant nothing;
  if (before == nullptr) before = &nothing;
  if (after == nullptr || std::isnan(after->sequence_bytes)) return {};
  std::string line = "Memory of a sequence: ";
  if (before->kv_bytes_per_token > 0 || after->kv_bytes_per_token > 0)
    line += fmt::format("{} KV cache {} a token; ", text::valid_utf8(report.kv_cache),
                        arrow(before->kv_bytes_per_token, after->kv_bytes_per_token));
  const std::string change =
      text::change(before->sequence_bytes, after->sequence_bytes, "smaller", "larger", "", 0.005);
  line += fmt::format("{} for {} tokens{}", arrow(before->sequence_bytes, after->sequence_bytes),
                      report.sequence_length, change.empty() ? "" : " (" + change + ")");
  if (before->state_bytes > 0 || after->state_bytes > 0)
    line += fmt::format(", of which {} are recurrent state",
                        arrow(before->state_bytes, after->state_bytes));
  return line;
}

std::string cache_table(const std::vector<ReportCache>& caches, int64_t length) {
  if (caches.empty()) return {};
  std::vector<std::vector<std::string>> cells{{"KV cache"}, {""}};
  for (const ReportCache& c : caches) cells.push_back({text::valid_utf8(c.kv_cache)});
  for (const auto& column : cache_columns(length)) {
    cells[0].push_back(column.title);
    cells[1].push_back(column.unit);
    for (size_t i = 0; i < caches.size(); ++i)
      cells[i + 2].push_back(column.show(caches[i].*column.value));
  }
  std::string out;
  for (const auto& row : cells) {
    std::string line;
    for (size_t c = 0; c < row.size(); ++c) {
      int width = 0;
      for (const auto& other : cells) width = std::max(width, text::columns(other[c]));
      const std::string space(static_cast<size_t>(width - text::columns(row[c])), ' ');
      line += c == 0 ? "  " + row[c] + space : "  " + space + row[c];
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

namespace report_memory {

bool differ(const Report& report) {
  return std::ranges::any_of(report.variants, [&](const ReportVariant& v) {
    const ReportVariant& first = report.variants[0];
    return !std::isnan(v.sequence_bytes) && (v.sequence_bytes != first.sequence_bytes ||
                                             v.kv_bytes_per_token != first.kv_bytes_per_token);
  });
}

std::string section_body(const Report& report) {
  std::string out;
  if (std::string line = report_memory_line(report); !line.empty())
    out += fmt::format("<p>{}.</p>\n", escape(line));
  if (differ(report))
    out += html_table("Variant", report.variants, &ReportVariant::name, variant_columns(report));
  if (!report.caches.empty())
    out += html_table("KV cache", report.caches, &ReportCache::kv_cache,
                      cache_columns(report.sequence_length)) +
           "<p class='legend'>What each type of KV cache costs the written model: divergence from "
           "itself with an f32 cache, nats a token.</p>\n";
  return out;
}

}  // namespace report_memory
}  // namespace hone
