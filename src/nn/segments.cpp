#include "nn/segments.h"

#include <algorithm>

#include "base/checked.h"
#include "ops/elementwise.h"

namespace hone {

int64_t SegmentSizes::kept(int64_t count) const {
  const int64_t place = count % segment;
  return std::min(memory, count - place) + place;
}

Segmented cut_segments(const SegmentSizes& sizes, const Batch& batch, MixerState& state,
                       size_t index) {
  Segmented all;
  all.joined.push_back(0);
  // Behind so many tokens only the place within a segment matters, and a f32 holds the number.
  const int64_t full = ceil_div(sizes.memory, sizes.segment) * sizes.segment;
  for (size_t i = 0; i < batch.spans.size(); ++i) {
    const SequenceSpan& span = batch.spans[i];
    auto count = static_cast<int64_t>(state.take(i, index, {1}).data<float>()[0]);
    const int64_t first = all.joined.back(), before = sizes.kept(count);
    // Joined row of token t: t + shift.
    const int64_t shift = first + before - count;
    all.counts.push_back(count);
    for (int64_t at = span.begin; at < span.end;) {
      const int64_t place = count % sizes.segment, begin = count - place;
      const int64_t n = std::min(span.end - at, sizes.segment - place);
      for (int64_t p = 0; p < n; ++p) all.places.push_back(place + p);
      all.pieces.push_back({i, at, at + n, place + n == sizes.segment});
      all.visible.push_back(
          {at, at + n, begin - std::min(sizes.memory, begin) + shift, count + n + shift});
      at += n;
      count += n;
    }
    all.joined.push_back(first + before + span.end - span.begin);
    if (count >= full + sizes.segment) count = full + count % sizes.segment;
    state.put(i, index, Tensor::from(std::vector<float>{static_cast<float>(count)}));
  }
  return all;
}

namespace {

// The last `keep` of a sequence's joined rows, of which the first `held` are in place already.
void write_kept(Tensor& state, const float* joined, int64_t rows, int64_t keep, int64_t held) {
  const int64_t width = state.dim(1), dropped = rows - keep;
  const int64_t from = dropped == 0 ? held : 0;
  std::copy(joined + (dropped + from) * width, joined + rows * width,
            state.mutable_data<float>() + from * width);
}

}  // namespace

Tensor join_rows(const SegmentSizes& sizes, const Segmented& at, const Tensor& x,
                 const Batch& batch, MixerState& state, size_t index) {
  const int64_t width = x.dim(1);
  std::vector<Tensor> parts, states(batch.spans.size());
  for (size_t i = 0; i < batch.spans.size(); ++i) {
    const int64_t before = sizes.kept(at.counts[i]);
    if (batch.cached()) states[i] = state.take(i, index, {sizes.capacity(), width});
    if (batch.cached() && before > 0) parts.push_back(states[i].rows(0, before));
    if (!batch.cached() && before > 0) {
      HONE_ASSERT(i < state.recurrent.size() && index < state.recurrent[i].size());
      parts.push_back(state.recurrent[i][index]);
      HONE_ASSERT(parts.back().dim(0) == before && parts.back().dim(1) == width);
    }
    parts.push_back(ops::slice_rows(x, batch.spans[i].begin, batch.spans[i].end));
  }
  Tensor joined = ops::concat_rows(parts);
  for (size_t i = 0; i < batch.spans.size(); ++i) {
    const int64_t first = at.joined[i], last = at.joined[i + 1];
    const int64_t before = sizes.kept(at.counts[i]);
    const int64_t keep = sizes.kept(at.counts[i] + batch.spans[i].end - batch.spans[i].begin);
    if (batch.cached())
      write_kept(states[i], joined.data<float>() + first * width, last - first, keep, before);
    else
      states[i] = keep == 0 ? Tensor() : ops::slice_rows(joined, last - keep, last);
    state.put(i, index, states[i]);
  }
  return joined;
}

}  // namespace hone
