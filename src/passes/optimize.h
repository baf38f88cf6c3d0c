// The runner: a recipe over a model, with its variants measured and the result written.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "eval/perplexity.h"
#include "eval/report.h"
#include "passes/recipe.h"

namespace hone {

/// Speed and memory of a checkpoint, as a process that does nothing else has them.
struct RunFigures {
  double prefill_tokens_per_second = 0;
  double decode_tokens_per_second = 0;
  double peak_rss_bytes = 0;
  double prefill_of_limit = 0, decode_of_limit = 0;  ///< fractions of the machine's
};

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
  KvType kv = KvType::f32;  ///< type of the KV cache in every measurement
  /// Types under which the output is measured once more, beside itself with an f32 cache.
  std::vector<KvType> compared_caches;
  /// Called when a unit of the main steps is in the journal; may throw, which stops the run.
  std::function<void(int64_t unit)> unit_stored;
  /// Runs a checkpoint in a fresh process: prefills `prompt` tokens, decodes `decode`. Without it
  /// the report has no speeds and no memory.
  std::function<RunFigures(const std::filesystem::path& model, int64_t prompt, int64_t decode)>
      measure;
};

/// Runs the recipe and writes options.out; with a text also measures the original, every variant
/// and the result, and returns (and writes) the report. On an error before the output is complete
/// nothing is left at options.out.
Report optimize(const OptimizeOptions& options);

/// "AMD EPYC, 2 threads, 23.5 GB"
std::string machine_description();

}  // namespace hone
