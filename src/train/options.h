// Everything that a training run is told, by a config file or by flags.
#pragma once

#include <string>
#include <vector>

#include "adapters/adapter.h"
#include "text/batches.h"
#include "text/dataset.h"
#include "train/qat.h"
#include "train/teacher.h"
#include "train/trainer.h"

namespace hone {

struct TrainingOptions {
  std::string method = "full";    ///< of training_methods() or adapters/
  std::vector<std::string> data;  ///< files to learn from, as one
  std::string evaluate;           ///< file to measure on; else a share of `data` is kept for it
  AdapterOptions adapter;
  QatOptions qat;
  TeacherOptions teacher;
  TrainerOptions trainer;
  DataOptions text;
  BatchOptions batches;
  int64_t accumulate = 1;  ///< micro-batches that a batch is cut into
  std::string checkpointing = "none";
  std::string precision = "f32";
  bool masters = true;          ///< full, distill: bf16 and f16 keep f32 weights beside
  int64_t eval_every = 100;     ///< steps; 0 = at the end alone
  int64_t eval_batches = 16;    ///< at most
  int64_t save_every = 200;     ///< steps; 0 = never
  std::string train_only;       ///< full, distill: a glob of parameters; empty = all
  std::string initialise = "";  ///< prefix, prompt: a text to begin with

  /// All of them, in groups.
  void visit(OptionVisitor& v);
  /// Raises invalid_argument where the option of that name, which the user `spelled` so, belongs to
  /// other methods than this one.
  void check_given(const std::string& name, const std::string& spelled);
  /// Puts names into the enums of `trainer`, the seed where it belongs, and raises invalid_argument
  /// on what makes no sense.
  void finish(uint64_t seed);
};

}  // namespace hone
