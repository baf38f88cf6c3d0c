// "%s" % values and "{}".format(values): Python's two formatting languages, on one description of a
// field.
#include <algorithm>
#include <charconv>
#include <cmath>

#include "text/jinja_ops.h"
#include "text/jinja_strings.h"
#include "text/unicode.h"

namespace hone::jinja {
namespace {

constexpr int64_t kMaxPrecision = 1000;

struct Field {
  std::string fill;   // empty: blanks, or zeros with `zero`
  char align = 0;     // '<', '>', '^', '=' or 0: the type's own
  bool zero = false;  // fill with zeros; without align between the sign and the digits
  char sign = 0;      // '-', '+', ' ' or 0
  bool alternate = false;
  int64_t width = 0;
  char grouping = 0;  // ',' or '_'
  int64_t precision = -1;
  char type = 0;
};

/// What stands before a number that is not negative.
std::string plus(const Field& field) {
  return field.sign == 0 || field.sign == '-' ? "" : std::string(1, field.sign);
}

/// `text` (which begins with a sign and prefix of `prefix` bytes) padded to the field's width.
std::string padded(Runtime& runtime, const Field& field, std::string text, size_t prefix,
                   char own_align) {
  const int64_t missing = field.width - code_points(text);
  if (missing <= 0) return text;
  const std::string fill = !field.fill.empty() ? field.fill : field.zero ? "0" : " ";
  runtime.check_room(text.size() + static_cast<size_t>(missing) * fill.size());
  if (field.zero && own_align == '>') own_align = '=';
  const char align = field.align ? field.align : own_align;
  const int64_t before = align == '<' ? 0 : align == '^' ? missing / 2 : missing;
  std::string left, right;
  for (int64_t i = 0; i < missing; ++i) (i < before ? left : right) += fill;
  if (align == '=') return text.substr(0, prefix) + left + text.substr(prefix);
  return left + text + right;
}

/// Digits with a separator between groups of `size`, up to the first that is no digit.
std::string grouped(std::string digits, char separator, size_t size) {
  if (!separator) return digits;
  size_t end = std::min(digits.find_first_not_of("0123456789abcdefABCDEF"), digits.size());
  while (end > size) {
    end -= size;
    digits.insert(end, 1, separator);
  }
  return digits;
}

std::string format_integer(Runtime& runtime, const Field& field, int64_t value) {
  const bool minus = value < 0;
  const uint64_t size = minus ? -static_cast<uint64_t>(value) : static_cast<uint64_t>(value);
  std::string digits, prefix = minus ? "-" : plus(field);
  switch (field.type) {
    case 'x':
      digits = fmt::format("{:x}", size);
      break;
    case 'X':
      digits = fmt::format("{:X}", size);
      break;
    case 'o':
      digits = fmt::format("{:o}", size);
      break;
    case 'b':
      digits = fmt::format("{:b}", size);
      break;
    default:
      digits = fmt::format("{}", size);
  }
  const bool decimal = field.type == 0 || field.type == 'd';
  if (field.alternate && !decimal) prefix += std::string("0") + field.type;
  if (static_cast<int64_t>(digits.size()) < field.precision) {
    digits.insert(0, static_cast<size_t>(field.precision) - digits.size(), '0');
  }
  digits = grouped(std::move(digits), field.grouping, decimal ? 3 : 4);
  return padded(runtime, field, prefix + digits, prefix.size(), '>');
}

std::string print_real(const char* conversion, int64_t precision, double value) {
  const int size = std::snprintf(nullptr, 0, conversion, static_cast<int>(precision), value);
  std::string out(static_cast<size_t>(size) + 1, '\0');
  std::snprintf(out.data(), out.size(), conversion, static_cast<int>(precision), value);
  out.pop_back();
  return out;
}

std::string real_digits(const Field& field, double value) {
  if (!std::isfinite(value)) {
    const bool upper = field.type == 'F' || field.type == 'E' || field.type == 'G';
    return std::isnan(value) ? (upper ? "NAN" : "nan") : (upper ? "INF" : "inf");
  }
  const int64_t precision = field.precision < 0 ? 6 : field.precision;
  switch (field.type) {
    case 'e':
      return print_real(field.alternate ? "%#.*e" : "%.*e", precision, value);
    case 'E':
      return print_real(field.alternate ? "%#.*E" : "%.*E", precision, value);
    case 'f':
    case 'F':
      return print_real(field.alternate ? "%#.*f" : "%.*f", precision, value);
    case '%':
      return print_real("%.*f", precision, value * 100) + "%";
    case 'G':
      return print_real(field.alternate ? "%#.*G" : "%.*G", precision, value);
    case 0: {
      if (field.precision < 0) return real_repr(value);
      std::string out = print_real("%.*g", std::max<int64_t>(precision, 1), value);
      return out.find_first_of(".e") == out.npos ? out + ".0" : out;
    }
    default:
      return print_real(field.alternate ? "%#.*g" : "%.*g", precision, value);
  }
}

std::string format_real(Runtime& runtime, const Field& field, double value) {
  const std::string sign = std::signbit(value) && !std::isnan(value) ? "-" : plus(field);
  std::string digits = grouped(real_digits(field, std::abs(value)), field.grouping, 3);
  return padded(runtime, field, sign + digits, sign.size(), '>');
}

std::string format_text(Runtime& runtime, const Field& field, std::string text, char own_align) {
  if (field.precision >= 0) text.resize(byte_offset(text, field.precision));
  return padded(runtime, field, std::move(text), 0, own_align);
}

std::string character(int64_t code) {
  if (code < 0 || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) {
    fault("{} is no character's code", code);
  }
  std::string out;
  append_utf8(out, static_cast<char32_t>(code));
  return out;
}

std::string ascii_repr(Runtime& runtime, const Value& v) {
  std::string out;
  for (char32_t code : decode(to_repr(runtime, v))) {
    const auto c = static_cast<uint32_t>(code);
    if (c < 0x80) {
      out += static_cast<char>(c);
    } else {
      out += c < 0x100     ? fmt::format("\\x{:02x}", c)
             : c < 0x10000 ? fmt::format("\\u{:04x}", c)
                           : fmt::format("\\U{:08x}", c);
    }
  }
  return out;
}

/// A cursor over a format string.
struct Scanner {
  std::string_view text;
  size_t at = 0;

