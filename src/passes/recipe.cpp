#include "passes/recipe.h"

#include <map>
#include <set>

#include "base/error.h"
#include "base/yaml.h"

namespace hone {
namespace {

RecipeStep parse_step(const YAML::Node& n, const std::string& source) {
  require_yaml_map(n, source, "a step");
  HONE_CHECK(n["pass"], invalid_argument, "{}: a step needs a pass", yaml_where(source, n));
  RecipeStep s;
  s.pass = yaml_as<std::string>(n["pass"], source, "pass", "the name of a pass");
  if (n["modules"])
    s.modules_text = yaml_as<std::string>(n["modules"], source, "modules", "a glob");
  s.modules = ModuleFilter(s.modules_text);
  try {
    s.made = pass_named(s.pass).make();
  } catch (const Error& e) {
    fail(e.kind(), "{}: {}", yaml_where(source, n["pass"]), e.what());
  }
  YamlOptions options(n, source);
  s.made->visit_options(options);
  std::set<std::string> known = options.known();
  known.insert({"pass", "modules"});
  check_yaml_keys(n, source, s.pass, known);
  try {
    s.made->check_options();
  } catch (const Error& e) {
    fail(e.kind(), "{}: {}", yaml_where(source, n), e.what());
  }
  return s;
}

// Steps with the same keys and values are spelled the same, whatever the YAML's style.
std::string spelled(const YAML::Node& steps) {
  std::string text;
  for (const auto& step : steps) {
    std::map<std::string, std::string> keys;
    for (const auto& entry : step) keys[entry.first.Scalar()] = entry.second.Scalar();
    text += text.empty() ? "" : "; ";
    for (const auto& [key, value] : keys) text += fmt::format("{}: {}, ", key, value);
    text.resize(text.size() - 2);
  }
  return text;
}

std::vector<RecipeStep> parse_steps(const YAML::Node& n, const std::string& source) {
  HONE_CHECK(n.IsSequence() && n.size() > 0, invalid_argument,
             "{}: steps: expected a list of at least one", yaml_where(source, n));
  std::vector<RecipeStep> steps;
  for (const auto& step : n) steps.push_back(parse_step(step, source));
  return steps;
}

void parse_sections(const YAML::Node& root, const std::string& source, Recipe& r) {
  if (const YAML::Node c = root["calibration"]) {
    require_yaml_map(c, source, "calibration");
    YamlOptions o(c, source);
    o.option("samples", r.calibration_samples, "");
    o.option("length", r.calibration_length, "");
    check_yaml_keys(c, source, "calibration", o.known());
  }
  if (const YAML::Node c = root["output"]) {
    require_yaml_map(c, source, "output");
    YamlOptions o(c, source);
    o.option("layout", r.layout, "");
    o.option("decode_to", r.decode_to, "");
    check_yaml_keys(c, source, "output", o.known());
  }
  if (const YAML::Node c = root["evaluate"]) {
    require_yaml_map(c, source, "evaluate");
    YamlOptions o(c, source);
    o.option("context", r.evaluate_context, "");
    o.option("tokens", r.evaluate_tokens, "");
    check_yaml_keys(c, source, "evaluate", o.known());
  }
  if (const YAML::Node c = root["prompts"]) {
    HONE_CHECK(c.IsSequence(), invalid_argument, "{}: prompts: expected a list",
               yaml_where(source, c));
    for (const auto& p : c)
      r.prompts.push_back(yaml_as<std::string>(p, source, "prompts", "texts"));
  }
}

// The modules that a step stores, with their shapes.
std::vector<std::pair<std::string, Shape>> modules_hit(const RecipeStep& s, LoadedModel& model) {
  Model& m = *model.model;
  PassContext c{model, s.modules, nullptr, 0, nullptr, nullptr, -1, nullptr};
  std::vector<std::pair<std::string, Shape>> hits;
  bool everything = s.made->ends_by_default();
  bool outside = !s.made->blocks_only();
  if (outside && c.embedding_selected(everything))
    hits.emplace_back(m.embedding.name(), m.embedding.weight().shape);
  for (int64_t b = outside ? -1 : 0; b < static_cast<int64_t>(m.blocks.size()); ++b)
    for (Linear* l : c.selected(b, everything))
      hits.emplace_back(l->name(), Shape{l->out_features(), l->in_features()});
  return hits;
}

std::string step_name(const RecipeVariant& variant, size_t i) {
  return fmt::format("step {} ({})", i + 1, variant.steps[i].pass);
}

}  // namespace

bool Recipe::needs_calibration() const {
  auto any = [](const std::vector<RecipeStep>& steps) {
    for (const RecipeStep& s : steps)
      if (s.made->needs_calibration()) return true;
    return false;
  };
  if (any(main.steps)) return true;
  for (const RecipeVariant& v : compare)
    if (any(v.steps)) return true;
  return false;
}

Recipe parse_recipe(const std::string& yaml, const std::string& source) {
  const YAML::Node root = parse_yaml(yaml, source);
  require_yaml_map(root, source, "a recipe");
  check_yaml_keys(root, source, "a recipe",
                  {"name", "calibration", "steps", "compare", "output", "evaluate", "prompts"});
  Recipe r;
  r.text = yaml;
  HONE_CHECK(root["steps"], invalid_argument, "{}: a recipe needs steps", source);
  r.main.name =
      root["name"] ? yaml_as<std::string>(root["name"], source, "name", "a text") : "optimised";
  r.main.steps = parse_steps(root["steps"], source);
  r.main.text = spelled(root["steps"]);
  if (const YAML::Node c = root["compare"]) {
    HONE_CHECK(c.IsSequence(), invalid_argument, "{}: compare: expected a list",
               yaml_where(source, c));
    for (const auto& n : c) {
      require_yaml_map(n, source, "compare");
      check_yaml_keys(n, source, "compare", {"name", "noise_floor", "steps"});
      HONE_CHECK(n["name"] && n["steps"], invalid_argument, "{}: a variant needs name and steps",
                 yaml_where(source, n));
      RecipeVariant v;
      v.name = yaml_as<std::string>(n["name"], source, "name", "a text");
      if (n["noise_floor"])
        v.noise_floor = yaml_as<bool>(n["noise_floor"], source, "noise_floor", "true or false");
      v.steps = parse_steps(n["steps"], source);
      r.compare.push_back(std::move(v));
    }
  }
  parse_sections(root, source, r);
  return r;
}

std::map<std::string, WeightForm> check_recipe(const RecipeVariant& variant, LoadedModel& model) {
  std::map<std::string, size_t> done;  // module → the last step that stored it
  std::map<std::string, WeightForm> plan;
  Model& m = *model.model;
  for (size_t i = 0; i < variant.steps.size(); ++i) {
    const RecipeStep& s = variant.steps[i];
    std::string name = step_name(variant, i);
    s.made->check_model(m);
    if (!works_on_modules(s.made->kind())) {
      HONE_CHECK(s.modules.empty(), invalid_argument,
                 "{} works on the whole model; it takes no modules", name);
      if (s.made->kind() == PassKind::configure) continue;
      HONE_CHECK(done.empty(), invalid_argument,
                 "{} rewrites float weights, but {} has already changed {}; put it first", name,
                 step_name(variant, done.begin()->second), done.begin()->first);
      for (Linear* l : m.linears())
        plan[l->name()] = s.made->form_of(model, l->name(), l->in_features());
      plan[m.embedding.name()] = s.made->form_of(model, m.embedding.name(), m.width());
      continue;
    }
    auto hits = modules_hit(s, model);
    HONE_CHECK(!hits.empty(), invalid_argument, "{}: modules '{}' selects nothing in {}", name,
               s.modules_text, model.path);
    for (const auto& [module, shape] : hits) {
      auto [it, fresh] = done.emplace(module, i);
      HONE_CHECK(fresh || !variant.steps[it->second].made->is_final(), invalid_argument,
                 "{} would store {} a second time; {} has already quantised it", name, module,
                 step_name(variant, it->second));
      it->second = i;
      WeightForm form = s.made->form_of(model, module, shape[1]), plain = form;
      plain.params.act_order = false;  // the order is the pass's, not the encoding's
      std::string refusal =
          encoding(form.encoding).encode_refusal(shape[0], shape[1], plain.params);
      HONE_CHECK(refusal.empty(), unsupported, "{}: {} cannot be stored as {}: {}", name, module,
                 form.encoding, refusal);
      plan[module] = form;
    }
  }
  return plan;
}

}  // namespace hone
