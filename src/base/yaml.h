// YAML as hone reads it: typed values, known keys, and errors that name the file and the line.
#pragma once

#include <yaml-cpp/yaml.h>

#include <set>
#include <string>

#include "base/error.h"
#include "base/options.h"

namespace hone {

/// The source of texts that are made of flags: errors then name no line.
inline constexpr const char* kCommandLine = "the command line";

/// Raises corrupt where it is no YAML; `source` names it in errors.
YAML::Node parse_yaml(const std::string& text, const std::string& source);
/// "file:line", for messages about a node.
std::string yaml_where(const std::string& source, const YAML::Node& n);
/// Raises invalid_argument unless it is a map; `what` names it.
void require_yaml_map(const YAML::Node& n, const std::string& source, const std::string& what);
/// Raises invalid_argument on a key that is not known, or stands there twice.
void check_yaml_keys(const YAML::Node& map, const std::string& source, const std::string& what,
                     const std::set<std::string>& known);

/// A scalar; raises invalid_argument, naming the key and the `type` in words.
template <typename T>
T yaml_as(const YAML::Node& n, const std::string& source, const std::string& key,
          const char* type) {
  try {
    return n.as<T>();
  } catch (const YAML::Exception&) {
    fail(ErrorKind::invalid_argument, "{}: {}: expected {}", yaml_where(source, n), key, type);
  }
}

/// Sets the fields of an options struct from a map and remembers which keys it knows.
class YamlOptions : public OptionVisitor {
 public:
  YamlOptions(const YAML::Node& map, const std::string& source) : map_(map), source_(source) {}
  void option(const char* name, int64_t& v, const char*) override;
  void option(const char* name, double& v, const char*) override;
  void option(const char* name, bool& v, const char*) override;
  void option(const char* name, std::string& v, const char*) override;
  const std::set<std::string>& known() const { return known_; }

 private:
  YAML::Node find(const char* name);
  const YAML::Node& map_;
  const std::string& source_;
  std::set<std::string> known_;
};

}  // namespace hone
