#include "attention/attention.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <new>
#include <span>

#include "attention/terms.h"
#include "attention/units.h"
#include "base/checked.h"
#include "base/threads.h"
#include "kernels/select.h"

namespace hone {
namespace {

using kernels::AttentionPart;
using kernels::kPageKeys;
using kernels::kPanel;
using kernels::kValueGroup;

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
  std::vector<int64_t> q_offset, o_offset, bias_offset, query, tile_key;
  std::vector<float> slope;
  std::vector<kernels::KvTile> tiles;
  std::vector<uint64_t> masks, keep;
  Buffer scratch, total, more, sink;
};

// The part that begins at `at`.
AttentionPart part_at(float* at, int64_t rows, int64_t dv) {
  float* top = at + rows * round_up(dv, kValueGroup);
  return {at, top, top + rows};
}

class Attention {
 public:
  Attention(const AttentionSpec& spec, const Tensor& q, KvCache& cache, int64_t layer, Tensor& o,
            Tensor* log_sum, const AttentionTerms& terms)
      : spec_(spec),
        terms_(terms),
        dropout_(terms),
        bias_rows_(terms.bias),
        group_(spec.heads / spec.kv_heads),
        coded_(kv_is_coded(cache.type())),
        q_(q.data<float>()),
        bias_(terms.bias.empty_handle() ? nullptr : terms.bias.data<float>()),
        o_(o.mutable_data<float>()),
        log_sum_(log_sum == nullptr ? nullptr : log_sum->mutable_data<float>()),
        cache_(cache),
        layer_(layer) {}

  /// The part of the keys of one split.
  void make_part(const AttentionUnit& u, int64_t split, Workspace& w, AttentionPart out) {
    locate(u, w);
    plan_tiles(u, split, w);
    const int64_t n = unit_rows(spec_, u), d = round_up(spec_.k_dim, kPanel);
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
    a.terms = score_terms(u, w);
    a.tile_key = w.tile_key.data();
    a.keep = dropout_.active() ? w.keep.data() : nullptr;
    a.scratch = w.scratch.take(n * (2 * d + 2 * kPageKeys + 32) + kPageKeys * (d + dv) + 32);
    kernels::table().attention(&a);
  }

  void merge(const AttentionUnit& u, AttentionPart into, AttentionPart from) const {
    kernels::table().attention_merge(unit_rows(spec_, u), spec_.v_dim, into, from);
  }

  void finish(const AttentionUnit& u, Workspace& w, AttentionPart part) const {
    locate(u, w);
    if (!terms_.sinks.empty_handle()) merge(u, part, sink_part(u, w));
    kernels::table().attention_finish(unit_rows(spec_, u), spec_.v_dim, part, w.o_offset.data(),
                                      o_);
    if (log_sum_ == nullptr) return;
    // Scores are kept in powers of two.
    for (int64_t r = 0; r < unit_rows(spec_, u); ++r)
      log_sum_[w.o_offset[r] / spec_.v_dim] =
          static_cast<float>((part.top[r] + std::log2(double{part.sum[r]})) * M_LN2);
  }

  /// A whole unit, one split after the other.
  void run(const AttentionUnit& u, Workspace& w) {
    const int64_t n = unit_rows(spec_, u);
    const int64_t floats = part_floats(n, spec_.v_dim);
    AttentionPart total = part_at(w.total.take(floats), n, spec_.v_dim);
    AttentionPart more = part_at(w.more.take(floats), n, spec_.v_dim);
    for (size_t i = 0; i < u.rows->splits.size(); ++i) {
      make_part(u, u.rows->splits[i], w, i == 0 ? total : more);
      if (i > 0) merge(u, total, more);
    }
    finish(u, w, total);
  }

