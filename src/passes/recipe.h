// Recipe: which passes run over a model, in which order, and what to compare them with. YAML:
//
//   calibration: {samples: 32, length: 512}
//   steps:                                   # run in order; the result is written
//     - {pass: gptq, modules: "model.layers.*", bits: 4, group: 64}
//     - {pass: rtn, modules: "model.embed_tokens", encoding: q8_0}
//   compare:                                 # for the report only
//     - {name: rtn int4 g64, steps: [{pass: rtn, bits: 4, group: 64}]}
//   output: {layout: gptq, decode_to: f16}
//   evaluate: {context: 512, tokens: 8192}
//   prompts: ["It is a truth"]
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "passes/pass.h"

namespace hone {

struct RecipeStep {
  std::string pass;
  ModuleFilter modules;
  std::string modules_text;
  std::shared_ptr<Pass> made;  ///< with its options set
};

struct RecipeVariant {
  std::string name;
  bool noise_floor = false;
  std::vector<RecipeStep> steps;
  std::string text;  ///< of the main variant: its steps, in one spelling
};

struct Recipe {
  std::string text;  ///< the YAML, verbatim
  int64_t calibration_samples = 32;
  int64_t calibration_length = 512;
  RecipeVariant main;
  std::vector<RecipeVariant> compare;
  std::string layout;     ///< empty: hf floats, or the layout that fits the encodings
  std::string decode_to;  ///< for weights the layout cannot hold
  int64_t evaluate_context = 512;
  int64_t evaluate_tokens = 0;
  std::vector<std::string> prompts;

  bool needs_calibration() const;
};

/// Parses YAML; `source` names it in errors. Raises invalid_argument or corrupt with the line for
/// an unknown key, an unknown pass, a wrong type or an option out of range.
Recipe parse_recipe(const std::string& yaml, const std::string& source);

/// Refuses nonsense before anything runs, with the reason: a step that selects no module, a module
/// that two steps would quantise or that cannot be stored as asked, a transformation after a
/// quantisation or of a model that it does not fit. Returns how the modules that steps store will
/// be stored.
std::map<std::string, WeightForm> check_recipe(const RecipeVariant& variant, LoadedModel& model);

}  // namespace hone
