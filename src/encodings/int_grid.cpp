#include "encodings/int_grid.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/error.h"

namespace hone {
namespace {

// GPTQ's reference search: the range shrinks in 1 % steps down to 21 %.
constexpr int kShrinkSteps = 80;
constexpr float kNorm = 2.4f;

Grid make_grid(float low, float high, const GridOptions& options) {
  int top = (1 << options.bits) - 1;
  Grid grid;
  // Halves first, so that the widest range does not overflow.
  float width = (high / 2 - low / 2) / static_cast<float>(top) * 2;
  grid.scale = round_scale(width, options.scale_type);
  grid.zero = options.symmetric ? 1 << (options.bits - 1) : grid_code(-low, {grid.scale, 0}, top);
  return grid;
}

/// Σ|x − x̂|^2.4, or anything not below `limit` once it is reached.
float grid_error(const float* x, int64_t n, int64_t stride, const Grid& grid, int top,
                 float limit) {
  float sum = 0;
  for (int64_t i = 0; i < n && sum < limit; ++i) {
    float v = x[i * stride];
    sum += std::pow(std::fabs(grid_value(grid_code(v, grid, top), grid) - v), kNorm);
  }
  return sum;
}

/// Calls f with an integral constant: the shift counts of the loops below are then known.
template <typename F>
void visit_bits(int bits, F&& f) {
  switch (bits) {
    case 1:
      return f(std::integral_constant<int, 1>{});
    case 2:
      return f(std::integral_constant<int, 2>{});
    case 3:
      return f(std::integral_constant<int, 3>{});
    case 4:
      return f(std::integral_constant<int, 4>{});
    case 5:
      return f(std::integral_constant<int, 5>{});
    case 6:
      return f(std::integral_constant<int, 6>{});
    case 7:
      return f(std::integral_constant<int, 7>{});
    case 8:
      return f(std::integral_constant<int, 8>{});
  }
  fail(ErrorKind::internal, "codes of {} bits", bits);
}

}  // namespace

float round_scale(float scale, DType type) {
  auto keep = [scale](float rounded, float smallest, float largest) {
    return std::clamp(std::isnan(scale) ? 1.0f : rounded, smallest, largest);
  };
  using Limits = std::numeric_limits<float>;
  switch (type) {
    case DType::f16:
      return keep(to_f32(to_f16(scale)), 0x1p-24f, 65504.0f);
    case DType::bf16:
      return keep(to_f32(to_bf16(scale)), Limits::min(), 0x1.fep127f);
    case DType::f32:
      return keep(scale, Limits::min(), Limits::max());
    default:
      fail(ErrorKind::internal, "scales of type {}", dtype_name(type));
  }
}

Grid find_grid(const float* x, int64_t n, int64_t stride, const GridOptions& options) {
  HONE_ASSERT(options.bits >= 2 && options.bits <= 8 && n > 0);
  float low = 0, high = 0;
  for (int64_t i = 0; i < n; ++i) {
    low = std::min(low, x[i * stride]);
    high = std::max(high, x[i * stride]);
  }
  if (options.symmetric) {
    high = std::max(-low, high);
    low = -high;
  }
  if (low == high) {  // all zero: any grid that holds 0 will do
    low = -1;
    high = 1;
  }
  Grid best = make_grid(low, high, options);
  if (!options.mse) return best;
  int top = (1 << options.bits) - 1;
  float least = std::numeric_limits<float>::infinity();
  for (int step = 0; step < kShrinkSteps; ++step) {
    float part = 1.0f - static_cast<float>(step) / 100.0f;
    Grid grid = make_grid(part * low, part * high, options);
    float error = grid_error(x, n, stride, grid, top, least);
    if (error < least) {
      least = error;
      best = grid;
    }
  }
  return best;
}

void pack_codes(const uint8_t* codes, int64_t n, int bits, uint8_t* bytes) {
  std::memset(bytes, 0, static_cast<size_t>(packed_size(n, bits)));
  visit_bits(bits, [&](auto b) {
    constexpr int kBits = b;
    for (int64_t i = 0; i < n; i += 8) {  // 8 codes fill kBits bytes
      uint64_t word = 0;
      int64_t count = std::min<int64_t>(8, n - i);
      for (int64_t j = 0; j < count; ++j) word |= uint64_t{codes[i + j]} << (kBits * j);
      std::memcpy(bytes + i / 8 * kBits, &word, static_cast<size_t>(packed_size(count, kBits)));
    }
  });
}

void unpack_codes(const uint8_t* bytes, int64_t n, int bits, uint8_t* codes) {
  visit_bits(bits, [&](auto b) {
    constexpr int kBits = b;
    auto spread = [](uint64_t word, uint8_t* out, int64_t count) {
      for (int64_t j = 0; j < count; ++j)
        out[j] = static_cast<uint8_t>(word >> (kBits * j) & ((1 << kBits) - 1));
    };
    int64_t whole = n / 8 * 8;
    for (int64_t i = 0; i < whole; i += 8, bytes += kBits) {
      uint64_t word = 0;
      std::memcpy(&word, bytes, kBits);
      spread(word, codes + i, 8);
    }
    if (whole == n) return;
    uint64_t word = 0;
    std::memcpy(&word, bytes, static_cast<size_t>(packed_size(n - whole, kBits)));
    spread(word, codes + whole, n - whole);
  });
}

}  // namespace hone
