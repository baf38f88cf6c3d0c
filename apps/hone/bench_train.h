// hone bench --train: speed and memory of training steps.
#pragma once

#include "command.h"

namespace hone {

struct TrainBenchFlags {
  std::string method;  ///< as of hone tune
  int64_t batch = 1, length = 512, steps = 5, rank = 0;
  std::string checkpointing = "none", precision = "f32", optimizer = "adamw";
};

void add_train_bench_flags(CLI::App& app, TrainBenchFlags& f);
void run_train_bench(const ModelArgument& model, const TrainBenchFlags& f,
                     const CommonOptions& common);

}  // namespace hone
