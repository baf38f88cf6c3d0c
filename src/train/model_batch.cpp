#include "train/model_batch.h"

namespace hone {

ModelBatch model_batch(const Model& model, const TrainingBatch& b) {
  ModelBatch made;
  // A prompt's rows stand in front of each sequence, and have no targets.
  const int64_t prompted = model.prompt.empty_handle() ? 0 : model.prompt.dim(0);
  const int64_t first_position = model.virtual_tokens() - prompted;
  std::vector<int32_t> ids;
  for (const TrainingBatch::Span& s : b.spans) {
    ids.clear();
    for (int64_t i = 0; i < prompted; ++i) ids.push_back(static_cast<int32_t>(-1 - i));
    ids.insert(ids.end(), b.tokens.begin() + s.begin, b.tokens.begin() + s.end);
    for (int64_t t = s.begin; t < s.end; ++t) {
      const int32_t target = b.targets[size_t(t)];
      if (target < 0) continue;
      HONE_CHECK(target < model.vocabulary(), invalid_argument,
                 "token {} of the data: the model has {}; were they made by its tokenizer?", target,
                 model.vocabulary());
      made.rows.push_back(made.batch.size() + prompted + t - s.begin);
      made.targets.push_back(target);
    }
    made.batch.append(ids, nullptr, first_position);
  }
  return made;
}

}  // namespace hone
