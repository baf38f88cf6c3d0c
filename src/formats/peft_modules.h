// Which modules of a model a PEFT config means, by peft's rules:
//
// - a list names modules by their whole name or its end behind a dot ("q_proj", "mlp.up_proj");
// - a string is a regular expression that must match the whole name; "all-linear" (in any case)
//   means every linear module but the output layer;
// - exclude_modules by the same two rules, and what lies in modules_to_save, are left out;
// - layers_to_transform restricts what a list matched by its end, by the first number in the name;
// - the first expression of rank_pattern, alpha_pattern that matches the end of the name counts;
// - a list of feedforward_modules is matched by the end of the name, dot or not.
//
// Expressions are Python's, run by PCRE2 under limits of length, number and steps: they come from
// strangers' files.
#pragma once

#include <memory>
#include <string>

#include "formats/peft.h"

namespace hone {

/// Immutable; may be used from several threads at once.
class PeftMatcher {
 public:
  /// `source` names the config in errors. Raises unsupported where an expression does not compile
  /// or there are too many.
  PeftMatcher(const PeftConfig& config, const std::string& source);

  // `module` is a name as the base model has it ("model.layers.0.self_attn.q_proj"). All raise
  // invalid_argument where an expression takes too many steps on it.

  /// Whether peft would adapt this module. `linear`: its weight is a matrix of a linear layer;
  /// `head`: it is the output layer; they matter to all-linear alone. Raises unsupported where the
  /// config has no target_modules (peft then has defaults for each family).
  bool adapts(const std::string& module, bool linear, bool head) const;
  int64_t rank(const std::string& module) const;
  double alpha(const std::string& module) const;
  /// What B·A is multiplied by: α/r, or α/√r (rsLoRA).
  double scale(const std::string& module) const;
  /// IA3: whether the module's input is scaled, not its output.
  bool feedforward(const std::string& module) const;

 private:
  struct Rules;
  std::shared_ptr<const Rules> rules_;
};

}  // namespace hone
