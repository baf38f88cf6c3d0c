#include "encodings/fake_quantize.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/checked.h"
#include "base/threads.h"
#include "encodings/int_grid.h"
#include "encodings/planes.h"
#include "ops/tape.h"

namespace hone {
namespace {

constexpr float kLowCode = -128, kHighCode = 127;

// Half to even, of |x| < 2^22.
float rounded(float x) {
  constexpr float kNoFraction = 12582912.0f;
  return (x + kNoFraction) - kNoFraction;
}

float code_of(float x, float step) { return rounded(std::clamp(x / step, kLowCode, kHighCode)); }

struct Shapes {
  int64_t n, k, group, groups;
  int top, middle;
  Shapes(const Tensor& values, const WeightParams& p)
      : n(values.dim(0)),
        k(values.dim(1)),
        group(p.group == 0 ? k : std::min(p.group, k)),
        groups(ceil_div(k, group)),
        top((1 << p.bits) - 1),
        middle(1 << (p.bits - 1)) {}
};

Grid grid_of(const LearnedGrids& g, int64_t i, const Shapes& s, const WeightParams& p) {
  Grid grid{round_scale(g.steps.data<float>()[i], p.scale_type), s.middle};
  if (!p.symmetric) grid.zero = grid_code(-g.lows.data<float>()[i], {grid.scale, 0}, s.top);
  return grid;
}

// Sums of one group's slopes.
struct Slopes {
  double step = 0, low = 0;
};

// Of n weights w with dL/dŵ = d; dw, unless null, grows by what flows back.
Slopes group_backward(const float* w, const float* d, int64_t n, const Grid& grid, int top,
                      bool symmetric, float* dw) {
  Slopes sums;
  const auto least = static_cast<float>(-grid.zero), most = static_cast<float>(top - grid.zero);
  for (int64_t i = 0; i < n; ++i) {
    const float v = w[i] / grid.scale;
    if (v > least && v < most) {
      if (dw != nullptr) dw[i] += d[i];
      sums.step += double{d[i]} * double{rounded(v) - v};
    } else if (symmetric) {
      sums.step += double{d[i]} * double{v > least ? most : least};
    } else {
      sums.low += double{d[i]};
      if (v > least) sums.step += double{d[i]} * top;
    }
  }
  return sums;
}

}  // namespace

WeightParams integer_params(int64_t bits, int64_t group, bool symmetric, DType scale_type) {
  HONE_CHECK(bits >= 2 && bits <= 8, invalid_argument, "bits {}: expected 2 to 8", bits);
  HONE_CHECK(group >= 0, invalid_argument, "group {}: expected 0 (a row) or more", group);
  WeightParams p;
  p.bits = static_cast<int>(bits);
  p.group = group;
  p.symmetric = symmetric;
  p.scale_type = scale_type;
  const std::string refusal = encoding("int_group").encode_refusal(1, 1, p);
  HONE_CHECK(refusal.empty(), invalid_argument, "{}", refusal);
  return p;
}

LearnedGrids first_grids(const Tensor& values, const WeightParams& p) {
  const Shapes s(values, p);
  LearnedGrids g{Tensor::empty({s.n, s.groups}, DType::f32), {}};
  if (!p.symmetric) g.lows = Tensor::empty({s.n, s.groups}, DType::f32);
  const GridOptions options{p.bits, p.symmetric, true, p.scale_type};
  float* steps = g.steps.mutable_data<float>();
  parallel_for(s.n, row_grain(s.k), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * s.groups; i < end * s.groups; ++i) {
      const int64_t first = i % s.groups * s.group;
      const Grid grid = find_grid(values.data<float>() + i / s.groups * s.k + first,
                                  std::min(s.group, s.k - first), 1, options);
      steps[i] = grid.scale;
      if (!p.symmetric)
        g.lows.mutable_data<float>()[i] = -grid.scale * static_cast<float>(grid.zero);
    }
  });
  return g;
}

Weight quantize_on(const Tensor& values, const LearnedGrids& grids, const WeightParams& p) {
  const Shapes s(values, p);
  const int64_t row_bytes = packed_size(s.k, p.bits);
  Tensor codes = Tensor::empty({s.n, row_bytes}, DType::u8);
  Tensor scales = Tensor::empty({s.n, s.groups}, DType::f32);
  Tensor zeros = Tensor::empty({s.n, s.groups}, DType::u8);
  auto* bytes = codes.mutable_data<uint8_t>();
  auto* scale = scales.mutable_data<float>();
  auto* zero = zeros.mutable_data<uint8_t>();
  parallel_for(s.n, row_grain(s.k), [&](int64_t begin, int64_t end) {
    std::vector<uint8_t> row(static_cast<size_t>(s.k));
    for (int64_t r = begin; r < end; ++r) {
      const float* w = values.data<float>() + r * s.k;
      for (int64_t g = 0; g < s.groups; ++g) {
        const int64_t i = r * s.groups + g;
        const Grid grid = grid_of(grids, i, s, p);
        scale[i] = grid.scale;
        zero[i] = static_cast<uint8_t>(grid.zero);
        for (int64_t c = g * s.group; c < std::min(s.k, (g + 1) * s.group); ++c) {
          HONE_CHECK(std::isfinite(w[c]), invalid_argument,
                     "row {} of a weight that is trained holds {}: it has diverged", r, w[c]);
          row[size_t(c)] = static_cast<uint8_t>(grid_code(w[c], grid, s.top));
        }
      }
      pack_codes(row.data(), s.k, p.bits, bytes + r * row_bytes);
    }
  });
  Weight w;
  w.shape = {s.n, s.k};
  w.encoding = "int_group";
  w.params = p;
  w.planes = {{"codes", codes}, {"scales", scales.to(p.scale_type)}};
  if (!p.symmetric) w.planes["zeros"] = zeros;
  return w;
}

