// Native functions of the interpreter: filters, tests, methods and globals, each one row of a
// table.
//
// A row gives the parameters in order, so that calls bind by position and by name as in Python. To
// add one, write its function and add its row to the table in the same file.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/jinja_value.h"

namespace hone::jinja {

/// The arguments of one call, in the order of the function's parameters.
struct Bound {
  std::vector<Value> values;  // Undefined where not given
  std::vector<bool> given;
  Arguments rest;  // of a function that takes any number

  bool has(size_t i) const { return given[i]; }
  const Value& operator[](size_t i) const { return values[i]; }
  /// Integer parameter i; raises on another type.
  int64_t integer(size_t i, int64_t fallback) const;
  bool flag(size_t i, bool fallback) const { return has(i) ? truth(values[i]) : fallback; }
  /// The string of parameter i, or null where it was left out or is None; raises on another type.
  const std::string* str(size_t i) const;
};

/// `self`: the value filtered, tested or asked for the method; Undefined for a global.
using NativeFunction = Value (*)(Runtime& runtime, const Value& self, const Bound& args);

struct Native {
  std::string_view name;
  std::vector<std::string_view> parameters;
  size_t required;  // of the parameters
  NativeFunction run;
  bool variadic = false;  // arguments past the parameters go to Bound::rest
};

Value invoke(Runtime& runtime, const Native& native, const Value& self, Arguments arguments);

/// A native function as a value, bound to `self`.
class Function : public Object {
 public:
  Function(Runtime& runtime, const Native& native, Value self)
      : Object(runtime, nest({self})), native_(native), self_(std::move(self)) {}
  const char* type_name() const override { return "builtin_function_or_method"; }
  std::string repr(Runtime&, int) override;
  bool callable() const override { return true; }
  Value call(Runtime& runtime, Arguments arguments) override {
    return invoke(runtime, native_, self_, std::move(arguments));
  }

 private:
  const Native& native_;
  Value self_;
};

/// A one-shot iterator: what Python's generators are to a template, its items already computed.
class Iterator : public Object {
 public:
  Iterator(Runtime& runtime, std::vector<Value> items)
      : Object(runtime, nest(items)), items_(runtime.list(std::move(items))) {}
  const char* type_name() const override { return "generator"; }
  bool iterable() const override { return true; }
  std::vector<Value> drain(Runtime& runtime) override;
  std::optional<Value> take();

 private:
  Value items_;
  size_t taken_ = 0;
};
Value make_iterator(Runtime& runtime, std::vector<Value> items);

/// Null where there is none of that name.
const Native* find_filter(std::string_view name);
const Native* find_test(std::string_view name);
const Native* find_global(std::string_view name);
/// What Python's getattr finds on a string, list, tuple, dict or number. Nullopt where there is no
/// such attribute; raises unsupported for one that Python has and this interpreter lacks.
std::optional<Value> find_method(Runtime& runtime, const Value& self, std::string_view name);

/// The filters of strings and numbers, and those of sequences and dicts.
const std::vector<Native>& text_filters();
const std::vector<Native>& sequence_filters();
/// Raises with the filter's or test's name where it is unknown.
Value apply_filter(Runtime& runtime, const std::string& name, const Value& subject, Arguments args);
bool apply_test(Runtime& runtime, const std::string& name, const Value& subject, Arguments args);

}  // namespace hone::jinja
