// The JSON twin, the terminal's table and the headline; the page is in report_html.cpp.
#include "eval/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <type_traits>

#include "base/error.h"
#include "eval/report_text.h"

namespace hone {
namespace {

namespace text = report_text;

// ---- JSON: one list of fields per struct, for both directions --------------------------------

template <typename Variant, typename Field>
requires std::is_same_v<std::remove_const_t<Variant>, ReportVariant>
void visit_fields(Variant& v, Field&& field) {
  field("name", v.name);
  field("is_original", v.is_original);
  field("noise_floor", v.noise_floor);
  field("is_output", v.is_output);
  field("model_bytes", v.model_bytes);
  field("bits_per_weight", v.bits_per_weight);
  field("perplexity", v.perplexity);
  field("perplexity_stderr", v.perplexity_stderr);
  field("bits_per_byte", v.bits_per_byte);
  field("kl_mean", v.kl_mean);
  field("kl_median", v.kl_median);
  field("kl_p99", v.kl_p99);
  field("top1_agreement", v.top1_agreement);
  field("rms_dp", v.rms_dp);
  field("max_dp", v.max_dp);
  field("prefill_tokens_per_second", v.prefill_tokens_per_second);
  field("decode_tokens_per_second", v.decode_tokens_per_second);
  field("prefill_of_limit", v.prefill_of_limit);
  field("decode_of_limit", v.decode_of_limit);
  field("peak_rss_bytes", v.peak_rss_bytes);
  field("seconds_to_make", v.seconds_to_make);
  field("activations", v.activations);
}

template <typename Layer, typename Field>
requires std::is_same_v<std::remove_const_t<Layer>, ReportLayer>
void visit_fields(Layer& l, Field&& field) {
  field("module", l.module);
  field("encoding_before", l.encoding_before);
  field("encoding_after", l.encoding_after);
  field("bytes_before", l.bytes_before);
  field("bytes_after", l.bytes_after);
  field("method_error", l.method_error);
  field("rtn_error", l.rtn_error);
  field("kept", l.kept);
  field("from_inputs", l.from_inputs);
}

template <typename Sample, typename Field>
requires std::is_same_v<std::remove_const_t<Sample>, ReportSample>
void visit_fields(Sample& s, Field&& field) {
  field("variant", s.variant);
  field("prompt", s.prompt);
  field("text", s.text);
}

template <typename R, typename Field>
requires std::is_same_v<std::remove_const_t<R>, Report>
void visit_fields(R& r, Field&& field) {
  field("title", r.title);
  field("model", r.model);
  field("architecture", r.architecture);
  field("parameters", r.parameters);
  field("recipe", r.recipe);
  field("machine", r.machine);
  field("threads", r.threads);
  field("isa", r.isa);
  field("text", r.text);
  field("context", r.context);
  field("convention", r.convention);
  field("date", r.date);
  field("hone_version", r.hone_version);
  field("notes", r.notes);
  field("variants", r.variants);
  field("layers", r.layers);
  field("samples", r.samples);
}

template <typename T>
Json to_json(const T& value) {
  if constexpr (std::is_same_v<T, std::string>) {
    return text::valid_utf8(value);
  } else if constexpr (std::is_same_v<T, double>) {
    if (std::isnan(value)) return nullptr;
    if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
    // Byte counts read better without ".0".
    if (value == std::floor(value) && std::abs(value) < 9e15) return static_cast<int64_t>(value);
    return value;
  } else if constexpr (std::is_arithmetic_v<T>) {
    return value;
  } else if constexpr (requires { value.begin(); }) {
    Json array = Json::array();
    for (const auto& item : value) array.push_back(to_json(item));
    return array;
  } else {
    Json object = Json::object();
    visit_fields(value,
                 [&](const char* name, const auto& field) { object[name] = to_json(field); });
    return object;
  }
}

/// Reads `json` into `value`; `where` is the path of keys, for the error.
template <typename T>
void from_json(const Json& json, const std::string& where, T& value) {
  auto expect = [&](bool holds, const char* what) {
    HONE_CHECK(holds, corrupt, "report: '{}': expected {}, got {}", where, what, json.type_name());
  };
  if constexpr (std::is_same_v<T, std::string>) {
    expect(json.is_string(), "a string");
    value = json.template get<std::string>();
  } else if constexpr (std::is_same_v<T, bool>) {
    expect(json.is_boolean(), "true or false");
    value = json.template get<bool>();
  } else if constexpr (std::is_same_v<T, double>) {
    bool infinite = json == "inf" || json == "-inf";
    expect(json.is_number() || json.is_null() || infinite, "a number, null or \"inf\"");
    value = json.is_null() ? kNotMeasured
            : infinite     ? (json == "inf" ? 1 : -1) * std::numeric_limits<double>::infinity()
                           : json.template get<double>();
  } else if constexpr (std::is_integral_v<T>) {
    expect(json.is_number_integer(), "a whole number");
    int64_t whole = json.template get<int64_t>();
    expect(whole >= 0 && whole <= std::numeric_limits<T>::max(), "a count in range");
    value = static_cast<T>(whole);
  } else if constexpr (requires { value.push_back({}); }) {
    expect(json.is_array(), "an array");
    value.clear();
    for (size_t i = 0; i < json.size(); ++i)
      from_json(json[i], fmt::format("{}[{}]", where, i), value.emplace_back());
  } else {
    expect(json.is_object(), "an object");
    visit_fields(value, [&](const char* name, auto& field) {
      auto found = json.find(name);
      if (found == json.end()) return;
      from_json(*found, where.empty() ? name : where + "." + name, field);
    });
  }
}

// ---- The terminal's table --------------------------------------------------------------------

constexpr int kTableWidth = 120;
constexpr int kNameWidth = 32;
constexpr int kNarrowestName = 10;

struct Column {
  const char* title;
  const char* unit;
  double ReportVariant::*value;
  int better;  // +1: more is better, -1: less is, 0: neither
  std::string (*show)(double);
};

std::string two_decimals(double value) { return text::fixed(value, 2); }
std::string megabytes(double value) { return text::fixed(value / 1e6, 1); }

const Column kColumns[] = {
    {"size", "MB", &ReportVariant::model_bytes, -1, megabytes},
    {"bits", "/weight", &ReportVariant::bits_per_weight, 0, two_decimals},
    {"perplexity", "", &ReportVariant::perplexity, -1, text::perplexity},
    {"KL mean", "nats", &ReportVariant::kl_mean, -1, text::significant},
    {"KL p99", "nats", &ReportVariant::kl_p99, -1, text::significant},
    {"same", "top-1 %", &ReportVariant::top1_agreement, +1, text::percent},
    {"prefill", "tok/s", &ReportVariant::prefill_tokens_per_second, +1, text::speed},
    {"decode", "tok/s", &ReportVariant::decode_tokens_per_second, +1, text::speed},
    {"memory", "peak MB", &ReportVariant::peak_rss_bytes, -1, megabytes},
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

Cells column_cells(const Report& report, const Column& column) {
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

Json report_json(const Report& report) {
  Json json = {{"format", "hone report"}, {"format_version", 1}};
  json.update(to_json(report));
  return json;
}

Report report_from_json(const Json& json) {
  Report report;
  HONE_CHECK(json.is_object() && json.contains("format") && json["format"] == "hone report",
             corrupt, "report: expected an object with \"format\": \"hone report\"");
  from_json(json, "", report);
  return report;
}

std::string report_table(const Report& report, bool ansi) {
  std::vector<const Column*> columns;
  std::vector<Cells> cells;
  int numbers_width = 0;
  for (const auto& column : kColumns) {
    bool measured = std::any_of(report.variants.begin(), report.variants.end(),
                                [&](const auto& v) { return !std::isnan(v.*column.value); });
    if (!measured) continue;
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
                after->perplexity < 0.995 * before->perplexity;
  return fmt::format("{}{}", gained ? "" : "No gain: ", fmt::join(parts, ", "));
}

}  // namespace hone