void quantize_backward(const Tensor& dw, const Tensor& values, const LearnedGrids& grids,
                       const WeightParams& p) {
  const Shapes s(values, p);
  HONE_ASSERT(dw.numel() == values.numel());
  auto sums = [](const Tensor& t) {
    return t.requires_gradient() ? gradient_of(t).mutable_data<float>() : nullptr;
  };
  float *to_values = sums(values), *to_steps = sums(grids.steps), *to_lows = sums(grids.lows);
  const int top_step = p.symmetric ? s.middle - 1 : s.top;
  parallel_for(s.n, row_grain(s.k), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * s.groups; i < end * s.groups; ++i) {
      const int64_t first = i % s.groups * s.group, n = std::min(s.group, s.k - first);
      const int64_t at = i / s.groups * s.k + first;
      const Slopes slopes = group_backward(values.data<float>() + at, dw.data<float>() + at, n,
                                           grid_of(grids, i, s, p), s.top, p.symmetric,
                                           to_values == nullptr ? nullptr : to_values + at);
      const double factor = 1 / std::sqrt(static_cast<double>(n * top_step));
      if (to_steps != nullptr) to_steps[i] += static_cast<float>(factor * slopes.step);
      if (to_lows != nullptr) to_lows[i] += static_cast<float>(factor * slopes.low);
    }
  });
}

Tensor quantize_rows(const Tensor& x) {
  const int64_t k = x.dim(1);
  Tensor y = Tensor::empty(x.shape(), DType::f32);
  const float* in = x.data<float>();
  float* out = y.mutable_data<float>();
  parallel_for(x.dim(0), row_grain(k), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      float largest = 0;
      for (int64_t i = r * k; i < (r + 1) * k; ++i) largest = std::max(largest, std::fabs(in[i]));
      const float step = std::max(largest / 127.5f, std::numeric_limits<float>::min());
      for (int64_t i = r * k; i < (r + 1) * k; ++i) out[i] = step * code_of(in[i], step);
    }
  });
  if (recorded({&x}))
    record(y, [x = x.hollow()](const Tensor& dy) { add_gradient(x, dy.reshape(x.shape())); });
  return y;
}

float first_step(const Tensor& x) {
  double sum = 0;
  for (int64_t i = 0; i < x.numel(); ++i) sum += std::fabs(double{x.data<float>()[i]});
  const double mean = sum / static_cast<double>(std::max<int64_t>(1, x.numel()));
  return mean > 0 ? static_cast<float>(2 * mean / std::sqrt(127.0)) : 1.0f;
}

Tensor quantize_all(const Tensor& x, const Tensor& step) {
  constexpr int64_t kBlock = 1 << 14;
  const float s = std::max(step.data<float>()[0], std::numeric_limits<float>::min());
  Tensor y = Tensor::empty(x.shape(), DType::f32);
  const float* in = x.data<float>();
  float* out = y.mutable_data<float>();
  parallel_for(x.numel(), kBlock, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) out[i] = s * code_of(in[i], s);
  });
  if (!recorded({&x, &step})) return y;
  record(y, [x, step, s](const Tensor& dy) {
    const float *v = x.data<float>(), *d = dy.data<float>();
    Tensor dx = Tensor::empty(x.shape(), DType::f32);
    float* to = dx.mutable_data<float>();
    std::vector<double> sums(static_cast<size_t>(ceil_div(x.numel(), kBlock)));
    parallel_for(x.numel(), kBlock, [&](int64_t begin, int64_t end) {
      for (int64_t first = begin; first < end; first += kBlock) {
        double sum = 0;
        for (int64_t i = first; i < std::min(end, first + kBlock); ++i) {
          const float code = v[i] / s;
          const bool inside = code > kLowCode && code < kHighCode;
          to[i] = inside ? d[i] : 0;
          const float slope = inside ? rounded(code) - code : code > 0 ? kHighCode : kLowCode;
          sum += double{d[i]} * double{slope};
        }
        sums[size_t(first / kBlock)] = sum;
      }
    });
    add_gradient(x, dx);
    if (!step.requires_gradient()) return;
    double all = 0;
    for (double sum : sums) all += sum;
    const double factor = 1 / std::sqrt(static_cast<double>(x.dim(1)) * 127);
    gradient_of(step).mutable_data<float>()[0] += static_cast<float>(factor * all);
  });
  return y;
}

}  // namespace hone
