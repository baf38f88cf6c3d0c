// Values as a narrower type would hold them, and how many it loses at either end.
#include "kernels/cpu/simd_bits.h"

namespace hone::kernels::HONE_ISA {
namespace {

HONE_INLINE vf to_bf16(vf x) { return of_bits(shift_left<16>(bf16_nearest(x))); }
HONE_INLINE vf to_f16(vf x) {
  uint16_t t[16];
  store_u16(t, f16_bits(x));
  return load_f16(t);
}
template <bool kCut>
HONE_INLINE vf to_tf32(vf x) {
  const vi u = bits_of(x), low = set_i(0x1fff);
  const vi finite = where_greater(set_i(0x7f800000), both(u, set_i(0x7fffffff)));
  const vi kept = first_not_second(kCut ? u : sum_i(u, set_i(0x1000)), low);
  return of_bits(choose(finite, kept, u));
}

template <vf kRound(vf)>
HONE_INLINE void round_all(const float* x, int64_t n, float* y, int64_t lost[2]) {
  const vi infinite = set_i(0x7f800000);
  // Lanes count downwards: a comparison is −1 where it holds.
  vi over = zero_i(), under = zero_i();
  each_vector(n, [&](int64_t i, int64_t m) {
    const vf v = load_n(x + i, m), r = kRound(v);
    const vi before = bits_of(magnitude(v)), after = bits_of(magnitude(r));
    over = sum_i(over,
                 first_not_second(where_greater(infinite, before), where_greater(infinite, after)));
    under = sum_i(
        under, first_not_second(where_greater(before, zero_i()), where_greater(after, zero_i())));
    store_n(y + i, r, m);
  });
  lost[0] += count_of(over);
  lost[1] += count_of(under);
}

}  // namespace

void round_values(const float* x, int64_t n, Rounding to, float* y, int64_t lost[2]) {
  if (to == kRoundBf16)
    round_all<to_bf16>(x, n, y, lost);
  else if (to == kRoundF16)
    round_all<to_f16>(x, n, y, lost);
  else if (to == kRoundTf32)
    round_all<to_tf32<false>>(x, n, y, lost);
  else
    round_all<to_tf32<true>>(x, n, y, lost);
}

}  // namespace hone::kernels::HONE_ISA
