#include "attention/attention.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <new>
#include <span>

#include "base/checked.h"
#include "base/threads.h"
#include "kernels/select.h"

namespace hone {
namespace {

using kernels::AttentionPart;
using kernels::kPageKeys;
using kernels::kPanel;
using kernels::kValueGroup;

// Query rows (heads of a group × positions) that share one pass over the keys: what they need fits
// the second-level cache beside a tile.
constexpr int64_t kUnitRows = 128;
// Keys of one part. The bounds are absolute, and parts are merged in order whether one thread makes
// them or several, so that the bits are the same.
constexpr int64_t kSplitKeys = 512;

struct Unit {
  const SequenceSpan* span;
  int64_t kv_head;
  int64_t first, last;  // positions inside the span
  int64_t splits;
};

int64_t keys_of(const SequenceSpan& s) { return s.start + s.end - s.begin; }

std::vector<Unit> plan_units(const AttentionSpec& spec, const std::vector<SequenceSpan>& spans) {
  int64_t per_position = spec.heads / spec.kv_heads;
  int64_t positions = std::max<int64_t>(1, kUnitRows / per_position);
  std::vector<Unit> units;
  // Head by head, so that a head's keys stay in a cache; the last positions, which see the most
  // keys, first, so that the threads end together.
  for (const SequenceSpan& s : spans)
    for (int64_t h = 0; h < spec.kv_heads; ++h)
      for (int64_t last = s.end - s.begin; last > 0; last -= positions)
        units.push_back({&s, h, std::max<int64_t>(0, last - positions), last,
                         ceil_div(keys_of(s), kSplitKeys)});
  return units;
}

// Floats that begin with a cache line: vectors that cross one are read and written twice.
class Buffer {
 public:
  /// Not initialised.
  float* take(int64_t n) {
    if (n > size_) {
      floats_.reset();
      floats_.reset(new (kLine) float[static_cast<size_t>(n)]);
      size_ = n;
    }
    return floats_.get();
  }

 private:
  static constexpr std::align_val_t kLine{64};
  struct Free {
    void operator()(float* p) const { ::operator delete[](p, kLine); }
  };
  std::unique_ptr<float[], Free> floats_;
  int64_t size_ = 0;
};

// Buffers of one thread, reused from unit to unit.
struct Workspace {
  std::vector<int64_t> q_offset, o_offset;
  std::vector<kernels::KvTile> tiles;
  std::vector<uint64_t> masks;
  Buffer scratch, total, more;
};

// The parts of `rows` rows that begin at `at`; a multiple of a cache line.
int64_t part_floats(int64_t rows, int64_t dv) {
  return round_up(rows * (round_up(dv, kValueGroup) + 2), kPanel);
}
AttentionPart part_at(float* at, int64_t rows, int64_t dv) {
  float* top = at + rows * round_up(dv, kValueGroup);
  return {at, top, top + rows};
}

class Attention {
 public:
  Attention(const AttentionSpec& spec, const Tensor& q, KvCache& cache, int64_t layer, Tensor& o,
            Tensor* log_sum)
      : spec_(spec),
        group_(spec.heads / spec.kv_heads),
        coded_(kv_is_coded(cache.type())),
        q_(q.data<float>()),
        o_(o.mutable_data<float>()),
        log_sum_(log_sum == nullptr ? nullptr : log_sum->mutable_data<float>()),
        cache_(cache),
        layer_(layer) {}

  int64_t rows(const Unit& u) const { return group_ * (u.last - u.first); }

