#include "text/batches.h"

#include <algorithm>
#include <cmath>

#include "base/checked.h"
#include "base/error.h"

namespace hone {
namespace {

constexpr int64_t kBlock = 4096;  // positions that are held out together

// Streams of random numbers that must not be the same.
enum class Stream : uint64_t { split = 1, order, epoch };

uint64_t key_of(uint64_t seed, Stream stream, uint64_t n = 0) {
  return mix64(mix64(mix64(seed) ^ static_cast<uint64_t>(stream)) ^ n);
}

}  // namespace

Batches::Batches(std::shared_ptr<const TokenCache> cache, const BatchOptions& options, Part part)
    : cache_(std::move(cache)), options_(options) {
  const BatchOptions& o = options_;
  HONE_CHECK(o.rows >= 1 && o.rows <= 1 << 20, invalid_argument,
             "rows of a batch: expected 1 to {}, got {}", 1 << 20, o.rows);
  HONE_CHECK(o.length >= 1 && o.length <= 1 << 30, invalid_argument,
             "length of a row: expected 1 to {}, got {}", 1 << 30, o.length);
  HONE_CHECK(o.packing == "cut" || o.packing == "whole" || o.packing == "single", invalid_argument,
             "packing: expected cut, whole or single, got '{}'", o.packing);
  HONE_CHECK(o.held_out >= 0 && o.held_out <= 0.5, invalid_argument,
             "held out: expected 0 to 0.5, got {}", o.held_out);
  split(part);
  order_ = Permutation(static_cast<int64_t>(segments_.size()), key_of(o.seed, Stream::order));
  lay();
  HONE_CHECK(!rows_.empty(), invalid_argument,
             "the {}data hold nothing to learn: {} examples, none with a token that is learned{}",
             part == Part::held_out ? "held-out " : "", cache_->examples(),
             o.packing == "single" ? " within the length of a row" : "");
}

void Batches::split(Part part) {
  const TokenCache& c = *cache_;
  int64_t blocks = 0;
  for (int64_t i = 0; i < c.examples(); ++i) blocks += ceil_div(c.end(i) - c.begin(i) - 1, kBlock);
  int64_t held = 0;
  if (part != Part::all && options_.held_out > 0 && blocks > 1)
    held = std::max<int64_t>(1, std::llround(options_.held_out * static_cast<double>(blocks)));
  const Permutation draw(blocks, key_of(options_.seed, Stream::split));
  int64_t block = 0;
  for (int64_t i = 0; i < c.examples(); ++i) {
    const int64_t end = c.end(i) - 1;
    const size_t before = segments_.size();
    bool joins = false;  // the block in front is in this part too
    for (int64_t at = c.begin(i); at < end; at += kBlock, ++block) {
      const bool takes = part == Part::all || (draw(block) < held) == (part == Part::held_out);
      const int64_t stop = std::min(at + kBlock, end);
      if (takes && joins)
        segments_.back().end = stop;
      else if (takes)
        segments_.push_back({at, stop});
      joins = takes;
    }
    // Nothing to learn, nothing to compute.
    auto empty = [&](const Segment& s) { return targets_in(s.begin, s.end) == 0; };
    const auto first = segments_.begin() + static_cast<int64_t>(before);
    const auto kept = std::remove_if(first, segments_.end(), empty);
    left_.examples += kept == first && first != segments_.end();
    segments_.erase(kept, segments_.end());
  }
}

void Batches::lay() {
  const bool whole = options_.packing == "whole", single = options_.packing == "single";
  Row open{0, 0, 0};
  int64_t open_targets = 0;
  auto close = [&] {
    if (open_targets > 0) {
      rows_.push_back(open);
      targets_ += open_targets;
    }
    open.positions = open_targets = 0;
  };
  for (int64_t place = 0; place < order_.size(); ++place) {
    const Segment s = segment(place);
    const int64_t all = s.end - s.begin, n = single ? std::min(all, options_.length) : all;
    for (int64_t done = 0; done < n;) {
      const int64_t rest = n - done;
      if (open.positions > 0 && (single || (whole && rest > options_.length - open.positions)))
        close();
      if (open.positions == 0) open = {place, done, 0};
      const int64_t take = std::min(rest, options_.length - open.positions);
      open_targets += targets_in(s.begin + done, s.begin + done + take);
      open.positions += take;
      done += take;
      if (open.positions == options_.length) close();
    }
    if (n < all) {
      left_.targets += targets_in(s.begin + n, s.end);
      left_.examples += targets_in(s.begin, s.begin + n) == 0;
    }
  }
  close();
  rows_.shrink_to_fit();
}

int64_t Batches::steps() const { return ceil_div(rows(), options_.rows); }

void Batches::add_row(int64_t index, TrainingBatch& batch) const {
  const Row& row = rows_[index];
  int64_t left = row.positions, offset = row.offset;
  for (int64_t place = row.first; left > 0; ++place, offset = 0) {
    const Segment& s = segment(place);
    const int64_t begin = s.begin + offset, end = std::min(begin + left, s.end);
    const auto at = static_cast<int64_t>(batch.tokens.size());
    for (int64_t t = begin; t < end; ++t) {
      const bool learned = cache_->is_learned(t + 1);
      batch.tokens.push_back(cache_->token(t));
      batch.targets.push_back(learned ? cache_->token(t + 1) : -1);
      batch.target_count += learned;
    }
    batch.spans.push_back({at, at + end - begin});
    left -= end - begin;
  }
  batch.row_spans.push_back(static_cast<int64_t>(batch.spans.size()));
}

TrainingBatch Batches::batch(int64_t step) const {
  HONE_ASSERT(step >= 0);
  const int64_t first = checked_mul(step, options_.rows, "step");
  TrainingBatch result;
  result.row_spans = {0};
  for (int64_t r = first; r < first + options_.rows; ++r) {
    const Permutation order(
        rows(), key_of(options_.seed, Stream::epoch, static_cast<uint64_t>(r / rows())));
    add_row(order(r % rows()), result);
  }
  return result;
}

TrainingBatch Batches::pass_batch(int64_t step) const {
  HONE_ASSERT(step >= 0 && step < steps());
  TrainingBatch result;
  result.row_spans = {0};
  const int64_t first = step * options_.rows;
  for (int64_t r = first; r < std::min(first + options_.rows, rows()); ++r) add_row(r, result);
  return result;
}

std::vector<TrainingBatch> split_batch(const TrainingBatch& batch, int64_t parts) {
  const int64_t rows = batch.rows();
  HONE_CHECK(parts >= 1 && parts <= rows, invalid_argument,
             "accumulation: {} parts of a batch of {} rows", parts, rows);
  std::vector<TrainingBatch> result(static_cast<size_t>(parts));
  for (int64_t p = 0; p < parts; ++p) {
    TrainingBatch& part = result[p];
    const int64_t first = rows * p / parts, last = rows * (p + 1) / parts;
    const int64_t first_span = batch.row_spans[first], last_span = batch.row_spans[last];
    const int64_t begin = batch.spans[first_span].begin, end = batch.spans[last_span - 1].end;
    part.tokens.assign(batch.tokens.begin() + begin, batch.tokens.begin() + end);
    part.targets.assign(batch.targets.begin() + begin, batch.targets.begin() + end);
    for (int64_t s = first_span; s < last_span; ++s)
      part.spans.push_back({batch.spans[s].begin - begin, batch.spans[s].end - begin});
    for (int64_t r = first; r <= last; ++r)
      part.row_spans.push_back(batch.row_spans[r] - first_span);
    part.target_count =
        std::count_if(part.targets.begin(), part.targets.end(), [](int32_t t) { return t >= 0; });
  }
  return result;
}

}  // namespace hone
