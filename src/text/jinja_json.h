// JSON in and out of the interpreter: the chat's messages, and the filter tojson as Hugging Face
// defines it (Python's json.dumps with ensure_ascii off).
#pragma once

#include <optional>
#include <string>

#include "base/json.h"
#include "text/jinja_value.h"

namespace hone::jinja {

/// Integers must fit 64 bits signed and strings be UTF-8, or it raises.
Value from_json(Runtime& runtime, const Json& json);

struct JsonStyle {
  bool ascii = false;  // non-ASCII characters as \uXXXX
  bool sort_keys = false;
  std::optional<std::string> indent;  // of one level; then every item has a line of its own
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};
/// Raises for values JSON has no form for (Undefined, functions, tuples as keys).
std::string to_json(Runtime& runtime, const Value& value, const JsonStyle& style);

}  // namespace hone::jinja
