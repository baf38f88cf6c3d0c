#include "tensor/code_tables.h"

#include <algorithm>
#include <cmath>

namespace hone {
namespace {

/// Point i of steps + 1 equally spaced ones from 0.1 to 1, counted from the nearer end with one
/// rounding, as torch.linspace computes on CPUs with fused multiply-add.
float linspace_point(int i, int steps) {
  float step = (1.0f - 0.1f) / static_cast<float>(steps);
  bool from_start = i < (steps + 1) / 2;
  return from_start ? std::fma(step, static_cast<float>(i), 0.1f)
                    : std::fma(-step, static_cast<float>(steps - i), 1.0f);
}

std::array<float, 256> make_signed_dynamic() {
  constexpr float kDecades[] = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f};
  std::array<float, 256> table{};
  size_t n = 0;
  for (int e = 0; e < 7; ++e) {
    int steps = 1 << e;
    for (int i = 0; i < steps; ++i) {
      float mean = (linspace_point(i, steps) + linspace_point(i + 1, steps)) / 2.0f;
      table[n++] = kDecades[e] * mean;
      table[n++] = -kDecades[e] * mean;
    }
  }
  table[n++] = 1.0f;
  table[n] = 0.0f;
  std::sort(table.begin(), table.end());
  return table;
}

std::array<float, 16> make_fp4() {
  // In twelfths of the largest, by exponent and mantissa bits.
  constexpr float kTwelfths[8] = {0.0f, 0.0625f, 8.0f, 12.0f, 4.0f, 6.0f, 2.0f, 3.0f};
  std::array<float, 16> table{};
  for (size_t i = 0; i < 8; ++i) {
    table[i] = kTwelfths[i] / 12.0f;
    table[i + 8] = i == 0 ? 0.0f : -table[i];
  }
  return table;
}

}  // namespace

const std::array<float, 16>& nf4_table() {
  static constexpr std::array<float, 16> kTable = {-1.0f,
                                                   -0.6961928009986877f,
                                                   -0.5250730514526367f,
                                                   -0.39491748809814453f,
                                                   -0.28444138169288635f,
                                                   -0.18477343022823334f,
                                                   -0.09105003625154495f,
                                                   0.0f,
                                                   0.07958029955625534f,
                                                   0.16093020141124725f,
                                                   0.24611230194568634f,
                                                   0.33791524171829224f,
                                                   0.44070982933044434f,
                                                   0.5626170039176941f,
                                                   0.7229568362236023f,
                                                   1.0f};
  return kTable;
}

const std::array<float, 16>& fp4_table() {
  static const std::array<float, 16> kTable = make_fp4();
  return kTable;
}

const std::array<float, 256>& signed_dynamic_table() {
  static const std::array<float, 256> kTable = make_signed_dynamic();
  return kTable;
}

}  // namespace hone