  bool done() const { return at >= text.size(); }
  char peek() const { return done() ? '\0' : text[at]; }
  char next() {
    if (done()) fault("incomplete format");
    return text[at++];
  }
  bool skip(char c) {
    if (peek() != c || done()) return false;
    ++at;
    return true;
  }
  int64_t number() {
    int64_t n = 0;
    while (peek() >= '0' && peek() <= '9') {
      n = n * 10 + (next() - '0');
      if (n > INT32_MAX) fault("a number in a format is too large");
    }
    return n;
  }
};

/// One render of a printf-style format.
class Percent {
 public:
  Percent(Runtime& runtime, const Text& format, const Value& values)
      : runtime_(runtime),
        format_{format.str},
        markup_(format.markup),
        values_(values),
        is_tuple_(values.is_sequence() && values.sequence().kind == SequenceKind::tuple) {}

  Value run() {
    TextBuilder out(runtime_);
    while (!format_.done()) {
      const size_t percent = std::min(format_.text.find('%', format_.at), format_.text.size());
      out << format_.text.substr(format_.at, percent - format_.at);
      format_.at = percent;
      if (format_.skip('%')) out << conversion();
    }
    // Python lets what can be subscripted go unused, except a tuple or a string.
    const bool subscripted = values_.is_undefined() || values_.is_dict() ||
                             (values_.is_sequence() && values_.sequence().indexable());
    if (is_tuple_ ? used_ < values_.items().size() : used_ == 0 && !subscripted) {
      fault("not all arguments converted during string formatting");
    }
    return out.value(markup_);
  }

 private:
  const Value& argument() {
    if (!is_tuple_ && used_ == 0) return ++used_, values_;
    if (!is_tuple_ || used_ >= values_.items().size()) {
      fault("not enough arguments for format string");
    }
    return values_.items()[used_++];
  }

  int64_t star_or_number() {
    if (!format_.skip('*')) return format_.number();
    const Value& v = argument();
    if (!v.is_integral()) fault("* wants int");
    return v.integer();
  }

  std::string conversion() {
    Field field;
    const Value* value = nullptr;
    if (format_.skip('(')) {
      const size_t end = format_.text.find(')', format_.at);
      if (end == format_.text.npos) fault("incomplete format key");
      if (!values_.is_dict()) fault("format requires a mapping");
      const std::string key(format_.text.substr(format_.at, end - format_.at));
      value = values_.dict().find(runtime_.text(key));
      if (!value) fault("no value for the format key {}", jinja::quoted(key));
      format_.at = end + 1;
    }
    for (; std::string_view("-+ #0").find(format_.peek()) != std::string_view::npos &&
           !format_.done();) {
      switch (format_.next()) {
        case '-':
          field.align = '<';
          break;
        case '+':
          field.sign = '+';
          break;
        case ' ':
          field.sign = field.sign == '+' ? '+' : ' ';
          break;
        case '#':
          field.alternate = true;
          break;
        default:
          field.zero = true;
      }
    }
    field.width = star_or_number();
    if (field.width < 0) field.align = '<', field.width = -field.width;
    if (field.align) field.zero = false;
    if (field.width > INT32_MAX) fault("a number in a format is too large");
    if (format_.skip('.')) field.precision = std::max<int64_t>(star_or_number(), 0);
    while (format_.peek() == 'h' || format_.peek() == 'l' || format_.peek() == 'L') format_.next();
    const char type = format_.next();
    if (type == '%') return "%";
    return converted(type, field, value ? *value : argument());
  }

