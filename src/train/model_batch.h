// A batch of training as a model runs it.
#pragma once

#include <vector>

#include "nn/model.h"
#include "text/batches.h"

namespace hone {

struct ModelBatch {
  Batch batch;                   ///< a sequence for each span, a prompt's rows in front of each
  std::vector<int64_t> rows;     ///< the rows of it that have a target, ascending
  std::vector<int32_t> targets;  ///< what stands there
};

/// Raises invalid_argument where a target is none of the model's tokens.
ModelBatch model_batch(const Model& model, const TrainingBatch& batch);

}  // namespace hone
