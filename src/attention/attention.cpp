#include "attention/attention.h"

#include <algorithm>

#include "base/checked.h"
#include "base/threads.h"
#include "kernels/select.h"

namespace hone {
namespace {

using kernels::kPageKeys;

// Query rows (heads of a group × positions) that share one pass over the keys.
constexpr int64_t kUnitRows = 24;

struct Unit {
  const SequenceSpan* span;
  int64_t kv_head;
  int64_t first, last;  // positions inside the span
};

std::vector<Unit> plan_units(const AttentionSpec& spec, const std::vector<SequenceSpan>& spans) {
  int64_t per_position = spec.heads / spec.kv_heads;
  int64_t positions = std::max<int64_t>(1, kUnitRows / per_position);
  std::vector<Unit> units;
  for (const SequenceSpan& s : spans)
    for (int64_t p = 0; p < s.end - s.begin; p += positions)
      for (int64_t h = 0; h < spec.kv_heads; ++h)
        units.push_back({&s, h, p, std::min(s.end - s.begin, p + positions)});
  return units;
}

// Buffers of one thread, reused from unit to unit.
struct Workspace {
  std::vector<int64_t> q_offset, o_offset;
  std::vector<const void*> k_pages, v_pages;
  std::vector<uint64_t> masks;
  std::vector<float> scratch;
};

void run_unit(const AttentionSpec& spec, const Unit& u, const float* q, float* o, KvCache& cache,
              int64_t layer, Workspace& w) {
  const int64_t group = spec.heads / spec.kv_heads;
  const int64_t rows = group * (u.last - u.first);
  const int64_t q0 = u.span->start + u.first, q1 = u.span->start + u.last;
  w.q_offset.clear();
  w.o_offset.clear();
  for (int64_t p = u.first; p < u.last; ++p)
    for (int64_t g = 0; g < group; ++g) {
      int64_t head = u.kv_head * group + g, row = u.span->begin + p;
      w.q_offset.push_back((row * spec.heads + head) * spec.k_dim);
      w.o_offset.push_back((row * spec.heads + head) * spec.v_dim);
    }
  w.k_pages.clear();
  w.v_pages.clear();
  w.masks.clear();
  const int64_t keys = u.span->start + u.span->end - u.span->begin;
  for (int64_t k0 = 0; k0 < keys; k0 += kPageKeys) {
    int64_t k1 = std::min(k0 + kPageKeys, keys);
    TileKind kind = spec.pattern.classify(q0, q1, k0, k1);
    if (kind == TileKind::empty) continue;
    uint64_t exist = k1 - k0 == 64 ? ~uint64_t{0} : (uint64_t{1} << (k1 - k0)) - 1;
    int64_t page = u.span->kv->pages[k0 / kPageKeys];
    w.k_pages.push_back(cache.k_page(layer, page, u.kv_head));
    w.v_pages.push_back(cache.v_page(layer, page, u.kv_head));
    for (int64_t p = q0; p < q1; ++p) {
      uint64_t bits = kind == TileKind::full ? exist : exist & spec.pattern.mask(p, k0);
      w.masks.insert(w.masks.end(), group, bits);
    }
  }
  w.scratch.resize(static_cast<size_t>(rows * (kPageKeys + spec.v_dim + 2)));
  kernels::AttentionArgs a{};
  a.q = q;
  a.q_offset = w.q_offset.data();
  a.o = o;
  a.o_offset = w.o_offset.data();
  a.k_pages = w.k_pages.data();
  a.v_pages = w.v_pages.data();
  a.masks = w.masks.data();
  a.rows = rows;
  a.tiles = static_cast<int64_t>(w.k_pages.size());
  a.d = spec.k_dim;
  a.kv_form = cache.type() == DType::f32    ? kernels::kKvF32
              : cache.type() == DType::bf16 ? kernels::kKvBf16
                                            : kernels::kKvF16;
  a.dv = spec.v_dim;
  a.scale = spec.scale;
  a.softcap = spec.softcap;
  a.scratch = w.scratch.data();
  kernels::table().attention(&a);
}

}  // namespace

Tensor attend(const AttentionSpec& spec, const Tensor& q, KvCache& cache, int64_t layer,
              const std::vector<SequenceSpan>& spans) {
  HONE_ASSERT(spec.kv_heads > 0 && spec.heads % spec.kv_heads == 0);
  HONE_ASSERT(q.rank() == 2 && q.dim(1) == spec.heads * spec.k_dim);
  Tensor o = Tensor::empty({q.dim(0), spec.heads * spec.v_dim}, DType::f32);
  std::vector<Unit> units = plan_units(spec, spans);
  const float* in = q.data<float>();
  float* out = o.mutable_data<float>();
  parallel_for(static_cast<int64_t>(units.size()), 1, [&](int64_t b, int64_t e) {
    static thread_local Workspace workspace;
    for (int64_t i = b; i < e; ++i) run_unit(spec, units[i], in, out, cache, layer, workspace);
  });
  return o;
}

}  // namespace hone
