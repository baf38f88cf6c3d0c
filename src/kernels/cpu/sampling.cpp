// Sums and searches over one row of logits, for the sampler: it cuts distributions at thresholds
// of the logit, and must look at a vocabulary of 100 000 in microseconds.
#include "kernels/cpu/simd.h"

namespace hone::kernels::HONE_ISA {
namespace {

// Lanes behind the last are `rest`.
HONE_INLINE vf load_or(const float* p, int64_t n, float rest) {
  return n == 16 ? load_f(p) : select_bits((1u << n) - 1, load_part(p, n), set_f(rest));
}

}  // namespace

void block_maxima(const float* x, int64_t n, float* maxima) {
  for (int64_t at = 0; at < n; at += kMaximaBlock) {
    int64_t block = n - at < kMaximaBlock ? n - at : kMaximaBlock;
    vf best = set_f(-__builtin_inff());
    each_vector(block, [&](int64_t i, int64_t m) {
      // The second of the two where one is NaN.
      best = max(load_or(x + at + i, m, -__builtin_inff()), best);
    });
    *maxima++ = reduce_max(best);
  }
}

void weights_at_least(const float* x, int64_t n, float least, float top, float factor, float* w) {
  each_vector(n, [&](int64_t i, int64_t m) {
    vf v = load_or(x + i, m, top);
    vf e = exp_f(mul(sub(v, set_f(top)), set_f(factor)));
    e = select_bits(at_least(v, set_f(least)), e, zero_f());
    store_n(w + i, e, m);
  });
}

double mass_at_least(const float* x, const float* w, int64_t n, float least, int64_t* count) {
  constexpr int64_t kTerms = 1024;  // so few float additions that digits are not lost
  double total = 0;
  int64_t found = 0;
  for (int64_t at = 0; at < n; at += kTerms) {
    vf sum = zero_f();
    each_vector(n - at < kTerms ? n - at : kTerms, [&](int64_t i, int64_t m) {
      uint32_t bits = at_least(load_or(x + at + i, m, -__builtin_inff()), set_f(least));
      if (m < 16) bits &= (1u << m) - 1;
      sum = add(sum, select_bits(bits, load_or(w + at + i, m, 0), zero_f()));
      found += __builtin_popcount(bits);
    });
    total += (double)reduce_add(sum);
  }
  *count = found;
  return total;
}

int64_t find_between(const float* x, int64_t n, float least, float below, int32_t* found) {
  int64_t count = 0;
  each_vector(n, [&](int64_t i, int64_t m) {
    vf v = load_or(x + i, m, below);
    uint32_t bits = at_least(v, set_f(least)) & ~at_least(v, set_f(below));
    for (; bits; bits &= bits - 1) found[count++] = (int32_t)(i + __builtin_ctz(bits));
  });
  return count;
}

}  // namespace hone::kernels::HONE_ISA