  std::string converted(char type, Field& field, const Value& value) {
    const auto as_text = [&](std::string text) {
      field.zero = false;
      return format_text(runtime_, field, std::move(text), '>');
    };
    switch (type) {
      case 's':
        return as_text(markup_ ? escaped(runtime_, value) : to_str(runtime_, value));
      case 'r':
        return as_text(to_repr(runtime_, value));
      case 'a':
        return as_text(ascii_repr(runtime_, value));
      case 'c':
        if (value.is_text() && code_points(value.str()) == 1) return as_text(value.str());
        if (!value.is_integral()) fault("%c requires int or char");
        return as_text(character(value.integer()));
      default:
        break;
    }
    require_defined(value);
    if (!value.is_number()) {
      fault("%{} format: a number is required, not {}", type, type_name(value));
    }
    if (field.precision > kMaxPrecision) unsupported("a format's precision past 1000");
    field.type = type;
    if (std::string_view("eEfFgG").find(type) != std::string_view::npos) {
      return format_real(runtime_, field, value.real());
    }
    if (type == 'd' || type == 'i' || type == 'u') {
      field.type = 'd';
      return format_integer(runtime_, field, truncated(value));
    }
    if (type == 'x' || type == 'X' || type == 'o') {
      if (!value.is_integral()) {
        fault("%{} format: an integer is required, not {}", type, type_name(value));
      }
      return format_integer(runtime_, field, value.integer());
    }
    fault("unsupported format character {}", jinja::quoted(std::string(1, type)));
  }

  static int64_t truncated(const Value& value) {
    if (value.is_integral()) return value.integer();
    const double d = value.real();
    if (!(std::abs(d) < 9.2e18)) unsupported("an integer result needs more than 64 bits");
    return static_cast<int64_t>(d);
  }

  Runtime& runtime_;
  Scanner format_;
  bool markup_;
  const Value& values_;
  bool is_tuple_;
  size_t used_ = 0;
};

/// One render of a str.format template.
class Braces {
 public:
  Braces(Runtime& runtime, bool markup, const Arguments& arguments)
      : runtime_(runtime), markup_(markup), arguments_(arguments) {}

  std::string run(std::string_view format, int level) {
    if (level > 2) fault("max string recursion exceeded");
    TextBuilder out(runtime_);
    Scanner scan{format};
    while (!scan.done()) {
      const size_t brace = std::min(format.find_first_of("{}", scan.at), format.size());
      out << format.substr(scan.at, brace - scan.at);
      scan.at = brace;
      if (scan.done()) break;
      const char c = scan.next();
      if (scan.skip(c)) {
        out << std::string_view(&c, 1);
      } else if (c == '}') {
        fault("single '}}' encountered in format string");
      } else {
        out << replacement(scan, level);
      }
    }
    return out.take();
  }

 private:
  std::string replacement(Scanner& scan, int level) {
    const size_t end = std::min(scan.text.find_first_of("{}!:", scan.at), scan.text.size());
    const Value value = field_value(scan.text.substr(scan.at, end - scan.at));
    scan.at = end;
    const char conversion = scan.skip('!') ? scan.next() : '\0';
    std::string spec;
    if (scan.skip(':')) {
      const size_t begin = scan.at;
      for (int depth = 0; depth > 0 || scan.peek() != '}'; scan.next()) {
        depth += scan.peek() == '{' ? 1 : scan.peek() == '}' ? -1 : 0;
      }
      spec = run(scan.text.substr(begin, scan.at - begin), level + 1);
    }
    if (!scan.skip('}')) fault("expected '}}' before end of string");
    std::string text;
    switch (conversion) {
      case '\0':
        text = formatted(value, spec);
        break;
      case 's':
        text = formatted(runtime_.text(to_str(runtime_, value)), spec);
        break;
      case 'r':
        text = formatted(runtime_.text(to_repr(runtime_, value)), spec);
        break;
      case 'a':
        text = formatted(runtime_.text(ascii_repr(runtime_, value)), spec);
        break;
      default:
        fault("unknown conversion specifier {}", jinja::quoted(std::string(1, conversion)));
    }
    const bool escape = markup_ && !(value.is_text() && value.text().markup && !conversion);
    return escape ? html_escaped(text) : text;
  }

