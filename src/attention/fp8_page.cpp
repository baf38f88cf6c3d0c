#include "attention/fp8_page.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "tensor/dtype.h"

namespace hone {
namespace {

using kernels::kPageKeys;
using kernels::kPanel;
using kernels::kScaleBytes;
using kernels::kValueGroup;

// What a type needs to become codes.
struct E4m3 {
  static constexpr float kLargest = 448;
  static uint8_t code(float x) { return to_f8_e4m3(x).bits; }
  static float value(uint8_t code) { return to_f32(f8_e4m3{code}); }
};
struct E5m2 {
  static constexpr float kLargest = 57344;
  static uint8_t code(float x) { return to_f8_e5m2(x).bits; }
  static float value(uint8_t code) { return to_f32(f8_e5m2{code}); }
};

template <typename F>
void visit_format(KvType type, F body) {
  if (type == KvType::fp8_e4m3)
    body(E4m3{});
  else
    body(E5m2{});
}

// The runs of keys, and of values, that are neighbours both in the f32 page and among the codes:
// body(place there, place here, count).
struct Keys {
  KvPageShape s;
  template <typename F>
  void each_run(F body) const {
    for (int64_t panel = 0; panel < kPageKeys / kPanel; ++panel)
      for (int64_t c = 0; c < s.k_dim; ++c)
        body((panel * s.k_dim + c) * kPanel, ((panel / 2 * s.k_dim + c) * 2 + panel % 2) * kPanel,
             kPanel);
  }
};
struct Values {
  KvPageShape s;
  template <typename F>
  void each_run(F body) const {
    for (int64_t c = 0; c < s.v_dim; c += kValueGroup)
      for (int64_t slot = 0; slot < kPageKeys; ++slot) {
        const int64_t at = (c / kValueGroup * kPageKeys + slot) * kValueGroup;
        body(at, at, std::min<int64_t>(kValueGroup, s.v_dim - c));
      }
  }
};

// Of values up to `largest`; NaN where that is not finite.
float scale_of(float largest, float of_format) {
  constexpr int kLeast = -100;
  if (!std::isfinite(largest)) return NAN;
  int exponent = 0;
  const float fraction = std::frexp(largest / of_format, &exponent);  // [1/2, 1)·2^exponent
  return std::ldexp(1.0f, std::max(fraction == 0.5f ? exponent - 1 : exponent, kLeast));
}

template <typename Format, typename Runs>
void encode(Format, const Runs& runs, const float* x, std::byte* page) {
  float largest = 0, sum = 0;
  runs.each_run([&](int64_t at, int64_t, int64_t count) {
    for (int64_t i = at; i < at + count; ++i) {
      largest = std::max(largest, std::fabs(x[i]));
      sum += x[i] * 0;  // NaN where one is not finite
    }
  });
  const float scale = scale_of(largest + sum, Format::kLargest), inverse = 1 / scale;
  std::memcpy(page, &scale, sizeof(scale));
  runs.each_run([&](int64_t from, int64_t to, int64_t count) {
    for (int64_t i = 0; i < count; ++i)
      page[kScaleBytes + to + i] = std::byte{Format::code(x[from + i] * inverse)};
  });
}

template <typename Format, typename Runs>
void decode(Format, const Runs& runs, const std::byte* page, float* x) {
  float scale;
  std::memcpy(&scale, page, sizeof(scale));
  runs.each_run([&](int64_t to, int64_t from, int64_t count) {
    for (int64_t i = 0; i < count; ++i)
      x[to + i] = scale * Format::value(static_cast<uint8_t>(page[kScaleBytes + from + i]));
  });
}

}  // namespace

void encode_fp8_page(KvType type, KvPageShape s, const float* k, const float* v, std::byte* k_page,
                     std::byte* v_page) {
  visit_format(type, [&](auto format) {
    encode(format, Keys{s}, k, k_page);
    encode(format, Values{s}, v, v_page);
  });
}

void decode_fp8_page(KvType type, KvPageShape s, const std::byte* k_page, const std::byte* v_page,
                     float* k, float* v) {
  visit_format(type, [&](auto format) {
    decode(format, Keys{s}, k_page, k);
    decode(format, Values{s}, v_page, v);
  });
}

}  // namespace hone
