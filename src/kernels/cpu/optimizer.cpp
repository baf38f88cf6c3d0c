// One step of an optimizer over a range of one parameter, in one pass over memory: the gradient is
// unscaled and clipped as it is read, the states and the parameter are read and written once.
//
// A method is a rule: from the gradient it updates its states and gives the change that is
// subtracted. What a parameter is stored as (f32, or bf16 and f16 rounded to the nearest or at
// random) is no concern of it. 8-bit states are widened block by block into f32 that stays in the
// nearest cache, so that 8-bit AdamW is AdamW between two conversions.
#include "kernels/cpu/simd_bits.h"

namespace hone::kernels::HONE_ISA {
namespace {

// What parameters are stored as. `put` writes up to 16 values and returns them as stored.
struct F32Parameter {
  HONE_INLINE vf get(const void* w, int64_t i, int64_t n) { return load_n((const float*)w + i, n); }
  HONE_INLINE vf put(void* w, int64_t i, int64_t n, vf x, const UpdateArgs&) {
    store_n((float*)w + i, x, n);
    return x;
  }
};
template <typename Half, bool kStochastic>
struct HalfParameter {
  HONE_INLINE vf get(const void* w, int64_t i, int64_t n) {
    const uint16_t* p = (const uint16_t*)w + i;
    if (n == 16) return Half::widen(p);
    uint16_t t[16] = {0};
    memcpy(t, p, (size_t)(n & 15) * 2);
    return Half::widen(t);
  }
  HONE_INLINE vf put(void* w, int64_t i, int64_t n, vf x, const UpdateArgs& a) {
    vi bits = kStochastic ? Half::at_random(x, random_bits(a.key, a.first + (uint32_t)i))
                          : Half::nearest(x);
    uint16_t t[16];
    uint16_t* p = (uint16_t*)w + i;
    store_u16(n == 16 ? p : t, bits);
    if (n < 16) memcpy(p, t, (size_t)(n & 15) * 2);
    return Half::value(bits);
  }
};
struct Bf16 {
  HONE_INLINE vf widen(const uint16_t* p) { return load_bf16(p); }
  HONE_INLINE vf value(vi bits) { return of_bits(shift_left<16>(bits)); }
  HONE_INLINE vi nearest(vf x) { return bf16_nearest(x); }
  HONE_INLINE vi at_random(vf x, vi random) { return bf16_stochastic(x, random); }
};
struct F16 {
  HONE_INLINE vf widen(const uint16_t* p) { return load_f16(p); }
  HONE_INLINE vf value(vi bits) {
    uint16_t t[16];
    store_u16(t, bits);
    return load_f16(t);
  }
  HONE_INLINE vi nearest(vf x) { return f16_bits(x); }
  HONE_INLINE vi at_random(vf x, vi random) { return f16_stochastic(x, random); }
};

// rule(offset, lanes, w, g) updates the states and returns what is subtracted from w.
template <typename Parameter, typename Rule>
int64_t each_parameter(const UpdateArgs& a, Rule rule) {
  const vf factor = set_f(a.gradient_factor), keep = set_f(a.keep);
  vi unchanged = zero_i();
  each_vector(
      a.n, [&](int64_t i, int64_t n) __attribute__((always_inline)) {
        const vf w = Parameter::get(a.w, i, n);
        const vf change = rule(i, n, w, mul(load_n(a.g + i, n), factor));
        const vf stored = Parameter::put(a.w, i, n, sub(mul(w, keep), change), a);
        if (a.count_unchanged)
          unchanged = sum_i(
              unchanged, first_not_second(where_equal(stored, w), where_equal(change, zero_f())));
      });
  return count_of(unchanged);
}

template <typename Rule>
HONE_INLINE int64_t update(const UpdateArgs& a, Rule rule) {
  if (a.type == kF32) return each_parameter<F32Parameter>(a, rule);
  if (a.type == kBf16)
    return a.stochastic ? each_parameter<HalfParameter<Bf16, true>>(a, rule)
                        : each_parameter<HalfParameter<Bf16, false>>(a, rule);
  return a.stochastic ? each_parameter<HalfParameter<F16, true>>(a, rule)
                      : each_parameter<HalfParameter<F16, false>>(a, rule);
}

// The dynamic 8-bit map (Dettmers et al. 2022): between 10^(d−7) and 10^(d−6), d = 0 … 6, the
// middles of equal parts of the decade, 2^d of them with a sign, 2^(d+1) without; and 0 and 1. In
// a number j that grows with the value, the values of a decade are those with j in [q, 2q), q the
// number of its parts, and value(j) = 10^(d−6)·(0.1 + 0.9·(j − q + 1/2)/q). With j + 1/2 = q·s,
// 1 ≤ s < 2, that is 10^(d−6)·(0.9·s − 0.8): exponent and mantissa of a float.
// Signed codes are 127 ± j (from −127 to 128), unsigned ones j − 1 (from 1 to 256).
// To find a value's decade, count the thresholds that it has passed: they lie so far apart that
// there is at most one in each pair of binades from 2^−23 on.
struct DynamicMap {
  float power[16];      // 10^(d−6) by (exponent of j + 1/2 plus 15) & 15
  float threshold[16];  // between a decade's last value and the next, by (exponent + 127)/2 & 15
  int32_t passed[16];   // likewise: how many thresholds are passed behind that one
  float parts[16];      // q by the thresholds passed
  int first;            // the code of j = 0
};
// Before the first threshold is zero: q makes j come out as 0 with a sign and as 1 without one.
// Behind the last is 1: the unit 0 makes j the smallest of its decade. kToUnit: 10^(6−d)/0.9 by the
// thresholds passed.
alignas(64) constexpr float kToUnit[16] = {0,           1e6f / 0.9f, 1e5f / 0.9f, 1e4f / 0.9f,
                                           1e3f / 0.9f, 1e2f / 0.9f, 10 / 0.9f,   1 / 0.9f};
alignas(64) constexpr DynamicMap kSigned = {
    {1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1e-6f},
    {0, 0, 0, 0, 0.275e-6f, 1.9e-6f, 0, 1.45e-5f, 0, 1.225e-4f, 1.1125e-3f, 0, 1.05625e-2f,
     1.028125e-1f, 0, 0.996484375f},
    {0, 0, 0, 0, 1, 2, 2, 3, 3, 4, 5, 5, 6, 7, 7, 8},
    {0.5f, 1, 2, 4, 8, 16, 32, 64, 128},
    127};
alignas(64) constexpr DynamicMap kUnsigned = {
    {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1, 10},
    {0, 0, 0, 0, 0.1625e-6f, 1.45e-6f, 0, 1.225e-5f, 1.1125e-4f, 0, 1.05625e-3f, 0, 1.028125e-2f,
     1.0140625e-1f, 0, 0.9982421875f},
    {0, 0, 0, 0, 1, 2, 2, 3, 4, 4, 5, 5, 6, 7, 7, 8},
    {1, 2, 4, 8, 16, 32, 64, 128, 256},
    -1};

HONE_INLINE void decode_block(const DynamicMap& map, const uint8_t* codes, float most, float* x) {
  const vf power = load_f(map.power), scale = set_f(most);
  for (int i = 0; i < kStateBlock; i += 16) {
    const vf step = sub(load_u8(codes + i), set_f((float)map.first));
    const vi half = bits_of(add(magnitude(step), set_f(0.5f)));
    const vf s = of_bits(either(both(half, set_i(0x007fffff)), set_i(0x3f800000)));
    const vf decade = byte_lookup<0>(both(shift_right<23>(half), set_i(15)), power);
    vf v = mul(fma(s, set_f(0.9f), set_f(-0.8f)), decade);
    v = min(v, set_f(1));
    const vi sign = both(bits_of(step), set_i(INT32_MIN));
    store_f(x + i, mul(of_bits(either(bits_of(v), sign)), scale));
  }
}

// The block's largest magnitude.
HONE_INLINE float encode_block(const DynamicMap& map, const float* x, uint8_t* codes) {
  vf top = zero_f();
  for (int i = 0; i < kStateBlock; i += 16) top = max(magnitude(load_f(x + i)), top);
  const float most = reduce_max(top);
  const vf inverse = set_f(most > 0 ? 1 / most : 0);
  const vf to_unit = load_f(kToUnit), parts = load_f(map.parts);
  const vf threshold = load_f(map.threshold), passed = of_bits(load_i(map.passed));
  for (int i = 0; i < kStateBlock; i += 16) {
    const vf value = load_f(x + i), a = mul(magnitude(value), inverse);
    const vf seen = max(a, set_f(0x1p-23f));  // a NaN is 0
    const vi pair = both(shift_right<24>(bits_of(seen)), set_i(15));
    const vi k = sum_i(bits_of(byte_lookup<0>(pair, passed)),
                       where_at_least(byte_lookup<0>(pair, threshold), seen));
    const vf q = byte_lookup<0>(k, parts);
    const vf s = fma(a, byte_lookup<0>(k, to_unit), set_f(0.8f / 0.9f));
    // Rounding of the sum must not leave the decade; a NaN becomes its first value.
    vf j = to_float(to_int(min(max(mul(s, q), q), sub(add(q, q), set_f(0.5f)))));
    j = of_bits(either(bits_of(j), both(bits_of(value), set_i(INT32_MIN))));
    j = max(add(j, set_f((float)map.first)), zero_f());  // there is no −1
    store_u8(codes + i, to_int(j));
  }
  return most;
}

HONE_INLINE int64_t adamw_of(const UpdateArgs& a) {
  const vf b1 = set_f(a.rest1), b2 = set_f(a.beta2), c2 = set_f(a.rest2);
  const vf rate = set_f(a.rate), root = set_f(a.root_factor), eps = set_f(a.eps);
  return update(
      a, [=](int64_t i, int64_t n, vf, vf g) __attribute__((always_inline)) {
        vf m = load_n(a.m + i, n), v = load_n(a.v + i, n);
        m = fma(b1, sub(g, m), m);
        v = fma(mul(c2, g), g, mul(b2, v));
        store_n(a.m + i, m, n);
        store_n(a.v + i, v, n);
        return div(mul(rate, m), fma(sqrt_f(v), root, eps));
      });
}

}  // namespace

int64_t adamw(const UpdateArgs* args) { return adamw_of(*args); }

int64_t adamw_8bit(const UpdateArgs* args) {
  alignas(64) float m[kStateBlock], v[kStateBlock];
  alignas(64) uint8_t last[2][kStateBlock];
  const int64_t bytes = args->type == kF32 ? 4 : 2;
  int64_t unchanged = 0;
  for (int64_t i = 0, block = 0; i < args->n; i += kStateBlock, ++block) {
    const int64_t n = args->n - i < kStateBlock ? args->n - i : kStateBlock;
    uint8_t *m_codes = args->m_codes + i, *v_codes = args->v_codes + i;
    if (n < kStateBlock) {  // what is not there is zero
      memset(last[0], kSigned.first, kStateBlock);
      memset(last[1], 0, kStateBlock);
      memcpy(last[0], m_codes, (size_t)n);
      memcpy(last[1], v_codes, (size_t)n);
      m_codes = last[0];
      v_codes = last[1];
    }
    decode_block(kSigned, m_codes, args->m[block], m);
    decode_block(kUnsigned, v_codes, args->v[block], v);
    UpdateArgs a = *args;
    a.w = (char*)args->w + i * bytes;
    a.g = args->g + i;
    a.m = m;
    a.v = v;
    a.n = n;
    a.first = args->first + (uint32_t)i;
    unchanged += adamw_of(a);
    args->m[block] = encode_block(kSigned, m, m_codes);
    args->v[block] = encode_block(kUnsigned, v, v_codes);
    if (n < kStateBlock) {
      memcpy(args->m_codes + i, m_codes, (size_t)n);
      memcpy(args->v_codes + i, v_codes, (size_t)n);
    }
  }
  return unchanged;
}

int64_t sgd(const UpdateArgs* args) {
  const UpdateArgs& a = *args;
  const vf rate = set_f(a.rate), l2 = set_f(a.l2), momentum = set_f(a.beta1);
  if (!a.m)
    return update(
        a, [=](int64_t, int64_t, vf w, vf g)
               __attribute__((always_inline)) { return mul(rate, fma(l2, w, g)); });
  const vf ahead = set_f(a.nesterov ? a.beta1 : 1), now = set_f(a.nesterov ? 1 : 0);
  return update(
      a, [=](int64_t i, int64_t n, vf w, vf g) __attribute__((always_inline)) {
        g = fma(l2, w, g);
        const vf m = fma(momentum, load_n(a.m + i, n), g);
        store_n(a.m + i, m, n);
        return mul(rate, fma(ahead, m, mul(now, g)));
      });
}

int64_t lion(const UpdateArgs* args) {
  const UpdateArgs& a = *args;
  const vf b1 = set_f(a.rest1), b2 = set_f(a.rest2), rate = set_f(a.rate);
  return update(
      a, [=](int64_t i, int64_t n, vf, vf g) __attribute__((always_inline)) {
        const vf m = load_n(a.m + i, n), c = fma(b1, sub(g, m), m);
        store_n(a.m + i, fma(b2, sub(g, m), m), n);
        const vi sign = both(bits_of(c), set_i(INT32_MIN));
        // No sign of zero; a NaN stays one.
        const vf step = of_bits(either(bits_of(rate), sign));
        return of_bits(choose(where_greater(both(bits_of(c), set_i(INT32_MAX)), set_i(0x7f800000)),
                              bits_of(c),
                              first_not_second(bits_of(step), where_equal(c, zero_f()))));
      });
}

int64_t adafactor(const UpdateArgs* args) {
  const UpdateArgs& a = *args;
  const vf rate = set_f(a.rate), b1 = set_f(a.beta1), c1 = set_f(a.rest1);
  return update(
      a, [=](int64_t i, int64_t n, vf, vf g) __attribute__((always_inline)) {
        vf change = mul(rate, mul(g, load_n(a.v + i, n)));
        if (!a.m) return change;
        change = fma(c1, change, mul(b1, load_n(a.m + i, n)));
        store_n(a.m + i, change, n);
        return change;
      });
}

double sum_of_squares(const float* x, const float* factors, int64_t n) {
  vd sum = zero_d();
  if (factors)
    each_vector(n, [&](int64_t i, int64_t m) {
      sum = add_squares(sum, mul(load_n(x + i, m), load_n(factors + i, m)));
    });
  else
    each_vector(n, [&](int64_t i, int64_t m) { sum = add_squares(sum, load_n(x + i, m)); });
  return reduce_add_d(sum);
}

void add_squares_to(const float* x, float factor, float eps, int64_t n, float* sums) {
  each_vector(n, [&](int64_t i, int64_t m) {
    const vf v = mul(load_n(x + i, m), set_f(factor));
    store_n(sums + i, add(load_n(sums + i, m), fma(v, v, set_f(eps))), m);
  });
}

}  // namespace hone::kernels::HONE_ISA
