#include "text/jinja_value.h"

#include <algorithm>
#include <cmath>

#include "text/jinja_strings.h"
#include "text/unicode.h"

namespace hone::jinja {

const std::string& Value::str() const { return text().str; }
const std::vector<Value>& Value::items() const { return sequence().items; }

bool Value::same_as(const Value& other) const {
  if (type() != other.type()) return false;
  switch (type()) {
    case Type::undefined:
      return undefined().why == other.undefined().why;
    case Type::none:
      return true;
    case Type::boolean:
      return boolean() == other.boolean();
    case Type::integer:
      return integer() == other.integer();
    case Type::real:
      return real() == other.real();
    case Type::text:
      return &text() == &other.text();
    case Type::sequence:
      return &sequence() == &other.sequence();
    case Type::dict:
      return &dict() == &other.dict();
    case Type::object:
      return &object() == &other.object();
  }
  return false;
}

Metered::Metered(Runtime* runtime, size_t bytes) : runtime_(runtime), bytes_(bytes) {
  if (runtime_) runtime_->charge(bytes_);
}
Metered::~Metered() {
  if (runtime_) runtime_->release(bytes_);
}

Text::Text(Runtime* runtime, std::string bytes, bool markup)
    : Metered(runtime, sizeof(Text) + bytes.capacity()),
      str(std::move(bytes)),
      length(code_points(str)),
      markup(markup) {}

size_t Text::offset(int64_t index) const {
  return ascii() ? static_cast<size_t>(std::min(index, length)) : byte_offset(str, index);
}

Sequence::Sequence(Runtime* runtime, SequenceKind kind, std::vector<Value> values)
    : Metered(runtime, sizeof(Sequence) + values.capacity() * sizeof(Value)),
      kind(kind),
      items(std::move(values)),
      depth(nest(items)),
      hashable(kind == SequenceKind::range ||
               (kind == SequenceKind::tuple &&
                std::all_of(items.begin(), items.end(), jinja::hashable))) {}

// An entry, its place in the index, and what the hash table keeps beside it.
constexpr size_t kDictEntryBytes = 4 * sizeof(Value) + 32;

Dict::Dict(Runtime* runtime, size_t capacity)
    : Metered(runtime, sizeof(Dict) + capacity * kDictEntryBytes),
      index(0, KeyHash{}, KeyEqual{runtime}) {
  entries.reserve(capacity);
}

const Value* Dict::find(const Value& key) const {
  const auto at = index.find(key);
  return at == index.end() ? nullptr : &entries[at->second].second;
}

std::string Object::repr(Runtime&, int) { return fmt::format("<{} object>", type_name()); }
Value Object::call(Runtime&, Arguments) { fault("'{}' object is not callable", type_name()); }
std::vector<Value> Object::drain(Runtime&) { fault("'{}' object is not iterable", type_name()); }

Runtime::~Runtime() {
  for (const auto& object : tracked_) object->clear();
}

void Runtime::step(int64_t n) {
  steps_ += n;
  if (steps_ > limits_.max_steps) {
    unsupported("the template takes more than {} steps", limits_.max_steps);
  }
}

void Runtime::check_room(size_t bytes) const {
  if (bytes > static_cast<size_t>(limits_.max_value_bytes) ||
      live_bytes_ > limits_.max_value_bytes - static_cast<int64_t>(bytes)) {
    unsupported("the template's values need more than {} bytes", limits_.max_value_bytes);
  }
}

void Runtime::charge(size_t bytes) {
  check_room(bytes);
  live_bytes_ += static_cast<int64_t>(bytes);
}

Value Runtime::text(std::string bytes, bool markup) {
  work(bytes.size());
  return std::shared_ptr<const Text>(std::make_shared<Text>(this, std::move(bytes), markup));
}

Value Runtime::sequence(SequenceKind kind, std::vector<Value> items) {
  step(static_cast<int64_t>(items.size() / 16));
  return std::shared_ptr<const Sequence>(std::make_shared<Sequence>(this, kind, std::move(items)));
}

Value Runtime::range(Range range) {
  // jinja2's sandbox allows this many.
  constexpr int64_t kMaxRange = 100'000;
  if (range.step == 0) fault("range() arg 3 must not be zero");
  std::vector<Value> items;
  const auto before = [&](__int128 i) { return range.step > 0 ? i < range.stop : i > range.stop; };
  for (__int128 i = range.start; before(i); i += range.step) {
    if (items.size() >= static_cast<size_t>(kMaxRange)) {
      fault("range too big: more than {} items", kMaxRange);
    }
    items.emplace_back(static_cast<int64_t>(i));
  }
  step(static_cast<int64_t>(items.size() / 16));
  auto made = std::make_shared<Sequence>(this, SequenceKind::range, std::move(items));
  made->range = range;
  return std::shared_ptr<const Sequence>(std::move(made));
}

Value Runtime::dict(const std::vector<std::pair<Value, Value>>& entries) {
  auto made = std::make_shared<Dict>(this, entries.size());
  for (const auto& [key, value] : entries) {
    step();
    if (!hashable(key)) fault("unhashable type: '{}'", jinja::type_name(key));
    const auto [at, fresh] = made->index.emplace(key, made->entries.size());
    if (fresh) {
      made->entries.emplace_back(key, value);
    } else {
      made->entries[at->second].second = value;
    }
    made->depth = std::max({made->depth, 1 + depth_of(key), 1 + depth_of(value)});
  }
  if (made->depth > kMaxNesting) unsupported("values nested deeper than {}", kMaxNesting);
  return std::shared_ptr<const Dict>(std::move(made));
}

Value Runtime::undefined(std::string why) {
  return Undefined{std::make_shared<const std::string>(std::move(why))};
}

TextBuilder& TextBuilder::operator<<(std::string_view piece) {
  runtime_.check_room(out_.size() + piece.size());
  runtime_.work(piece.size());
  out_ += piece;
  return *this;
}

const char* type_name(const Value& v) {
  switch (v.type()) {
    case Type::undefined:
      return "Undefined";
    case Type::none:
      return "NoneType";
    case Type::boolean:
      return "bool";
    case Type::integer:
      return "int";
    case Type::real:
      return "float";
    case Type::text:
      return v.text().markup ? "Markup" : "str";
    case Type::dict:
      return "dict";
    case Type::object:
      return v.object().type_name();
    case Type::sequence:
      break;
  }
  constexpr const char* kNames[] = {"list",      "tuple",       "range",
                                    "dict_keys", "dict_values", "dict_items"};
  return kNames[static_cast<int>(v.sequence().kind)];
}

std::string described_type(const Value& v) {
  return v.is_none() ? "None" : fmt::format("{} object", type_name(v));
}

bool truth(const Value& v) {
  switch (v.type()) {
    case Type::undefined:
    case Type::none:
      return false;
    case Type::boolean:
      return v.boolean();
    case Type::integer:
      return v.integer() != 0;
    case Type::real:
      return v.real() != 0;
    case Type::text:
      return !v.str().empty();
    case Type::sequence:
      return !v.items().empty();
    case Type::dict:
      return !v.dict().entries.empty();
    case Type::object:
      return true;
  }
  return false;
}

std::string real_repr(double d) {
  if (std::isnan(d)) return "nan";
  if (std::isinf(d)) return d < 0 ? "-inf" : "inf";
  std::string out = fmt::format("{}", d);
  // Python writes 1.0 where fmt writes 1; both write 1e+16 and 1e-05.
  if (out.find_first_of(".e") == out.npos) out += ".0";
  return out;
}

namespace {

void write_repr(Runtime& runtime, const Value& v, TextBuilder& out, int depth);

void write_items(Runtime& runtime, const Sequence& s, TextBuilder& out, int depth) {
  for (size_t i = 0; i < s.items.size(); ++i) {
    if (i) out << ", ";
    write_repr(runtime, s.items[i], out, depth);
  }
}

void write_sequence(Runtime& runtime, const Sequence& s, TextBuilder& out, int depth) {
  switch (s.kind) {
    case SequenceKind::list:
      out << "[";
      write_items(runtime, s, out, depth);
      out << "]";
      return;
    case SequenceKind::tuple:
      out << "(";
      write_items(runtime, s, out, depth);
      out << (s.items.size() == 1 ? ",)" : ")");
      return;
    case SequenceKind::range:
      out << fmt::format("range({}, {}", s.range.start, s.range.stop);
      if (s.range.step != 1) out << fmt::format(", {}", s.range.step);
      out << ")";
      return;
    case SequenceKind::dict_keys:
      out << "dict_keys([";
      break;
    case SequenceKind::dict_values:
      out << "dict_values([";
      break;
    case SequenceKind::dict_items:
      out << "dict_items([";
      break;
  }
  write_items(runtime, s, out, depth);
  out << "])";
}

void write_repr(Runtime& runtime, const Value& v, TextBuilder& out, int depth) {
  runtime.step();
  if (depth > kMaxNesting) unsupported("values nested deeper than {}", kMaxNesting);
  switch (v.type()) {
    case Type::undefined:
      out << "Undefined";
      return;
    case Type::none:
      out << "None";
      return;
    case Type::boolean:
      out << (v.boolean() ? "True" : "False");
      return;
    case Type::integer:
      out << fmt::format("{}", v.integer());
      return;
    case Type::real:
      out << real_repr(v.real());
      return;
    case Type::text:
      out << (v.text().markup ? "Markup(" : "");
      runtime.check_room(v.str().size() * 4);
      out << jinja::quoted(v.str()) << (v.text().markup ? ")" : "");
      return;
    case Type::sequence:
      write_sequence(runtime, v.sequence(), out, depth + 1);
      return;
    case Type::object:
      out << v.object().repr(runtime, depth + 1);
      return;
    case Type::dict:
      break;
  }
  out << "{";
  const char* comma = "";
  for (const auto& [key, value] : v.dict().entries) {
    out << comma;
    write_repr(runtime, key, out, depth + 1);
    out << ": ";
    write_repr(runtime, value, out, depth + 1);
    comma = ", ";
  }
  out << "}";
}

int order(long double a, long double b) { return a < b ? -1 : a > b ? 1 : a == b ? 0 : 2; }

bool contains_all(Runtime& runtime, const Sequence& a, const Sequence& b) {
  return std::all_of(a.items.begin(), a.items.end(), [&](const Value& x) {
    return std::any_of(b.items.begin(), b.items.end(),
                       [&](const Value& y) { return equal(runtime, x, y); });
  });
}

bool equal_sequences(Runtime& runtime, const Sequence& a, const Sequence& b) {
  if (&a == &b) return true;
  if (a.items.size() != b.items.size() || a.kind == SequenceKind::dict_values) return false;
  if (!a.indexable() && !b.indexable()) return contains_all(runtime, a, b);
  if (a.kind != b.kind) return false;
  for (size_t i = 0; i < a.items.size(); ++i) {
    if (!equal(runtime, a.items[i], b.items[i])) return false;
  }
  return true;
}

bool equal_dicts(Runtime& runtime, const Dict& a, const Dict& b) {
  if (&a == &b) return true;
  if (a.entries.size() != b.entries.size()) return false;
  for (const auto& [key, value] : a.entries) {
    const Value* other = b.find(key);
    if (!other || !equal(runtime, value, *other)) return false;
  }
  return true;
}

}  // namespace

std::string to_repr(Runtime& runtime, const Value& v, int depth) {
  TextBuilder out(runtime);
  write_repr(runtime, v, out, depth);
  return out.take();
}

std::string to_str(Runtime& runtime, const Value& v) {
  if (v.is_text()) return v.str();
  if (v.is_undefined()) return {};
  return to_repr(runtime, v);
}

bool equal(Runtime& runtime, const Value& a, const Value& b) {
  runtime.step();
  if (a.is_number() && b.is_number()) {
    if (a.is_integral() && b.is_integral()) return a.integer() == b.integer();
    const auto wide = [](const Value& v) -> long double {
      return v.is_integral() ? static_cast<long double>(v.integer()) : v.real();
    };
    return wide(a) == wide(b);
  }
  if (a.type() != b.type()) return false;
  switch (a.type()) {
    case Type::undefined:
    case Type::none:
      return true;
    case Type::text:
      runtime.work(a.str().size());
      return a.str() == b.str();
    case Type::sequence:
      return equal_sequences(runtime, a.sequence(), b.sequence());
    case Type::dict:
      return equal_dicts(runtime, a.dict(), b.dict());
    default:
      return a.same_as(b);
  }
}

int compare(Runtime& runtime, const Value& a, const Value& b, const char* op) {
  runtime.step();
  for (const Value* v : {&a, &b}) {
    if (v->is_undefined())
      fault("{}", v->undefined().why ? *v->undefined().why : "undefined value");
  }
  if (a.is_integral() && b.is_integral()) {
    return a.integer() < b.integer() ? -1 : a.integer() > b.integer();
  }
  if (a.is_number() && b.is_number()) {
    return order(a.is_integral() ? static_cast<long double>(a.integer()) : a.real(),
                 b.is_integral() ? static_cast<long double>(b.integer()) : b.real());
  }
  if (a.is_text() && b.is_text()) {
    // Byte order of UTF-8 is code point order.
    runtime.work(std::min(a.str().size(), b.str().size()));
    const int c = a.str().compare(b.str());
    return c < 0 ? -1 : c > 0;
  }
  if (a.is_sequence() && b.is_sequence() && a.sequence().kind == b.sequence().kind &&
      a.sequence().kind <= SequenceKind::tuple) {
    const auto& x = a.items();
    const auto& y = b.items();
    for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
      if (!equal(runtime, x[i], y[i])) return compare(runtime, x[i], y[i], op);
    }
    return x.size() < y.size() ? -1 : x.size() > y.size();
  }
  fault("'{}' not supported between instances of '{}' and '{}'", op, type_name(a), type_name(b));
}

