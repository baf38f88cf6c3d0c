#include "base/yaml.h"

#include <fmt/ranges.h>

namespace hone {

namespace {

// An alias may stand in what it names, or name what is full of aliases: read as a tree, a short
// text is then endless. Counts the nodes of that tree.
void check_tree(const YAML::Node& n, int depth, int64_t& left, const std::string& source) {
  HONE_CHECK(depth <= 64 && --left >= 0, corrupt,
             "{}: it goes too deep, or is too long once its aliases are written out", source);
  if (n.IsMap())
    for (const auto& entry : n) check_tree(entry.second, depth + 1, left, source);
  else if (n.IsSequence())
    for (const auto& entry : n) check_tree(entry, depth + 1, left, source);
}

}  // namespace

YAML::Node parse_yaml(const std::string& text, const std::string& source) {
  try {
    YAML::Node root = YAML::Load(text);
    int64_t most = 100000;
    check_tree(root, 0, most, source);
    return root;
  } catch (const YAML::Exception& e) {
    fail(ErrorKind::corrupt, "{}:{}: not valid YAML: {}", source, e.mark.line + 1, e.msg);
  }
}

std::string yaml_where(const std::string& source, const YAML::Node& n) {
  // What flags say was never in a file with lines.
  const bool has_lines = n.Mark().line >= 0 && source != kCommandLine;
  return has_lines ? fmt::format("{}:{}", source, n.Mark().line + 1) : source;
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
