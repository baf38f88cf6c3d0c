// What the leaves of a Pattern show: one line of a table for each kind (pattern_leaf.cpp).
//
// A leaf gives a predicate on a pair of positions, and for a rectangle of queries × keys two sets
// of intervals of keys: those that some query sees, and those that every query sees. The first may
// be too large and the second too small, never the other way round; for a single query both are
// exact. Tests hold the intervals against the predicate.
#pragma once

#include <cstdint>
#include <string_view>

#include "attention/pattern.h"

namespace hone {

struct PatternLeaf {
  const PatternNode& n;
  const int64_t* list;
};

/// Queries [q0, q1) × keys [k0, k1). Coarse: gaps of less than a tile may be filled, so that there
/// are no more intervals than tiles.
struct Rectangle {
  int64_t q0, q1, k0, k1;
  bool coarse;
};

/// Takes the intervals of one leaf, which may reach beyond the rectangle; those of `every` neither
/// touch nor overlap, those of `some` may.
class KeySink {
 public:
  virtual ~KeySink() = default;
  virtual void some(int64_t begin, int64_t end) = 0;
  virtual void every(int64_t begin, int64_t end) = 0;
  void both(int64_t begin, int64_t end) {
    some(begin, end);
    every(begin, end);
  }
};

bool leaf_sees(PatternLeaf leaf, int64_t q, int64_t k);
void leaf_keys(PatternLeaf leaf, const Rectangle& r, KeySink& sink);
/// |query − key| < reach; INT64_MAX where there is no bound.
int64_t leaf_reach(PatternLeaf leaf);
/// No query sees a key behind it; may be false where that is true by chance.
bool leaf_is_causal(const PatternNode& leaf);

/// How a leaf is written: name(the first `numbers` of a, b, c, d, then the list).
struct LeafForm {
  enum class List { none, numbers, ranges, pairs };
  std::string_view name;
  int numbers;
  List list;
};
LeafForm leaf_form(PatternNode::Kind kind);

/// The b distinct key blocks, in no order, that a random leaf shows to block `row` of the queries;
/// `out` has space for kMostRandom. Returns how many.
constexpr int64_t kMostRandom = 64;
int64_t random_blocks(const PatternNode& n, int64_t row, int64_t* out);

}  // namespace hone
