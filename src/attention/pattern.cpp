#include "attention/pattern.h"

#include <algorithm>
#include <array>
#include <iterator>

#include "attention/pattern_leaf.h"
#include "base/checked.h"
#include "base/error.h"

namespace hone {
namespace {

using Kind = PatternNode::Kind;

TileKind invert(TileKind t) {
  return t == TileKind::full ? TileKind::empty : t == TileKind::empty ? TileKind::full : t;
}
TileKind both_kinds(TileKind a, TileKind b) {
  if (a == TileKind::empty || b == TileKind::empty) return TileKind::empty;
  return a == TileKind::full && b == TileKind::full ? TileKind::full : TileKind::partial;
}

constexpr size_t kMostDepth = 16;

// Operands of a postfix array that wait at once.
size_t depth_of(const std::vector<PatternNode>& nodes) {
  size_t size = 0, most = 0;
  for (const PatternNode& n : nodes) {
    if (n.kind == Kind::land || n.kind == Kind::lor)
      --size;
    else if (n.kind != Kind::lnot)
      most = std::max(most, ++size);
  }
  return most;
}

// Evaluates the postfix array over any value type.
template <typename T, typename LeafValue, typename And, typename Not>
T evaluate(const Pattern& p, LeafValue value, And land, Not lnot) {
  // Not a vector: this runs for every row of a partial tile.
  std::array<T, kMostDepth> stack{};
  size_t size = 0;
  for (const PatternNode& n : p.nodes()) {
    if (n.kind == Kind::lnot) {
      stack[size - 1] = lnot(std::move(stack[size - 1]));
    } else if (n.kind == Kind::land || n.kind == Kind::lor) {
      --size;
      T &a = stack[size - 1], &b = stack[size];
      // a | b = !(!a & !b)
      a = n.kind == Kind::land ? land(a, b) : lnot(land(lnot(std::move(a)), lnot(std::move(b))));
    } else {
      stack[size++] = value(PatternLeaf{n, p.list(n)});
    }
  }
  HONE_ASSERT(size == 1);
  return std::move(stack[0]);
}

// Bits of the keys [begin, end) among the 64 from k0 on.
uint64_t interval(int64_t begin, int64_t end, int64_t k0) {
  begin = std::clamp<int64_t>(begin - k0, 0, 64);
  end = std::clamp<int64_t>(end - k0, begin, 64);
  auto below = [](int64_t n) { return n == 64 ? ~uint64_t{0} : (uint64_t{1} << n) - 1; };
  return below(end) & ~below(begin);
}

// For one query both sets of intervals are exact: either is the mask.
struct Bits : KeySink {
  explicit Bits(int64_t k0_) : k0(k0_) {}
  void some(int64_t begin, int64_t end) override { bits |= interval(begin, end, k0); }
  void every(int64_t, int64_t) override {}
  int64_t k0;
  uint64_t bits = 0;
};

struct Verdict : KeySink {
  explicit Verdict(const Rectangle& r_) : r(r_) {}
  void some(int64_t begin, int64_t end) override {
    any |= std::max(begin, r.k0) < std::min(end, r.k1);
  }
  void every(int64_t begin, int64_t end) override {
    covered += std::max<int64_t>(0, std::min(end, r.k1) - std::max(begin, r.k0));
  }
  TileKind kind() const {
    return !any ? TileKind::empty : covered == r.k1 - r.k0 ? TileKind::full : TileKind::partial;
  }
  const Rectangle& r;
  bool any = false;
  int64_t covered = 0;
};

// Ascending, neither touching nor overlapping.
using Ranges = std::vector<KeyRange>;

void normalise(Ranges& x) {
  if (!std::is_sorted(x.begin(), x.end())) std::sort(x.begin(), x.end());
  size_t size = 0;
  for (const KeyRange& r : x)
    if (size > 0 && r.begin <= x[size - 1].end)
      x[size - 1].end = std::max(x[size - 1].end, r.end);
    else
      x[size++] = r;
  x.resize(size);
}

struct KeySets : KeySink {
  KeySets() = default;
  explicit KeySets(const Rectangle& r) : k0(r.k0), k1(r.k1) {}
  void some(int64_t begin, int64_t end) override { add(some_keys, begin, end); }
  void every(int64_t begin, int64_t end) override { add(every_key, begin, end); }
  void add(Ranges& to, int64_t begin, int64_t end) const {
    begin = std::max(begin, k0);
    end = std::min(end, k1);
    if (begin < end) to.push_back({begin, end});
  }
  int64_t k0 = 0, k1 = 0;
  Ranges some_keys, every_key;
};

Ranges intersection(const Ranges& a, const Ranges& b) {
  Ranges out;
  for (size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    const int64_t begin = std::max(a[i].begin, b[j].begin), end = std::min(a[i].end, b[j].end);
    if (begin < end) out.push_back({begin, end});
    a[i].end < b[j].end ? ++i : ++j;
  }
  return out;
}

Ranges complement(const Ranges& a, int64_t k0, int64_t k1) {
  Ranges out;
  int64_t at = k0;
  for (const KeyRange& r : a) {
    if (at < r.begin) out.push_back({at, r.begin});
    at = r.end;
  }
  if (at < k1) out.push_back({at, k1});
  return out;
}

KeySets key_sets(const Pattern& p, const Rectangle& r) {
  return evaluate<KeySets>(
      p,
      [&](PatternLeaf leaf) {
        KeySets sets(r);
        leaf_keys(leaf, r, sets);
        normalise(sets.some_keys);
        normalise(sets.every_key);
        return sets;
      },
      [&](const KeySets& a, const KeySets& b) {
        KeySets sets(r);
        sets.some_keys = intersection(a.some_keys, b.some_keys);
        sets.every_key = intersection(a.every_key, b.every_key);
        return sets;
      },
      [&](const KeySets& a) {
        KeySets sets(r);
        sets.some_keys = complement(a.every_key, r.k0, r.k1);
        sets.every_key = complement(a.some_keys, r.k0, r.k1);
        return sets;
      });
}

}  // namespace

Pattern Pattern::listed(PatternNode leaf, std::vector<int64_t> list) {
  leaf.count = std::ssize(list);
  Pattern p(leaf);
  if (!list.empty()) p.list_ = std::make_shared<const std::vector<int64_t>>(std::move(list));
  return p;
}

Pattern Pattern::operator!() const {
  Pattern p = *this;
  p.nodes_.push_back({.kind = Kind::lnot});
  return p;
}

Pattern Pattern::join(const Pattern& b, Kind kind) const {
  Pattern p = *this;
  int64_t shift = 0;
  if (b.list_ != nullptr && p.list_ != nullptr) {
    shift = std::ssize(*p.list_);
    std::vector<int64_t> list = *p.list_;
    list.insert(list.end(), b.list_->begin(), b.list_->end());
    p.list_ = std::make_shared<const std::vector<int64_t>>(std::move(list));
  } else if (b.list_ != nullptr) {
    p.list_ = b.list_;
  }
  for (PatternNode n : b.nodes_) {
    if (n.count > 0) n.first += shift;
    p.nodes_.push_back(n);
  }
  p.nodes_.push_back({.kind = kind});
  HONE_CHECK(depth_of(p.nodes_) <= kMostDepth, invalid_argument,
             "a pattern of {} nested operands: expected at most {}", depth_of(p.nodes_),
             kMostDepth);
  return p;
}

bool Pattern::operator==(const Pattern& other) const {
  return nodes_ == other.nodes_ &&
         (list_ == other.list_ || (list_ && other.list_ && *list_ == *other.list_));
}

bool Pattern::sees(int64_t q, int64_t k) const {
  return evaluate<char>(
             *this, [&](PatternLeaf leaf) { return char(leaf_sees(leaf, q, k)); },
             [](char a, char b) { return char(a && b); }, [](char a) { return char(!a); }) != 0;
}

TileKind Pattern::classify(int64_t q0, int64_t q1, int64_t k0, int64_t k1) const {
  const Rectangle r{q0, q1, k0, k1, false};
  return evaluate<TileKind>(
      *this,
      [&](PatternLeaf leaf) {
        Verdict verdict(r);
        leaf_keys(leaf, r, verdict);
        return verdict.kind();
      },
      both_kinds, invert);
}

uint64_t Pattern::mask(int64_t q, int64_t k0) const {
  const Rectangle r{q, q + 1, k0, k0 + kTile, false};
  return evaluate<uint64_t>(
      *this,
      [&](PatternLeaf leaf) {
        Bits bits(k0);
        leaf_keys(leaf, r, bits);
        return bits.bits;
      },
      [](uint64_t a, uint64_t b) { return a & b; }, [](uint64_t a) { return ~a; });
}

std::vector<TileRun> Pattern::tile_runs(int64_t q0, int64_t q1, int64_t keys) const {
  // What is out of reach is not looked at, be it full of strides.
  const int64_t limit = std::min(reach(), kUnlimited);
  const int64_t k0 = std::max<int64_t>(0, q0 - limit + 1) / kTile * kTile;
  const int64_t k1 = std::min(keys, q1 - 1 + limit);
  std::vector<TileRun> runs;
  if (q0 >= q1 || k0 >= k1) return runs;
  const KeySets sets = key_sets(*this, {q0, q1, k0, k1, true});
  // Whole tiles that every query sees.
  Ranges full;
  for (const KeyRange& r : sets.every_key) {
    const int64_t end = r.end == keys ? ceil_div(keys, kTile) : r.end / kTile;
    if (ceil_div(r.begin, kTile) < end) full.push_back({ceil_div(r.begin, kTile), end});
  }
  auto next = full.begin();
  auto add = [&](int64_t first, int64_t last, TileKind kind) {
    if (first >= last) return;
    if (!runs.empty() && runs.back().last == first && runs.back().kind == kind)
      runs.back().last = last;
    else
      runs.push_back({first, last, kind});
  };
  for (const KeyRange& r : sets.some_keys) {
    int64_t at = std::max(r.begin / kTile, runs.empty() ? 0 : runs.back().last);
    const int64_t end = ceil_div(r.end, kTile);
    while (next != full.end() && next->end <= at) ++next;
    for (auto f = next; at < end; ++f) {
      const bool none = f == full.end() || f->begin >= end;
      const int64_t begin = none ? end : std::max(at, f->begin);
      add(at, begin, TileKind::partial);
      at = none ? end : std::min(end, f->end);
      add(begin, at, TileKind::full);
    }
  }
  return runs;
}

int64_t Pattern::reach() const {
  return evaluate<int64_t>(
      *this, [](PatternLeaf leaf) { return leaf_reach(leaf); },
      [](int64_t a, int64_t b) { return std::min(a, b); }, [](int64_t) { return INT64_MAX; });
}

bool Pattern::is_causal() const {
  struct Behind {  // of the keys behind a query
    bool none, all;
  };
  return evaluate<Behind>(
             *this,
             [](PatternLeaf l) -> Behind {
               return {leaf_is_causal(l.n), l.n.kind == Kind::all};
             },
             [](const Behind& a, const Behind& b) -> Behind {
               return {a.none || b.none, a.all && b.all};
             },
             [](const Behind& a) -> Behind {
               return {a.all, a.none};
             })
      .none;
}

Horizon Pattern::horizon() const {
  struct Both {
    Horizon seen, unseen;
  };
  auto leaf = [](PatternLeaf n) -> Both {
    if (n.n.kind == Kind::prefix) return {{n.n.a, 0}, {}};
    return {{0, leaf_reach(n)}, {}};
  };
  auto both = [](const Both& a, const Both& b) -> Both {
    return {{std::max(a.seen.first, b.seen.first), std::min(a.seen.reach, b.seen.reach)},
            a.unseen | b.unseen};
  };
  return evaluate<Both>(*this, leaf, both,
                        [](const Both& a) -> Both {
                          return {a.unseen, a.seen};
                        })
      .seen;
}

}  // namespace hone
