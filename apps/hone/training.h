// What hone train and hone tune share: the run, its log, and what is written at the end.
#pragma once

#include "command.h"
#include "train/run.h"

namespace hone {

struct TrainingCommand {
  std::string model;    ///< a MODEL to begin with; empty: `architecture` and `tokenizer`
  std::string load_as;  ///< adapters, dwq: quantise the base while loading
  Json architecture;    ///< a config.json
  std::string tokenizer;
  std::string out;
  std::string report;
  bool resume = false, restart = false;
  TrainingOptions options;
};

/// --out, --resume and --restart.
void add_training_output(CLI::App& app, TrainingCommand& c);
/// Fills in defaults and raises invalid_argument on what makes no sense.
void finish_training(TrainingCommand& c, uint64_t seed);
/// Runs and writes; prints a summary, or one JSON object with --json.
void run_training(TrainingCommand& c, const CommonOptions& common);

}  // namespace hone
