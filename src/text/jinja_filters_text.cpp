// The filters of strings and numbers, one row each.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>

#include "text/jinja_json.h"
#include "text/jinja_native.h"
#include "text/jinja_ops.h"
#include "text/jinja_strings.h"
#include "text/unicode.h"

namespace hone::jinja {
namespace {

using R = Runtime&;
using V = const Value&;
using A = const Bound&;

/// The value as a string, Markup as it is.
Value soft(R r, V v) { return v.is_text() ? v : r.text(to_str(r, v)); }

/// The string method of that name, on any value's string.
template <char const* method>
Value by_method(R r, V v, A a) {
  const Value receiver = soft(r, v);
  Arguments arguments{a.values, {}};
  while (!arguments.positional.empty() && !a.given[arguments.positional.size() - 1]) {
    arguments.positional.pop_back();
  }
  return find_method(r, receiver, method)->object().call(r, std::move(arguments));
}
constexpr char kUpper[] = "upper", kLower[] = "lower", kCapitalize[] = "capitalize",
               kStrip[] = "strip", kCenter[] = "center";

Value title_filter(R r, V v, A) {
  const Value text = soft(r, v);
  const auto separates = [](char32_t c) {
    return py_space(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
  };
  r.check_room(text.str().size() * 8);
  const auto codes = decode(text.str());
  std::string out;
  for (size_t begin = 0; begin < codes.size();) {
    size_t end = begin + 1;
    while (end < codes.size() && separates(codes[end]) == separates(codes[begin])) ++end;
    out += upper(encode({codes[begin]}));
    out += lower(encode({codes.begin() + static_cast<std::ptrdiff_t>(begin) + 1,
                         codes.begin() + static_cast<std::ptrdiff_t>(end)}));
    begin = end;
  }
  return r.text(out, text.text().markup);
}

Value replace_filter(R r, V v, A a) {
  Arguments arguments{{r.text(to_str(r, a[0])), r.text(to_str(r, a[1]))}, {}};
  if (a.has(2) && !a[2].is_none()) arguments.positional.push_back(a[2]);
  const Value plain = r.text(to_str(r, v));
  return find_method(r, plain, "replace")->object().call(r, std::move(arguments));
}

Value indent(R r, V v, A a) {
  require_defined(v);
  if (!v.is_text()) fault("indent: expected a string, got '{}'", type_name(v));
  std::string by;
  if (a.has(0) && a[0].is_text()) {
    by = a[0].str();
  } else if (const int64_t width = a.integer(0, 4); width > 0) {
    r.check_room(static_cast<size_t>(width));
    by.assign(static_cast<size_t>(width), ' ');
  }
  const bool first = a.flag(1, false), blank = a.flag(2, false);
  std::string text = v.str();
  text += '\n';
  TextBuilder out(r);
  if (first) out << by;
  bool continued = false;
  for (std::string_view line : split_lines(text, false)) {
    if (continued) out << "\n" << (blank || !line.empty() ? std::string_view(by) : "");
    out << line;
    continued = true;
  }
  return out.value(v.text().markup);
}

Value truncate(R r, V v, A a) {
  const int64_t length = a.integer(0, 255);
  const std::string end = a.has(2) ? to_str(r, a[2]) : "...";
  const int64_t leeway = a.has(3) && !a[3].is_none() ? a.integer(3, 5) : 5;
  const int64_t kept = length - code_points(end);
  if (kept < 0) fault("truncate: expected length >= {}, got {}", code_points(end), length);
  if (leeway < 0) fault("truncate: expected leeway >= 0, got {}", leeway);
  if (const auto size = jinja::length(v); size && *size - leeway <= length) return v;
  if (!v.is_text()) fault("truncate: expected a string, got '{}'", type_name(v));
  std::string_view text = std::string_view(v.str()).substr(0, v.text().offset(kept));
  if (!a.flag(1, false)) text = text.substr(0, text.rfind(' '));
  return r.text(std::string(text) + end, v.text().markup);
}

Value word_count(R r, V v, A) {
  int64_t words = 0;
  bool inside = false;
  for (char32_t c : decode(soft(r, v).str())) {
    const bool in_word = c == '_' || is_letter(c) || is_number(c);
    words += in_word && !inside;
    inside = in_word;
  }
  return words;
}

/// The text without white space around it and without underscores between digits; nullopt where
/// an underscore stands elsewhere.
std::optional<std::string> number_text(std::string_view text) {
  text = strip(text, nullptr, Side::both);
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto alphanumeric = [&](size_t k) {
      return k < text.size() && std::isalnum(static_cast<unsigned char>(text[k]));
    };
    if (text[i] != '_') {
      out += text[i];
    } else if (i == 0 || !alphanumeric(i - 1) || !alphanumeric(i + 1)) {
      return std::nullopt;
    }
  }
  return out;
}

/// Python's float(text).
std::optional<double> parse_real(std::string_view text) {
  auto digits = number_text(text);
  if (!digits) return std::nullopt;
  std::string_view rest = *digits;
  const bool minus = rest.starts_with('-');
  if (minus || rest.starts_with('+')) rest.remove_prefix(1);
  const bool begins = !rest.empty() && rest[0] != '-' && rest[0] != '+';
  double value = 0;
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), value);
  const bool whole = end == rest.data() + rest.size();
  if (!begins || !whole || error == std::errc::invalid_argument) return std::nullopt;
  if (rest.find('(') != rest.npos) return std::nullopt;  // nan(...) is C's, not Python's
  if (error == std::errc::result_out_of_range) {
    value = rest.find("e-") != rest.npos || rest.find("E-") != rest.npos ? 0.0 : HUGE_VAL;
  }
  return minus ? -value : value;
}