 private:
  void locate(const AttentionUnit& u, Workspace& w) const {
    for (auto* v : {&w.q_offset, &w.o_offset, &w.bias_offset, &w.query}) v->clear();
    w.slope.clear();
    const AttentionRows& rows = *u.rows;
    for (int64_t p = rows.first; p < rows.last; ++p)
      for (int64_t g = 0; g < group_; ++g) {
        int64_t head = u.kv_head * group_ + g, row = rows.span->begin + p;
        w.q_offset.push_back((row * spec_.heads + head) * spec_.k_dim);
        w.o_offset.push_back((row * spec_.heads + head) * spec_.v_dim);
        w.query.push_back(rows.span->start + p);
        w.bias_offset.push_back(bias_rows_.offset(head, row));
        if (!spec_.alibi.slopes.empty()) w.slope.push_back(spec_.alibi.slopes[head]);
      }
  }

  kernels::ScoreTerms score_terms(const AttentionUnit& u, const Workspace& w) const {
    kernels::ScoreTerms t{};
    t.slope = spec_.alibi.slopes.empty() ? nullptr : w.slope.data();
    t.query = w.query.data();
    t.alibi_signed = spec_.alibi.is_signed;
    t.alibi_first = spec_.alibi.before_cap;
    t.bias = bias_;
    t.bias_offset = w.bias_offset.data();
    t.keys = keys_of(*u.rows->span);
    t.keep_factor = dropout_.factor();
    return t;
  }

  // The sinks as the part of a key without a value.
  AttentionPart sink_part(const AttentionUnit& u, Workspace& w) const {
    const int64_t n = unit_rows(spec_, u), floats = part_floats(n, spec_.v_dim);
    float* at = w.sink.take(floats);
    std::fill_n(at, floats, 0.0f);
    AttentionPart part = part_at(at, n, spec_.v_dim);
    const float* sinks = terms_.sinks.data<float>() + u.kv_head * group_;
    for (int64_t r = 0; r < n; ++r) {
      part.top[r] = static_cast<float>(sinks[r % group_] * M_LOG2E);
      part.sum[r] = 1;
    }
    return part;
  }

  // The tiles of one split that some row sees.
  void plan_tiles(const AttentionUnit& u, int64_t split, Workspace& w) {
    w.tiles.clear();
    w.masks.clear();
    w.tile_key.clear();
    w.keep.clear();
    const int64_t begin = split * kSplitTiles, end = begin + kSplitTiles;
    for (const TileRun& run : u.rows->runs)
      for (int64_t t = std::max(begin, run.first); t < std::min(end, run.last); ++t)
        plan_tile(u, t, run.kind, w);
  }

  void plan_tile(const AttentionUnit& u, int64_t page, TileKind kind, Workspace& w) {
    KvSequence& kv = *u.rows->span->kv;
    if (cache_.dropped(kv, layer_, page)) return;  // none of these rows sees it
    const int64_t q0 = u.rows->span->start + u.rows->first;
    const int64_t q1 = u.rows->span->start + u.rows->last;
    if (!coded_) {
      add_tile(cache_.pooled(kv, layer_, u.kv_head, page), kind, u, page, q0, q1, w);
      return;
    }
    // Of a coded cache, queries of later pages see codes, the others f32.
    const int64_t later = std::clamp((page + 1) * kPageKeys, q0, q1);
    if (later < q1)
      add_tile(cache_.pooled(kv, layer_, u.kv_head, page), kind, u, page, later, q1, w);
    if (q0 < later)
      add_tile(cache_.exact(kv, layer_, u.kv_head, page), kind, u, page, q0, later, w);
  }

