#include "encodings/dynamic_map.h"

#include <algorithm>
#include <cmath>

namespace hone {
namespace {

/// Point i of `steps` + 1 equally spaced ones from 0.1 to 1, rounded as torch.linspace rounds on
/// CPUs with fused multiply-add: counted from the nearer end, one rounding.
float spaced(int i, int steps) {
  float step = (1.0f - 0.1f) / static_cast<float>(steps);
  return i < (steps + 1) / 2 ? std::fma(step, static_cast<float>(i), 0.1f)
                             : std::fma(-step, static_cast<float>(steps - i), 1.0f);
}

/// Decade e of seven has 2^e fractions (twice that without a sign bit): the middles of equal steps
/// of [0.1, 1], times 10^(e−6). Zero and one complete the 256 values.
std::array<float, 256> make_map(bool is_signed) {
  constexpr float kDecades[] = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f};
  std::array<float, 256> map{};
  size_t n = 0;
  for (int e = 0; e < 7; ++e) {
    int steps = 1 << (is_signed ? e : e + 1);
    for (int i = 0; i < steps; ++i) {
      float middle = (spaced(i, steps) + spaced(i + 1, steps)) / 2.0f;
      map[n++] = kDecades[e] * middle;
      if (is_signed) map[n++] = -kDecades[e] * middle;
    }
  }
  map[n++] = 0.0f;
  map[n] = 1.0f;
  std::sort(map.begin(), map.end());
  return map;
}

}  // namespace

const std::array<float, 256>& dynamic_map(bool is_signed) {
  static const std::array<float, 256> kSigned = make_map(true);
  static const std::array<float, 256> kUnsigned = make_map(false);
  return is_signed ? kSigned : kUnsigned;
}

uint8_t dynamic_code(const std::array<float, 256>& map, float x) {
  int low = 0, high = 255;  // the first code whose midpoint to the next is not below x
  while (low < high) {
    int middle = (low + high) / 2;
    if ((map[middle] + map[middle + 1]) / 2.0f < x)
      low = middle + 1;
    else
      high = middle;
  }
  return static_cast<uint8_t>(low);
}

}  // namespace hone
