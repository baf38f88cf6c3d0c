#include "encodings/low_rank.h"

#include <algorithm>
#include <utility>

#include "base/checked.h"
#include "base/threads.h"
#include "kernels/select.h"
#include "ops/dense.h"
#include "ops/tape.h"

namespace hone {

using kernels::kPanel;

DenseMatrix::DenseMatrix(Tensor values) : values_(std::move(values)) {
  HONE_ASSERT(values_.rank() == 2 && values_.dtype() == DType::f32);
  packed_ = pack_weight(float_weight(values_));
}

void DenseMatrix::values_changed() { pack_again(float_weight(values_), packed_); }

Tensor add_product(Tensor y, const Tensor& u, const DenseMatrix& w) {
  const PackedWeight& packed = w.packed();
  const int64_t t = u.dim(0), n = packed.n, k = packed.k;
  HONE_ASSERT(u.dim(1) == k && y.dim(0) == t && y.dim(1) == n);
  // Strips of tokens whose results stay in the cache from panel to panel.
  constexpr int64_t kTokens = 48, kPanels = 16;
  const int64_t panels = ceil_div(n, int64_t{kPanel}), wide = ceil_div(panels, kPanels);
  float* out = y.mutable_data<float>();
  parallel_for(ceil_div(t, kTokens) * wide, 1, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; ++i) {
      const int64_t t0 = i / wide * kTokens, p0 = i % wide * kPanels;
      const int64_t p1 = std::min(panels, p0 + kPanels);
      kernels::GemmArgs g{};
      g.panels = packed.bytes.data<uint8_t>() + p0 * packed.panel_bytes;
      g.x = u.data<float>() + t0 * k;
      g.ldx = k;
      g.y = out + t0 * n + p0 * kPanel;
      g.ldy = n;
      g.t = std::min(t, t0 + kTokens) - t0;
      g.n = std::min(n, p1 * kPanel) - p0 * kPanel;
      g.k = k;
      g.p1 = p1 - p0;
      g.accumulate = 1;
      kernels::table().gemm_f32(&g);
    }
  });
  if (!recorded({&y, &u, &w.values()})) return y;
  Tensor sum = y.detached();
  record(sum, [y = y.hollow(), u, packed, values = w.values()](const Tensor& flat) {
    const Tensor dy = flat.reshape({u.dim(0), packed.n});
    if (values.requires_gradient()) ops::accumulate_product(dy, u, gradient_of(values));
    if (u.requires_gradient()) add_gradient(u, multiply_transposed(dy, packed));
    add_gradient(y, flat);
  });
  return sum;
}

}  // namespace hone
