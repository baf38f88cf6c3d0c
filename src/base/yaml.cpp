#include "base/yaml.h"

#include <fmt/ranges.h>

namespace hone {

YAML::Node parse_yaml(const std::string& text, const std::string& source) {
  try {
    return YAML::Load(text);
  } catch (const YAML::Exception& e) {
    fail(ErrorKind::corrupt, "{}: not valid YAML: {}", source, e.what());
  }
}

std::string yaml_where(const std::string& source, const YAML::Node& n) {
  return n.Mark().line >= 0 ? fmt::format("{}:{}", source, n.Mark().line + 1) : source;
}

void require_yaml_map(const YAML::Node& n, const std::string& source, const std::string& what) {
  HONE_CHECK(n.IsMap(), invalid_argument, "{}: {}: expected a map of keys", yaml_where(source, n),
             what);
}

void check_yaml_keys(const YAML::Node& map, const std::string& source, const std::string& what,
                     const std::set<std::string>& known) {
  std::set<std::string> seen;
  for (const auto& entry : map) {
    auto key = yaml_as<std::string>(entry.first, source, what, "a key");
    HONE_CHECK(seen.insert(key).second, invalid_argument, "{}: {}: '{}' stands there twice",
               yaml_where(source, entry.first), what, key);
    HONE_CHECK(known.contains(key), invalid_argument, "{}: {}: unknown key '{}'; there are {}",
               yaml_where(source, entry.first), what, key, fmt::join(known, ", "));
  }
}

void YamlOptions::option(const char* name, int64_t& v, const char*) {
  if (auto n = find(name)) v = yaml_as<int64_t>(n, source_, name, "a whole number");
}
void YamlOptions::option(const char* name, double& v, const char*) {
  if (auto n = find(name)) v = yaml_as<double>(n, source_, name, "a number");
}
void YamlOptions::option(const char* name, bool& v, const char*) {
  if (auto n = find(name)) v = yaml_as<bool>(n, source_, name, "true or false");
}
void YamlOptions::option(const char* name, std::string& v, const char*) {
  if (auto n = find(name)) v = yaml_as<std::string>(n, source_, name, "a text");
}

YAML::Node YamlOptions::find(const char* name) {
  known_.insert(name);
  const YAML::Node& map = map_;  // operator[] of a const node does not create the key
  return map[name];
}

}  // namespace hone
