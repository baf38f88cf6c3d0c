#include "nn/mixer.h"

#include <algorithm>

#include "base/checked.h"

namespace hone {

void Batch::append(std::span<const int32_t> more, KvSequence* sequence, int64_t start) {
  SequenceSpan span;
  span.begin = size();
  span.start = sequence == nullptr ? start : sequence->length;
  span.kv = sequence;
  if (sequence != nullptr) span.recurrent = &sequence->recurrent;
  for (size_t i = 0; i < more.size(); ++i) {
    tokens.push_back(more[i]);
    positions.push_back(span.start + static_cast<int64_t>(i));
  }
  span.end = size();
  spans.push_back(span);
}

Tensor MixerState::take(size_t span, size_t i, const Shape& shape) const {
  if (span >= recurrent.size() || i >= recurrent[span].size() || recurrent[span][i].empty_handle())
    return Tensor::zeros(shape, DType::f32);
  HONE_ASSERT(recurrent[span][i].shape() == shape);
  return recurrent[span][i];
}

void MixerState::put(size_t span, size_t i, Tensor t) {
  if (recurrent.size() <= span) recurrent.resize(span + 1);
  if (recurrent[span].size() <= i) recurrent[span].resize(i + 1);
  recurrent[span][i] = std::move(t);
}

Tensor Mixer::input_of(size_t, const Tensor& x, const Batch&, const MixerState&) {
  HONE_ASSERT(shares_input());
  return x;
}

Linear& Mixer::output() { fail(ErrorKind::internal, "{}: more than one output", describe()); }

std::vector<Linear*> Mixer::sides() {
  std::vector<Linear*> named = inputs(), all;
  for (Linear* l : outputs()) named.push_back(l);
  for (const MixerParameter& p : parameters())
    if (p.linear != nullptr && !p.bias && std::ranges::find(named, p.linear) == named.end())
      all.push_back(p.linear);
  return all;
}

int64_t state_bytes(const Mixer& mixer) {
  int64_t bytes = 0;
  for (const Shape& shape : mixer.state_shapes()) {
    int64_t n = 4;
    for (int64_t d : shape) n = checked_mul(n, d, "recurrent state");
    bytes = checked_add(bytes, n, "recurrent state");
  }
  return bytes;
}

}  // namespace hone
