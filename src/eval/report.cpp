// The JSON twin; the terminal's renderings are in report_terminal.cpp, the page in report_html.cpp.
#include "eval/report.h"

#include <fmt/format.h>

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
  field("kv_bytes_per_token", v.kv_bytes_per_token);
  field("sequence_bytes", v.sequence_bytes);
  field("state_bytes", v.state_bytes);
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

template <typename Cache, typename Field>
requires std::is_same_v<std::remove_const_t<Cache>, ReportCache>
void visit_fields(Cache& c, Field&& field) {
  field("kv_cache", c.kv_cache);
  field("kv_bytes_per_token", c.kv_bytes_per_token);
  field("sequence_bytes", c.sequence_bytes);
  field("perplexity", c.perplexity);
  field("perplexity_stderr", c.perplexity_stderr);
  field("kl_mean", c.kl_mean);
  field("kl_p99", c.kl_p99);
  field("top1_agreement", c.top1_agreement);
  field("rms_dp", c.rms_dp);
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
  field("kv_cache", r.kv_cache);
  field("sequence_length", r.sequence_length);
  field("caches", r.caches);
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

}  // namespace hone
