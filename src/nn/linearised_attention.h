// Softmax attention made linear (Zhang et al. 2024, "LoLCATs"): the same projections, norms and
// rotation, but exact only in a sliding window; what is older goes into a sum of learned features
// (attention/hybrid_attention.h). A sequence keeps that sum and the window, whatever its length.
//
// The decoder builds one where ModelConfig::linearised says so; the pass linearise makes them.
#pragma once

#include "attention/hybrid_attention.h"
#include "nn/model.h"

namespace hone {

class LinearisedAttention final : public SoftmaxAttention {
 public:
  int64_t window = 64;
  int64_t features = 0;
  Coefficients q_map, k_map;   ///< [heads, k_dim, features]
  Coefficients window_factor;  ///< [heads]: the window's weight is its σ

  /// Those beside the softmax layer's own.
  std::vector<MixerParameter> parameters() override;
  KvShape kv_shape() const override { return {}; }
  std::vector<Shape> state_shapes() const override { return hybrid_spec().state_shapes(); }
  std::string describe() const override;
  HybridAttentionSpec hybrid_spec() const;

 protected:
  Tensor attended(Tensor& q, Tensor& k, Tensor& v, const Batch& batch, MixerState& state) override;
};

}  // namespace hone
