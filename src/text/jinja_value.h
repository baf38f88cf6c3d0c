// The values of the Jinja interpreter: Python's None, bool, int (64 bits), float, str, list, tuple,
// dict, and jinja2's Undefined. Values are immutable and shared; what may change (namespaces,
// loops) is an Object.
//
// A template is untrusted code, so everything one render does is metered by its Runtime: steps,
// live bytes of values, depth of nesting. Every string, sequence and dict is made through the
// Runtime and gives its bytes back when it dies.
#pragma once

#include <cstdint>
#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "base/error.h"

namespace hone::jinja {

struct Limits {
  int64_t max_steps = 2'000'000;        // evaluated nodes, loop turns, and 1024 bytes of copying
  int64_t max_output_bytes = 16 << 20;  // rendered text, with what blocks are still capturing
  int64_t max_value_bytes = 128 << 20;  // live values
  int max_depth = 1000;                 // nesting at run time, macro calls included
};

/// Bytes [begin, end) of the rendered text.
struct Span {
  size_t begin = 0, end = 0;
};

/// Nesting of syntax and of values (lists in lists): deeper is refused.
inline constexpr int kMaxNesting = 200;

/// What goes wrong inside a template; the interpreter adds the line, render() makes an Error of it.
struct Fault {
  ErrorKind kind;
  std::string message;
  int line = 0;  // 0: not known yet
};

/// The template or its input is wrong (a Python exception).
template <typename... Args>
[[noreturn]] void fault(fmt::format_string<Args...> format, Args&&... args) {
  throw Fault{ErrorKind::invalid_argument, fmt::format(format, std::forward<Args>(args)...)};
}
/// The template asks for something this interpreter lacks.
template <typename... Args>
[[noreturn]] void unsupported(fmt::format_string<Args...> format, Args&&... args) {
  throw Fault{ErrorKind::unsupported, fmt::format(format, std::forward<Args>(args)...)};
}

class Object;
class Runtime;
struct Dict;
struct Sequence;
struct Text;

struct None {};
struct Undefined {
  std::shared_ptr<const std::string> why;  // "'x' is undefined"
};

/// In the order of Value's alternatives.
enum class Type { undefined, none, boolean, integer, real, text, sequence, dict, object };

class Value {
 public:
  Value() = default;  // Undefined without a reason
  Value(None none) : data_(none) {}
  Value(Undefined undefined) : data_(std::move(undefined)) {}
  Value(bool b) : data_(b) {}
  Value(int64_t i) : data_(i) {}
  Value(double d) : data_(d) {}
  Value(std::shared_ptr<const Text> text) : data_(std::move(text)) {}
  Value(std::shared_ptr<const Sequence> sequence) : data_(std::move(sequence)) {}
  Value(std::shared_ptr<const Dict> dict) : data_(std::move(dict)) {}
  Value(std::shared_ptr<Object> object) : data_(std::move(object)) {}
  Value(const void*) = delete;  // no pointer is a truth value

  Type type() const { return static_cast<Type>(data_.index()); }
  bool is(Type type) const { return this->type() == type; }
  bool is_undefined() const { return is(Type::undefined); }
  bool is_none() const { return is(Type::none); }
  bool is_text() const { return is(Type::text); }
  bool is_sequence() const { return is(Type::sequence); }
  bool is_dict() const { return is(Type::dict); }
  /// bool or int: what Python takes where it wants an integer.
  bool is_integral() const { return is(Type::integer) || is(Type::boolean); }
  bool is_number() const { return is_integral() || is(Type::real); }

  const Undefined& undefined() const { return std::get<Undefined>(data_); }
  bool boolean() const { return std::get<bool>(data_); }
  int64_t integer() const {
    return is(Type::boolean) ? int64_t{boolean()} : std::get<int64_t>(data_);
  }
  double real() const {
    return is(Type::real) ? std::get<double>(data_) : static_cast<double>(integer());
  }
  const Text& text() const { return *std::get<std::shared_ptr<const Text>>(data_); }
  const std::string& str() const;
  const Sequence& sequence() const { return *std::get<std::shared_ptr<const Sequence>>(data_); }
  const std::vector<Value>& items() const;
  const Dict& dict() const { return *std::get<std::shared_ptr<const Dict>>(data_); }
  Object& object() const { return *std::get<std::shared_ptr<Object>>(data_); }
  /// The object as a T, or null.
  template <typename T>
  T* as() const {
    return is(Type::object) ? dynamic_cast<T*>(&object()) : nullptr;
  }
  /// Python's `is` for what templates compare so: singletons and the same object.
  bool same_as(const Value& other) const;

 private:
  std::variant<Undefined, None, bool, int64_t, double, std::shared_ptr<const Text>,
               std::shared_ptr<const Sequence>, std::shared_ptr<const Dict>,
               std::shared_ptr<Object>>
      data_;
};

/// Bytes counted against a Runtime for as long as the value lives. Constants of a parsed template
/// belong to no Runtime.
class Metered {
 public:
  Metered(Runtime* runtime, size_t bytes);
  ~Metered();
  Metered(const Metered&) = delete;
  Metered& operator=(const Metered&) = delete;

