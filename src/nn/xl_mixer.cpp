// The attention of Transformer-XL (Dai et al. 2019): a segment also sees the `memory` rows in front
// of it, and positions are distances.
//
//   score = ((q + u)·k + (q + v)·r_distance)/√size,  r = W_r·sinusoids
//
// What is kept of a sequence are the layer's normed inputs, of which keys and values are made anew
// for each segment: W_k and W_v learn from them, and where the states are cut (cut_states) nothing
// flows further back, as published. With a cache keys and values themselves are kept, which are the
// same numbers.
//
// Memory: the position term is an additive bias of heads·T·(memory + segment) floats. Several
// segments in one call get copies of the keys and values that they see.
//
// Spec: width (even), heads, k_dim = v_dim, segment, memory.
// State: the number of tokens, [1]; keys and values, [memory + segment, heads·size] each; r of all
// distances, likewise. Without a cache: the number, and the inputs.
#include <cmath>

#include "attention/relative.h"
#include "nn/registry.h"
#include "nn/segments.h"
#include "ops/elementwise.h"

namespace hone {
namespace {

// Segments of one sequence see some keys in common, and attention's backward adds up the gradients
// of its spans in parallel: each gets rows of its own.
void separate(std::vector<AttentionSpan>& spans, Tensor& k, Tensor& v) {
  bool shared = false;
  for (size_t i = 1; i < spans.size(); ++i) shared |= spans[i].k_begin < spans[i - 1].k_end;
  if (!shared) return;
  std::vector<Tensor> keys, values;
  int64_t rows = 0;
  for (AttentionSpan& s : spans) {
    keys.push_back(ops::slice_rows(k, s.k_begin, s.k_end));
    values.push_back(ops::slice_rows(v, s.k_begin, s.k_end));
    s.k_end += rows - s.k_begin;
    s.k_begin = rows;
    rows = s.k_end;
  }
  k = ops::concat_rows(keys);
  v = ops::concat_rows(values);
}

class TransformerXl final : public Mixer {
 public:
  explicit TransformerXl(const MixerSpec& s) : spec_(s), sizes_{s.segment, s.memory} {
    attention_.heads = attention_.kv_heads = s.heads;
    attention_.k_dim = attention_.v_dim = s.k_dim;
    attention_.scale = 1 / std::sqrt(static_cast<float>(s.k_dim));
  }

  Mixed mix(const LinearInput& in, const Batch& batch, MixerState& state) override {
    Segmented at = cut_segments(sizes_, batch, state, kCount);
    const Activations a = batch.activations;
    Tensor q, k, v;
    if (batch.cached()) {
      const std::vector<Linear*> linears = inputs();
      const std::vector<Tensor> products = forward_all(linears, in, a);
      q = products[0];
      k = join_rows(sizes_, at, products[1], batch, state, kKeys);
      v = join_rows(sizes_, at, products[2], batch, state, kValues);
    } else {
      const LinearInput joined(join_rows(sizes_, at, in.x(), batch, state, kInputs));
      const std::vector<Linear*> linears = {&k_, &v_};
      const std::vector<Tensor> products = forward_all(linears, joined, a);
      q = q_.forward(in, a);
      k = products[0];
      v = products[1];
    }
    separate(at.visible, k, v);
    AttentionTerms terms;
    terms.bias = relative_bias(ops::add_row(q, v_bias_.values, 1), positions(batch, state),
                               spec_.heads, attention_.scale, at.visible);
    return attention(attention_, ops::add_row(q, u_bias_.values, 1), k, v, at.visible, terms);
  }
  std::vector<Linear*> inputs() override { return {&q_, &k_, &v_}; }
  Linear& output() override { return o_; }
  std::vector<MixerParameter> parameters() override {
    const int64_t d = spec_.width, n = spec_.heads * spec_.k_dim;
    return {linear("q", {n, d}, q_),
            linear("k", {n, d}, k_),
            linear("v", {n, d}, v_),
            linear("o", {d, n}, o_),
            linear("r", {n, d}, r_),
            coefficients("content_bias", {n}, u_bias_),
            coefficients("position_bias", {n}, v_bias_)};
  }
  std::vector<Shape> state_shapes() const override {
    const Shape rows = {sizes_.capacity(), spec_.heads * spec_.k_dim};
    return {{1}, rows, rows, rows};
  }
  std::string describe() const override {
    return fmt::format("Transformer-XL, segments of {}, memory of {}, {} heads of {}",
                       spec_.segment, spec_.memory, spec_.heads, spec_.k_dim);
  }

 private:
  enum State : size_t { kCount, kKeys, kValues, kPositions, kInputs = 1 };

  // r of every distance that there can be. It takes a product of all of them, which a sequence with
  // a cache makes once.
  Tensor positions(const Batch& batch, MixerState& state) {
    if (!batch.cached()) return of_distances();
    Tensor r;
    for (const RecurrentState& s : state.recurrent)
      if (s.size() > kPositions && !s[kPositions].empty_handle()) r = s[kPositions];
    if (r.empty_handle()) r = of_distances();
    for (size_t i = 0; i < batch.spans.size(); ++i) state.put(i, kPositions, r);
    return r;
  }
  Tensor of_distances() {
    return r_.forward(LinearInput(sinusoids(sizes_.capacity(), spec_.width)), Activations::f32);
  }

  MixerSpec spec_;
  SegmentSizes sizes_;
  AttentionSpec attention_;
  Linear q_, k_, v_, o_, r_;
  Coefficients u_bias_, v_bias_;
};

}  // namespace

std::unique_ptr<Mixer> make_transformer_xl(const MixerSpec& spec) {
  return std::make_unique<TransformerXl>(spec);
}

}  // namespace hone
