// Python's operators, attribute and item access, and string formatting, on Jinja values.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/jinja_value.h"

namespace hone::jinja {

/// op: + - * / // % **. Integer results past 64 bits are refused.
Value binary(Runtime& runtime, std::string_view op, const Value& a, const Value& b);
Value negative(const Value& v);
Value positive(const Value& v);
/// `item in container`
bool contains(Runtime& runtime, const Value& container, const Value& item);
/// op: == != < <= > >= in "not in"
bool holds(Runtime& runtime, std::string_view op, const Value& a, const Value& b);

/// object.name and object[key] as jinja2's immutable sandbox does them: attributes first for the
/// one, items first for the other; what is missing, private or would modify the object is
/// Undefined. Raises where the object itself is undefined.
Value get_attribute(Runtime& runtime, const Value& object, const std::string& name);
Value get_item(Runtime& runtime, const Value& object, const Value& key);
/// object[start:stop:step]; None or Undefined-by-default bounds are left out.
Value slice(Runtime& runtime, const Value& object, const Value& start, const Value& stop,
            const Value& step);

/// Raises with the reason why v is undefined, if it is.
void require_defined(const Value& v);
/// str(v), escaped for HTML unless it is Markup.
std::string escaped(Runtime& runtime, const Value& v);

/// format % values, and format.format(arguments).
Value percent_format(Runtime& runtime, const Text& format, const Value& values);
Value brace_format(Runtime& runtime, const Text& format, const Arguments& arguments);

}  // namespace hone::jinja
