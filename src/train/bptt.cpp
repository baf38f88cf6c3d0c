#include "train/bptt.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "base/checked.h"
#include "ops/elementwise.h"
#include "ops/tape.h"

namespace hone {
namespace {

struct Segment {
  Batch batch;
  std::vector<int64_t> picked;  // rows of it that have a target
  std::vector<int64_t> rows;    // the same in the whole batch
  std::vector<int32_t> targets;
};

using States = std::vector<std::vector<RecurrentState>>;

// Segment `index` of all spans that are so long.
Segment segment_of(const ModelBatch& all, int64_t size, int64_t index, States& states) {
  Segment s;
  s.batch.activations = all.batch.activations;
  s.batch.checkpointing = all.batch.checkpointing;
  for (size_t i = 0; i < all.batch.spans.size(); ++i) {
    const SequenceSpan& span = all.batch.spans[i];
    const int64_t begin = span.begin + index * size, end = std::min(span.end, begin + size);
    if (begin >= end) continue;
    const int64_t shift = s.batch.size() - begin;
    const std::span<const int32_t> tokens = all.batch.tokens;
    s.batch.append(tokens.subspan(size_t(begin), size_t(end - begin)), nullptr,
                   all.batch.positions[size_t(begin)]);
    s.batch.spans.back().recurrent = &states[i];
    const auto first = std::ranges::lower_bound(all.rows, begin);
    for (auto row = first; row != all.rows.end() && *row < end; ++row) {
      s.picked.push_back(*row + shift);
      s.rows.push_back(*row);
      s.targets.push_back(all.targets[size_t(row - all.rows.begin())]);
    }
  }
  return s;
}

}  // namespace

double run_segments(Model& model, const ModelBatch& all, int64_t size, int64_t bptt,
                    const GroupLoss& loss) {
  HONE_CHECK(model.virtual_tokens() == 0, unsupported,
             "segments: a model with a prefix or a prompt runs whole rows");
  for (const Block& b : model.blocks)
    HONE_CHECK(b.mixer->kv_shape().kv_heads == 0, unsupported,
               "segments: layers with softmax attention carry nothing from one to the next");
  int64_t longest = 0;
  for (const SequenceSpan& s : all.batch.spans) longest = std::max(longest, s.end - s.begin);
  const int64_t count = ceil_div(longest, size), group = bptt > 0 ? bptt : count;
  States states(all.batch.spans.size());
  double sum = 0;
  for (int64_t first = 0; first < count; first += group) {
    std::vector<Segment> segments;
    std::vector<int64_t> rows;
    std::vector<int32_t> targets;
    for (int64_t i = first; i < std::min(count, first + group); ++i) {
      const Segment& s = segments.emplace_back(segment_of(all, size, i, states));
      rows.insert(rows.end(), s.rows.begin(), s.rows.end());
      targets.insert(targets.end(), s.targets.begin(), s.targets.end());
    }
    std::optional<Tape> tape;
    std::optional<TapePause> pause;
    if (rows.empty())
      pause.emplace();
    else if (Tape::current() != nullptr)
      tape.emplace();
    std::vector<Tensor> hidden;
    for (const Segment& s : segments) {
      const Tensor h = model.forward(s.batch);
      if (!s.picked.empty()) hidden.push_back(ops::gather_rows(h, s.picked));
    }
    if (!rows.empty()) sum += loss(ops::concat_rows(hidden), rows, targets);
    for (std::vector<RecurrentState>& s : states) cut_states(s);
  }
  return sum;
}

}  // namespace hone
