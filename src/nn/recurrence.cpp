#include "nn/recurrence.h"

#include "attention/short_conv.h"

namespace hone {
namespace {

template <typename Span>
std::vector<Span> spans_of(const Batch& batch, const MixerState& state, size_t index,
                           const Shape& shape) {
  std::vector<Span> spans;
  for (size_t i = 0; i < batch.spans.size(); ++i)
    spans.push_back({batch.spans[i].begin, batch.spans[i].end, state.take(i, index, shape)});
  return spans;
}

void put_all(MixerState& state, size_t index, const std::vector<Tensor>& states) {
  for (size_t i = 0; i < states.size(); ++i) state.put(i, index, states[i]);
}

}  // namespace

Tensor recur(const LinearAttentionSpec& spec, const LinearAttentionInputs& in, const Batch& batch,
             MixerState& state, size_t index) {
  auto spans = spans_of<LinearSpan>(batch, state, index, spec.state_shape());
  if (!batch.cached()) {
    LinearAttentionResult result = linear_attention(spec, in, spans);
    put_all(state, index, result.states);
    return result.o;
  }
  Tensor o = linear_attend(spec, in, spans);
  std::vector<Tensor> states;
  for (const LinearSpan& s : spans) states.push_back(s.state);
  put_all(state, index, states);
  return o;
}

Tensor token_before(const Tensor& x, const Batch& batch, MixerState& state, size_t index) {
  ConvResult result = token_shift(x, spans_of<ConvSpan>(batch, state, index, Shape{1, x.dim(1)}));
  put_all(state, index, result.states);
  return result.y;
}

Tensor token_before(const Tensor& x, const Batch& batch, const MixerState& state, size_t index) {
  return token_shift(x, spans_of<ConvSpan>(batch, state, index, Shape{1, x.dim(1)})).y;
}

Tensor convolve(const Tensor& x, const Tensor& weight, const Tensor& bias, const Batch& batch,
                MixerState& state, size_t index) {
  ConvResult result =
      short_conv(x, weight, bias, true,
                 spans_of<ConvSpan>(batch, state, index, Shape{weight.dim(1) - 1, x.dim(1)}));
  put_all(state, index, result.states);
  return result.y;
}

}  // namespace hone
