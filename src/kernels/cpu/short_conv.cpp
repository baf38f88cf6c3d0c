// One row of a short causal convolution over time. Limits: bytes; a row is read once for each tap,
// from a cache.
#include "kernels/cpu/simd.h"

namespace hone::kernels::HONE_ISA {

void short_conv_row(const float* const* x, const float* w, const float* bias, int64_t taps,
                    int64_t n, int silu, float* y) {
  each_vector(n, [&](int64_t i, int64_t m) {
    vf z = bias ? load_n(bias + i, m) : zero_f();
    for (int64_t j = 0; j < taps; ++j) z = fma(load_n(w + j * n + i, m), load_n(x[j] + i, m), z);
    if (silu) z = div(z, add(set_f(1), exp_f(sub(zero_f(), z))));
    store_n(y + i, z, m);
  });
}

}  // namespace hone::kernels::HONE_ISA