/// Python's int(text, base).
std::optional<int64_t> parse_integer(std::string_view text, int64_t base) {
  if (base != 0 && (base < 2 || base > 36)) return std::nullopt;
  auto digits = number_text(text);
  if (!digits) return std::nullopt;
  std::string_view rest = *digits;
  const bool minus = rest.starts_with('-');
  if (minus || rest.starts_with('+')) rest.remove_prefix(1);
  if (rest.size() > 2 && rest[0] == '0') {
    const char letter = static_cast<char>(rest[1] | 0x20);
    const int64_t prefixed = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 0;
    if (prefixed != 0 && (base == 0 || base == prefixed)) {
      base = prefixed;
      rest.remove_prefix(2);
    }
  }
  if (base == 0) base = 10;
  uint64_t value = 0;
  const auto [end, error] =
      std::from_chars(rest.data(), rest.data() + rest.size(), value, static_cast<int>(base));
  if (rest.empty() || error == std::errc::invalid_argument || end != rest.data() + rest.size()) {
    return std::nullopt;
  }
  if (error != std::errc() || value > static_cast<uint64_t>(INT64_MAX)) {
    unsupported("an integer needs more than 64 bits");
  }
  return minus ? -static_cast<int64_t>(value) : static_cast<int64_t>(value);
}

int64_t truncated(double d) {
  if (!(std::abs(d) < 9.2e18)) unsupported("an integer needs more than 64 bits");
  return static_cast<int64_t>(d);
}

Value int_filter(R, V v, A a) {
  require_defined(v);
  const Value fallback = a.has(0) ? a[0] : Value(int64_t{0});
  if (v.is_integral()) return v.integer();
  if (v.is(Type::real)) {
    if (std::isinf(v.real())) fault("cannot convert float infinity to integer");
    return std::isnan(v.real()) ? fallback : Value(truncated(v.real()));
  }
  if (!v.is_text()) return fallback;
  if (const auto whole = parse_integer(v.str(), a.integer(1, 10))) return *whole;
  const auto real = parse_real(v.str());
  return real && std::isfinite(*real) ? Value(truncated(*real)) : fallback;
}

Value float_filter(R, V v, A a) {
  require_defined(v);
  if (v.is_number()) return v.real();
  const auto real = v.is_text() ? parse_real(v.str()) : std::nullopt;
  return real ? Value(*real) : a.has(0) ? a[0] : Value(0.0);
}

Value abs_filter(R, V v, A) {
  require_defined(v);
  if (v.is_integral()) return v.integer() < 0 ? negative(v) : Value(v.integer());
  if (!v.is(Type::real)) fault("bad operand type for abs(): '{}'", type_name(v));
  return std::abs(v.real());
}

/// Python's round(): the nearest decimal of the exact binary value, half to even.
double round_decimal(double d, int64_t places) {
  if (!std::isfinite(d) || places > 320) return d;
  if (places >= 0) return std::strtod(fmt::format("{:.{}f}", d, places).c_str(), nullptr);
  const double scale = std::pow(10.0, static_cast<double>(-places));
  return std::isinf(scale) ? std::copysign(0.0, d) : std::nearbyint(d / scale) * scale;
}

