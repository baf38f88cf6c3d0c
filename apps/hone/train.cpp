// hone train: trains a model as a config file says, from its own weights or from none.
#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "base/files.h"
#include "base/yaml.h"
#include "training.h"

namespace hone {
namespace train_command {

// A YAML value as JSON; scalars that look like numbers or truth are those.
Json to_json(const YAML::Node& n, const std::string& source) {
  if (n.IsMap()) {
    Json j = Json::object();
    for (const auto& entry : n)
      j[yaml_as<std::string>(entry.first, source, "a key", "a text")] =
          to_json(entry.second, source);
    return j;
  }
  if (n.IsSequence()) {
    Json j = Json::array();
    for (const auto& entry : n) j.push_back(to_json(entry, source));
    return j;
  }
  if (n.IsNull()) return nullptr;
  const std::string text = n.Scalar();
  if (n.Tag() == "!") return text;  // in quotes
  int64_t whole;
  double number;
  bool truth;
  if (YAML::convert<int64_t>::decode(n, whole)) return whole;
  if (YAML::convert<double>::decode(n, number)) return number;
  if (YAML::convert<bool>::decode(n, truth)) return truth;
  return text;
}

// Paths in a config are beside the config.
std::string beside(const std::string& config, const std::string& path) {
  if (path.empty() || fs::path(path).is_absolute()) return path;
  return (fs::path(config).parent_path() / path).string();
}

// A file, or a list of them.
void read_data(const YAML::Node& n, const std::string& config, std::vector<std::string>& files) {
  auto add = [&](const YAML::Node& file) {
    files.push_back(beside(config, yaml_as<std::string>(file, config, "data", "names of files")));
  };
  if (n.IsDefined() && n.IsSequence())
    for (const auto& file : n) add(file);
  else if (n.IsDefined())
    add(n);
}

void read_config(const std::string& path, TrainingCommand& c) {
  const YAML::Node root = parse_yaml(read_text_file(path), path);
  require_yaml_map(root, path, "a training config");
  YamlOptions options(root, path);
  options.option("method", c.options.method, "");
  options.option("model", c.model, "");
  options.option("load_as", c.load_as, "");
  options.option("tokenizer", c.tokenizer, "");
  c.options.visit(options);
  std::set<std::string> known = options.known();
  known.insert({"architecture", "data"});
  check_yaml_keys(root, path, "a training config", known);
  // Raises, naming those that there are.
  if (!trains_the_model(c.options.method)) adapter_method(c.options.method);
  for (const auto& entry : root) {
    const std::string key = entry.first.Scalar();
    c.options.check_given(key, fmt::format("{}: {}", yaml_where(path, entry.first), key));
  }
  read_data(root["data"], path, c.options.data);
  if (const YAML::Node a = root["architecture"]) c.architecture = to_json(a, path);
  HONE_CHECK(c.model.empty() != c.architecture.is_null(), invalid_argument,
             "{}: a model to begin with, or the architecture of a new one: one of the two", path);
  HONE_CHECK(c.architecture.is_null() || !c.tokenizer.empty(), invalid_argument,
             "{}: a new model needs a tokenizer", path);
  c.model = beside(path, c.model);
  c.tokenizer = beside(path, c.tokenizer);
  c.options.evaluate = beside(path, c.options.evaluate);
  c.options.teacher.teacher = beside(path, c.options.teacher.teacher);
}

std::function<void()> add(CLI::App& app, CommonOptions& common) {
  auto c = std::make_shared<TrainingCommand>();
  auto config = std::make_shared<std::string>();
  app.add_option("CONFIG", *config, "YAML: model or architecture, data, options")->required();
  add_training_output(app, *c);
  return [c, config, &common] {
    read_config(*config, *c);
    run_training(*c, common);
  };
}

}  // namespace train_command

extern const Command kTrainCommand;
const Command kTrainCommand{"train", "train a model as a config file says", train_command::add};

}  // namespace hone
