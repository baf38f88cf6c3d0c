#include "text/jinja_ops.h"

#include <algorithm>
#include <cmath>

#include "text/jinja_native.h"
#include "text/jinja_strings.h"

namespace hone::jinja {
namespace {

[[noreturn]] void too_large() { unsupported("an integer result needs more than 64 bits"); }

[[noreturn]] void bad_operands(std::string_view op, const Value& a, const Value& b) {
  require_defined(a);
  require_defined(b);
  fault("unsupported operand type(s) for {}: '{}' and '{}'", op, type_name(a), type_name(b));
}

Value floor_divide(double a, double b, bool want_quotient) {
  if (b == 0) fault("float division by zero");
  double rest = std::fmod(a, b);
  double quotient = (a - rest) / b;
  if (rest == 0) {
    rest = std::copysign(0.0, b);
  } else if ((b < 0) != (rest < 0)) {
    rest += b;
    quotient -= 1;
  }
  if (!want_quotient) return rest;
  if (quotient == 0) return std::copysign(0.0, a / b);
  const double floor = std::floor(quotient);
  return quotient - floor > 0.5 ? floor + 1 : floor;
}

Value integer_power(int64_t base, int64_t exponent) {
  if (exponent < 0) {
    if (base == 0) fault("0.0 cannot be raised to a negative power");
    return std::pow(static_cast<double>(base), static_cast<double>(exponent));
  }
  int64_t result = 1;
  while (true) {
    if (exponent & 1 && __builtin_mul_overflow(result, base, &result)) too_large();
    exponent >>= 1;
    if (exponent == 0) return result;
    if (__builtin_mul_overflow(base, base, &base)) too_large();
  }
}

Value real_power(double base, double exponent) {
  if (base == 0 && exponent < 0) fault("0.0 cannot be raised to a negative power");
  if (base < 0 && std::isfinite(exponent) && std::floor(exponent) != exponent) {
    unsupported("complex numbers are not supported");
  }
  const double result = std::pow(base, exponent);
  if (std::isinf(result) && std::isfinite(base) && std::isfinite(exponent)) {
    fault("numerical result out of range");
  }
  return result;
}

Value integer_op(std::string_view op, int64_t a, int64_t b) {
  int64_t result = 0;
  if (op == "+") return __builtin_add_overflow(a, b, &result) ? (too_large(), result) : result;
  if (op == "-") return __builtin_sub_overflow(a, b, &result) ? (too_large(), result) : result;
  if (op == "*") return __builtin_mul_overflow(a, b, &result) ? (too_large(), result) : result;
  if (op == "**") return integer_power(a, b);
  if (b == 0) fault("division by zero");
  if (op == "/") return static_cast<double>(static_cast<long double>(a) / b);
  if (b == -1) return op == "%" ? Value(int64_t{0}) : negative(a);
  const bool round_down = a % b != 0 && (a < 0) != (b < 0);
  if (op == "//") return a / b - round_down;
  return a % b + (round_down ? b : 0);
}

Value real_op(std::string_view op, double a, double b) {
  if (op == "+") return a + b;
  if (op == "-") return a - b;
  if (op == "*") return a * b;
  if (op == "**") return real_power(a, b);
  if (op == "//" || op == "%") return floor_divide(a, b, op == "//");
  if (b == 0) fault("float division by zero");
  return a / b;
}

Value add(Runtime& runtime, const Value& a, const Value& b) {
  if (a.is_text() && b.is_text()) {
    const bool markup = a.text().markup || b.text().markup;
    TextBuilder out(runtime);
    out << (markup ? escaped(runtime, a) : a.str()) << (markup ? escaped(runtime, b) : b.str());
    return out.value(markup);
  }
  if (a.is_sequence() && b.is_sequence() && a.sequence().kind == b.sequence().kind &&
      a.sequence().kind <= SequenceKind::tuple) {
    runtime.check_room((a.items().size() + b.items().size()) * sizeof(Value));
    std::vector<Value> items;
    items.reserve(a.items().size() + b.items().size());
    items = a.items();
    items.insert(items.end(), b.items().begin(), b.items().end());
    return runtime.sequence(a.sequence().kind, std::move(items));
  }
  bad_operands("+", a, b);
}

/// How often, after checking that the copies fit.
size_t repeats(Runtime& runtime, size_t bytes, int64_t times) {
  if (times <= 0 || bytes == 0) return 0;
  size_t total = 0;
  if (__builtin_mul_overflow(bytes, static_cast<size_t>(times), &total)) total = SIZE_MAX;
  runtime.check_room(total);
  runtime.work(total);
  return static_cast<size_t>(times);
}

Value repeat(Runtime& runtime, const Value& v, int64_t times) {
  if (v.is_text()) {
    std::string out;
    for (size_t n = repeats(runtime, v.str().size(), times); n > 0; --n) out += v.str();
    return runtime.text(std::move(out), v.text().markup);
  }
  std::vector<Value> items;
  for (size_t n = repeats(runtime, v.items().size() * sizeof(Value), times); n > 0; --n) {
    items.insert(items.end(), v.items().begin(), v.items().end());
  }
  return runtime.sequence(v.sequence().kind, std::move(items));
}

bool repeatable(const Value& v) {
  return v.is_text() || (v.is_sequence() && v.sequence().kind <= SequenceKind::tuple);
}

/// What is missing, as jinja2 says it.
Value missing(Runtime& runtime, const Value& object, const Value& key) {
  if (key.is_text()) {
    return runtime.undefined(fmt::format("'{}' has no attribute {}", described_type(object),
                                         jinja::quoted(key.str().substr(0, 200))));
  }
  return runtime.undefined(fmt::format("{} has no element {}", described_type(object),
                                       depth_of(key) ? type_name(key) : to_repr(runtime, key)));
}

/// getattr: nullopt where Python raises AttributeError.
std::optional<Value> python_attribute(Runtime& runtime, const Value& object,
                                      const std::string& name) {
  if (name.size() > 4 && name.starts_with("__") && name.ends_with("__")) {
    return runtime.undefined(fmt::format("access to attribute {} of '{}' object is unsafe",
                                         jinja::quoted(name.substr(0, 200)), type_name(object)));
  }
  if (object.is(Type::object)) return object.object().attribute(runtime, name);
  return find_method(runtime, object, name);
}

/// object[key]: nullopt where Python raises TypeError or LookupError.
std::optional<Value> python_item(Runtime& runtime, const Value& object, const Value& key) {
  if (object.is_dict()) {
    const Value* found = hashable(key) ? object.dict().find(key) : nullptr;
    return found ? std::optional(*found) : std::nullopt;
  }
  if (!key.is_integral()) return std::nullopt;
  const bool is_text = object.is_text();
  if (!is_text && !(object.is_sequence() && object.sequence().indexable())) return std::nullopt;
  const int64_t size = *length(object);
  int64_t index = key.integer();
  if (index < 0) index += size;
  if (index < 0 || index >= size) return std::nullopt;
  if (!is_text) return object.items()[index];
  if (!object.text().ascii()) runtime.work(object.str().size());
  const size_t begin = object.text().offset(index), end = object.text().offset(index + 1);
  return runtime.text(object.str().substr(begin, end - begin), object.text().markup);
}

}  // namespace

void require_defined(const Value& v) {
  if (!v.is_undefined()) return;
  fault("{}", v.undefined().why ? *v.undefined().why : "undefined value");
}

std::string escaped(Runtime& runtime, const Value& v) {
  std::string text = to_str(runtime, v);
  if (v.is_text() && v.text().markup) return text;
  runtime.check_room(text.size() * 5);
  return html_escaped(text);
}

Value binary(Runtime& runtime, std::string_view op, const Value& a, const Value& b) {
  if (a.is_text() && op == "%") return percent_format(runtime, a.text(), b);
  if (a.is_integral() && b.is_integral()) return integer_op(op, a.integer(), b.integer());
  if (a.is_number() && b.is_number()) return real_op(op, a.real(), b.real());
  if (op == "+") return add(runtime, a, b);
  if (op == "*" && repeatable(a) && b.is_integral()) return repeat(runtime, a, b.integer());
  if (op == "*" && repeatable(b) && a.is_integral()) return repeat(runtime, b, a.integer());
  bad_operands(op, a, b);
}

Value negative(const Value& v) {
  require_defined(v);
  if (v.is(Type::real)) return -v.real();
  if (!v.is_integral()) fault("bad operand type for unary -: '{}'", type_name(v));
  if (v.integer() == INT64_MIN) too_large();
  return -v.integer();
}

Value positive(const Value& v) {
  require_defined(v);
  if (!v.is_number()) fault("bad operand type for unary +: '{}'", type_name(v));
  return v.is_integral() ? Value(v.integer()) : v;
}

bool contains(Runtime& runtime, const Value& container, const Value& item) {
  if (container.is_text()) {
    if (!item.is_text()) {
      fault("'in <string>' requires string as left operand, not {}", type_name(item));
    }
    runtime.work(container.str().size());
    return container.str().find(item.str()) != std::string::npos;
  }
  if (container.is_dict()) {
    if (!hashable(item)) fault("unhashable type: '{}'", type_name(item));
    return container.dict().find(item) != nullptr;
  }
  if (!iterable(container)) fault("argument of type '{}' is not iterable", type_name(container));
  const auto has = [&](const std::vector<Value>& items) {
    return std::any_of(items.begin(), items.end(), [&](const Value& candidate) {
      return candidate.same_as(item) || equal(runtime, candidate, item);
    });
  };
  return container.is_sequence() ? has(container.items()) : has(to_items(runtime, container));
}

bool holds(Runtime& runtime, std::string_view op, const Value& a, const Value& b) {
  if (op == "==") return equal(runtime, a, b);
  if (op == "!=") return !equal(runtime, a, b);
  if (op == "in") return contains(runtime, b, a);
  if (op == "not in") return !contains(runtime, b, a);
  const int order = compare(runtime, a, b, std::string(op).c_str());
  if (op == "<") return order == -1;
  if (op == "<=") return order == -1 || order == 0;
  if (op == ">") return order == 1;
  HONE_ASSERT(op == ">=");
  return order == 1 || order == 0;
}

Value get_attribute(Runtime& runtime, const Value& object, const std::string& name) {
  require_defined(object);
  if (auto found = python_attribute(runtime, object, name)) return *found;
  const Value key = runtime.text(name);
  if (auto found = python_item(runtime, object, key)) return *found;
  return missing(runtime, object, key);
}

Value get_item(Runtime& runtime, const Value& object, const Value& key) {
  require_defined(object);
  if (auto found = python_item(runtime, object, key)) return *found;
  if (key.is_text()) {
    if (auto found = python_attribute(runtime, object, key.str())) return *found;
  }
  return missing(runtime, object, key);
}

namespace {

/// A slice bound, or `fallback` where it is left out.
int64_t bound(const Value& v, int64_t fallback) {
  if (v.is_none() || (v.is_undefined() && !v.undefined().why)) return fallback;
  require_defined(v);
  if (!v.is_integral()) fault("slice indices must be integers or None, not {}", type_name(v));
  return v.integer();
}

/// The positions a slice takes of `size` items.
struct Positions {
  int64_t start, stop, step, count;
};

Positions positions(int64_t size, const Value& start, const Value& stop, const Value& step) {
  const int64_t by = bound(step, 1);
  if (by == 0) fault("slice step cannot be zero");
  const int64_t low = by > 0 ? 0 : -1, high = by > 0 ? size : size - 1;
  const auto place = [&](const Value& v, int64_t fallback) {
    const bool left_out = v.is_none() || (v.is_undefined() && !v.undefined().why);
    if (left_out) return fallback;
    const int64_t at = bound(v, 0);
    return at < 0 ? (at < -size ? low : at + size) : std::min(at, high);
  };
  const int64_t from = place(start, by > 0 ? 0 : size - 1);
  const int64_t to = place(stop, by > 0 ? size : -1);
  const int64_t distance = by > 0 ? to - from : from - to;
  // In unsigned arithmetic, as a step of INT64_MIN has no positive counterpart.
  const uint64_t stride = by > 0 ? static_cast<uint64_t>(by) : -static_cast<uint64_t>(by);
  const int64_t count =
      distance <= 0 ? 0 : static_cast<int64_t>((static_cast<uint64_t>(distance) - 1) / stride) + 1;
  return {from, to, by, count};
}

template <typename Container>
Container picked(const Container& from, const Positions& p) {
  Container out;
  out.reserve(static_cast<size_t>(p.count));
  for (int64_t i = 0, at = p.start; i < p.count; ++i) {
    out.push_back(from[static_cast<size_t>(at)]);
    if (i + 1 < p.count) at += p.step;
  }
  return out;
}

Value slice_text(Runtime& runtime, const Text& text, const Positions& p) {
  const std::string& all = text.str;
  if (p.count == 0) return runtime.text(std::string(), text.markup);
  if (p.step == 1) {
    if (!text.ascii()) runtime.work(all.size());
    const size_t begin = text.offset(p.start), end = text.offset(p.start + p.count);
    return runtime.text(all.substr(begin, end - begin), text.markup);
  }
  runtime.check_room(all.size() * sizeof(char32_t) * 2);
  return runtime.text(encode(picked(decode(all), p)), text.markup);
}

}  // namespace

Value slice(Runtime& runtime, const Value& object, const Value& start, const Value& stop,
            const Value& step) {
  require_defined(object);
  const bool sliceable =
      object.is_text() || (object.is_sequence() && object.sequence().indexable());
  if (!sliceable) fault("'{}' object cannot be sliced", type_name(object));
  const Positions p = positions(*length(object), start, stop, step);
  if (object.is_text()) return slice_text(runtime, object.text(), p);
  const Sequence& s = object.sequence();
  if (s.kind == SequenceKind::range) {
    const auto integer = [&](__int128 i) {
      if (i < INT64_MIN || i > INT64_MAX) too_large();
      return static_cast<int64_t>(i);
    };
    const auto at = [&](int64_t index) {
      return integer(s.range.start + static_cast<__int128>(index) * s.range.step);
    };
    return runtime.range(
        {at(p.start), at(p.stop), integer(static_cast<__int128>(s.range.step) * p.step)});
  }
  return runtime.sequence(s.kind, picked(s.items, p));
}

}  // namespace hone::jinja
