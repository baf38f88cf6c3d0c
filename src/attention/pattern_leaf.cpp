#include "attention/pattern_leaf.h"

#include <algorithm>
#include <array>
#include <cstdlib>

#include "base/error.h"
#include "base/random.h"

namespace hone {
namespace {

using Kind = PatternNode::Kind;
using List = LeafForm::List;

// ⌊x/b⌋, of negative positions too.
int64_t floor_div(int64_t x, int64_t b) { return x / b - (x % b < 0); }

struct Leaf {
  Kind kind;
  LeafForm form;
  bool (*sees)(PatternLeaf, int64_t q, int64_t k);
  void (*keys)(PatternLeaf, const Rectangle&, KeySink&);
  int64_t (*reach)(const PatternNode&);
};

int64_t no_bound(const PatternNode&) { return INT64_MAX; }

// query − left ≤ key ≤ query + right: causal, window and band.
struct Sides {
  int64_t left, right;
};
Sides sides(const PatternNode& n) {
  if (n.kind == Kind::causal) return {2 * Pattern::kUnlimited, 0};
  if (n.kind == Kind::window) return {n.a - 1, n.a - 1};
  return {n.a, n.b};
}
bool side_sees(PatternLeaf l, int64_t q, int64_t k) {
  const Sides s = sides(l.n);
  return q - s.left <= k && k <= q + s.right;
}
void side_keys(PatternLeaf l, const Rectangle& r, KeySink& out) {
  const Sides s = sides(l.n);
  if (s.left + s.right < 0) return;
  out.some(r.q0 - s.left, r.q1 + s.right);
  out.every(r.q1 - 1 - s.left, r.q0 + s.right + 1);
}
int64_t side_reach(const PatternNode& n) {
  const Sides s = sides(n);
  const int64_t most = std::max(s.left, s.right);
  return most >= Pattern::kUnlimited - 1 ? INT64_MAX : most + 1;
}

bool prefix_sees(PatternLeaf l, int64_t, int64_t k) { return k < l.n.a; }
void prefix_keys(PatternLeaf l, const Rectangle&, KeySink& out) { out.both(0, l.n.a); }

bool block_sees(PatternLeaf l, int64_t q, int64_t k) {
  const int64_t at = floor_div(q, l.n.a), of = k / l.n.a;
  return at - l.n.b <= of && of <= at + l.n.c;
}
void block_keys(PatternLeaf l, const Rectangle& r, KeySink& out) {
  const auto& n = l.n;
  const int64_t first = floor_div(r.q0, n.a), last = floor_div(r.q1 - 1, n.a);
  out.some((first - n.b) * n.a, (last + n.c + 1) * n.a);
  out.every((last - n.b) * n.a, (first + n.c + 1) * n.a);
}
int64_t block_reach(const PatternNode& n) { return (std::max(n.b, n.c) + 1) * n.a; }

bool stride_sees(PatternLeaf l, int64_t q, int64_t k) { return (q - k) % l.n.a == 0; }
void stride_keys(PatternLeaf l, const Rectangle& r, KeySink& out) {
  const int64_t rows = r.q1 - r.q0, step = l.n.a;
  if (step == 1) return out.both(r.k0, r.k1);
  if (rows >= step || (r.coarse && step - rows < Pattern::kTile)) return out.some(r.k0, r.k1);
  // The first interval [k, k + rows) that ends behind k0.
  for (int64_t k = r.q0 - floor_div(r.q1 - 1 - r.k0, step) * step; k < r.k1; k += step)
    rows == 1 ? out.both(k, k + 1) : out.some(k, k + rows);
}

bool summary_sees(PatternLeaf l, int64_t, int64_t k) { return k % l.n.a >= l.n.a - l.n.b; }
void summary_keys(PatternLeaf l, const Rectangle& r, KeySink& out) {
  const int64_t block = l.n.a, gap = block - l.n.b;
  if (gap == 0) return out.both(r.k0, r.k1);
  if (r.coarse && gap < Pattern::kTile) return out.some(r.k0, r.k1);
  for (int64_t k = r.k0 / block * block; k < r.k1; k += block) out.both(k + gap, k + block);
}

// Lists of ranges hold begin, end, begin, end, … ascending. The first that ends behind x.
int64_t range_behind(PatternLeaf l, int64_t x) {
  int64_t low = 0, high = l.n.count / 2;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (l.list[2 * middle + 1] > x)
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}
bool in_ranges(PatternLeaf l, int64_t x) {
  const int64_t i = range_behind(l, x);
  return 2 * i < l.n.count && l.list[2 * i] <= x;
}
bool global_sees(PatternLeaf l, int64_t q, int64_t k) { return in_ranges(l, q) || in_ranges(l, k); }
void global_keys(PatternLeaf l, const Rectangle& r, KeySink& out) {
  const int64_t at = range_behind(l, r.q0);
  const bool any = 2 * at < l.n.count && l.list[2 * at] < r.q1;
  if (any && l.list[2 * at] <= r.q0 && r.q1 <= l.list[2 * at + 1]) return out.both(r.k0, r.k1);
  if (any) out.some(r.k0, r.k1);
  for (int64_t i = range_behind(l, r.k0); 2 * i < l.n.count && l.list[2 * i] < r.k1; ++i)
    out.both(l.list[2 * i], l.list[2 * i + 1]);
}

// The number of bounds at or below x.
int64_t document_of(PatternLeaf l, int64_t x) {
  return std::upper_bound(l.list, l.list + l.n.count, x) - l.list;
}
bool documents_sees(PatternLeaf l, int64_t q, int64_t k) {
  return document_of(l, q) == document_of(l, k);
}
void documents_keys(PatternLeaf l, const Rectangle& r, KeySink& out) {
  const int64_t first = document_of(l, r.q0), last = document_of(l, r.q1 - 1);
  const int64_t begin = first == 0 ? 0 : l.list[first - 1];
  const int64_t end = last == l.n.count ? r.k1 : l.list[last];
  out.some(begin, end);
  if (first == last) out.every(begin, end);
}

// Calls body(key block) for what query blocks [first, last] see.
template <typename F>
void each_random(const PatternNode& n, int64_t first, int64_t last, F body) {
  std::array<int64_t, kMostRandom> blocks;
  for (int64_t row = first; row <= last; ++row)
    std::for_each_n(blocks.begin(), random_blocks(n, row, blocks.data()), body);
}
bool random_sees(PatternLeaf l, int64_t q, int64_t k) {
  bool seen = false;
  const int64_t row = floor_div(q, l.n.a);
  each_random(l.n, row, row, [&](int64_t block) { seen |= block == k / l.n.a; });
  return seen;
}
void random_keys(PatternLeaf l, const Rectangle& r, KeySink& out) {
  const int64_t size = l.n.a, first = floor_div(r.q0, size), last = floor_div(r.q1 - 1, size);
  each_random(l.n, first, last, [&](int64_t block) {
    if (block * size >= r.k1 || (block + 1) * size <= r.k0) return;
    first == last ? out.both(block * size, (block + 1) * size)
                  : out.some(block * size, (block + 1) * size);
  });
}

constexpr int kPairBits = 31;
bool listed_sees(PatternLeaf l, int64_t q, int64_t k) {
  const int64_t row = floor_div(q, l.n.a), column = k / l.n.a;
  return row >= 0 && row >> kPairBits == 0 && column >> kPairBits == 0 &&
         std::binary_search(l.list, l.list + l.n.count, row << kPairBits | column);
}
void listed_keys(PatternLeaf l, const Rectangle& r, KeySink& out) {
  const int64_t size = l.n.a, first = std::max<int64_t>(0, floor_div(r.q0, size));
  const int64_t last = std::min(floor_div(r.q1 - 1, size), (int64_t{1} << kPairBits) - 1);
  const bool one = floor_div(r.q0, size) == last;
  const int64_t* end = l.list + l.n.count;
  for (int64_t row = first; row <= last; ++row) {
    const int64_t from = row << kPairBits | std::min(r.k0 / size, (int64_t{1} << kPairBits) - 1);
    for (const int64_t* p = std::lower_bound(l.list, end, from); p < end && *p >> kPairBits == row;
         ++p) {
      const int64_t k = (*p & ((int64_t{1} << kPairBits) - 1)) * size;
      if (k >= r.k1) break;
      one ? out.both(k, k + size) : out.some(k, k + size);
    }
  }
}

bool all_sees(PatternLeaf, int64_t, int64_t) { return true; }
void all_keys(PatternLeaf, const Rectangle& r, KeySink& out) { out.both(r.k0, r.k1); }

// In the order of Kind.
constexpr Leaf kLeaves[] = {
    {Kind::all, {"all", 0, List::none}, all_sees, all_keys, no_bound},
    {Kind::causal, {"causal", 0, List::none}, side_sees, side_keys, no_bound},
    {Kind::window, {"window", 1, List::none}, side_sees, side_keys, side_reach},
    {Kind::band, {"band", 2, List::none}, side_sees, side_keys, side_reach},
    {Kind::prefix, {"prefix", 1, List::none}, prefix_sees, prefix_keys, no_bound},
    {Kind::block, {"block", 3, List::none}, block_sees, block_keys, block_reach},
    {Kind::stride, {"stride", 1, List::none}, stride_sees, stride_keys, no_bound},
    {Kind::summary, {"summary", 2, List::none}, summary_sees, summary_keys, no_bound},
    {Kind::global, {"global", 0, List::ranges}, global_sees, global_keys, no_bound},
    {Kind::documents, {"documents", 0, List::numbers}, documents_sees, documents_keys, no_bound},
    {Kind::random, {"random", 4, List::none}, random_sees, random_keys, no_bound},
    {Kind::block_list, {"block_list", 1, List::pairs}, listed_sees, listed_keys, no_bound},
};

const Leaf& leaf_of(Kind kind) {
  const auto i = static_cast<size_t>(kind);
  HONE_ASSERT(i < std::size(kLeaves) && kLeaves[i].kind == kind);
  return kLeaves[i];
}

}  // namespace

bool leaf_sees(PatternLeaf leaf, int64_t q, int64_t k) {
  return leaf_of(leaf.n.kind).sees(leaf, q, k);
}
void leaf_keys(PatternLeaf leaf, const Rectangle& r, KeySink& sink) {
  leaf_of(leaf.n.kind).keys(leaf, r, sink);
}
int64_t leaf_reach(PatternLeaf leaf) { return leaf_of(leaf.n.kind).reach(leaf.n); }
bool leaf_is_causal(const PatternNode& n) {
  const bool sided = n.kind == Kind::causal || n.kind == Kind::window || n.kind == Kind::band;
  return sided && sides(n).right <= 0;
}
LeafForm leaf_form(Kind kind) { return leaf_of(kind).form; }

int64_t random_blocks(const PatternNode& n, int64_t row, int64_t* out) {
  if (row < 0) return 0;
  const int64_t among = n.c > 0 ? n.c : row + 1, count = std::min(n.b, among);
  // Floyd: one draw each, all sets equally likely.
  for (int64_t i = 0; i < count; ++i) {
    const int64_t top = among - count + i;
    const uint64_t key =
        mix64(static_cast<uint64_t>(n.d)) + static_cast<uint64_t>(row) * kMostRandom;
    const auto drawn =
        static_cast<int64_t>(static_cast<unsigned __int128>(mix64(key + static_cast<uint64_t>(i))) *
                                 static_cast<uint64_t>(top + 1) >>
                             64);
    out[i] = std::find(out, out + i, drawn) == out + i ? drawn : top;
  }
  return count;
}

}  // namespace hone
