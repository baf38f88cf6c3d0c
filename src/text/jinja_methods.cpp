// The methods of Python's str, list, tuple, dict, range and float that a template may call. What
// would change a list or dict is Undefined, as in jinja2's immutable sandbox.
#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "text/jinja_native.h"
#include "text/jinja_ops.h"
#include "text/jinja_strings.h"
#include "text/unicode.h"

namespace hone::jinja {
namespace {

using R = Runtime&;
using V = const Value&;
using A = const Bound&;

/// A string of the receiver's kind: the methods of Markup return Markup.
Value like(R r, V self, std::string_view bytes) {
  return r.text(std::string(bytes), self.text().markup);
}

Value list_like(R r, V self, const std::vector<std::string_view>& pieces) {
  std::vector<Value> items;
  for (std::string_view piece : pieces) items.push_back(like(r, self, piece));
  return r.list(std::move(items));
}

const std::string& needed(A a, size_t i) {
  const std::string* text = a.str(i);
  if (!text) fault("expected a string, got '{}'", type_name(a[i]));
  return *text;
}

/// An argument that goes into the result: escaped where the receiver is Markup.
std::string inserted(R r, V self, A a, size_t i) {
  needed(a, i);
  return self.text().markup ? escaped(r, a[i]) : a[i].str();
}

template <std::string (*map)(std::string_view)>
Value mapped(R r, V self, A) {
  r.check_room(self.str().size() * 8);
  return like(r, self, map(self.str()));
}

template <char const* property>
Value has(R, V self, A) {
  return has_property(self.str(), property);
}
constexpr char kAlpha[] = "isalpha", kAlnum[] = "isalnum", kAscii[] = "isascii",
               kDecimal[] = "isdecimal", kDigit[] = "isdigit", kIdentifier[] = "isidentifier",
               kLowerMethod[] = "islower", kNumeric[] = "isnumeric", kPrintable[] = "isprintable",
               kSpace[] = "isspace", kTitle[] = "istitle", kUpperMethod[] = "isupper";

template <Side side>
Value stripped(R r, V self, A a) {
  return like(r, self, strip(self.str(), a.str(0), side));
}

/// The part of the receiver that optional bounds at parameters i and i + 1 leave.
struct Window {
  std::string_view text;
  int64_t start = 0;   // in code points
  bool exists = true;  // false where the bounds cross
};

Window window(V self, A a, size_t i) {
  const int64_t size = self.text().length;
  const auto bound = [&](size_t k, int64_t fallback) {
    if (!a.has(k) || a[k].is_none()) return fallback;
    const int64_t at = a.integer(k, 0);
    return at < 0 ? std::max<int64_t>(at + size, 0) : at;
  };
  const int64_t start = bound(i, 0), stop = std::min(bound(i + 1, size), size);
  if (start > stop) return {{}, start, false};
  const size_t begin = self.text().offset(start), end = self.text().offset(stop);
  return {std::string_view(self.str()).substr(begin, end - begin), start};
}

template <bool from_right, bool must>
Value position(R, V self, A a) {
  const Window w = window(self, a, 1);
  const std::string& part = needed(a, 0);
  const size_t at = !w.exists    ? std::string::npos
                    : from_right ? w.text.rfind(part)
                                 : w.text.find(part);
  if (at != std::string::npos) return w.start + code_points(w.text.substr(0, at));
  if (must) fault("substring not found");
  return int64_t{-1};
}

Value count_text(R, V self, A a) {
  const Window w = window(self, a, 1);
  const std::string& part = needed(a, 0);
  if (!w.exists) return int64_t{0};
  if (part.empty()) return code_points(w.text) + 1;
  int64_t count = 0;
  for (size_t at = w.text.find(part); at != w.text.npos; at = w.text.find(part, at + part.size())) {
    ++count;
  }
  return count;
}

template <bool at_end>
Value affixed(R, V self, A a) {
  const Window w = window(self, a, 1);
  const auto matches = [&](V part) {
    if (!part.is_text()) fault("expected a string or a tuple of strings");
    if (!w.exists) return false;
    return at_end ? w.text.ends_with(part.str()) : w.text.starts_with(part.str());
  };
  if (!a[0].is_sequence() || a[0].sequence().kind != SequenceKind::tuple) return matches(a[0]);
  return std::any_of(a[0].items().begin(), a[0].items().end(), matches);
}

template <bool from_right>
Value split(R r, V self, A a) {
  const std::string* separator = a.str(0);
  int64_t limit = a.integer(1, -1);
  if (!separator) return list_like(r, self, split_words(self.str(), limit, from_right));
  if (separator->empty()) fault("empty separator");
  std::vector<std::string_view> pieces;
  std::string_view left = self.str();
  for (; limit != 0; --limit) {
    const size_t at = from_right ? left.rfind(*separator) : left.find(*separator);
    if (at == left.npos) break;
    const std::string_view after = left.substr(at + separator->size());
    pieces.push_back(from_right ? after : left.substr(0, at));
    left = from_right ? left.substr(0, at) : after;
    r.check_room(pieces.size() * sizeof(Value));
  }
  pieces.push_back(left);
  if (from_right) std::reverse(pieces.begin(), pieces.end());
  return list_like(r, self, pieces);
}

template <bool from_right>
Value partition(R r, V self, A a) {
  const std::string& separator = needed(a, 0);
  if (separator.empty()) fault("empty separator");
  const std::string_view all = self.str();
  const size_t at = from_right ? all.rfind(separator) : all.find(separator);
  std::string_view parts[3] = {all, {}, {}};
  if (at != all.npos) {
    parts[0] = all.substr(0, at), parts[1] = separator;
    parts[2] = all.substr(at + separator.size());
  } else if (from_right) {
    std::swap(parts[0], parts[2]);
  }
  return r.tuple({like(r, self, parts[0]), like(r, self, parts[1]), like(r, self, parts[2])});
}

Value replace(R r, V self, A a) {
  const std::string& old = needed(a, 0);
  const std::string with = inserted(r, self, a, 1);
  int64_t left = a.integer(2, -1);
  const std::string_view all = self.str();
  TextBuilder out(r);
  size_t begin = 0;
  for (; left != 0; --left) {
    size_t at = all.find(old, begin);
    if (at == all.npos) break;
    if (old.empty()) {  // between all characters, and at both ends
      out << with;
      if (at == all.size()) return out.value(self.text().markup);
      at += utf8_length(static_cast<unsigned char>(all[at]));
      out << all.substr(begin, at - begin);
      begin = at;
    } else {
      out << all.substr(begin, at - begin) << with;
      begin = at + old.size();
    }
  }
  out << all.substr(begin);
  return out.value(self.text().markup);
}

Value join_method(R r, V self, A a) {
  TextBuilder out(r);
  bool first = true;
  for (V item : to_items(r, a[0])) {
    if (!first) out << self.str();
    first = false;
    if (!self.text().markup && !item.is_text()) {
      fault("join() expected strings, got '{}'", type_name(item));
    }
    out << (self.text().markup ? escaped(r, item) : item.str());
  }
  return out.value(self.text().markup);
}

enum class Pad { center, left, right };

template <Pad pad>
Value padded(R r, V self, A a) {
  const std::string fill = a.has(1) ? inserted(r, self, a, 1) : " ";
  const int64_t width = a.integer(0, 0), missing = width - self.text().length;
  if (missing <= 0) return self;
  r.check_room(self.str().size() + static_cast<size_t>(missing) * fill.size());
  const int64_t before = pad == Pad::left    ? 0
                         : pad == Pad::right ? missing
                                             : missing / 2 + (missing & width & 1);
  TextBuilder out(r);
  for (int64_t i = 0; i < before; ++i) out << fill;
  out << self.str();
  for (int64_t i = before; i < missing; ++i) out << fill;
  return out.value(self.text().markup);
}

Value zfill(R r, V self, A a) {
  const int64_t missing = a.integer(0, 0) - self.text().length;
  if (missing <= 0) return self;
  r.check_room(self.str().size() + static_cast<size_t>(missing));
  const bool sign = self.str().starts_with('-') || self.str().starts_with('+');
  std::string out = self.str();
  out.insert(sign ? 1 : 0, static_cast<size_t>(missing), '0');
  return like(r, self, out);
}

Value expand_tabs(R r, V self, A a) {
  const int64_t size = a.integer(0, 8);
  TextBuilder out(r);
  int64_t column = 0;
  for (char c : self.str()) {
    if (c == '\t') {
      const int64_t blanks = size > 0 ? size - column % size : 0;
      r.check_room(out.size() + static_cast<size_t>(blanks));
      out << std::string(static_cast<size_t>(blanks), ' ');
      column += blanks;
    } else {
      out << std::string_view(&c, 1);
      column = c == '\n' || c == '\r' ? 0 : column + ((c & 0xC0) != 0x80);
    }
  }
  return out.value(self.text().markup);
}

Value remove_prefix(R r, V self, A a) {
  const std::string_view all = self.str(), part = needed(a, 0);
  return like(r, self, all.starts_with(part) ? all.substr(part.size()) : all);
}
Value remove_suffix(R r, V self, A a) {
  const std::string_view all = self.str(), part = needed(a, 0);
  return like(r, self, all.ends_with(part) ? all.substr(0, all.size() - part.size()) : all);
}

const std::vector<Native>& text_methods() {
  static const auto& table = *new std::vector<Native>{
      {"capitalize", {}, 0, mapped<capitalize>},
      {"casefold", {}, 0, mapped<casefold>},
      {"lower", {}, 0, mapped<lower>},
      {"swapcase", {}, 0, mapped<swapcase>},
      {"title", {}, 0, mapped<title>},
      {"upper", {}, 0, mapped<upper>},
      {"isalnum", {}, 0, has<kAlnum>},
      {"isalpha", {}, 0, has<kAlpha>},
      {"isascii", {}, 0, has<kAscii>},
      {"isdecimal", {}, 0, has<kDecimal>},
      {"isdigit", {}, 0, has<kDigit>},
      {"isidentifier", {}, 0, has<kIdentifier>},
      {"islower", {}, 0, has<kLowerMethod>},
      {"isnumeric", {}, 0, has<kNumeric>},
      {"isprintable", {}, 0, has<kPrintable>},
      {"isspace", {}, 0, has<kSpace>},
      {"istitle", {}, 0, has<kTitle>},
      {"isupper", {}, 0, has<kUpperMethod>},
      {"strip", {"chars"}, 0, stripped<Side::both>},
      {"lstrip", {"chars"}, 0, stripped<Side::left>},
      {"rstrip", {"chars"}, 0, stripped<Side::right>},
      {"find", {"sub", "start", "end"}, 1, position<false, false>},
      {"index", {"sub", "start", "end"}, 1, position<false, true>},
      {"rfind", {"sub", "start", "end"}, 1, position<true, false>},
      {"rindex", {"sub", "start", "end"}, 1, position<true, true>},
      {"count", {"sub", "start", "end"}, 1, count_text},
      {"startswith", {"prefix", "start", "end"}, 1, affixed<false>},
      {"endswith", {"suffix", "start", "end"}, 1, affixed<true>},
      {"split", {"sep", "maxsplit"}, 0, split<false>},
      {"rsplit", {"sep", "maxsplit"}, 0, split<true>},
      {"splitlines",
       {"keepends"},
       0,
       [](R r, V self, A a) -> Value {
         return list_like(r, self, split_lines(self.str(), a.flag(0, false)));
       }},
      {"partition", {"sep"}, 1, partition<false>},
      {"rpartition", {"sep"}, 1, partition<true>},
      {"replace", {"old", "new", "count"}, 2, replace},
      {"join", {"iterable"}, 1, join_method},
      {"center", {"width", "fillchar"}, 1, padded<Pad::center>},
      {"ljust", {"width", "fillchar"}, 1, padded<Pad::left>},
      {"rjust", {"width", "fillchar"}, 1, padded<Pad::right>},
      {"zfill", {"width"}, 1, zfill},
      {"expandtabs", {"tabsize"}, 0, expand_tabs},
      {"removeprefix", {"prefix"}, 1, remove_prefix},
      {"removesuffix", {"suffix"}, 1, remove_suffix},
      {"format",
       {},
       0,
       [](R r, V self, A a) -> Value { return brace_format(r, self.text(), a.rest); },
       true},
  };
  return table;
}

Value index_of(R r, V self, A a) {
  const auto& items = self.items();
  const int64_t size = static_cast<int64_t>(items.size());
  const auto bound = [&](size_t i, int64_t fallback) {
    const int64_t at = a.integer(i, fallback);
    return at < 0 ? std::max<int64_t>(at + size, 0) : std::min(at, size);
  };
  for (int64_t i = bound(1, 0); i < bound(2, size); ++i) {
    if (equal(r, items[i], a[0])) return i;
  }
  fault("value is not in {}", type_name(self));
}

Value count_items(R r, V self, A a) {
  return static_cast<int64_t>(std::count_if(self.items().begin(), self.items().end(),
                                            [&](V item) { return equal(r, item, a[0]); }));
}

const std::vector<Native>& sequence_methods() {
  static const auto& table = *new std::vector<Native>{
      {"index", {"value", "start", "stop"}, 1, index_of},
      {"count", {"value"}, 1, count_items},
      {"copy", {}, 0, [](R, V self, A) -> Value { return self; }},  // of a list only
  };
  return table;
}

/// A view of a dict's keys, values or items.
template <SequenceKind kind>
Value view(R r, V self, A) {
  std::vector<Value> items;
  for (const auto& [key, value] : self.dict().entries) {
    items.push_back(kind == SequenceKind::dict_keys     ? key
                    : kind == SequenceKind::dict_values ? value
                                                        : r.tuple({key, value}));
  }
  return r.sequence(kind, std::move(items));
}

Value dict_get(R, V self, A a) {
  if (!hashable(a[0])) fault("unhashable type: '{}'", type_name(a[0]));
  const Value* found = self.dict().find(a[0]);
  return found ? *found : a.has(1) ? a[1] : None{};
}

const std::vector<Native>& dict_methods() {
  static const auto& table = *new std::vector<Native>{
      {"get", {"key", "default"}, 1, dict_get},
      {"keys", {}, 0, view<SequenceKind::dict_keys>},
      {"values", {}, 0, view<SequenceKind::dict_values>},
      {"items", {}, 0, view<SequenceKind::dict_items>},
      {"copy", {}, 0, [](R, V self, A) -> Value { return self; }},
  };
  return table;
}

const std::vector<Native>& real_methods() {
  static const auto& table = *new std::vector<Native>{
      {"is_integer",
       {},
       0,
       [](R, V self, A) -> Value { return std::floor(self.real()) == self.real(); }},
  };
  return table;
}

bool one_of(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

/// Methods that change a list or dict: the sandbox hides them.
bool modifies(V self, std::string_view name) {
  if (self.is_dict()) {
    return one_of(name, {"clear", "pop", "popitem", "setdefault", "update"});
  }
  return self.is_sequence() && self.sequence().kind == SequenceKind::list &&
         one_of(name, {"append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"});
}

/// Attributes Python has and this interpreter lacks.
bool lacking(V self, std::string_view name) {
  switch (self.type()) {
    case Type::text:
      return one_of(name, {"encode", "format_map", "maketrans", "translate"});
    case Type::dict:
      return name == "fromkeys";
    case Type::boolean:
    case Type::integer:
    case Type::real:
      return one_of(
          name, {"real", "imag", "numerator", "denominator", "conjugate", "bit_length", "bit_count",
                 "to_bytes", "from_bytes", "as_integer_ratio", "hex", "fromhex"});
    case Type::sequence:
      return !self.sequence().indexable() && one_of(name, {"mapping", "isdisjoint"});
    default:
      return false;
  }
}

std::optional<Value> field(V self, std::string_view name) {
  const Sequence& s = self.sequence();
  if (s.is_group && (name == "grouper" || name == "list")) return s.items[name == "list"];
  if (s.kind == SequenceKind::range) {
    if (name == "start") return Value(s.range.start);
    if (name == "stop") return Value(s.range.stop);
    if (name == "step") return Value(s.range.step);
  }
  return std::nullopt;
}

const std::vector<Native>* methods_of(V self) {
  switch (self.type()) {
    case Type::text:
      return &text_methods();
    case Type::dict:
      return &dict_methods();
    case Type::real:
      return &real_methods();
    case Type::sequence:
      return self.sequence().indexable() ? &sequence_methods() : nullptr;
    default:
      return nullptr;
  }
}

}  // namespace

std::optional<Value> find_method(Runtime& runtime, const Value& self, std::string_view name) {
  if (modifies(self, name)) {
    return runtime.undefined(
        fmt::format("access to attribute '{}' of '{}' object is unsafe", name, type_name(self)));
  }
  if (lacking(self, name)) unsupported("{}.{} is not supported", type_name(self), name);
  if (self.is_sequence()) {
    if (auto found = field(self, name)) return found;
    if (name == "copy" && self.sequence().kind != SequenceKind::list) return std::nullopt;
  }
  const auto* table = methods_of(self);
  if (!table) return std::nullopt;
  for (const Native& method : *table) {
    if (method.name == name) {
      return Value(std::shared_ptr<Object>(std::make_shared<Function>(runtime, method, self)));
    }
  }
  return std::nullopt;
}

}  // namespace hone::jinja
