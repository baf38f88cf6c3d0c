// Pattern: which keys a query sees, as a closed algebra.
//
// A Pattern is a flat postfix array of fixed-size nodes: leaves are predicates on (query position,
// key position), inner nodes are and/or/not; numbers without a bound (global tokens, documents,
// blocks) lie beside it in one list that copies share. What it shows is found by interval
// arithmetic: a leaf says which intervals of keys some query of a range sees, and which every one
// does (pattern_leaf.h). From that come the tiles that a range of queries needs, so that planning
// costs what is kept and not what there is, and the bits of a partial tile. Kernels see only tiles.
//
// Positions are below 2^60; a query's may be negative (more queries than keys), a key's not.
#pragma once

#include <algorithm>
#include <compare>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace hone {

struct PatternNode {
  enum class Kind : uint8_t {
    all,        ///< every key
    causal,     ///< key ≤ query
    window,     ///< |query − key| < a: with causal, a query sees a keys, itself among them (the
                ///< convention of Hugging Face and Gemma)
    band,       ///< query − a ≤ key ≤ query + b (FlashAttention's window_size, flashinfer's
                ///< window_left): a query sees a + b + 1 keys
    prefix,     ///< key < a (attention sinks, prefix language models)
    block,      ///< in blocks of a: the query's own, b before it and c behind it
    stride,     ///< (query − key) mod a = 0
    summary,    ///< the last b keys of each block of a ("fixed" in Child et al. 2019)
    global,     ///< query or key is in the list, which holds ranges [begin, end)
    documents,  ///< query and key lie between the same two of the list's bounds
    random,     ///< b blocks of a keys for each block of queries, drawn from seed d among the first
                ///< c, or where c = 0 among those up to the query's own
    block_list,  ///< the list's pairs of blocks of a: query block·2^31 + key block
    land,
    lor,
    lnot,
  };
  Kind kind = Kind::all;
  int64_t a = 0, b = 0, c = 0, d = 0;
  int64_t first = 0, count = 0;  ///< its numbers in the pattern's list

  bool operator==(const PatternNode&) const = default;
};

enum class TileKind { empty, full, partial };

/// Keys [begin, end).
struct KeyRange {
  int64_t begin = 0, end = 0;
  auto operator<=>(const KeyRange&) const = default;
};

/// Tiles [first, last) of Pattern::kTile keys each, all full or all partial.
struct TileRun {
  int64_t first = 0, last = 0;
  TileKind kind = TileKind::full;
};

/// Where the keys are that a query at position q may see: below `first`, or above q − reach.
struct Horizon {
  int64_t first = 0;
  int64_t reach = INT64_MAX;
  bool operator==(const Horizon&) const = default;
  Horizon operator|(const Horizon& b) const {
    return {std::max(first, b.first), std::max(reach, b.reach)};
  }
  /// The least position, but for those below `first`, that queries from `q` on may see; at most q,
  /// whose key is still to be written.
  int64_t first_seen(int64_t q) const {
    return reach > q ? 0 : q - std::max<int64_t>(reach, 1) + 1;
  }
};

class Pattern {
 public:
  static constexpr int64_t kTile = 64;
  static constexpr int64_t kUnlimited = int64_t{1} << 60;

  /// Sees everything.
  Pattern() : nodes_{{}} {}
  static Pattern causal() { return Pattern({.kind = PatternNode::Kind::causal}); }
  /// Of a longer window or prefix so much is kept as positions reach; of a negative one nothing.
  static Pattern window(int64_t keys) { return limited(PatternNode::Kind::window, keys); }
  static Pattern prefix(int64_t keys) { return limited(PatternNode::Kind::prefix, keys); }
  /// A negative side has no limit, as in FlashAttention.
  static Pattern band(int64_t left, int64_t right);
  /// The following raise invalid_argument for sizes that make no sense.
  static Pattern block(int64_t size, int64_t before = 0, int64_t behind = 0);
  static Pattern stride(int64_t step);
  static Pattern summary(int64_t block, int64_t keys);
  static Pattern global(std::vector<KeyRange> tokens);
  /// Bounds between documents, ascending; what lies before the first and behind the last is one
  /// each. cu_seqlens is such a list.
  static Pattern documents(std::vector<int64_t> bounds);
  static Pattern random(int64_t block, int64_t count, int64_t blocks, int64_t seed);
  /// Pairs of (query block, key block).
  static Pattern block_list(int64_t block, const std::vector<std::pair<int64_t, int64_t>>& pairs);

