// How attend() splits its work, and what of it a plan needs to know: units of query rows that share
// one pass over the keys, splits of the keys, and the items that threads take.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "attention/attention.h"
#include "kernels/kernel_table.h"

namespace hone {

/// Query rows (heads of a group × positions) of one unit: what they need fits the second-level
/// cache beside a tile.
constexpr int64_t kUnitRows = 128;
/// Tiles of one part. The bounds are absolute, and parts are merged in order whether one thread
/// makes them or several, so that the bits are the same.
constexpr int64_t kSplitTiles = 8;
/// Units of so many rows and less wait for the memory that they read: they stream.
constexpr int64_t kStreamRows = 8;

/// Positions [first, last) of a span that run together, and the tiles that they need: the same for
/// every head.
struct AttentionRows {
  const SequenceSpan* span;
  int64_t sequence;  ///< index of the span
  int64_t first, last;
  std::vector<TileRun> runs;
  std::vector<int64_t> splits;  ///< that hold tiles; the first where none does
};
struct AttentionUnit {
  const AttentionRows* rows;
  int64_t kv_head;
};

int64_t keys_of(const SequenceSpan& s);
std::vector<AttentionRows> plan_rows(const AttentionSpec& spec,
                                     const std::vector<SequenceSpan>& spans);
/// They point into `rows`.
std::vector<AttentionUnit> plan_units(const AttentionSpec& spec,
                                      const std::vector<AttentionRows>& rows);
inline int64_t unit_rows(const AttentionSpec& spec, const AttentionUnit& u) {
  return spec.heads / spec.kv_heads * (u.rows->last - u.rows->first);
}

inline bool streams(const AttentionSpec& spec, const AttentionUnit& u) {
  return unit_rows(spec, u) <= kStreamRows;
}

/// Floats of a part of so many rows; a multiple of a cache line.
int64_t part_floats(int64_t rows, int64_t v_dim);
/// Why a thread runs whole units, instead of all sharing the splits of a few; empty where they
/// share. The bits are the same.
std::string_view why_not_shared_splits(const AttentionSpec& spec,
                                       const std::vector<AttentionUnit>& units);

/// What a thread takes: a unit, or one split of it.
struct WorkItem {
  int64_t unit;
  int64_t split;  ///< index into its splits; −1: all of them
  int64_t at;     ///< floats in front of its part, which other threads merge; of one split only
};
/// The items of a batch in its order, of either kind.
struct WorkList {
  std::vector<WorkItem> computing, streaming;
  int64_t part_floats = 0;  ///< of all items that are one split
  /// How often a line is fetched where tiles that stream are read beside tiles that compute: often
  /// where there are more lines than the slower pace has room for.
  kernels::FetchPace pace = kernels::kFetchSeldom;
};
/// `tile_lines`: cache lines of a page's keys and values, of one head.
WorkList plan_work(const AttentionSpec& spec, const std::vector<AttentionUnit>& units,
                   int64_t tile_lines);
/// Steps of the products of a tile and so many rows: as many as lines can be fetched meanwhile,
/// times the pace.
int64_t product_steps(const AttentionSpec& spec, int64_t rows);

}  // namespace hone
