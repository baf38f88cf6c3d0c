#include "attention/kv_cache.h"

#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "base/memory.h"
#include "kernels/kernel_table.h"

namespace hone {

using kernels::kPageKeys;
using kernels::kPanel;

KvCache::KvCache(std::vector<KvShape> layers, DType type) : type_(type), item_(dtype_size(type)) {
  HONE_CHECK(type == DType::f32 || type == DType::bf16 || type == DType::f16, invalid_argument,
             "KV cache type {}: expected f32, bf16 or f16", dtype_name(type));
  for (const KvShape& s : layers) {
    layers_.push_back({s, page_bytes_});
    page_bytes_ += s.kv_heads * kPageKeys * (s.k_dim + s.v_dim) * item_;
  }
}

void KvCache::reserve(KvSequence& s, int64_t length) {
  auto need = static_cast<size_t>(ceil_div(length, kPageKeys));
  size_t missing = need - std::min(need, s.pages.size() + free_.size());
  if (missing > 0)
    require_memory(checked_mul(static_cast<int64_t>(missing), page_bytes(), "KV cache"),
                   fmt::format("KV cache of {} positions", length));
  while (s.pages.size() < need) {
    if (free_.empty()) {
      // Zeros, as after forget().
      pages_.push_back(Tensor::zeros({page_bytes_}, DType::u8));
      free_.push_back(static_cast<int64_t>(pages_.size()) - 1);
    }
    s.pages.push_back(free_.back());
    free_.pop_back();
  }
}

void KvCache::truncate(KvSequence& s, int64_t length) {
  auto keep = static_cast<size_t>(ceil_div(length, kPageKeys));
  while (s.pages.size() > keep) {
    forget(s.pages.back(), 0);
    free_.push_back(s.pages.back());
    s.pages.pop_back();
  }
  if (s.length > length && length % kPageKeys != 0) forget(s.pages.back(), length % kPageKeys);
  s.length = std::min(s.length, length);
}

void KvCache::forget(int64_t page, int64_t slot) {
  // A key that nobody sees still meets its value with a probability of 0, and 0·NaN is not 0.
  for (int64_t layer = 0; layer < layers(); ++layer) {
    const KvShape& s = layers_[layer].shape;
    for (int64_t h = 0; h < s.kv_heads; ++h)
      std::memset(v_page(layer, page, h) + slot * s.v_dim * item_, 0,
                  static_cast<size_t>((kPageKeys - slot) * s.v_dim * item_));
  }
}

std::byte* KvCache::k_page(int64_t layer, int64_t page, int64_t head) {
  const Layer& l = layers_[layer];
  return pages_[page].mutable_raw() + l.offset +
         head * kPageKeys * (l.shape.k_dim + l.shape.v_dim) * item_;
}

std::byte* KvCache::v_page(int64_t layer, int64_t page, int64_t head) {
  return k_page(layer, page, head) + kPageKeys * layers_[layer].shape.k_dim * item_;
}

template <typename T>
void KvCache::write_as(int64_t layer, const KvSequence& s, int64_t start, int64_t count,
                       const float* k, const float* v) {
  auto narrow = [](float x) {
    if constexpr (std::is_same_v<T, float>)
      return x;
    else if constexpr (std::is_same_v<T, bf16>)
      return to_bf16(x);
    else
      return to_f16(x);
  };
  const KvShape& shape = layers_[layer].shape;
  for (int64_t i = 0; i < count; ++i) {
    int64_t page = s.pages[(start + i) / kPageKeys], slot = (start + i) % kPageKeys;
    for (int64_t h = 0; h < shape.kv_heads; ++h) {
      T* to_k = reinterpret_cast<T*>(k_page(layer, page, h)) +
                slot / kPanel * shape.k_dim * kPanel + slot % kPanel;
      for (int64_t d = 0; d < shape.k_dim; ++d) to_k[d * kPanel] = narrow(*k++);
      T* to_v = reinterpret_cast<T*>(v_page(layer, page, h)) + slot * shape.v_dim;
      for (int64_t d = 0; d < shape.v_dim; ++d) to_v[d] = narrow(*v++);
    }
  }
}

void KvCache::write(int64_t layer, const KvSequence& s, int64_t start, int64_t count,
                    const float* k, const float* v) {
  HONE_ASSERT(start + count <= static_cast<int64_t>(s.pages.size()) * kPageKeys);
  if (type_ == DType::f32)
    write_as<float>(layer, s, start, count, k, v);
  else if (type_ == DType::bf16)
    write_as<bf16>(layer, s, start, count, k, v);
  else
    write_as<f16>(layer, s, start, count, k, v);
}

}  // namespace hone
