// hone bench in a process of its own: the speed and memory that somebody who only runs the model
// gets.
#pragma once

#include "command.h"
#include "passes/optimize.h"

namespace hone {

/// Runs `hone bench` on a checkpoint with these common options; raises io where it fails.
RunFigures bench_in_child(const CommonOptions& common, const std::filesystem::path& model,
                          int64_t prompt, int64_t decode);

}  // namespace hone
