// Softmax attention within segments: causal, with rotary positions that begin anew in each, and
// nothing in front. By itself it is the plain model that recurrent memory is compared with; with
// memory tokens (nn/memory_tokens.h) it is a Recurrent Memory Transformer's; Infini-attention adds
// a memory of its own.
//
// Spec: width, heads, k_dim = v_dim, segment, rope_theta.
// State: the number of tokens, [1]; the segment's keys, rotated, and values, [segment, heads·size].
#pragma once

#include "nn/registry.h"
#include "nn/segments.h"

namespace hone {

class SegmentAttention : public Mixer {
 public:
  explicit SegmentAttention(const MixerSpec& spec);

  Mixed mix(const LinearInput& in, const Batch& batch, MixerState& state) override;
  std::vector<Linear*> inputs() override { return {&q_, &k_, &v_}; }
  Linear& output() override { return o_; }
  std::vector<MixerParameter> parameters() override;
  std::vector<Shape> state_shapes() const override;
  std::string describe() const override;

 protected:
  enum State : size_t { kCount, kKeys, kValues, kMore };
  struct Local {
    Segmented at;
    Tensor q, k, v;  // of the batch's rows, not rotated
    Tensor o;        // [T, heads·size]
  };
  Local attend_within(const LinearInput& in, const Batch& batch, MixerState& state);

  MixerSpec spec_;

 private:
  SegmentSizes sizes_;
  AttentionSpec attention_;
  Rope rope_;
  Linear q_, k_, v_, o_;
};

}  // namespace hone
