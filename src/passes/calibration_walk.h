// CalibrationWalk: the calibration samples on their way through a model, one stage of one block at
// a time, for passes that look at the inputs of a layer and change it before the next one runs.
//
// What is held: the states of all samples at one place, and the kernel layouts of one block. A
// state is [tokens, width] in f32; in front of the MLP's down it is [tokens, feed-forward width].
#pragma once

#include <functional>
#include <vector>

#include "nn/model.h"
#include "passes/calibration.h"

namespace hone {

class CalibrationWalk {
 public:
  /// Stands in front of block 0, stage 0. Model and calibration must outlive it.
  CalibrationWalk(Model& model, const Calibration& calibration);

  int64_t block() const { return block_; }
  int stage() const { return stage_; }
  int64_t samples() const { return std::ssize(calibration_.samples); }
  /// Tokens of each sample.
  int64_t sample_tokens() const { return samples() == 0 ? 0 : std::ssize(calibration_.samples[0]); }
  /// Calls f with what linear i of this stage multiplies, [T, K], a few samples at a time.
  void visit_inputs(size_t i, const std::function<void(const Tensor& x)>& f);
  /// Runs this stage with the weights it has now. Behind a block's last stage the walk stands in
  /// front of the next block, and the block's kernel layouts are gone.
  void advance();
  /// Runs the rest of this block.
  void finish_block();
  /// Back in front of the block whose stage 0 this is, whose norm has changed since.
  void enter_again() { enter_block(); }
  /// No other block comes: what this one gives need not be computed.
  bool in_last_block() const;

  /// Calls f in front of each stage of this block as it is now, then stands in front of the block
  /// again; nothing is copied for it.
  void visit_stages(const std::function<void(int stage)>& f);

 private:
  void enter_block();
  Batch batch_of(size_t state) const;

  Model& model_;
  const Calibration& calibration_;
  int64_t block_ = 0;
  int stage_ = 0;
  std::vector<BlockState> states_;  // one for each batch of samples
};

}  // namespace hone
