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

Tensor add_product(Tensor y, const Tensor& u, const DenseMatrix& w, Activations a) {
  const PackedWeight& packed = w.packed();
  const int64_t t = u.dim(0), n = packed.n, k = packed.k;
  HONE_ASSERT(u.dim(1) == k && y.dim(0) == t && y.dim(1) == n);
  const LinearInput in(u);
  const std::string_view name = w.product().name;
  const bool dots = a == Activations::bf16 && packed.activations(a) == "bf16";
  const Tensor& x = dots ? in.rounded(name) : rounding_of(a) ? in.narrowed(a, name) : u;
  std::vector<uint16_t> rounded;
  if (dots) {
    rounded.resize(static_cast<size_t>(packed.byte_size() / 4));
    kernels::table().round_to_bf16(reinterpret_cast<const float*>(packed.bytes.raw()),
                                   std::ssize(rounded), rounded.data(), nullptr);
  }
  // Strips of tokens whose results stay in the cache from panel to panel.
  constexpr int64_t kTokens = 48, kPanels = 16;
  const int64_t panels = ceil_div(n, int64_t{kPanel}), wide = ceil_div(panels, kPanels);
  float* out = y.mutable_data<float>();
  parallel_for(ceil_div(t, kTokens) * wide, 1, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; ++i) {
      const int64_t t0 = i / wide * kTokens, p0 = i % wide * kPanels;
      const int64_t p1 = std::min(panels, p0 + kPanels);
      kernels::GemmArgs g{};
      g.ldx = k;
      g.y = out + t0 * n + p0 * kPanel;
      g.ldy = n;
      g.t = std::min(t, t0 + kTokens) - t0;
      g.n = std::min(n, p1 * kPanel) - p0 * kPanel;
      g.k = k;
      g.p1 = p1 - p0;
      g.accumulate = 1;
      if (dots) {
        g.panels = rounded.data() + p0 * kPanel * k;
        g.xb = reinterpret_cast<const uint16_t*>(x.raw()) + t0 * k;
        kernels::table().gemm_bf16_dot(&g);
      } else {
        g.panels = packed.bytes.data<uint8_t>() + p0 * packed.panel_bytes;
        g.x = x.data<float>() + t0 * k;
        kernels::table().gemm_f32(&g);
      }
    }
  });
  if (!recorded({&y, &u, &w.values()})) return y;
  Tensor sum = y.detached();
  record(sum, [y = y.hollow(), u = u.hollow(), x, packed, values = w.values(), a,
               name = std::string(name)](const Tensor& flat) {
    const Tensor dy = flat.reshape({u.dim(0), packed.n});
    const bool to_u = u.requires_gradient();
    // dy is y's gradient too: mixed precision rounds a copy.
    Tensor du = product_backward(dy, x, packed, values, {}, to_u, a, name);
    if (to_u) add_gradient(u, du);
    add_gradient(y, flat);
  });
  return sum;
}

}  // namespace hone
