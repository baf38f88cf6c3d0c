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

// Lanes count downwards: a comparison is −1 where it holds.
struct Losses {
  vi over, under;
};
HONE_INLINE void count_losses(Losses& c, vf v, vf rounded) {
  const vi infinite = set_i(0x7f800000), after = bits_of(magnitude(rounded));
  // Hardly ever anything is infinite or zero now.
  if (!any_of(either(where_greater(set_i(1), after), where_greater(after, set_i(0x7f7fffff)))))
    return;
  const vi before = bits_of(magnitude(v));
  c.over = sum_i(c.over,
                 first_not_second(where_greater(infinite, before), where_greater(infinite, after)));
  c.under = sum_i(
      c.under, first_not_second(where_greater(before, zero_i()), where_greater(after, zero_i())));
}
HONE_INLINE void add_losses(const Losses& c, int64_t lost[2]) {
  lost[0] += count_of(c.over);
  lost[1] += count_of(c.under);
}

template <vf kRound(vf)>
HONE_INLINE void round_all(const float* x, int64_t n, float* y, int64_t lost[2]) {
  Losses losses = {zero_i(), zero_i()};
  each_vector(n, [&](int64_t i, int64_t m) {
    const vf v = load_n(x + i, m), r = kRound(v);
    count_losses(losses, v, r);
    store_n(y + i, r, m);
  });
  add_losses(losses, lost);
}

template <bool kCount>
HONE_INLINE void store_bf16(const float* x, int64_t n, uint16_t* y, int64_t lost[2]) {
  Losses losses = {zero_i(), zero_i()};
  each_vector(n, [&](int64_t i, int64_t m) {
    const vf v = load_n(x + i, m);
    const vi bits = bf16_nearest(v);
    if (kCount) count_losses(losses, v, of_bits(shift_left<16>(bits)));
    if (m == 16) return store_u16(y + i, bits);
    uint16_t part[16];
    store_u16(part, bits);
    memcpy(y + i, part, (size_t)m * 2);
  });
  if (kCount) add_losses(losses, lost);
}

}  // namespace

void round_to_bf16(const float* x, int64_t n, uint16_t* y, int64_t lost[2]) {
  if (lost != nullptr)
    store_bf16<true>(x, n, y, lost);
  else
    store_bf16<false>(x, n, y, lost);
}

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
