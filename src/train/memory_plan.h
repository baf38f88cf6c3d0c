// How much memory a training will take, before it is begun.
//
// A step's tensors grow with the number of blocks in a known way. So one step is rehearsed with the
// first block alone and one with the first two, as large as the run's largest, and what they took
// says what all blocks will. It costs about 3/L of a step, and knows whatever the methods do.
#pragma once

#include <cstdint>

#include "train/trainer.h"

namespace hone {

struct MemoryPlan {
  int64_t weights = 0;    ///< of the model, as it was loaded
  int64_t step = 0;       ///< gradients, and what a step keeps and makes, at most
  int64_t optimizer = 0;  ///< states
  int64_t rest = 0;       ///< program, tokenizer, data, kernels' and other small buffers
  int64_t total() const { return weights + step + optimizer + rest; }
};

/// Of steps of `accumulate` parts of `rows` sequences of `length` tokens each, all targets. Nothing
/// is changed; raises out_of_memory where even the rehearsal finds no room.
MemoryPlan plan_memory(Model& model, Trainer& trainer, Objective& objective, int64_t rows,
                       int64_t length, int64_t accumulate = 1);

}  // namespace hone
