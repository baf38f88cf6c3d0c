// Typed fields of a JSON object from a file: absent or null gives the default, another type raises
// corrupt naming the file and the key.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "base/json.h"

namespace hone {

inline const Json* find_field(const Json& object, const char* key) {
  auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

inline int64_t int_field(const Json& object, const char* key, int64_t missing,
                         const std::string& source) {
  const Json* value = find_field(object, key);
  if (value == nullptr) return missing;
  return json_integer(*value, fmt::format("\"{}\"", key), source);
}

inline double float_field(const Json& object, const char* key, double missing,
                          const std::string& source) {
  const Json* value = find_field(object, key);
  if (value == nullptr) return missing;
  HONE_CHECK(value->is_number(), corrupt, "{}: \"{}\": expected a number", source, key);
  return value->get<double>();
}

inline bool bool_field(const Json& object, const char* key, bool missing,
                       const std::string& source) {
  const Json* value = find_field(object, key);
  if (value == nullptr) return missing;
  HONE_CHECK(value->is_boolean(), corrupt, "{}: \"{}\": expected true or false", source, key);
  return value->get<bool>();
}

inline std::string string_field(const Json& object, const char* key, const std::string& missing,
                                const std::string& source) {
  const Json* value = find_field(object, key);
  if (value == nullptr) return missing;
  HONE_CHECK(value->is_string(), corrupt, "{}: \"{}\": expected a string", source, key);
  return value->get<std::string>();
}

}  // namespace hone
