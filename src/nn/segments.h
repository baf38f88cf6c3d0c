// What mixers share whose attention ends at segments: a sequence is cut at every `segment`-th token
// from its beginning on, wherever batches cut it, and a query sees its own segment up to itself,
// and `memory` rows in front of that.
//
// Of a sequence are kept the rows that its next token will see, with the number of its tokens. With
// a cache they lie in one tensor of all the rows that there can be, which is written in place;
// without one they are exactly those rows, through which gradients flow.
#pragma once

#include <vector>

#include "nn/mixer.h"

namespace hone {

struct SegmentSizes {
  int64_t segment = 0, memory = 0;
  /// The most rows that are kept.
  int64_t capacity() const { return memory + segment; }
  /// How many are kept behind `count` tokens.
  int64_t kept(int64_t count) const;
};

/// What of one sequence lies in one segment: rows [begin, end) of the batch.
struct SegmentPiece {
  size_t span;
  int64_t begin, end;
  bool full;  ///< the segment ends with it
};

/// A batch, cut. Joined rows are, for each sequence, those that it keeps and then its rows of the
/// batch.
struct Segmented {
  std::vector<int64_t> counts;         ///< [spans] tokens in front; from `memory` on mod `segment`
  std::vector<int64_t> places;         ///< [T] of each row within its segment
  std::vector<SegmentPiece> pieces;    ///< in the order of rows
  std::vector<AttentionSpan> visible;  ///< of each piece: rows of the batch, joined rows
  std::vector<int64_t> joined;         ///< [spans + 1] the first joined row of each sequence
};

/// Tensor `index` of the state, [1], is the number of tokens; it becomes the one behind the batch.
Segmented cut_segments(const SegmentSizes& sizes, const Batch& batch, MixerState& state,
                       size_t index);

/// x [T, W] as joined rows. Tensor `index` of the state, [capacity, W] with a cache, holds the rows
/// that are kept, and is left with those to keep from now on.
Tensor join_rows(const SegmentSizes& sizes, const Segmented& at, const Tensor& x,
                 const Batch& batch, MixerState& state, size_t index);

}  // namespace hone
