// Mixture: a feed-forward of many MLPs, the experts, of which each token takes the few that a
// router chooses, and adds up what they give by the router's weights (Shazeer et al. 2017; Mixtral,
// Jiang et al. 2024).
//
// The rows of a batch are sorted by expert, so that each expert multiplies one matrix. What a row
// gives does not depend on the others of its batch. The router multiplies f32 activations, whatever
// the experts do: near a tie int8 ones would choose others.
#pragma once

#include <vector>

#include "nn/mlp.h"

namespace hone {

class Mixture final : public Mixer {
 public:
  Linear router;             ///< [experts, D]
  std::vector<Mlp> experts;  ///< gated or not, all of one shape
  int64_t used = 0;          ///< of each token
  bool normalised = true;    ///< its weights sum to 1

  Mixed mix(const LinearInput& x, const Batch& batch, MixerState& state) override;
  std::vector<Linear*> inputs() override;
  std::vector<Linear*> outputs() override;
  std::vector<Linear*> sides() override { return {&router}; }
  bool shares_input() const override { return false; }
  /// The rows that go to the expert of inputs()[i].
  Tensor input_of(size_t i, const Tensor& x, const Batch& batch, const MixerState& state) override;
  std::string describe() const override;
};

}  // namespace hone