bool hashable(const Value& v) { return v.is_sequence() ? v.sequence().hashable : !v.is_dict(); }

int depth_of(const Value& v) {
  switch (v.type()) {
    case Type::sequence:
      return v.sequence().depth;
    case Type::dict:
      return v.dict().depth;
    case Type::object:
      return v.object().depth;
    default:
      return 0;
  }
}

int nest(const std::vector<Value>& values) {
  int deepest = 0;
  for (const Value& v : values) deepest = std::max(deepest, depth_of(v));
  if (deepest >= kMaxNesting) unsupported("values nested deeper than {}", kMaxNesting);
  return deepest + 1;
}

size_t KeyHash::operator()(const Value& key) const {
  switch (key.type()) {
    case Type::boolean:
    case Type::integer:
      return std::hash<int64_t>{}(key.integer());
    case Type::real: {
      const double d = key.real();
      const bool whole = std::floor(d) == d && std::abs(d) < 9.2e18;
      return whole ? std::hash<int64_t>{}(static_cast<int64_t>(d)) : std::hash<double>{}(d);
    }
    case Type::text:
      return std::hash<std::string>{}(key.str());
    case Type::object:
      return std::hash<const void*>{}(&key.object());
    case Type::sequence: {
      // Tuples within the tuple count by length only: hashing them whole could take exponential
      // time where they share parts.
      size_t h = key.items().size();
      for (const Value& item : key.items()) {
        h = h * 1000003 + (item.is_sequence() ? item.items().size() : KeyHash{}(item));
      }
      return h;
    }
    default:
      return static_cast<size_t>(key.type());
  }
}

