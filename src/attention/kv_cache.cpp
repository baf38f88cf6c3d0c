#include "attention/kv_cache.h"

#include <algorithm>
#include <utility>

#include "base/checked.h"
#include "base/memory.h"
#include "base/threads.h"

namespace hone {

using kernels::kPageKeys;

KvCache::KvCache(std::vector<KvShape> layers, KvType type)
    : shapes_(std::move(layers)), type_(type), exact_layer_bytes_(0) {
  make_pools();
  exact_ = layout_of(KvType::f32);
  for (size_t i = 0; i < shapes_.size(); ++i) {
    int64_t end = i + 1 < shapes_.size() ? exact_.offsets[i + 1] : exact_.bytes;
    exact_layer_bytes_ = std::max(exact_layer_bytes_, end - exact_.offsets[i]);
  }
}

void KvCache::make_pools() {
  pooled_ = layout_of(type_);
  for (int64_t i = 0; i < layers(); ++i) {
    pool_of_.push_back(-1);
    if (!has_keys(i)) continue;
    const Horizon& seen = shapes_[i].horizon;
    auto same = [&](const Pool& p) { return p.horizon == seen; };
    pool_of_[i] = std::ranges::find_if(pools_, same) - pools_.begin();
    if (pool_of_[i] == pools()) pools_.push_back({seen, 0, {}, {}});
    Pool& pool = pools_[pool_of_[i]];
    const int64_t end = i + 1 < layers() ? pooled_.offsets[i + 1] : pooled_.bytes;
    pool.bytes += end - std::exchange(pooled_.offsets[i], pool.bytes);
  }
}

KvCache::Layout KvCache::layout_of(KvType type) const {
  Layout l{type, {}, 0};
  for (const KvShape& s : shapes_) {
    KvPageShape page{s.k_dim, s.v_dim};
    l.offsets.push_back(l.bytes);
    l.bytes += s.kv_heads * (k_page_bytes(type, page) + v_page_bytes(type, page));
  }
  return l;
}

KeyRange KvCache::Pool::unseen(int64_t length) const {
  const int64_t first = ceil_div(horizon.first, kPageKeys);
  return {first, std::max(first, horizon.first_seen(length) / kPageKeys)};
}

int64_t KvCache::bytes_of(int64_t length) const {
  int64_t bytes = 0;
  for (const Pool& p : pools_) {
    const KeyRange gone = p.unseen(length);
    bytes += p.bytes * (ceil_div(length, kPageKeys) - (gone.end - gone.begin));
  }
  return bytes;
}

int64_t KvCache::allocated_bytes() const {
  int64_t bytes = 0;
  for (const Pool& p : pools_) bytes += p.bytes * std::ssize(p.pages);
  return bytes;
}

bool KvCache::drops() const {
  return std::ranges::any_of(pools_, [](const Pool& p) { return p.horizon.reach != INT64_MAX; });
}

KvCache::Place KvCache::head_place(const Layout& l, std::byte* of_layer, int64_t layer,
                                   int64_t head) const {
  int64_t k_bytes = k_page_bytes(l.type, page_shape(layer));
  std::byte* at = of_layer + head * (k_bytes + v_page_bytes(l.type, page_shape(layer)));
  return {at, at + k_bytes};
}

KvCache::Place KvCache::place(const Layout& l, std::byte* page, int64_t layer, int64_t head) const {
  return head_place(l, page + l.offsets[layer], layer, head);
}

KvCache::Place KvCache::pooled_place(const KvSequence& s, int64_t layer, int64_t head,
                                     int64_t index) {
  const int64_t pool = pool_of_[layer];
  return place(pooled_, pools_[pool].pages[s.pages[pool][index]].mutable_raw(), layer, head);
}

KvCache::Place KvCache::exact_place(KvSequence& s, int64_t layer, int64_t head, int64_t index) {
  const int64_t first = s.length / kPageKeys;
  HONE_ASSERT(index >= first);
  if (index == first) return place(exact_, s.exact.tail.mutable_raw(), layer, head);
  if (index == s.exact.last) return place(exact_, s.exact.next.mutable_raw(), layer, head);
  return head_place(exact_,
                    s.exact.between.mutable_raw() + (index - first - 1) * exact_layer_bytes_, layer,
                    head);
}

kernels::KvTile KvCache::pooled(const KvSequence& s, int64_t layer, int64_t head, int64_t index) {
  Place p = pooled_place(s, layer, head, index);
  return {p.k, p.v, kv_form(type_)};
}

kernels::KvTile KvCache::exact(KvSequence& s, int64_t layer, int64_t head, int64_t index) {
  Place p = exact_place(s, layer, head, index);
  return {p.k, p.v, kernels::kKvF32};
}

void KvCache::reserve(KvSequence& s, int64_t length) {
  if (page_bytes() == 0) return;  // no layer has keys
  const int64_t need = ceil_div(length, kPageKeys);
  const int64_t held = s.pages.empty() ? 0 : std::ssize(s.pages[0]);  // in every pool
  int64_t bytes = 0;
  for (const Pool& p : pools_) {
    const int64_t missing = std::max<int64_t>(0, need - held - std::ssize(p.free));
    bytes = checked_add(bytes, checked_mul(missing, p.bytes, "KV cache"), "KV cache");
  }
  if (bytes > 0) require_memory(bytes, fmt::format("KV cache of {} positions", length));
  s.pages.resize(pools_.size());
  for (int64_t i = 0; i < pools(); ++i) {
    Pool& p = pools_[i];
    while (std::ssize(s.pages[i]) < need) {
      if (p.free.empty()) {
        // Zeros, as after forget().
        p.pages.push_back(Tensor::zeros({p.bytes}, DType::u8));
        p.free.push_back(std::ssize(p.pages) - 1);
      }
      s.pages[i].push_back(p.free.back());
      p.free.pop_back();
    }
  }
  if (!kv_is_coded(type_) || length <= s.length) return;
  const int64_t first = s.length / kPageKeys, last = (length - 1) / kPageKeys;
  if (s.exact.tail.empty_handle()) s.exact.tail = Tensor::zeros({exact_.bytes}, DType::u8);
  const bool open = last > first && length % kPageKeys != 0;
  s.exact.last = open ? last : 0;
  s.exact.next = open ? Tensor::zeros({exact_.bytes}, DType::u8) : Tensor();
  const int64_t between = last - first - (open ? 1 : 0);
  if (between > 0) s.exact.between = Tensor::empty({between * exact_layer_bytes_}, DType::u8);
}

void KvCache::commit(KvSequence& s, int64_t length) {
  const bool other_page = length / kPageKeys != s.length / kPageKeys;
  s.length = length;
  drop_unseen(s);
  if (!kv_is_coded(type_)) return;
  s.exact.between = {};
  if (!other_page) return;
  s.exact.tail = std::exchange(s.exact.next, {});
  s.exact.last = 0;
}

namespace {

std::vector<RecurrentState> copy_of(const std::vector<RecurrentState>& states) {
  std::vector<RecurrentState> out = states;
  for (RecurrentState& state : out)
    for (Tensor& t : state) t = t.clone();
  return out;
}

// The last place at or before `length` that the recurrent state can go back to.
int64_t go_back(KvSequence& s, int64_t length) {
  while (!s.kept.empty() && s.kept.back().length > length) s.kept.pop_back();
  s.recurrent = s.kept.empty() ? std::vector<RecurrentState>() : copy_of(s.kept.back().recurrent);
  return s.kept.empty() ? 0 : s.kept.back().length;
}

}  // namespace

void KvCache::keep(KvSequence& s) {
  if (s.recurrent.empty() || (!s.kept.empty() && s.kept.back().length == s.length)) return;
  if (s.kept.size() == kMostKept) s.kept.erase(s.kept.begin());
  s.kept.push_back({s.length, copy_of(s.recurrent)});
}

void KvCache::give_back(KvSequence& s, int64_t pool, int64_t index) {
  const int64_t page = std::exchange(s.pages[pool][index], KvSequence::kDropped);
  if (page == KvSequence::kDropped) return;
  Pool& p = pools_[pool];
  if (!kv_is_coded(type_)) forget(pooled_, p.pages[page].mutable_raw(), 0, pool);
  p.free.push_back(page);
}

void KvCache::drop_unseen(KvSequence& s) {
  for (int64_t pool = 0; pool < std::ssize(s.pages); ++pool) {
    const KeyRange gone = pools_[pool].unseen(s.length);
    for (int64_t i = std::min<int64_t>(gone.end, std::ssize(s.pages[pool])); i-- > gone.begin;) {
      if (s.pages[pool][i] == KvSequence::kDropped) break;  // so are those before it
      give_back(s, pool, i);
    }
  }
}

int64_t KvCache::truncate(KvSequence& s, int64_t length) {
  if (length < s.length && !s.recurrent.empty()) length = go_back(s, length);
  // The first query behind `length` sees keys of a page that is gone.
  for (int64_t pool = 0; pool < std::ssize(s.pages); ++pool)
    for (int64_t i = pools_[pool].unseen(length).end; i < ceil_div(length, kPageKeys); ++i)
      if (i < std::ssize(s.pages[pool]) && s.pages[pool][i] == KvSequence::kDropped) length = 0;
  if (length == 0) s.recurrent.clear();
  if (length == 0) s.kept.clear();
  const int64_t keep = ceil_div(length, kPageKeys);
  const bool coded = kv_is_coded(type_);
  if (coded && length < s.length) {
    if (length % kPageKeys == 0)
      s.exact.tail = {};
    else if (length / kPageKeys < s.length / kPageKeys)
      reopen(s, length / kPageKeys);
    if (!s.exact.tail.empty_handle())
      forget(exact_, s.exact.tail.mutable_raw(), length % kPageKeys);
  }
  for (int64_t pool = 0; pool < std::ssize(s.pages); ++pool) {
    std::vector<int64_t>& pages = s.pages[pool];
    while (std::ssize(pages) > keep) {
      give_back(s, pool, std::ssize(pages) - 1);
      pages.pop_back();
    }
    if (!coded && s.length > length && length % kPageKeys != 0 && !pages.empty())
      forget(pooled_, pools_[pool].pages[pages.back()].mutable_raw(), length % kPageKeys, pool);
  }
  if (keep == 0) s.pages.clear();
  return s.length = std::min(s.length, length);
}

void KvCache::forget(const Layout& l, std::byte* page, int64_t slot, int64_t pool) {
  for (int64_t layer = 0; layer < layers(); ++layer) {
    if (pool >= 0 && pool_of_[layer] != pool) continue;
    for (int64_t h = 0; h < shapes_[layer].kv_heads; ++h)
      forget_positions(l.type, page_shape(layer), slot, place(l, page, layer, h).v);
  }
}

void KvCache::reopen(KvSequence& s, int64_t index) {
  s.exact.tail = Tensor::zeros({exact_.bytes}, DType::u8);
  for (int64_t layer = 0; layer < layers(); ++layer)
    for (int64_t h = 0; h < shapes_[layer].kv_heads; ++h) {
      Place from = pooled_place(s, layer, h, index);
      Place to = place(exact_, s.exact.tail.mutable_raw(), layer, h);
      decode_page(type_, page_shape(layer), from.k, from.v, reinterpret_cast<float*>(to.k),
                  reinterpret_cast<float*>(to.v));
    }
}

void KvCache::write_head(int64_t layer, KvSequence& s, int64_t head, int64_t start, int64_t count,
                         const float* k, const float* v) {
  const KvShape& shape = shapes_[layer];
  const bool coded = kv_is_coded(type_);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t index = (start + i) / kPageKeys, slot = (start + i) % kPageKeys;
    Place to = coded ? exact_place(s, layer, head, index) : pooled_place(s, layer, head, index);
    write_position(coded ? KvType::f32 : type_, page_shape(layer), slot,
                   k + (i * shape.kv_heads + head) * shape.k_dim,
                   v + (i * shape.kv_heads + head) * shape.v_dim, to.k, to.v);
    if (!coded || slot != kPageKeys - 1) continue;
    Place page = pooled_place(s, layer, head, index);
    encode_page(type_, page_shape(layer), reinterpret_cast<const float*>(to.k),
                reinterpret_cast<const float*>(to.v), page.k, page.v);
  }
}

void KvCache::write(int64_t layer, KvSequence& s, int64_t start, int64_t count, const float* k,
                    const float* v) {
  HONE_ASSERT(has_keys(layer) && !s.pages.empty());
  HONE_ASSERT(start + count <= std::ssize(s.pages[pool_of_[layer]]) * kPageKeys);
  HONE_ASSERT(!kv_is_coded(type_) || start == s.length);
  // A single position is not worth handing out.
  parallel_for(shapes_[layer].kv_heads, count < 16 ? shapes_[layer].kv_heads : 1,
               [&](int64_t begin, int64_t end) {
                 for (int64_t h = begin; h < end; ++h) write_head(layer, s, h, start, count, k, v);
               });
}

}  // namespace hone