  /// "0.name[key]": an argument, then attributes and items of it.
  Value field_value(std::string_view path) {
    Scanner scan{path};
    const size_t end = std::min(path.find_first_of(".["), path.size());
    Value value = argument(path.substr(0, end));
    scan.at = end;
    while (!scan.done()) {
      if (scan.skip('.')) {
        const size_t stop = std::min(path.find_first_of(".[", scan.at), path.size());
        value = get_attribute(runtime_, value, std::string(path.substr(scan.at, stop - scan.at)));
        scan.at = stop;
      } else if (scan.skip('[')) {
        const size_t stop = path.find(']', scan.at);
        if (stop == path.npos) fault("missing ']' in format string");
        const std::string key(path.substr(scan.at, stop - scan.at));
        const Value index = is_number(key) ? Value(parsed(key)) : runtime_.text(key);
        value = get_item(runtime_, value, index);
        scan.at = stop + 1;
      } else {
        fault("only '.' or '[' may follow ']' in format field specifier");
      }
    }
    return value;
  }

  Value argument(std::string_view name) {
    const bool automatic = name.empty();
    if (!automatic && !is_number(name)) {
      for (const auto& [key, value] : arguments_.named) {
        if (key == name) return value;
      }
      fault("no value for the format field {}", jinja::quoted(name));
    }
    if (numbering_ != 0 && numbering_ != (automatic ? 1 : 2)) {
      fault("cannot mix automatic and manual field numbering in a format");
    }
    numbering_ = automatic ? 1 : 2;
    const size_t index = automatic ? next_++ : static_cast<size_t>(parsed(name));
    if (index >= arguments_.positional.size()) fault("format index {} out of range", index);
    return arguments_.positional[index];
  }

  static bool is_number(std::string_view text) {
    return !text.empty() &&
           std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
  }
  static int64_t parsed(std::string_view digits) {
    int64_t n = 0;
    if (std::from_chars(digits.data(), digits.data() + digits.size(), n).ec != std::errc()) {
      fault("too many decimal digits in format string");
    }
    return n;
  }

  static Field parsed_spec(std::string_view spec) {
    Field field;
    const auto is_align = [](char c) { return c == '<' || c == '>' || c == '=' || c == '^'; };
    Scanner scan{spec};
    const size_t first = spec.empty() ? 0 : static_cast<size_t>(utf8_at(spec, 0).size);
    if (spec.size() > first && is_align(spec[first])) {
      field.fill = spec.substr(0, first);
      field.align = spec[first];
      scan.at = first + 1;
    } else if (is_align(scan.peek())) {
      field.align = scan.next();
    }
    if (scan.peek() == '+' || scan.peek() == '-' || scan.peek() == ' ') field.sign = scan.next();
    field.alternate = scan.skip('#');
    field.zero = scan.skip('0');
    field.width = scan.number();
    if (scan.peek() == ',' || scan.peek() == '_') field.grouping = scan.next();
    if (scan.skip('.')) field.precision = scan.number();
    if (!scan.done()) field.type = scan.next();
    if (!scan.done()) fault("invalid format specifier {}", jinja::quoted(spec));
    return field;
  }

  std::string formatted(const Value& value, const std::string& spec) {
    if (spec.empty()) return to_str(runtime_, value);
    Field field = parsed_spec(spec);
    const auto is_type = [&](std::string_view types) {
      return field.type == 0 || types.find(field.type) != types.npos;
    };
    if (value.is_text() && is_type("s")) {
      if (field.sign || field.alternate || field.grouping || field.align == '=') {
        fault("format {} does not fit a string", jinja::quoted(spec));
      }
      return format_text(runtime_, field, value.str(), '<');
    }
    if (field.precision > kMaxPrecision) unsupported("a format's precision past 1000");
    if (value.is_integral() && field.type == 'c') {
      return format_text(runtime_, field, character(value.integer()), '<');
    }
    if (value.is_integral() && is_type("dboxXn")) {
      if (field.precision >= 0) fault("precision not allowed in integer format specifier");
      if (field.type == 'n') field.type = 'd';
      return format_integer(runtime_, field, value.integer());
    }
    if (value.is_number() && is_type("eEfFgGn%")) {
      return format_real(runtime_, field, value.real());
    }
    fault("format {} does not fit a value of type '{}'", jinja::quoted(spec), type_name(value));
  }

  Runtime& runtime_;
  bool markup_;
  const Arguments& arguments_;
  size_t next_ = 0;
  int numbering_ = 0;  // 1: automatic, 2: by number
};

}  // namespace

Value percent_format(Runtime& runtime, const Text& format, const Value& values) {
  return Percent(runtime, format, values).run();
}

Value brace_format(Runtime& runtime, const Text& format, const Arguments& arguments) {
  return runtime.text(Braces(runtime, format.markup, arguments).run(format.str, 0), format.markup);
}

}  // namespace hone::jinja