Value round_filter(R, V v, A a) {
  require_defined(v);
  if (!v.is_number()) fault("type '{}' cannot be rounded", type_name(v));
  const int64_t places = a.integer(0, 0);
  const std::string* method = a.str(1);
  if (method && *method != "common" && *method != "ceil" && *method != "floor") {
    fault("round: the method must be common, ceil or floor");
  }
  if (!method || *method == "common") {
    if (v.is_integral() && places >= 0) return v.integer();
    if (v.is_integral()) return truncated(round_decimal(v.real(), places));
    return round_decimal(v.real(), places);
  }
  const double scale = std::pow(10.0, static_cast<double>(places)), scaled = v.real() * scale;
  return (*method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale;
}

Value format_filter(R r, V v, A a) {
  const Value format = soft(r, v);
  if (!a.rest.positional.empty() && !a.rest.named.empty()) {
    fault("format: positional and keyword arguments at the same time");
  }
  if (a.rest.named.empty()) return percent_format(r, format.text(), r.tuple(a.rest.positional));
  std::vector<std::pair<Value, Value>> entries;
  for (const auto& [name, value] : a.rest.named) entries.emplace_back(r.text(name), value);
  return percent_format(r, format.text(), r.dict(entries));
}

Value to_json_filter(R r, V v, A a) {
  JsonStyle style;
  style.ascii = a.flag(0, false);
  style.sort_keys = a.flag(3, false);
  if (a.has(1) && !a[1].is_none()) {
    style.item_separator.pop_back();  // the lines' ends separate
    if (a[1].is_text()) {
      style.indent = a[1].str();
    } else {
      const int64_t width = std::max<int64_t>(a.integer(1, 0), 0);
      r.check_room(static_cast<size_t>(width));
      style.indent = std::string(static_cast<size_t>(width), ' ');
    }
  }
  if (a.has(2) && !a[2].is_none()) {
    const auto parts = to_items(r, a[2]);
    if (parts.size() != 2 || !parts[0].is_text() || !parts[1].is_text()) {
      fault("tojson: separators must be two strings");
    }
    style.item_separator = parts[0].str();
    style.key_separator = parts[1].str();
  }
  return r.text(to_json(r, v, style));
}

}  // namespace

const std::vector<Native>& text_filters() {
  static const auto& table = *new std::vector<Native>{
      {"upper", {}, 0, by_method<kUpper>},
      {"lower", {}, 0, by_method<kLower>},
      {"capitalize", {}, 0, by_method<kCapitalize>},
      {"trim", {"chars"}, 0, by_method<kStrip>},
      {"center",
       {"width"},
       0,
       [](R r, V v, A a) -> Value {
         return by_method<kCenter>(r, v, {{Value(a.integer(0, 80))}, {true}, {}});
       }},
      {"title", {}, 0, title_filter},
      {"replace", {"old", "new", "count"}, 2, replace_filter},
      {"indent", {"width", "first", "blank"}, 0, indent},
      {"truncate", {"length", "killwords", "end", "leeway"}, 0, truncate},
      {"wordcount", {}, 0, word_count},
      {"string", {}, 0, [](R r, V v, A) -> Value { return soft(r, v); }},
      {"safe", {}, 0, [](R r, V v, A) -> Value { return r.text(to_str(r, v), true); }},
      {"escape", {}, 0, [](R r, V v, A) -> Value { return r.text(escaped(r, v), true); }},
      {"e", {}, 0, [](R r, V v, A) -> Value { return r.text(escaped(r, v), true); }},
      {"forceescape",
       {},
       0,
       [](R r, V v, A) -> Value { return r.text(escaped(r, r.text(to_str(r, v))), true); }},
      {"int", {"default", "base"}, 0, int_filter},
      {"float", {"default"}, 0, float_filter},
      {"abs", {}, 0, abs_filter},
      {"round", {"precision", "method"}, 0, round_filter},
      {"format", {}, 0, format_filter, true},
      {"tojson", {"ensure_ascii", "indent", "separators", "sort_keys"}, 0, to_json_filter},
  };
  return table;
}

}  // namespace hone::jinja
