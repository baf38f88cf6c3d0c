// Attention of a few query rows over a list of key tiles, with an online softmax (FlashAttention,
// Dao et al. 2022): O(1) memory in the number of keys.
//
// The rows are the query heads that share one kv head, times consecutive positions, so that each K
// and V byte is read once per group. Tiles come in a fixed absolute order and each row's sums run
// over its own tiles only: a row's result does not depend on which other rows stand beside it. A
// row that sees no key gives zeros.
#include "kernels/cpu/simd.h"

namespace hone::kernels::HONE_ISA {
namespace {

constexpr float kMinusInfinity = -__builtin_inff();

// s[r][64] = q_r · K for R rows. K page: four panels [d][16].
template <typename L, int R>
static void scores(const AttentionArgs* a, int64_t r0, const typename L::T* page, float* s) {
  const float* q[R];
  for (int r = 0; r < R; ++r) q[r] = a->q + a->q_offset[r0 + r];
  for (int panel = 0; panel < kPageKeys / kPanel; panel += 2) {
    vf acc[R][2];
    for (int r = 0; r < R; ++r) acc[r][0] = acc[r][1] = zero_f();
    const typename L::T* k0 = page + panel * a->d * kPanel;
    const typename L::T* k1 = k0 + a->d * kPanel;
    for (int64_t i = 0; i < a->d; ++i) {
      vf x = L::load(k0 + i * kPanel), y = L::load(k1 + i * kPanel);
      for (int r = 0; r < R; ++r) {
        vf e = set_f(q[r][i]);
        acc[r][0] = fma(e, x, acc[r][0]);
        acc[r][1] = fma(e, y, acc[r][1]);
      }
    }
    for (int r = 0; r < R; ++r)
      for (int h = 0; h < 2; ++h) store_f(s + r * kPageKeys + (panel + h) * kPanel, acc[r][h]);
  }
}

// Scales, caps and masks one row of scores, updates the running maximum and sum, leaves the
// probabilities in s, and returns the factor for what was summed before.
HONE_INLINE float soften(const AttentionArgs* a, uint64_t mask, float* s, float* top, float* sum) {
  constexpr int kVectors = kPageKeys / kPanel;
  vf v[kVectors];
  vf best = set_f(kMinusInfinity);
  for (int i = 0; i < kVectors; ++i) {
    v[i] = mul(load_f(s + i * kPanel), set_f(a->scale));
    if (a->softcap > 0) v[i] = mul(tanh_f(div(v[i], set_f(a->softcap))), set_f(a->softcap));
    v[i] = select_bits((uint32_t)(mask >> (i * kPanel)) & 0xffffu, v[i], set_f(kMinusInfinity));
    best = max(best, v[i]);
  }
  float m = reduce_max(best);
  float old = *top;
  if (m < old) m = old;
  vf part = zero_f();
  for (int i = 0; i < kVectors; ++i) {
    vf p = exp_f(sub(v[i], set_f(m)));
    p = select_bits((uint32_t)(mask >> (i * kPanel)) & 0xffffu, p, zero_f());
    part = add(part, p);
    store_f(s + i * kPanel, p);
  }
  float factor = old == kMinusInfinity ? 0.0f : first_lane(exp_f(set_f(old - m)));
  *sum = *sum * factor + reduce_add(part);
  *top = m;
  return factor;
}

// o[r][dv] = o·factor + p·V for R rows; only keys seen by the row.
template <typename L, int R>
static void accumulate(const AttentionArgs* a, const typename L::T* page, const float* p,
                       const float* factor, float* o) {
  for (int64_t c = 0; c < a->dv; c += kPanel) {
    int64_t valid = a->dv - c < kPanel ? a->dv - c : kPanel;
    vf acc[R];
    for (int r = 0; r < R; ++r) {
      float* at = o + r * a->dv + c;
      acc[r] = mul(valid == kPanel ? load_f(at) : load_part(at, valid), set_f(factor[r]));
    }
    for (int j = 0; j < kPageKeys; ++j) {
      const typename L::T* at = page + j * a->dv + c;
      vf v = valid == kPanel ? L::load(at) : L::load_part(at, valid);
      for (int r = 0; r < R; ++r) acc[r] = fma(set_f(p[r * kPageKeys + j]), v, acc[r]);
    }
    for (int r = 0; r < R; ++r) {
      float* at = o + r * a->dv + c;
      if (valid == kPanel)
        store_f(at, acc[r]);
      else
        store_part(at, acc[r], valid);
    }
  }
}

template <typename L, int R>
static void attend_rows(const AttentionArgs* a, int64_t r0) {
  float* s = a->scratch;
  float* o = s + R * kPageKeys;
  float top[R], sum[R], factor[R];
  for (int r = 0; r < R; ++r) {
    top[r] = kMinusInfinity;
    sum[r] = 0;
    for (int64_t c = 0; c < a->dv; ++c) o[r * a->dv + c] = 0;
  }
  for (int64_t tile = 0; tile < a->tiles; ++tile) {
    const uint64_t* mask = a->masks + tile * a->rows + r0;
    uint64_t any = 0;
    for (int r = 0; r < R; ++r) any |= mask[r];
    if (any == 0) continue;
    scores<L, R>(a, r0, (const typename L::T*)a->k_pages[tile], s);
    for (int r = 0; r < R; ++r) {
      if (mask[r] == 0) {
        // Not this row's tile: adding nothing must leave its sums bit for bit.
        factor[r] = 1;
        for (int j = 0; j < kPageKeys; ++j) s[r * kPageKeys + j] = 0;
        continue;
      }
      factor[r] = soften(a, mask[r], s + r * kPageKeys, &top[r], &sum[r]);
    }
    accumulate<L, R>(a, (const typename L::T*)a->v_pages[tile], s, factor, o);
  }
  for (int r = 0; r < R; ++r) {
    float inverse = sum[r] > 0 ? 1.0f / sum[r] : 0.0f;
    float* out = a->o + a->o_offset[r0 + r];
    for (int64_t c = 0; c < a->dv; ++c) out[c] = o[r * a->dv + c] * inverse;
  }
}

template <typename L>
static void attend(const AttentionArgs* a) {
  int64_t r = 0;
  for (; r + 8 <= a->rows; r += 8) attend_rows<L, 8>(a, r);
  for (; r + 4 <= a->rows; r += 4) attend_rows<L, 4>(a, r);
  for (; r + 2 <= a->rows; r += 2) attend_rows<L, 2>(a, r);
  for (; r < a->rows; ++r) attend_rows<L, 1>(a, r);
}

}  // namespace

void attention(const AttentionArgs* a) {
  switch (a->kv_form) {
    case kKvF32:
      return attend<F32>(a);
    case kKvBf16:
      return attend<B16>(a);
    default:
      return attend<H16>(a);
  }
}

}  // namespace hone::kernels::HONE_ISA