  /// Compositions that the literature names.
  /// `keys` keys to each side, itself counted, of which each step-th.
  static Pattern dilated(int64_t keys, int64_t step);
  /// Sparse Transformers (Child et al. 2019), both with the row's last l keys or own block.
  static Pattern strided(int64_t l);
  static Pattern fixed(int64_t l, int64_t keys);
  /// Longformer (Beltagy et al. 2020): `side` keys to each side, the first `tokens` global.
  static Pattern longformer(int64_t side, int64_t tokens);
  /// BigBird (Zaheer et al. 2020) over `blocks` blocks: the first and last are global, a window of
  /// three, `count` random ones.
  static Pattern bigbird(int64_t block, int64_t count, int64_t blocks, int64_t seed);

  /// Raise invalid_argument beyond 16 operands that wait for each other.
  Pattern operator&(const Pattern& b) const { return join(b, PatternNode::Kind::land); }
  Pattern operator|(const Pattern& b) const { return join(b, PatternNode::Kind::lor); }
  Pattern operator!() const;

  /// Whether the query at position q sees the key at position k.
  bool sees(int64_t q, int64_t k) const;
  /// No query sees a key behind it. May be false of a pattern of which that is true by chance:
  /// `causal & anything` is always recognised.
  bool is_causal() const;
  /// The rectangle of queries [q0, q1) × keys [k0, k1), both non-empty. `partial` may be said of a
  /// rectangle that is in fact empty or full, never the other way round.
  TileKind classify(int64_t q0, int64_t q1, int64_t k0, int64_t k1) const;
  /// Bit j is set where the query sees key k0+j; j < 64.
  uint64_t mask(int64_t q, int64_t k0) const;
  /// The tiles of keys [0, keys) that queries [q0, q1) need, ascending; the last tile may be cut
  /// short by `keys`. Costs what it gives, and what there are of strides, documents' bounds and
  /// listed tokens.
  std::vector<TileRun> tile_runs(int64_t q0, int64_t q1, int64_t keys) const;
  /// No query sees a key so far away: |query − key| < reach. INT64_MAX where there is no bound.
  int64_t reach() const;
  /// As narrow as windows and prefixes say; no key elsewhere is seen.
  Horizon horizon() const;
  /// "causal & window(512)", in infix: what parse() reads.
  std::string describe() const;
  /// Raises invalid_argument with the place and what was expected there. docs/attention.md has the
  /// grammar.
  static Pattern parse(std::string_view text);

  const std::vector<PatternNode>& nodes() const { return nodes_; }
  /// The numbers of a leaf's list.
  const int64_t* list(const PatternNode& leaf) const {
    return list_ ? &(*list_)[leaf.first] : nullptr;
  }
  /// The same nodes on the same numbers.
  bool operator==(const Pattern& other) const;

 private:
  explicit Pattern(PatternNode leaf) : nodes_{leaf} {}
  static Pattern limited(PatternNode::Kind kind, int64_t keys) {
    return Pattern({.kind = kind, .a = std::clamp<int64_t>(keys, 0, kUnlimited)});
  }
  static Pattern listed(PatternNode leaf, std::vector<int64_t> list);
  Pattern join(const Pattern& b, PatternNode::Kind kind) const;

  std::vector<PatternNode> nodes_;
  std::shared_ptr<const std::vector<int64_t>> list_;
};

}  // namespace hone
