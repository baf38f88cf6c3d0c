// The runner: a recipe over a model, with its variants measured and the result written.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "eval/perplexity.h"
#include "eval/report.h"
#include "passes/recipe.h"

namespace hone {

struct OptimizeOptions {
  std::filesystem::path model;
  Recipe recipe;
  std::filesystem::path out;          ///< a new directory, or a .gguf file
  std::filesystem::path calibration;  ///< text or JSONL; needed by some passes
  std::filesystem::path text;         ///< evaluation text; empty = no report
  std::filesystem::path report;       ///< HTML page; a JSON twin is written beside it
  bool resume = false;
  bool restart = false;
  uint64_t seed = 0;
  Activations activations = Activations::int8;
};

/// Runs the recipe and writes options.out; with a text also measures the original, every variant
/// and the result, and returns (and writes) the report. Nothing is left at options.out on an error.
Report optimize(const OptimizeOptions& options);

/// "AMD EPYC, 2 threads, 23.5 GB"
std::string machine_description();

}  // namespace hone
