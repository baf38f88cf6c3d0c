// Batches for training from a token cache: batch number `step` is a function of (cache, options,
// step), so that a resumed run continues where it was, without going through what came before.
//
// An example of n tokens gives n−1 positions: token t is the input, token t+1 the target where it
// is learned. Positions come in rows of at most `length`; a batch is `rows` rows. What of an
// example lies in a row is a span, and attention must not leave it: its positions begin at 0.
//
//   cut     examples in a random order, end to end, cut where a row is full: rows are exactly
//           `length` long (but the last), and nothing is lost. What is cut begins anew in the next
//           row, without the tokens in front of it. For texts.
//   whole   the same, but an example that fits into a row is never cut: where the rest of a row is
//           too short for it, the next row begins. Longer ones are cut into rows. Nothing is lost.
//           For conversations.
//   single  a row for each example, of at most `length` positions; the rest is lost, and counted.
//
// Rows are laid once, in an order that the seed gives, and each epoch goes through them in another
// order. Examples and rows in which nothing is learned are left out: every row has a target.
//
// Held-out data: all examples are cut into blocks of 4096 positions, of which a share, drawn by the
// seed, is kept from training; an example below that length is kept out as a whole.
//
// Memory: 16 bytes for each example and 24 for each row; orders take none (permutation.h).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/options.h"
#include "text/permutation.h"
#include "text/token_cache.h"

namespace hone {

struct BatchOptions {
  int64_t rows = 8;             // of a batch
  int64_t length = 512;         // most positions in a row
  std::string packing = "cut";  // cut, whole, single
  double held_out = 0;          // share of the data that is kept from training, 0 ... 0.5
  uint64_t seed = 0;
};

/// Rows laid end to end: T positions in all.
struct TrainingBatch {
  struct Span {
    int64_t begin = 0, end = 0;  // of positions in this batch
  };
  std::vector<int32_t> tokens;     // [T] inputs
  std::vector<int32_t> targets;    // [T] what follows each; −1: nothing is learned there
  std::vector<Span> spans;         // cover 0 ... T in order
  std::vector<int64_t> row_spans;  // [rows+1] the first span of each row, and their number
  int64_t target_count = 0;        // targets that are not −1; at least one in each row

  int64_t rows() const { return static_cast<int64_t>(row_spans.size()) - 1; }
};

/// The batch in `parts` batches that follow each other, for accumulation: their target_count add up
/// to the batch's, which is what gradients are divided by. Raises invalid_argument unless
/// 1 ≤ parts ≤ rows.
std::vector<TrainingBatch> split_batch(const TrainingBatch& batch, int64_t parts);

class Batches {
 public:
  /// Which examples: all, or one side of the split by `held_out`.
  enum class Part { all, train, held_out };

  struct Left {            // what no row holds
    int64_t examples = 0;  // in which nothing is learned (or nothing of the first `length`)
    int64_t targets = 0;   // cut off (single)
  };

  /// Raises invalid_argument on options out of range, and where nothing is left to learn.
  Batches(std::shared_ptr<const TokenCache> cache, const BatchOptions& options, Part part);

  /// In an epoch.
  int64_t rows() const { return static_cast<int64_t>(rows_.size()); }
  int64_t targets() const { return targets_; }
  const Left& left() const { return left_; }
  /// Steps that go through each row at least once: ⌈rows / rows of a batch⌉.
  int64_t steps() const;

  /// Batch `step` of an endless stream, 0 ≤ step: the epochs' rows one behind the other, so that a
  /// batch may hold the end of one epoch and the beginning of the next.
  TrainingBatch batch(int64_t step) const;
  /// Batch `step` of one pass in a fixed order, 0 ≤ step < steps(); the last may be short.
  TrainingBatch pass_batch(int64_t step) const;

 private:
  // Positions [begin, end) of the cache: their inputs; targets lie one further.
  struct Segment {
    int64_t begin, end;
  };
  // Positions that begin `offset` behind the beginning of the segment that stands at place `first`.
  struct Row {
    int64_t first, offset, positions;
  };
  void split(Part part);
  void lay();
  int64_t targets_in(int64_t begin, int64_t end) const {
    return cache_->count_learned(begin + 1, end + 1);
  }
  const Segment& segment(int64_t place) const { return segments_[order_(place)]; }
  void add_row(int64_t row, TrainingBatch& batch) const;

  std::shared_ptr<const TokenCache> cache_;
  BatchOptions options_;
  std::vector<Segment> segments_;
  Permutation order_{0, 0};
  std::vector<Row> rows_;
  int64_t targets_ = 0;
  Left left_;
};

}  // namespace hone