  /// The part of the keys of one split; false where nothing sees any of them, which changes
  /// nothing, so that only the first split's part is made all the same.
  bool make_part(const Unit& u, int64_t split, Workspace& w, AttentionPart out) {
    plan_tiles(u, split * kSplitKeys, std::min(keys_of(*u.span), (split + 1) * kSplitKeys), w);
    if (w.tiles.empty() && split > 0) return false;
    locate(u, w);
    const int64_t n = rows(u), d = round_up(spec_.k_dim, kPanel);
    const int64_t dv = round_up(spec_.v_dim, kValueGroup);
    kernels::AttentionArgs a{};
    a.q = q_;
    a.q_offset = w.q_offset.data();
    a.tile = w.tiles.data();
    a.masks = w.masks.data();
    a.rows = n;
    a.tiles = std::ssize(w.tiles);
    a.d = spec_.k_dim;
    a.dv = spec_.v_dim;
    a.scale = spec_.scale;
    a.softcap = spec_.softcap;
    a.part = out;
    a.scratch = w.scratch.take(n * (2 * d + 2 * kPageKeys + 32) + kPageKeys * (d + dv) + 32);
    kernels::table().attention(&a);
    return true;
  }

  void merge(const Unit& u, AttentionPart into, AttentionPart from) const {
    kernels::table().attention_merge(rows(u), spec_.v_dim, into, from);
  }

  void finish(const Unit& u, Workspace& w, AttentionPart part) const {
    locate(u, w);
    kernels::table().attention_finish(rows(u), spec_.v_dim, part, w.o_offset.data(), o_);
    if (log_sum_ == nullptr) return;
    // Scores are kept in powers of two.
    for (int64_t r = 0; r < rows(u); ++r)
      log_sum_[w.o_offset[r] / spec_.v_dim] =
          static_cast<float>((part.top[r] + std::log2(double{part.sum[r]})) * M_LN2);
  }

  /// A whole unit, one split after the other.
  void run(const Unit& u, Workspace& w) {
    const int64_t n = rows(u);
    const int64_t floats = part_floats(n, spec_.v_dim);
    AttentionPart total = part_at(w.total.take(floats), n, spec_.v_dim);
    AttentionPart more = part_at(w.more.take(floats), n, spec_.v_dim);
    make_part(u, 0, w, total);
    for (int64_t split = 1; split < u.splits; ++split)
      if (make_part(u, split, w, more)) merge(u, total, more);
    finish(u, w, total);
  }

 private:
  void locate(const Unit& u, Workspace& w) const {
    w.q_offset.clear();
    w.o_offset.clear();
    for (int64_t p = u.first; p < u.last; ++p)
      for (int64_t g = 0; g < group_; ++g) {
        int64_t head = u.kv_head * group_ + g, row = u.span->begin + p;
        w.q_offset.push_back((row * spec_.heads + head) * spec_.k_dim);
        w.o_offset.push_back((row * spec_.heads + head) * spec_.v_dim);
      }
  }

  // The tiles of keys [begin, end) that some row sees.
  void plan_tiles(const Unit& u, int64_t begin, int64_t end, Workspace& w) {
    const int64_t q0 = u.span->start + u.first, q1 = u.span->start + u.last;
    w.tiles.clear();
    w.masks.clear();
    for (int64_t k0 = begin; k0 < end; k0 += kPageKeys) {
      TileKind kind = spec_.pattern.classify(q0, q1, k0, std::min(k0 + kPageKeys, end));
      if (kind == TileKind::empty) continue;
      KvSequence& kv = *u.span->kv;
      const int64_t page = k0 / kPageKeys;
      if (kv.pages[page] == KvSequence::kDropped) continue;  // none of these rows sees it
      if (!coded_) {
        add_tile(cache_.pooled(kv, layer_, u.kv_head, page), kind, u, k0, end, q0, q1, w);
        continue;
      }
      // Of a coded cache, queries of later pages see codes, the others f32.
      const int64_t later = std::clamp(k0 + kPageKeys, q0, q1);
      if (later < q1)
        add_tile(cache_.pooled(kv, layer_, u.kv_head, page), kind, u, k0, end, later, q1, w);
      if (q0 < later)
        add_tile(cache_.exact(kv, layer_, u.kv_head, page), kind, u, k0, end, q0, later, w);
    }
  }