bool KeyEqual::operator()(const Value& a, const Value& b) const { return equal(*runtime, a, b); }

std::vector<Value> to_items(Runtime& runtime, const Value& v) {
  std::vector<Value> items;
  switch (v.type()) {
    case Type::undefined:
      return items;
    case Type::sequence:
      runtime.step(static_cast<int64_t>(v.items().size() / 16));
      return v.items();
    case Type::text:
      for (size_t i = 0; i < v.str().size();) {
        const size_t size = utf8_length(static_cast<unsigned char>(v.str()[i]));
        items.push_back(runtime.text(v.str().substr(i, size)));
        runtime.step();
        i += size;
      }
      return items;
    case Type::dict:
      for (const auto& [key, value] : v.dict().entries) items.push_back(key);
      runtime.step(static_cast<int64_t>(items.size() / 16));
      return items;
    case Type::object:
      return v.object().drain(runtime);
    default:
      fault("'{}' object is not iterable", type_name(v));
  }
}

bool iterable(const Value& v) {
  switch (v.type()) {
    case Type::undefined:
    case Type::text:
    case Type::sequence:
    case Type::dict:
      return true;
    case Type::object:
      return v.object().iterable();
    default:
      return false;
  }
}

std::optional<int64_t> length(const Value& v) {
  switch (v.type()) {
    case Type::undefined:
      return 0;
    case Type::text:
      return v.text().length;
    case Type::sequence:
      return static_cast<int64_t>(v.items().size());
    case Type::dict:
      return static_cast<int64_t>(v.dict().entries.size());
    default:
      return std::nullopt;
  }
}

}  // namespace hone::jinja
