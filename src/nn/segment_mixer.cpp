#include "nn/segment_mixer.h"

#include <cmath>

#include "ops/dense.h"

namespace hone {

SegmentAttention::SegmentAttention(const MixerSpec& s)
    : spec_(s), sizes_{s.segment, 0}, rope_(s.k_dim, s.rope_theta, {}) {
  attention_.heads = attention_.kv_heads = s.heads;
  attention_.k_dim = attention_.v_dim = s.k_dim;
  attention_.scale = 1 / std::sqrt(static_cast<float>(s.k_dim));
}

SegmentAttention::Local SegmentAttention::attend_within(const LinearInput& in, const Batch& batch,
                                                        MixerState& state) {
  const std::vector<Linear*> linears = inputs();
  const std::vector<Tensor> products = forward_all(linears, in, batch.activations);
  Local l{cut_segments(sizes_, batch, state, kCount), products[0], products[1], products[2], {}};
  // Rotated in place, and the plain ones may be asked for as well.
  Tensor q = ops::scale(l.q, 1), k = ops::scale(l.k, 1);
  rope_.apply(q, spec_.k_dim, l.at.places);
  rope_.apply(k, spec_.k_dim, l.at.places);
  const Tensor keys = join_rows(sizes_, l.at, k, batch, state, kKeys);
  const Tensor values = join_rows(sizes_, l.at, l.v, batch, state, kValues);
  l.o = attention(attention_, q, keys, values, l.at.visible);
  return l;
}

Mixed SegmentAttention::mix(const LinearInput& in, const Batch& batch, MixerState& state) {
  return attend_within(in, batch, state).o;
}

std::vector<MixerParameter> SegmentAttention::parameters() {
  const int64_t d = spec_.width, n = spec_.heads * spec_.k_dim;
  return {linear("q", {n, d}, q_), linear("k", {n, d}, k_), linear("v", {n, d}, v_),
          linear("o", {d, n}, o_)};
}

std::vector<Shape> SegmentAttention::state_shapes() const {
  const Shape rows = {sizes_.capacity(), spec_.heads * spec_.k_dim};
  return {{1}, rows, rows};
}

std::string SegmentAttention::describe() const {
  return fmt::format("causal within segments of {}, {} heads of {}", spec_.segment, spec_.heads,
                     spec_.k_dim);
}

std::unique_ptr<Mixer> make_segment(const MixerSpec& spec) {
  return std::make_unique<SegmentAttention>(spec);
}

}  // namespace hone
