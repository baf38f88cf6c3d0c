#include "passes/calibration_walk.h"

#include <algorithm>

namespace hone {
namespace {

// Samples that run together.
constexpr size_t kBatchSamples = 4;

}  // namespace

CalibrationWalk::CalibrationWalk(Model& model, const Calibration& calibration)
    : model_(model), calibration_(calibration) {
  const auto& samples = calibration_.samples;
  for (size_t first = 0; first < samples.size(); first += kBatchSamples) {
    size_t last = std::min(samples.size(), first + kBatchSamples);
    std::vector<KvSequence> sequences(last - first);
    Batch batch;
    for (size_t i = first; i < last; ++i) batch.append(samples[i], &sequences[i - first]);
    states_.emplace_back().residual = model_.embed(batch);
  }
  enter_block();
}

void CalibrationWalk::enter_block() {
  for (BlockState& s : states_) {
    s.recurrent = {};  // every sample begins
    model_.blocks[block_].enter(s);
  }
}

Batch CalibrationWalk::batch_of(size_t state) const {
  const auto& samples = calibration_.samples;
  Batch batch;
  for (size_t i = state * kBatchSamples; i < std::min(samples.size(), (state + 1) * kBatchSamples);
       ++i)
    batch.append(samples[i], nullptr);
  return batch;
}

void CalibrationWalk::visit_inputs(size_t i, const std::function<void(const Tensor& x)>& f) {
  for (size_t s = 0; s < states_.size(); ++s)
    f(model_.blocks[block_].input_of(stage_, i, states_[s], batch_of(s)));
}

void CalibrationWalk::advance() {
  Block& block = model_.blocks[block_];
  KvCache cache({block.mixer->kv_shape()});
  for (size_t i = 0; i < states_.size(); ++i) {
    size_t first = i * kBatchSamples;
    size_t last = std::min(calibration_.samples.size(), first + kBatchSamples);
    std::vector<KvSequence> sequences(last - first);
    Batch batch;
    for (size_t j = first; j < last; ++j) {
      KvSequence& sequence = sequences[j - first];
      batch.append(calibration_.samples[j], &sequence);
      if (stage_ == 0) cache.reserve(sequence, batch.spans.back().end - batch.spans.back().begin);
    }
    block.advance(states_[i], stage_, batch, cache, 0);
    for (KvSequence& sequence : sequences) cache.truncate(sequence, 0);
  }
  if (++stage_ < Block::kStages) return;
  for (auto& stage : block.stages())
    for (Linear* l : stage) l->unpack();
  stage_ = 0;
  if (++block_ < static_cast<int64_t>(model_.blocks.size())) enter_block();
}

void CalibrationWalk::finish_block() {
  for (int64_t current = block_; block_ == current;) advance();
}

bool CalibrationWalk::in_last_block() const {
  return block_ + 1 == static_cast<int64_t>(model_.blocks.size());
}

void CalibrationWalk::visit_stages(const std::function<void(int stage)>& f) {
  HONE_ASSERT(stage_ == 0);
  const std::vector<BlockState> start = states_;
  for (int stage = 0; stage < Block::kStages; ++stage) {
    f(stage);
    if (stage + 1 < Block::kStages) advance();
  }
  stage_ = 0;
  states_ = start;
}

}  // namespace hone
