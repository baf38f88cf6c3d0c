#include "attention/attention.h"

#include <algorithm>
#include <atomic>
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
constexpr int64_t kLineBytes = 64;

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
  kernels::AttentionArgs args{};  // of the split that runs; its tiles are those that are done
};

// The part that begins at `at`.
AttentionPart part_at(float* at, int64_t rows, int64_t dv) {
  float* top = at + rows * round_up(dv, kValueGroup);
  return {at, top, top + rows};
}

class Attention {
 public:
  Attention(const AttentionSpec& spec, const Tensor& q, KvCache& cache, int64_t layer, Tensor& o,
            Tensor* log_sum, const AttentionTerms& terms, Tensor* top)
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
        top_(top == nullptr ? nullptr : top->mutable_data<float>()),
        cache_(cache),
        layer_(layer) {}

  /// Readies the part of the keys of one split, for run_tiles().
  void begin_part(const AttentionUnit& u, int64_t split, Workspace& w, AttentionPart out) {
    locate(u, w);
    plan_tiles(u, split, w);
    const int64_t n = unit_rows(spec_, u), d = round_up(spec_.k_dim, kPanel);
    const int64_t dv = round_up(spec_.v_dim, kValueGroup);
    kernels::AttentionArgs& a = w.args = {};
    a.q = q_;
    a.q_offset = w.q_offset.data();
    a.tile = w.tiles.data();
    a.masks = w.masks.data();
    a.rows = n;
    a.d = spec_.k_dim;
    a.dv = spec_.v_dim;
    a.scale = spec_.scale;
    a.softcap = spec_.softcap;
    a.part = out;
    a.terms = score_terms(u, w);
    a.tile_key = w.tile_key.data();
    a.keep = dropout_.active() ? w.keep.data() : nullptr;
    a.scratch = w.scratch.take(n * (2 * d + 2 * kPageKeys + 32) + kPageKeys * (d + dv) + 32);
  }

  /// The next tiles of the part, `most` of them; true where it is complete.
  bool run_tiles(Workspace& w, int64_t most, kernels::FetchQueue* fetch) const {
    kernels::AttentionArgs& a = w.args;
    const int64_t all = std::ssize(w.tiles);
    a.first = a.tiles;
    a.tiles = std::min(all, a.first + most);
    a.more = all - a.tiles;
    a.fetch = fetch;
    kernels::table().attention(&a);
    return a.tiles == all;
  }

  /// Where the keys and values of the part's next tiles stand, as many as fit `most` lines, but one
  /// at least. Returns their number.
  int64_t tiles_ahead(const Workspace& w, int64_t most, std::vector<kernels::LineRun>& runs) const {
    runs.clear();
    int64_t n = 0, lines = 0;
    for (int64_t i = w.args.tiles; i < std::ssize(w.tiles); ++i, ++n) {
      const kernels::KvTile& t = w.tiles[i];
      const KvPageShape shape{spec_.k_dim, spec_.v_dim};
      const KvType type = t.form == kernels::kKvF32 ? KvType::f32 : cache_.type();
      const int64_t k = ceil_div(k_page_bytes(type, shape), kLineBytes);
      const int64_t v = ceil_div(v_page_bytes(type, shape), kLineBytes);
      if (n > 0 && lines + k + v > most) break;
      lines += k + v;
      runs.push_back({t.k, k});
      runs.push_back({t.v, v});
    }
    return n;
  }

  void merge(const AttentionUnit& u, AttentionPart into, AttentionPart from) const {
    kernels::table().attention_merge(unit_rows(spec_, u), spec_.v_dim, into, from);
  }

