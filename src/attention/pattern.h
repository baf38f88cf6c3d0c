// Pattern: which keys a query sees, as a closed algebra.
//
// A Pattern is a flat postfix array of fixed-size nodes: leaves are predicates on (query position,
// key position), inner nodes are and/or/not. Work is planned on tiles: classify() decides by
// interval arithmetic whether a rectangle of queries × keys is empty, full or partial, so that
// empty tiles cost nothing, and mask() gives the bits of a partial one. Kernels see only tiles.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

namespace hone {

struct PatternNode {
  enum class Kind : uint8_t {
    all,     ///< every key
    causal,  ///< key ≤ query
    window,  ///< |query − key| < a: with causal, a query sees a keys, itself among them (the
             ///< convention of Hugging Face and Gemma)
    prefix,  ///< key < a (attention sinks, prefix language models)
    land,
    lor,
    lnot,
  };
  Kind kind = Kind::all;
  int64_t a = 0;
};

enum class TileKind { empty, full, partial };

/// Where the keys are that a query at position q may see: below `first`, or above q − reach.
struct Horizon {
  int64_t first = 0;
  int64_t reach = INT64_MAX;
  Horizon operator|(const Horizon& b) const {
    return {std::max(first, b.first), std::max(reach, b.reach)};
  }
  /// The least position, but for those below `first`, that queries from `q` on may see.
  int64_t first_seen(int64_t q) const { return reach > q ? 0 : q - reach + 1; }
};

class Pattern {
 public:
  /// Sees everything.
  Pattern() : nodes_{{}} {}
  static Pattern causal() { return Pattern({PatternNode::Kind::causal, 0}); }
  /// Positions are below 2^60; of a longer window or prefix so much is kept.
  static Pattern window(int64_t keys) { return limited(PatternNode::Kind::window, keys); }
  static Pattern prefix(int64_t keys) { return limited(PatternNode::Kind::prefix, keys); }
  /// Raise invalid_argument beyond 16 operands that wait for each other.
  Pattern operator&(const Pattern& b) const { return join(b, PatternNode::Kind::land); }
  Pattern operator|(const Pattern& b) const { return join(b, PatternNode::Kind::lor); }
  Pattern operator!() const;

  /// Whether the query at position q sees the key at position k.
  bool sees(int64_t q, int64_t k) const;
  /// The rectangle of queries [q0, q1) × keys [k0, k1), both non-empty. `partial` may be said of a
  /// rectangle that is in fact empty or full, never the other way round.
  TileKind classify(int64_t q0, int64_t q1, int64_t k0, int64_t k1) const;
  /// Bit j is set where the query sees key k0+j; j < 64.
  uint64_t mask(int64_t q, int64_t k0) const;
  /// No query sees a key so far away: |query − key| < reach. INT64_MAX where there is no bound.
  int64_t reach() const;
  /// As narrow as windows and prefixes say; no key elsewhere is seen.
  Horizon horizon() const;
  /// "causal & window(512)", in infix.
  std::string describe() const;

  const std::vector<PatternNode>& nodes() const { return nodes_; }

 private:
  explicit Pattern(PatternNode leaf) : nodes_{leaf} {}
  static Pattern limited(PatternNode::Kind kind, int64_t keys) {
    return Pattern({kind, std::min(keys, int64_t{1} << 60)});
  }
  Pattern join(const Pattern& b, PatternNode::Kind kind) const;
  std::vector<PatternNode> nodes_;
};

}  // namespace hone
