#include "nn/streaming.h"

#include <algorithm>

#include "base/error.h"
#include "nn/linearised_attention.h"
#include "nn/model.h"

namespace hone {
namespace {

// One unbounded rotation for all layers that have the same, so that they share its angles.
Rope shared_unbounded(std::vector<Rope>& made, const Rope& rope) {
  for (const Rope& r : made)
    if (std::ranges::equal(r.frequencies(), rope.frequencies())) return r;
  return made.emplace_back(rope.unbounded());
}

}  // namespace

Streaming set_streaming(Model& m, const Streaming& wanted) {
  HONE_ASSERT(!m.streaming);
  HONE_CHECK(m.position_table.empty_handle(), unsupported,
             "streaming: {} has learned positions, which cannot move with the cache; it needs "
             "rotary ones",
             m.family);
  Streaming s = wanted;
  HONE_CHECK(s.sinks >= 0 && s.window >= 0, invalid_argument,
             "streaming: {} sinks and a window of {}: expected 0 or more", s.sinks, s.window);
  s.sinks = std::min(s.sinks, m.context) + m.virtual_tokens();
  if (s.window == 0) s.window = m.context - s.sinks;
  HONE_CHECK(s.window >= 1 && s.window <= m.context - s.sinks, invalid_argument,
             "streaming: {} sinks and a window of {} do not fit the model's context of {}", s.sinks,
             s.window, m.context);
  const Pattern window = Pattern::window(s.window), sinks = Pattern::prefix(s.sinks);
  std::vector<Rope> ropes, sink_ropes;
  for (Block& b : m.blocks) {
    auto* a = dynamic_cast<SoftmaxAttention*>(b.mixer.get());
    if (a == nullptr) continue;
    // Its window is its own, and what lies behind it is a state.
    HONE_CHECK(dynamic_cast<LinearisedAttention*>(a) == nullptr, unsupported,
               "streaming: {} has linearised attention, whose state holds rotated keys", m.family);
    HONE_CHECK(a->spec.alibi.slopes.empty(), unsupported,
               "streaming: {} has ALiBi, whose distances cannot move with the cache", m.family);
    const Horizon own = a->spec.pattern.horizon();
    auto stream = std::make_shared<StreamingAttention>();
    stream->recent = stream->sinks = a->spec;
    stream->recent.pattern = a->spec.pattern & window;
    stream->sinks.pattern = a->spec.pattern & sinks & !window;
    stream->has_sinks = s.sinks > 0 && (own.first > 0 || own.reach > s.window);
    stream->last_place = s.sinks + s.window - 1;
    if (a->rope.defined()) {
      stream->sink_rope = shared_unbounded(sink_ropes, a->rope);
      a->rope = shared_unbounded(ropes, a->rope);
    }
    a->spec.pattern = a->spec.pattern & (window | sinks);
    a->streaming = std::move(stream);
  }
  m.streaming = s;
  return s;
}

Tensor StreamingAttention::sink_queries(const Tensor& q, std::vector<int64_t> positions) const {
  if (!has_sinks) return {};
  for (int64_t& p : positions) p = std::min(p, last_place);
  Tensor moved = q.clone();
  if (sink_rope.defined()) sink_rope.apply(moved, sinks.k_dim, positions);
  return moved;
}

Tensor StreamingAttention::attend(const Tensor& q, const Tensor& sink_q, KvCache& cache,
                                  int64_t layer, const std::vector<SequenceSpan>& spans) const {
  if (!has_sinks) return hone::attend(recent, q, cache, layer, spans);
  Tensor sums, sink_sums;
  Tensor y = hone::attend(recent, q, cache, layer, spans, &sums);
  merge_attention(y, sums, hone::attend(sinks, sink_q, cache, layer, spans, &sink_sums), sink_sums);
  return y;
}

}  // namespace hone