  void finish(const AttentionUnit& u, Workspace& w, AttentionPart part) const {
    locate(u, w);
    if (!terms_.sinks.empty_handle()) merge(u, part, sink_part(u, w));
    kernels::table().attention_finish(unit_rows(spec_, u), spec_.v_dim, part, w.o_offset.data(),
                                      o_);
    // Scores are kept in powers of two.
    for (int64_t r = 0; r < unit_rows(spec_, u); ++r) {
      const int64_t at = w.o_offset[r] / spec_.v_dim;
      if (log_sum_ != nullptr)
        log_sum_[at] = static_cast<float>((part.top[r] + std::log2(double{part.sum[r]})) * M_LN2);
      if (top_ != nullptr) top_[at] = static_cast<float>(part.top[r] * M_LN2);
    }
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
  float *log_sum_, *top_;  // null = not wanted
  KvCache& cache_;
  const int64_t layer_;
};

// The work of one call, as its threads share it.
struct Work {
  Attention& attention;
  const AttentionSpec& spec;
  const std::vector<AttentionUnit>& units;
  WorkList list;
  Buffer buffer;
  float* parts = nullptr;                  // of items that are one split
  std::vector<std::atomic<int32_t>> left;  // of these, by unit

  Work(Attention& a, const AttentionSpec& s, const std::vector<AttentionUnit>& u, int64_t lines)
      : attention(a), spec(s), units(u), list(plan_work(s, u, lines)), left(u.size()) {
    parts = buffer.take(list.part_floats);
    for (size_t i = 0; i < u.size(); ++i) left[i] = static_cast<int32_t>(u[i].rows->splits.size());
  }
  AttentionPart part(int64_t unit, int64_t at) const {
    return part_at(parts + at, unit_rows(spec, units[unit]), spec.v_dim);
  }
  // Items that threads take one after the other.
  std::atomic<int64_t> next_computing{0}, next_streaming{0};
};

// One item, some tiles at a time.
class ItemRun {
 public:
  ItemRun(Work& work, Workspace& w) : work_(work), w_(w) {}

  bool busy() const { return unit_ != nullptr; }

  void start(const WorkItem& item) {
    item_ = item;
    unit_ = &work_.units[item.unit];
    const int64_t n = unit_rows(work_.spec, *unit_), dv = work_.spec.v_dim;
    split_ = std::max<int64_t>(0, item.split);
    if (item.split >= 0) {
      total_ = work_.part(item.unit, item.at);
    } else {
      total_ = part_at(w_.total.take(part_floats(n, dv)), n, dv);
      more_ = part_at(w_.more.take(part_floats(n, dv)), n, dv);
    }
    begin_split(total_);
  }

  /// Up to `most` tiles of the split that runs.
  void advance(int64_t most, kernels::FetchQueue* fetch) {
    if (work_.attention.run_tiles(w_, most, fetch)) end_split();
  }

  int64_t tiles_ahead(int64_t most_lines, std::vector<kernels::LineRun>& runs) const {
    return work_.attention.tiles_ahead(w_, most_lines, runs);
  }
  int64_t rows() const { return w_.args.rows; }

 private:
  void begin_split(AttentionPart into) {
    work_.attention.begin_part(*unit_, unit_->rows->splits[split_], w_, into);
  }

  void end_split() {
    if (item_.split >= 0) {
      end_shared();
    } else {
      if (split_ > 0) work_.attention.merge(*unit_, total_, more_);
      if (++split_ < std::ssize(unit_->rows->splits)) return begin_split(more_);
      work_.attention.finish(*unit_, w_, total_);
    }
    unit_ = nullptr;
  }

