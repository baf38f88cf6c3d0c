// Mlp: the feed-forward of most families, down(f(up(x))) or down(f(gate(x))·up(x)).
#pragma once

#include "nn/mixer.h"

namespace hone {

class Mlp final : public Mixer {
 public:
  /// Gated: SwiGLU and GeGLU (Shazeer 2020).
  enum class Activation { silu, gelu_tanh, gelu, relu };
  Activation activation = Activation::silu;
  Linear gate;  ///< undefined in an ungated MLP
  Linear up;
  Linear down;
  /// What down multiplies: x [T, D] → [T, F]. Under a tape `again`, if given, becomes what makes it
  /// anew from the halves that the tape keeps; it stays empty where there are none.
  Tensor expand(const LinearInput& x, Activations a, std::function<Tensor()>* again = nullptr);

  Mixed mix(const LinearInput& x, const Batch& batch, MixerState& state) override;
  std::vector<Linear*> inputs() override;
  Linear& output() override { return down; }
  std::string describe() const override;
};

}  // namespace hone
