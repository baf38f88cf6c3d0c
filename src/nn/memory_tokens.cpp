#include "nn/memory_tokens.h"

#include <algorithm>

#include "ops/elementwise.h"

namespace hone {
namespace {

struct Sequence {
  std::vector<RecurrentState>* states;
  std::vector<RecurrentState> own;  // where the caller keeps none
  Tensor memory;
  int64_t place = 0;         // in the segment
  int64_t at = 0, end = 0;   // rows of the batch that are left
  std::vector<Tensor> done;  // their hidden states
};

// What of a sequence runs in one go: perhaps memory, tokens, perhaps memory.
struct Part {
  size_t sequence;
  int64_t first, tokens;  // rows that run
  bool full;
};

std::vector<Sequence> begin(const MemoryTokens& m, const Batch& batch, size_t index) {
  std::vector<Sequence> all(batch.spans.size());
  for (size_t i = 0; i < all.size(); ++i) {
    const SequenceSpan& span = batch.spans[i];
    Sequence& s = all[i];
    s.states = span.recurrent == nullptr ? &s.own : span.recurrent;
    s.at = span.begin;
    s.end = span.end;
    s.memory = m.initial;
    if (s.states->size() <= index || (*s.states)[index].empty()) continue;
    const RecurrentState& kept = (*s.states)[index];
    s.memory = kept[0];
    s.place = static_cast<int64_t>(kept[1].data<float>()[0]);
  }
  return all;
}

// Adds the rest of the sequence's segment, or what there is of it.
Part add_part(const MemoryTokens& m, const Batch& batch, const Tensor& x, size_t i, Sequence& s,
              Batch& inner, std::vector<Tensor>& rows) {
  const int64_t n = std::min(s.end - s.at, m.segment - s.place), first = inner.size();
  const bool reads = s.place == 0, full = s.place + n == m.segment;
  if (reads) rows.push_back(s.memory);
  rows.push_back(ops::slice_rows(x, s.at, s.at + n));
  if (full) rows.push_back(s.memory);
  const int64_t all = n + (int64_t{reads} + int64_t{full}) * m.count();
  inner.append(std::vector<int32_t>(static_cast<size_t>(all), 0), batch.spans[i].kv);
  inner.spans.back().recurrent = s.states;
  s.at += n;
  s.place = full ? 0 : s.place + n;
  return {i, first + (reads ? m.count() : 0), n, full};
}

}  // namespace

Tensor run_with_memory(const MemoryTokens& m, const Batch& batch, const Tensor& x, size_t index,
                       const std::function<Tensor(const Tensor&, const Batch&)>& stack,
                       const Norm& norm) {
  std::vector<Sequence> sequences = begin(m, batch, index);
  for (;;) {
    Batch inner;
    inner.activations = batch.activations;
    inner.checkpointing = batch.checkpointing;
    std::vector<Tensor> rows;
    std::vector<Part> parts;
    for (size_t i = 0; i < sequences.size(); ++i)
      if (sequences[i].at < sequences[i].end)
        parts.push_back(add_part(m, batch, x, i, sequences[i], inner, rows));
    if (parts.empty()) break;
    const Tensor hidden = stack(ops::concat_rows(rows), inner);
    for (const Part& p : parts) {
      Sequence& s = sequences[p.sequence];
      const int64_t behind = p.first + p.tokens;
      s.done.push_back(ops::slice_rows(hidden, p.first, behind));
      if (p.full) s.memory = norm.forward(ops::slice_rows(hidden, behind, behind + m.count()));
    }
  }
  std::vector<Tensor> all;
  for (Sequence& s : sequences) {
    all.insert(all.end(), s.done.begin(), s.done.end());
    if (s.states->size() <= index) s.states->resize(index + 1);
    (*s.states)[index] = {s.memory, Tensor::from(std::vector<float>{static_cast<float>(s.place)})};
  }
  return ops::concat_rows(all);
}

}  // namespace hone
