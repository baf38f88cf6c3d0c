#include "attention/pattern.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cstdlib>

#include "base/error.h"

namespace hone {
namespace {

using Kind = PatternNode::Kind;

bool leaf_sees(const PatternNode& n, int64_t q, int64_t k) {
  switch (n.kind) {
    case Kind::causal:
      return k <= q;
    case Kind::window:
      return std::llabs(q - k) < n.a;
    case Kind::prefix:
      return k < n.a;
    default:
      return true;
  }
}

// Of q − k over a rectangle only the smallest and largest value matter.
TileKind leaf_classify(const PatternNode& n, int64_t q0, int64_t q1, int64_t k0, int64_t k1) {
  int64_t low = q0 - (k1 - 1), high = (q1 - 1) - k0;
  auto verdict = [](bool all, bool none) {
    return all ? TileKind::full : none ? TileKind::empty : TileKind::partial;
  };
  switch (n.kind) {
    case Kind::causal:
      return verdict(low >= 0, high < 0);
    case Kind::window:
      return verdict(low > -n.a && high < n.a, high <= -n.a || low >= n.a);
    case Kind::prefix:
      return verdict(k1 <= n.a, k0 >= n.a);
    default:
      return TileKind::full;
  }
}

// Bits of the keys [begin, end) among the 64 from k0 on.
uint64_t interval(int64_t begin, int64_t end, int64_t k0) {
  begin = std::clamp<int64_t>(begin - k0, 0, 64);
  end = std::clamp<int64_t>(end - k0, begin, 64);
  auto below = [](int64_t n) { return n == 64 ? ~uint64_t{0} : (uint64_t{1} << n) - 1; };
  return below(end) & ~below(begin);
}

uint64_t leaf_mask(const PatternNode& n, int64_t q, int64_t k0) {
  switch (n.kind) {
    case Kind::causal:
      return interval(k0, q + 1, k0);
    case Kind::window:
      return interval(q - n.a + 1, q + n.a, k0);
    case Kind::prefix:
      return interval(k0, n.a, k0);
    default:
      return ~uint64_t{0};
  }
}

TileKind invert(TileKind t) {
  return t == TileKind::full ? TileKind::empty : t == TileKind::empty ? TileKind::full : t;
}
TileKind both(TileKind a, TileKind b) {
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
template <typename T, typename Leaf, typename And, typename Not>
T evaluate(const std::vector<PatternNode>& nodes, Leaf leaf, And land, Not lnot) {
  // Not a vector: this runs for every tile of every unit.
  std::array<T, kMostDepth> stack{};
  size_t size = 0;
  for (const PatternNode& n : nodes) {
    if (n.kind == Kind::lnot) {
      stack[size - 1] = lnot(stack[size - 1]);
    } else if (n.kind == Kind::land || n.kind == Kind::lor) {
      --size;
      T &a = stack[size - 1], &b = stack[size];
      // a | b = !(!a & !b)
      a = n.kind == Kind::land ? land(a, b) : lnot(land(lnot(a), lnot(b)));
    } else {
      stack[size++] = leaf(n);
    }
  }
  HONE_ASSERT(size == 1);
  return stack[0];
}

}  // namespace

Pattern Pattern::operator!() const {
  Pattern p = *this;
  p.nodes_.push_back({Kind::lnot, 0});
  return p;
}

Pattern Pattern::join(const Pattern& b, Kind kind) const {
  Pattern p = *this;
  p.nodes_.insert(p.nodes_.end(), b.nodes_.begin(), b.nodes_.end());
  p.nodes_.push_back({kind, 0});
  HONE_CHECK(depth_of(p.nodes_) <= kMostDepth, invalid_argument,
             "a pattern of {} nested operands: expected at most {}", depth_of(p.nodes_),
             kMostDepth);
  return p;
}

bool Pattern::sees(int64_t q, int64_t k) const {
  return evaluate<char>(
             nodes_, [&](const PatternNode& n) { return char(leaf_sees(n, q, k)); },
             [](char a, char b) { return char(a && b); }, [](char a) { return char(!a); }) != 0;
}

TileKind Pattern::classify(int64_t q0, int64_t q1, int64_t k0, int64_t k1) const {
  return evaluate<TileKind>(
      nodes_, [&](const PatternNode& n) { return leaf_classify(n, q0, q1, k0, k1); }, both, invert);
}

uint64_t Pattern::mask(int64_t q, int64_t k0) const {
  return evaluate<uint64_t>(
      nodes_, [&](const PatternNode& n) { return leaf_mask(n, q, k0); },
      [](uint64_t a, uint64_t b) { return a & b; }, [](uint64_t a) { return ~a; });
}

int64_t Pattern::reach() const {
  return evaluate<int64_t>(
      nodes_, [](const PatternNode& n) { return n.kind == Kind::window ? n.a : INT64_MAX; },
      [](int64_t a, int64_t b) { return std::min(a, b); }, [](int64_t) { return INT64_MAX; });
}

Horizon Pattern::horizon() const {
  struct Both {
    Horizon seen, unseen;
  };
  auto leaf = [](const PatternNode& n) -> Both {
    if (n.kind == Kind::window) return {{0, n.a}, {}};
    if (n.kind == Kind::prefix) return {{n.a, 0}, {}};
    return {};
  };
  auto both = [](const Both& a, const Both& b) -> Both {
    return {{std::max(a.seen.first, b.seen.first), std::min(a.seen.reach, b.seen.reach)},
            a.unseen | b.unseen};
  };
  return evaluate<Both>(nodes_, leaf, both,
                        [](const Both& a) -> Both {
                          return {a.unseen, a.seen};
                        })
      .seen;
}

std::string Pattern::describe() const {
  return evaluate<std::string>(
      nodes_,
      [](const PatternNode& n) -> std::string {
        switch (n.kind) {
          case Kind::causal:
            return "causal";
          case Kind::window:
            return fmt::format("window({})", n.a);
          case Kind::prefix:
            return fmt::format("prefix({})", n.a);
          default:
            return "all";
        }
      },
      [](const std::string& a, const std::string& b) { return fmt::format("({} & {})", a, b); },
      [](const std::string& a) { return "!" + a; });
}

}  // namespace hone
