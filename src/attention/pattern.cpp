#include "attention/pattern.h"

#include <fmt/core.h>

#include <algorithm>
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

TileKind invert(TileKind t) {
  return t == TileKind::full ? TileKind::empty : t == TileKind::empty ? TileKind::full : t;
}
TileKind both(TileKind a, TileKind b) {
  if (a == TileKind::empty || b == TileKind::empty) return TileKind::empty;
  return a == TileKind::full && b == TileKind::full ? TileKind::full : TileKind::partial;
}

// Evaluates the postfix array over any value type.
template <typename T, typename Leaf, typename And, typename Not>
T evaluate(const std::vector<PatternNode>& nodes, Leaf leaf, And land, Not lnot) {
  std::vector<T> stack;
  for (const PatternNode& n : nodes) {
    if (n.kind == Kind::lnot) {
      stack.back() = lnot(stack.back());
    } else if (n.kind == Kind::land || n.kind == Kind::lor) {
      T b = stack.back();
      stack.pop_back();
      T a = stack.back();
      // a | b = !(!a & !b)
      stack.back() = n.kind == Kind::land ? land(a, b) : lnot(land(lnot(a), lnot(b)));
    } else {
      stack.push_back(leaf(n));
    }
  }
  HONE_ASSERT(stack.size() == 1);
  return stack.back();
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
  uint64_t bits = 0;
  for (int j = 0; j < 64; ++j)
    if (sees(q, k0 + j)) bits |= uint64_t{1} << j;
  return bits;
}

int64_t Pattern::reach() const {
  return evaluate<int64_t>(
      nodes_, [](const PatternNode& n) { return n.kind == Kind::window ? n.a : INT64_MAX; },
      [](int64_t a, int64_t b) { return std::min(a, b); }, [](int64_t) { return INT64_MAX; });
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
