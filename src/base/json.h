// JSON as hone reads it: nlohmann-json, objects in file order, parsed with a depth limit and with
// errors that name the file. Include <nlohmann/json.hpp> in the .cpp that looks inside.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <string>
#include <string_view>

namespace hone {

using Json = nlohmann::ordered_json;

/// Parses `text`; `source` names it in errors. Raises corrupt on bad syntax, invalid UTF-8,
/// duplicate keys in an object, or nesting deeper than `max_depth`.
Json parse_json(std::string_view text, const std::string& source, int max_depth = 64);

/// The whole number that `value` holds; raises corrupt, naming `what` in `source`, for anything
/// else, a fraction and what needs more than 64 bits among them.
int64_t json_integer(const Json& value, std::string_view what, const std::string& source);

/// A number that prints with the fewest digits that read back as this float: 1e-05, not
/// 9.999999747378752e-06.
Json json_float(float x);

}  // namespace hone
