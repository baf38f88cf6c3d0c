#include "attention/kv_fork.h"

#include <cstring>

#include "base/checked.h"
#include "base/threads.h"

namespace hone {
namespace {

using kernels::kPageKeys;

// What the kernels read of a cache lies in its own pages; here it is written to.
void copy(const kernels::KvTile& from, const kernels::KvTile& to, KvType type, KvPageShape shape) {
  auto bytes = [](const void* p) { return const_cast<void*>(p); };
  std::memcpy(bytes(to.k), from.k, static_cast<size_t>(k_page_bytes(type, shape)));
  std::memcpy(bytes(to.v), from.v, static_cast<size_t>(v_page_bytes(type, shape)));
}

}  // namespace

KvSequence fork(KvCache& cache, const KvSequence& s) {
  KvSequence out;
  cache.reserve(out, s.length);
  parallel_for(cache.layers(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t layer = begin; layer < end; ++layer) {
      const KvShape& shape = cache.shape(layer);
      for (int64_t page = 0; page < ceil_div(s.length, kPageKeys); ++page) {
        if (shape.kv_heads == 0 || cache.dropped(s, layer, page)) continue;
        for (int64_t head = 0; head < shape.kv_heads; ++head)
          copy(cache.pooled(s, layer, head, page), cache.pooled(out, layer, head, page),
               cache.type(), {shape.k_dim, shape.v_dim});
      }
    }
  });
  cache.commit(out, s.length);
  // The open page of a coded cache.
  out.exact = {};
  if (!s.exact.tail.empty_handle()) out.exact.tail = s.exact.tail.clone();
  out.recurrent = s.recurrent;
  for (RecurrentState& state : out.recurrent)
    for (Tensor& t : state)
      if (!t.empty_handle()) t = t.clone();
  return out;
}

}  // namespace hone
