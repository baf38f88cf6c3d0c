// The part of hone eval that answers tasks: multiple choice and cloze.
#pragma once

#include "command.h"

namespace hone {

struct TaskFlags {
  std::vector<std::string> files;
  std::string kind, samples, shots_file;
  int64_t limit = 0, shots = 0;
  /// --task and what goes with it.
  void add(CLI::App& app);
};

/// Answers the tasks, and with `reference` (empty: none) both models do. Raises UsageError.
void run_tasks(const TaskFlags& flags, const ModelArgument& model, const std::string& reference,
               bool exact_reference, const CommonOptions& common);

}  // namespace hone