  // For the queries [from, to) of the unit's.
  void add_tile(kernels::KvTile tile, TileKind kind, const Unit& u, int64_t k0, int64_t end,
                int64_t from, int64_t to, Workspace& w) const {
    const int64_t keys = std::min(kPageKeys + k0, end) - k0;
    const uint64_t exist = keys == kPageKeys ? ~uint64_t{0} : (uint64_t{1} << keys) - 1;
    w.tiles.push_back(tile);
    for (int64_t i = u.first; i < u.last; ++i) {
      const int64_t p = u.span->start + i;
      uint64_t bits = p < from || p >= to ? 0 : exist;
      if (bits != 0 && kind == TileKind::partial) bits &= spec_.pattern.mask(p, k0);
      w.masks.insert(w.masks.end(), static_cast<size_t>(group_), bits);
    }
  }

  const AttentionSpec& spec_;
  const int64_t group_;
  const bool coded_;
  const float* q_;
  float* o_;
  float* log_sum_;
  KvCache& cache_;
  const int64_t layer_;
};

Workspace& workspace() {
  static thread_local Workspace w;
  return w;
}

// Few units behind many keys: the splits are handed out, and merged when all are there.
void run_split(Attention& attention, const std::vector<Unit>& units, int64_t dv) {
  struct Item {
    int64_t unit, split, at;  // floats before its part
    bool made;
  };
  std::vector<Item> items;
  std::vector<int64_t> first{0};  // item of each unit
  int64_t floats = 0;
  for (int64_t i = 0; i < std::ssize(units); ++i) {
    for (int64_t split = 0; split < units[i].splits; ++split) {
      items.push_back({i, split, floats, false});
      floats += part_floats(attention.rows(units[i]), dv);
    }
    first.push_back(std::ssize(items));
  }
  Buffer buffer;
  float* parts = buffer.take(floats);
  auto part = [&](const Item& item) {
    return part_at(parts + item.at, attention.rows(units[item.unit]), dv);
  };
  parallel_for(std::ssize(items), 1, [&](int64_t b, int64_t e) {
    for (Item& item : std::span(items).subspan(b, e - b))
      item.made = attention.make_part(units[item.unit], item.split, workspace(), part(item));
  });
  parallel_for(std::ssize(units), 1, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; ++i) {
      AttentionPart total = part(items[first[i]]);
      for (int64_t j = first[i] + 1; j < first[i + 1]; ++j)
        if (items[j].made) attention.merge(units[i], total, part(items[j]));
      attention.finish(units[i], workspace(), total);
    }
  });
}

// Whether the threads share the splits: where there are too few units for them, and the parts are
// not so many that they need much memory.
bool shares_splits(const Attention& attention, const std::vector<Unit>& units, int64_t dv) {
  constexpr int64_t kMostFloats = int64_t{4} << 20;
  int64_t most_splits = 0, floats = 0;
  for (const Unit& u : units) {
    most_splits = std::max(most_splits, u.splits);
    floats += u.splits * part_floats(attention.rows(u), dv);
  }
  return most_splits > 1 && floats <= kMostFloats && std::ssize(units) < 8 * thread_count();
}

}  // namespace

Tensor attend(const AttentionSpec& spec, const Tensor& q, KvCache& cache, int64_t layer,
              const std::vector<SequenceSpan>& spans, Tensor* log_sum) {
  HONE_ASSERT(spec.kv_heads > 0 && spec.heads % spec.kv_heads == 0);
  HONE_ASSERT(q.rank() == 2 && q.dim(1) == spec.heads * spec.k_dim);
  Tensor o = Tensor::empty({q.dim(0), spec.heads * spec.v_dim}, DType::f32);
  std::vector<Unit> units = plan_units(spec, spans);
  if (log_sum != nullptr) *log_sum = Tensor::empty({q.dim(0), spec.heads}, DType::f32);
  Attention attention(spec, q, cache, layer, o, log_sum);
  if (shares_splits(attention, units, spec.v_dim)) {
    run_split(attention, units, spec.v_dim);
    return o;
  }
  parallel_for(std::ssize(units), 1, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; ++i) attention.run(units[i], workspace());
  });
  return o;
}

}  // namespace hone
