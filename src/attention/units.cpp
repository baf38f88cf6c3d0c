#include "attention/units.h"

#include <algorithm>
#include <span>

#include "base/checked.h"
#include "base/threads.h"

namespace hone {

int64_t keys_of(const SequenceSpan& s) {
  return s.keys >= 0 ? s.keys : std::max<int64_t>(0, s.start + s.end - s.begin);
}

// The last positions, which see the most keys, first, so that the threads end together.
std::vector<AttentionRows> plan_rows(const AttentionSpec& spec,
                                     const std::vector<SequenceSpan>& spans) {
  const int64_t positions = std::max<int64_t>(1, kUnitRows / (spec.heads / spec.kv_heads));
  std::vector<AttentionRows> rows;
  for (int64_t i = 0; i < std::ssize(spans); ++i)
    for (int64_t last = spans[i].end - spans[i].begin; last > 0; last -= positions)
      rows.push_back({&spans[i], i, std::max<int64_t>(0, last - positions), last, {}, {}});
  parallel_for(std::ssize(rows), 16, [&](int64_t begin, int64_t end) {
    for (AttentionRows& r : std::span(rows).subspan(begin, end - begin)) {
      const int64_t start = r.span->start;
      r.runs = spec.pattern.tile_runs(start + r.first, start + r.last, keys_of(*r.span));
      for (const TileRun& run : r.runs)
        for (int64_t s = run.first / kSplitTiles; s <= (run.last - 1) / kSplitTiles; ++s)
          if (r.splits.empty() || r.splits.back() < s) r.splits.push_back(s);
      if (r.splits.empty()) r.splits.push_back(0);
    }
  });
  return rows;
}

// Head by head, so that a head's keys stay in a cache.
std::vector<AttentionUnit> plan_units(const AttentionSpec& spec,
                                      const std::vector<AttentionRows>& rows) {
  std::vector<AttentionUnit> units;
  for (auto first = rows.begin(); first != rows.end();) {
    auto last = first;
    while (last != rows.end() && last->span == first->span) ++last;
    for (int64_t h = 0; h < spec.kv_heads; ++h)
      for (auto r = first; r != last; ++r) units.push_back({&*r, h});
    first = last;
  }
  return units;
}

int64_t part_floats(int64_t rows, int64_t v_dim) {
  return round_up(rows * (round_up(v_dim, kernels::kValueGroup) + 2), kernels::kPanel);
}

std::string_view why_not_shared_splits(const AttentionSpec& spec,
                                       const std::vector<AttentionUnit>& units) {
  constexpr int64_t kMostFloats = int64_t{4} << 20;
  size_t most_splits = 0;
  int64_t floats = 0;
  for (const AttentionUnit& u : units) {
    most_splits = std::max(most_splits, u.rows->splits.size());
    floats += std::ssize(u.rows->splits) * part_floats(unit_rows(spec, u), spec.v_dim);
  }
  if (most_splits <= 1) return "the keys that are seen are one split";
  if (std::ssize(units) >= 8 * thread_count()) return "there are units enough for all threads";
  if (floats > kMostFloats) return "the parts would need more than 16 MB";
  return {};
}

int64_t product_steps(const AttentionSpec& spec, int64_t rows) {
  constexpr int64_t kBlockRows = 8, kPairs = kernels::kPageKeys / (2 * kernels::kPanel);
  return ceil_div(rows, kBlockRows) *
         (kPairs * spec.k_dim + ceil_div(spec.v_dim, kernels::kValueGroup) * kernels::kPageKeys);
}

WorkList plan_work(const AttentionSpec& spec, const std::vector<AttentionUnit>& units,
                   int64_t tile_lines) {
  WorkList work;
  int64_t steps = 0, lines = 0;
  for (const bool stream : {false, true}) {
    std::vector<AttentionUnit> kind;
    for (const AttentionUnit& u : units)
      if (streams(spec, u) == stream) kind.push_back(u);
    const bool whole = !why_not_shared_splits(spec, kind).empty();
    std::vector<WorkItem>& items = stream ? work.streaming : work.computing;
    for (int64_t i = 0; i < std::ssize(units); ++i) {
      const AttentionUnit& u = units[i];
      if (streams(spec, u) != stream) continue;
      int64_t tiles = 0;
      for (const TileRun& run : u.rows->runs) tiles += run.last - run.first;
      (stream ? lines : steps) +=
          tiles * (stream ? tile_lines : product_steps(spec, unit_rows(spec, u)));
      if (whole) {
        items.push_back({i, -1, 0});
        continue;
      }
      for (int64_t s = 0; s < std::ssize(u.rows->splits); ++s) {
        items.push_back({i, s, work.part_floats});
        work.part_floats += part_floats(unit_rows(spec, u), spec.v_dim);
      }
    }
  }
  if (lines > steps / kernels::kFetchSeldom) work.pace = kernels::kFetchOften;
  return work;
}

}  // namespace hone