 private:
  Runtime* runtime_;
  size_t bytes_;
};

struct Text : Metered {
  Text(Runtime* runtime, std::string bytes, bool markup);
  /// The byte at which code point `index` begins; the text's end past the last.
  size_t offset(int64_t index) const;
  bool ascii() const { return length == static_cast<int64_t>(str.size()); }
  std::string str;  // UTF-8
  int64_t length;   // in code points
  bool markup;      // marked by |safe or |escape: joined with a plain string, that one is escaped
};

enum class SequenceKind { list, tuple, range, dict_keys, dict_values, dict_items };

struct Range {
  int64_t start = 0, stop = 0, step = 1;
};

struct Sequence : Metered {
  Sequence(Runtime* runtime, SequenceKind kind, std::vector<Value> values);
  bool indexable() const { return kind <= SequenceKind::range; }
  SequenceKind kind;
  std::vector<Value> items;
  int depth;              // 1 + the deepest item's
  bool hashable;          // as a dict key: a range, or a tuple of hashable items
  Range range;            // of a range
  bool is_group = false;  // a tuple of groupby: its items are also .grouper and .list
};

/// Python's hash and equality for dict keys: 1, 1.0 and True are one key. Only hashable values.
struct KeyHash {
  size_t operator()(const Value& key) const;
};
struct KeyEqual {
  bool operator()(const Value& a, const Value& b) const;
  Runtime* runtime;
};

struct Dict : Metered {
  Dict(Runtime* runtime, size_t capacity);
  const Value* find(const Value& key) const;
  std::vector<std::pair<Value, Value>> entries;  // in order of insertion
  std::unordered_map<Value, size_t, KeyHash, KeyEqual> index;
  int depth = 1;
};

/// Arguments of a call as written: positional, then by name.
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

/// A value with identity or behaviour: functions, macros, namespaces, loops, one-shot iterators.
class Object : public Metered, public std::enable_shared_from_this<Object> {
 public:
  explicit Object(Runtime& runtime, int depth = 1) : Metered(&runtime, 256), depth(depth) {}
  virtual ~Object() = default;
  virtual const char* type_name() const = 0;
  virtual std::string repr(Runtime& runtime, int depth);
  virtual bool callable() const { return false; }
  virtual Value call(Runtime& runtime, Arguments arguments);
  virtual std::optional<Value> attribute(Runtime&, const std::string&) { return std::nullopt; }
  virtual bool iterable() const { return false; }
  /// The items not yet taken; takes them.
  virtual std::vector<Value> drain(Runtime& runtime);
  /// Drops references to other values, so that cycles of objects do not outlive the render.
  virtual void clear() {}

  const int depth;  // 1 + the deepest value held since construction
};

/// What the operations of one render share: the limits and what is left of them, and the clock.
class Runtime {
 public:
  explicit Runtime(const Limits& limits) : limits_(limits) {}
  ~Runtime();

  /// Counts `n` steps; raises past the limit.
  void step(int64_t n = 1);
  /// Counts the copying or scanning of `bytes`.
  void work(size_t bytes) { step(static_cast<int64_t>(bytes / 1024)); }
  void charge(size_t bytes);
  void release(size_t bytes) { live_bytes_ -= static_cast<int64_t>(bytes); }
  /// Raises where `bytes` more would pass the limit: before a large string or list is built.
  void check_room(size_t bytes) const;

  Value text(std::string bytes, bool markup = false);
  Value text(std::string_view bytes) { return text(std::string(bytes)); }
  Value text(const char* bytes) { return text(std::string(bytes)); }
  Value list(std::vector<Value> items) { return sequence(SequenceKind::list, std::move(items)); }
  Value tuple(std::vector<Value> items) { return sequence(SequenceKind::tuple, std::move(items)); }
  Value sequence(SequenceKind kind, std::vector<Value> items);
  Value range(Range range);
  /// A later entry with an equal key replaces the value of the earlier one. Unhashable keys raise.
  Value dict(const std::vector<std::pair<Value, Value>>& entries);
  Value undefined(std::string why);
  /// An object that may come to hold itself: cleared at the end of the render.
  void track(std::shared_ptr<Object> object) { tracked_.push_back(std::move(object)); }

  const Limits& limits() const { return limits_; }
  /// strftime_now's time; the current local time where none was given.
  std::optional<std::tm> now;

 private:
  Limits limits_;
  int64_t steps_ = 0;
  int64_t live_bytes_ = 0;
  std::vector<std::shared_ptr<Object>> tracked_;
};

/// A string under construction, refused before it outgrows the Runtime's limit.
class TextBuilder {
 public:
  explicit TextBuilder(Runtime& runtime) : runtime_(runtime) {}
  TextBuilder& operator<<(std::string_view piece);
  size_t size() const { return out_.size(); }
  std::string take() { return std::move(out_); }
  Value value(bool markup = false) { return runtime_.text(std::move(out_), markup); }

 private:
  Runtime& runtime_;
  std::string out_;
};

/// Python's name of the type: "str", "NoneType".
const char* type_name(const Value& v);
/// The type as jinja2's messages name it: "str object", "None".
std::string described_type(const Value& v);
bool truth(const Value& v);
/// Python's str() and repr().
std::string to_str(Runtime& runtime, const Value& v);
std::string to_repr(Runtime& runtime, const Value& v, int depth = 0);
std::string real_repr(double d);
/// Python's ==; counts a step for each pair of items compared.
bool equal(Runtime& runtime, const Value& a, const Value& b);
/// -1, 0 or 1 by Python's ordering; raises where Python's `op` ("<", ">=") is not defined.
/// Unordered (NaN) gives 2.
int compare(Runtime& runtime, const Value& a, const Value& b, const char* op);
bool hashable(const Value& v);
/// Nesting of a value; 0 for scalars.
int depth_of(const Value& v);
/// 1 + the deepest; raises past kMaxNesting.
int nest(const std::vector<Value>& values);
/// The items a for loop would see: characters, items, keys. Raises where v is not iterable.
std::vector<Value> to_items(Runtime& runtime, const Value& v);
bool iterable(const Value& v);
/// len(); nullopt where Python has none.
std::optional<int64_t> length(const Value& v);

}  // namespace hone::jinja
