#include "encodings/outliers.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/checked.h"
#include "base/threads.h"
#include "encodings/product.h"

namespace hone {
namespace {

using kernels::CodeForm;
using kernels::kPanel;

constexpr int64_t kTile = 16;  // rows

// The codes of one row, whose chunk c has place first + c·step. `outlier` says of a column whether
// it has none.
template <typename Outlier>
void quantise_row(const float* x, int64_t k, float threshold, Outlier outlier, int64_t chunk,
                  int zero, int64_t first, int64_t step, const kernels::QuantizedRows& out) {
  float most = 0;
  for (int64_t i = 0; i < k; ++i) {
    const float a = std::fabs(x[i]);
    most = a < threshold ? std::max(most, a) : most;
  }
  const float scale = most / 127, inverse = most > 0 ? 127 / most : 0;
  for (int64_t c = 0; c < k / chunk; ++c) {
    const int64_t at = first + c * step;
    int32_t sum = 0;
    for (int64_t i = 0; i < chunk; ++i) {
      const int64_t column = c * chunk + i;
      const float code = outlier(column) ? 0 : std::nearbyint(x[column] * inverse);
      out.codes[at * chunk + i] = static_cast<int8_t>(code);
      sum += static_cast<int32_t>(code);
    }
    out.scales[at] = scale;
    out.starts[at] = -zero * sum;
    out.lows[at] = scale * static_cast<float>(sum);
  }
}

float half_or_float(const uint8_t* at, int r, bool half) {
  float v;
  if (!half) {
    std::memcpy(&v, at + 4 * r, 4);
    return v;
  }
  uint16_t bits;
  std::memcpy(&bits, at + 2 * r, 2);
  return to_f32(f16{bits});
}

// Column k of a panel's 16 rows, decoded; the layout is that of kernel_table.h.
void panel_column(const CodeForm& f, const uint8_t* panel, int64_t k, float* out) {
  const uint8_t* scales = panel + k / f.group * record_bytes(f);
  const int64_t scale_bytes = (f.scale_is_f16 ? 2 : 4) * kPanel, i = k % f.group;
  const uint8_t* mins = scales + scale_bytes;
  const uint8_t* codes = mins + (f.has_mins ? scale_bytes : 0);
  for (int r = 0; r < kPanel; ++r) {
    int code;
    if (f.bits == 4) {
      const uint8_t both = codes[i / 8 * 64 + 4 * r + i % 4];
      code = i % 8 < 4 ? both & 15 : both >> 4;
    } else {
      code = codes[i / 4 * 64 + 4 * r + i % 4];
    }
    const float value = f.table != nullptr ? f.table[code] : static_cast<float>(code - f.zero);
    out[r] = half_or_float(scales, r, f.scale_is_f16) * value +
             (f.has_mins ? half_or_float(mins, r, f.scale_is_f16) : 0);
  }
}

}  // namespace

kernels::QuantizedRows OutlierRows::rows() const {
  const auto at = [](const Tensor& t) { return const_cast<std::byte*>(t.raw()); };
  return {reinterpret_cast<int8_t*>(at(codes)), reinterpret_cast<float*>(at(scales)),
          reinterpret_cast<int32_t*>(at(starts)), reinterpret_cast<float*>(at(lows))};
}

OutlierRows split_outliers(const Tensor& x, const OutlierRule& rule, int64_t chunk, int zero) {
  HONE_ASSERT(x.rank() == 2 && x.dim(1) % chunk == 0 && rule.threshold > 0);
  const int64_t t = x.dim(0), k = x.dim(1), chunks = k / chunk;
  OutlierRows out;
  out.codes = Tensor::empty({t, k}, DType::i8);
  out.scales = Tensor::empty({t, chunks}, DType::f32);
  out.starts = Tensor::empty({t, chunks}, DType::i32);
  out.lows = Tensor::empty({t, chunks}, DType::f32);
  const float* in = x.data<float>();
  const auto large = [&](int64_t row, int64_t i) {
    return !(std::fabs(in[row * k + i]) < rule.threshold);  // and so is what is no number
  };
  std::vector<char> of_batch(static_cast<size_t>(rule.by_batch ? k : 0));
  for (int64_t i = 0; i < t * static_cast<int64_t>(of_batch.size()); ++i)
    if (large(i / k, i % k)) of_batch[static_cast<size_t>(i % k)] = 1;
  const auto outlier = [&](int64_t row, int64_t i) {
    return rule.by_batch ? of_batch[static_cast<size_t>(i)] != 0 : large(row, i);
  };
  out.first.push_back(0);
  for (int64_t row = 0; row < t; ++row) {
    for (int64_t i = 0; i < k; ++i)
      if (outlier(row, i)) {
        out.columns.push_back(i);
        out.values.push_back(in[row * k + i]);
      }
    out.first.push_back(static_cast<int64_t>(out.columns.size()));
  }
  // Tiles of 16, 8, 4, 2 and 1 rows, as quantize_rows in kernels/ makes them: the chunks of a
  // tile's rows lie beside each other.
  const kernels::QuantizedRows all = out.rows();
  parallel_for(ceil_div(t, kTile), 1, [&](int64_t begin, int64_t end) {
    int64_t tile = kTile;
    for (int64_t t0 = begin * kTile; t0 < std::min(t, end * kTile); t0 += tile) {
      while (tile > t - t0) tile /= 2;
      for (int64_t r = 0; r < tile; ++r)
        quantise_row(
            in + (t0 + r) * k, k, rule.threshold, [&](int64_t i) { return outlier(t0 + r, i); },
            chunk, zero, t0 * chunks + r, tile, all);
    }
  });
  return out;
}

void OutlierRows::add(int64_t t0, int64_t t1, const CodeForm& form, const uint8_t* panels,
                      int64_t panel_bytes, int64_t count, float* y, int64_t ldy) const {
  const auto begin = static_cast<size_t>(first[static_cast<size_t>(t0)]);
  if (begin == static_cast<size_t>(first[static_cast<size_t>(t1)])) return;
  for (int64_t n = 0; n < count; n += kPanel) {
    const uint8_t* panel = panels + n / kPanel * panel_bytes;
    const int64_t width = std::min<int64_t>(kPanel, count - n);
    size_t i = begin;
    for (int64_t t = t0; t < t1; ++t) {
      float* to = y + (t - t0) * ldy + n;
      for (; i < static_cast<size_t>(first[static_cast<size_t>(t) + 1]); ++i) {
        float w[kPanel];
        panel_column(form, panel, columns[i], w);
        for (int64_t r = 0; r < width; ++r) to[r] += values[i] * w[r];
      }
    }
  }
}

}  // namespace hone
