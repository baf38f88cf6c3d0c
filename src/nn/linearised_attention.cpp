#include "nn/linearised_attention.h"

namespace hone {

HybridAttentionSpec LinearisedAttention::hybrid_spec() const {
  HybridAttentionSpec s;
  s.heads = spec.heads;
  s.kv_heads = spec.kv_heads;
  s.k_dim = spec.k_dim;
  s.v_dim = spec.v_dim;
  s.scale = spec.scale;
  s.window = window;
  s.features = features;
  return s;
}

std::vector<MixerParameter> LinearisedAttention::parameters() {
  const Shape map{spec.heads, spec.k_dim, features};
  return {coefficients("q_map", map, q_map), coefficients("k_map", map, k_map),
          coefficients("window_factor", {spec.heads}, window_factor)};
}

std::string LinearisedAttention::describe() const {
  return fmt::format("causal & window({}) + linear, {}/{} heads of {}, {} features", window,
                     spec.heads, spec.kv_heads, spec.k_dim, 2 * features);
}

Tensor LinearisedAttention::attended(Tensor& qs, Tensor& ks, Tensor& vs, const Batch& batch,
                                     MixerState& state) {
  HONE_ASSERT(prefix == nullptr);
  normalise(qs, ks);
  rotate(qs, ks, batch);
  const std::vector<Shape> shapes = state_shapes();
  std::vector<HybridSpan> spans;
  for (size_t i = 0; i < batch.spans.size(); ++i) {
    spans.push_back({batch.spans[i].begin, batch.spans[i].end, {}});
    for (size_t j = 0; j < shapes.size(); ++j)
      spans.back().state.push_back(state.take(i, j, shapes[j]));
  }
  const HybridAttentionInputs in{qs, ks, vs, q_map.values, k_map.values, window_factor.values};
  Tensor y = hybrid_attention(hybrid_spec(), in, spans, batch.cached());
  state.recurrent.resize(spans.size());
  for (size_t i = 0; i < spans.size(); ++i) state.recurrent[i] = spans[i].state;
  return y;
}

}  // namespace hone