  // Who ends a unit's last split merges them all, in order.
  void end_shared() {
    if (work_.left[item_.unit].fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    const int64_t floats = part_floats(unit_rows(work_.spec, *unit_), work_.spec.v_dim);
    const int64_t first = item_.at - item_.split * floats;
    const AttentionPart total = work_.part(item_.unit, first);
    for (int64_t i = 1; i < std::ssize(unit_->rows->splits); ++i)
      work_.attention.merge(*unit_, total, work_.part(item_.unit, first + i * floats));
    work_.attention.finish(*unit_, w_, total);
  }

  Work& work_;
  Workspace& w_;
  WorkItem item_{};
  const AttentionUnit* unit_ = nullptr;
  int64_t split_ = 0;
  AttentionPart total_{}, more_{};
};

constexpr int64_t kAllTiles = INT64_MAX / 2;

// Of one thread: of the item that computes, and of the one that streams beside it.
Workspace& workspace(int which = 0) {
  static thread_local Workspace w[2];
  return w[which];
}

void run_list(Work& work, const std::vector<WorkItem>& items) {
  parallel_for(std::ssize(items), 1, [&](int64_t b, int64_t e) {
    ItemRun run(work, workspace());
    for (int64_t i = b; i < e; ++i) {
      run.start(items[i]);
      while (run.busy()) run.advance(kAllTiles, nullptr);
    }
  });
}

// Starts the list's next item, if there is one.
bool take(ItemRun& run, const std::vector<WorkItem>& items, std::atomic<int64_t>& next) {
  const int64_t i = next.fetch_add(1, std::memory_order_relaxed);
  if (i >= std::ssize(items)) return false;
  run.start(items[i]);
  return true;
}

// One thread: a tile that computes, while the next tiles that stream are fetched; these, once they
// are there; and so on. What is fetched is what one tile has time for, so that it is still in the
// cache when its turn comes.
void run_interleaved(Work& work) {
  const WorkList& list = work.list;
  ItemRun computing(work, workspace(0)), streaming(work, workspace(1));
  std::vector<kernels::LineRun> runs;
  kernels::FetchQueue queue{nullptr, 0, 0, list.pace};
  int64_t ahead = 0;
  auto fetch_next = [&] {
    if (!streaming.busy() && !take(streaming, list.streaming, work.next_streaming)) return;
    ahead = streaming.tiles_ahead(product_steps(work.spec, computing.rows()) / list.pace, runs);
    queue.run = runs.data();
    queue.runs = std::ssize(runs);
    queue.done = 0;
  };
  while (take(computing, list.computing, work.next_computing)) {
    if (!streaming.busy()) fetch_next();
    while (computing.busy()) {
      if (!streaming.busy()) {
        computing.advance(kAllTiles, nullptr);
        continue;
      }
      computing.advance(1, &queue);
      if (queue.runs > 0) continue;
      streaming.advance(std::max<int64_t>(1, ahead), nullptr);
      fetch_next();
    }
  }
  do
    while (streaming.busy()) streaming.advance(kAllTiles, nullptr);
  while (take(streaming, list.streaming, work.next_streaming));
}

void run_work(Work& work, HybridOrder order) {
  const WorkList& list = work.list;
  if (order == HybridOrder::sequential || list.computing.empty() || list.streaming.empty()) {
    run_list(work, list.computing);
    run_list(work, list.streaming);
  } else if (order == HybridOrder::one_list) {
    std::vector<WorkItem> both = list.computing;
    both.insert(both.end(), list.streaming.begin(), list.streaming.end());
    run_list(work, both);
  } else {
    parallel_for(thread_count(), 1, [&](int64_t b, int64_t e) {
      for (; b < e; ++b) run_interleaved(work);
    });
  }
}

}  // namespace

Tensor attend(const AttentionSpec& spec, const Tensor& q, KvCache& cache, int64_t layer,
              const std::vector<SequenceSpan>& spans, Tensor* log_sum, const AttentionTerms& terms,
              Tensor* top, const AttendOptions& options) {
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
  for (Tensor* x : {log_sum, top})
    if (x != nullptr) *x = Tensor::empty({q.dim(0), spec.heads}, DType::f32);
  Attention attention(spec, q, cache, layer, o, log_sum, terms, top);
  const KvPageShape shape{spec.k_dim, spec.v_dim};
  Work work(
      attention, spec, units,
      ceil_div(k_page_bytes(cache.type(), shape) + v_page_bytes(cache.type(), shape), kLineBytes));
  run_work(work, options.order);
  return o;
}

}  // namespace hone
