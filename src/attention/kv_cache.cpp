#include "attention/kv_cache.h"

#include <algorithm>
#include <utility>

#include "base/checked.h"
#include "base/memory.h"
#include "base/threads.h"

namespace hone {

using kernels::kPageKeys;

KvCache::KvCache(std::vector<KvShape> layers, KvType type)
    : shapes_(std::move(layers)),
      type_(type),
      pooled_(layout_of(type)),
      exact_(layout_of(KvType::f32)),
      exact_layer_bytes_(0) {
  horizon_ = {0, 0};
  for (const KvShape& s : shapes_)
    if (s.kv_heads > 0) horizon_ = horizon_ | s.horizon;
  for (size_t i = 0; i < shapes_.size(); ++i) {
    int64_t end = i + 1 < shapes_.size() ? exact_.offsets[i + 1] : exact_.bytes;
    exact_layer_bytes_ = std::max(exact_layer_bytes_, end - exact_.offsets[i]);
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

int64_t KvCache::bytes_of(int64_t length) const {
  const int64_t kept = ceil_div(horizon_.first, kPageKeys);
  const int64_t first = std::max(kept, horizon_.first_seen(length) / kPageKeys);
  return page_bytes() * (ceil_div(length, kPageKeys) - (first - kept));
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
  return place(pooled_, pages_[s.pages[index]].mutable_raw(), layer, head);
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
  auto need = static_cast<size_t>(ceil_div(length, kPageKeys));
  size_t missing = need - std::min(need, s.pages.size() + free_.size());
  if (missing > 0)
    require_memory(checked_mul(static_cast<int64_t>(missing), page_bytes(), "KV cache"),
                   fmt::format("KV cache of {} positions", length));
  while (s.pages.size() < need) {
    if (free_.empty()) {
      // Zeros, as after forget().
      pages_.push_back(Tensor::zeros({page_bytes()}, DType::u8));
      free_.push_back(static_cast<int64_t>(pages_.size()) - 1);
    }
    s.pages.push_back(free_.back());
    free_.pop_back();
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
  if (other_page) drop_unseen(s);
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

void KvCache::give_back(KvSequence& s, int64_t index) {
  const int64_t page = std::exchange(s.pages[index], KvSequence::kDropped);
  if (page == KvSequence::kDropped) return;
  if (!kv_is_coded(type_)) forget(pooled_, pages_[page].mutable_raw(), 0);
  free_.push_back(page);
}

void KvCache::drop_unseen(KvSequence& s) {
  const int64_t first = horizon_.first_seen(s.length) / kPageKeys;
  for (int64_t i = ceil_div(horizon_.first, kPageKeys); i < first && i < std::ssize(s.pages); ++i)
    give_back(s, i);
}

int64_t KvCache::truncate(KvSequence& s, int64_t length) {
  if (length < s.length && !s.recurrent.empty()) length = go_back(s, length);
  // The first query behind `length` sees keys of a page that is gone.
  for (int64_t i = horizon_.first_seen(length) / kPageKeys; i < ceil_div(length, kPageKeys); ++i)
    if (i < std::ssize(s.pages) && s.pages[i] == KvSequence::kDropped) length = 0;
  if (length == 0) s.recurrent.clear();
  if (length == 0) s.kept.clear();
  auto keep = static_cast<size_t>(ceil_div(length, kPageKeys));
  const bool coded = kv_is_coded(type_);
  if (coded && length < s.length) {
    if (length % kPageKeys == 0)
      s.exact.tail = {};
    else if (length / kPageKeys < s.length / kPageKeys)
      reopen(s, length / kPageKeys);
    if (!s.exact.tail.empty_handle())
      forget(exact_, s.exact.tail.mutable_raw(), length % kPageKeys);
  }
  while (s.pages.size() > keep) {
    give_back(s, std::ssize(s.pages) - 1);
    s.pages.pop_back();
  }
  if (!coded && s.length > length && length % kPageKeys != 0 && !s.pages.empty())
    forget(pooled_, pages_[s.pages.back()].mutable_raw(), length % kPageKeys);
  return s.length = std::min(s.length, length);
}

void KvCache::forget(const Layout& l, std::byte* page, int64_t slot) {
  for (int64_t layer = 0; layer < layers(); ++layer)
    for (int64_t h = 0; h < shapes_[layer].kv_heads; ++h)
      forget_positions(l.type, page_shape(layer), slot, place(l, page, layer, h).v);
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
  HONE_ASSERT(start + count <= static_cast<int64_t>(s.pages.size()) * kPageKeys);
  HONE_ASSERT(!kv_is_coded(type_) || start == s.length);
  // A single position is not worth handing out.
  parallel_for(shapes_[layer].kv_heads, count < 16 ? shapes_[layer].kv_heads : 1,
               [&](int64_t begin, int64_t end) {
                 for (int64_t h = begin; h < end; ++h) write_head(layer, s, h, start, count, k, v);
               });
}

}  // namespace hone