  // For the queries [from, to) of the unit's.
  void add_tile(kernels::KvTile tile, TileKind kind, const AttentionUnit& u, int64_t page,
                int64_t from, int64_t to, Workspace& w) const {
    const int64_t k0 = page * kPageKeys;
    const int64_t keys = std::min<int64_t>(kPageKeys, keys_of(*u.rows->span) - k0);
    const uint64_t exist = keys == kPageKeys ? ~uint64_t{0} : (uint64_t{1} << keys) - 1;
    w.tiles.push_back(tile);
    w.tile_key.push_back(k0);
    for (int64_t r = 0; r < unit_rows(spec_, u); r += group_) {
      const int64_t p = w.query[r];
      uint64_t bits = p < from || p >= to ? 0 : exist;
      if (bits != 0 && kind == TileKind::partial) bits &= spec_.pattern.mask(p, k0);
      w.masks.insert(w.masks.end(), static_cast<size_t>(group_), bits);
      for (int64_t g = 0; g < group_; ++g) {
        if (bias_ != nullptr)
          *(w.masks.end() - group_ + g) &= visible_bits(bias_ + w.bias_offset[r + g] + k0, keys);
        if (dropout_.active())
          w.keep.push_back(dropout_.keep(u.rows->sequence, u.kv_head * group_ + g, p, k0));
      }
    }
  }

  const AttentionSpec& spec_;
  const AttentionTerms& terms_;
  const AttentionDropout dropout_;
  const BiasRows bias_rows_;
  const int64_t group_;
  const bool coded_;
  const float *q_, *bias_;  // bias_: null = none
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
void run_split(const AttentionSpec& spec, Attention& attention,
               const std::vector<AttentionUnit>& units) {
  const int64_t dv = spec.v_dim;
  struct Item {
    int64_t unit, split, at;  // floats before its part
  };
  std::vector<Item> items;
  std::vector<int64_t> first{0};  // item of each unit
  int64_t floats = 0;
  for (int64_t i = 0; i < std::ssize(units); ++i) {
    for (int64_t split : units[i].rows->splits) {
      items.push_back({i, split, floats});
      floats += part_floats(unit_rows(spec, units[i]), dv);
    }
    first.push_back(std::ssize(items));
  }
  Buffer buffer;
  float* parts = buffer.take(floats);
  auto part = [&](const Item& item) {
    return part_at(parts + item.at, unit_rows(spec, units[item.unit]), dv);
  };
  parallel_for(std::ssize(items), 1, [&](int64_t b, int64_t e) {
    for (const Item& item : std::span(items).subspan(b, e - b))
      attention.make_part(units[item.unit], item.split, workspace(), part(item));
  });
  parallel_for(std::ssize(units), 1, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; ++i) {
      AttentionPart total = part(items[first[i]]);
      for (int64_t j = first[i] + 1; j < first[i + 1]; ++j)
        attention.merge(units[i], total, part(items[j]));
      attention.finish(units[i], workspace(), total);
    }
  });
}

}  // namespace

Tensor attend(const AttentionSpec& spec, const Tensor& q, KvCache& cache, int64_t layer,
              const std::vector<SequenceSpan>& spans, Tensor* log_sum,
              const AttentionTerms& terms) {
  check_spec(spec);
  HONE_CHECK(q.rank() == 2 && q.dim(1) == spec.heads * spec.k_dim, invalid_argument,
             "attention: expected queries [T, {}], got {} values of rank {}",
             spec.heads * spec.k_dim, q.numel(), q.rank());
  int64_t keys = 0;
  for (const SequenceSpan& s : spans) keys = std::max(keys, keys_of(s));
  check_terms(spec, terms, q.dim(0), keys);
  Tensor o = Tensor::empty({q.dim(0), spec.heads * spec.v_dim}, DType::f32);
  const std::vector<AttentionRows> rows = plan_rows(spec, spans);
  const std::vector<AttentionUnit> units = plan_units(spec, rows);
  if (log_sum != nullptr) *log_sum = Tensor::empty({q.dim(0), spec.heads}, DType::f32);
  Attention attention(spec, q, cache, layer, o, log_sum, terms);
  if (why_not_shared_splits(spec, units).empty()) {
    run_split(spec, attention, units);
    return o;
  }
  parallel_for(std::ssize(units), 1, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; ++i) attention.run(units[i], workspace());
  });
  return o;
}

}  // namespace hone
