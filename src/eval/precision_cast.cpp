#include "eval/precision_cast.h"

#include <fmt/ranges.h>

#include <array>
#include <bit>
#include <cmath>

#include "base/error.h"

namespace hone {
namespace {

void round_row(const FloatTarget& t, const float* x, int64_t n, float scale, float* y) {
  if (t.last_bit) {
    for (int64_t i = 0; i < n; ++i)
      y[i] = x[i] == 0 || !std::isfinite(x[i])
                 ? x[i]
                 : std::bit_cast<float>(std::bit_cast<uint32_t>(x[i]) ^ 1u);
    return;
  }
  constexpr int64_t kBlock = 512;
  std::array<float, kBlock> scaled;
  std::array<uint16_t, kBlock> narrow;  // of the widest target
  for (int64_t at = 0; at < n; at += kBlock) {
    int64_t count = std::min(kBlock, n - at);
    const float* from = x + at;
    if (scale != 1) {
      for (int64_t i = 0; i < count; ++i) scaled[i] = from[i] / scale;
      from = scaled.data();
    }
    convert_floats(from, DType::f32, narrow.data(), t.dtype, count);
    convert_floats(narrow.data(), t.dtype, y + at, DType::f32, count);
    if (scale != 1)
      for (int64_t i = 0; i < count; ++i) y[at + i] *= scale;
  }
}

float scale_of(const FloatTarget& t, const float* x, int64_t n) {
  if (!t.row_scaled) return 1;
  float absmax = 0;
  for (int64_t i = 0; i < n; ++i) absmax = std::max(absmax, std::fabs(x[i]));
  float scale = absmax / t.largest;
  return scale == 0 ? 1 : scale;
}

void count_row(const FloatTarget& t, const float* x, const float* y, int64_t n, float scale,
               CastCounts& c) {
  c.values += n;
  for (int64_t i = 0; i < n; ++i) {
    float before = std::fabs(x[i]), after = std::fabs(y[i]);
    if (!std::isfinite(before)) {
      ++c.non_finite;
      continue;
    }
    c.absmax = std::max(c.absmax, double{before});
    // A scaled row fits by construction.
    bool beyond = t.saturates ? !t.row_scaled && before > t.largest : !std::isfinite(after);
    c.overflow += beyond;
    c.exact += before == after;
    c.underflow += before != 0 && after == 0;
    c.subnormal += after != 0 && after < t.least_normal * scale;
    if (before == 0 || !std::isfinite(after)) continue;
    double error = std::fabs(double{before} - after) / before;
    c.largest_error = std::max(c.largest_error, error);
    c.error_sum += error;
    ++c.measured;
  }
}

struct Part {
  CastCounts counts;
  std::vector<double> columns;
  void add(const Part& o) {
    counts.add(o.counts);
    if (columns.empty()) columns.resize(o.columns.size());
    for (size_t i = 0; i < o.columns.size(); ++i) columns[i] += o.columns[i];
  }
};

}  // namespace

const std::vector<std::string>& precision_types() {
  static const std::vector<std::string> kTypes = {"f16", "bf16", "f8_e4m3", "f8_e5m2"};
  return kTypes;
}

FloatTarget float_target(const std::string& name, bool row_scaled) {
  if (name == "f16") return {name, DType::f16, 65504.0f, 0x1p-14f, false, false, true};
  if (name == "bf16") return {name, DType::bf16, 0x1.fep127f, 0x1p-126f, false, false, true};
  if (name == "f8_e4m3") return {name, DType::f8_e4m3, 448.0f, 0x1p-6f, true, row_scaled, false};
  if (name == "f8_e5m2") return {name, DType::f8_e5m2, 57344.0f, 0x1p-14f, true, row_scaled, false};
  fail(ErrorKind::invalid_argument, "type '{}': expected one of {}", name,
       fmt::join(precision_types(), ", "));
}

FloatTarget last_bit_target() {
  return {
      "f32, last bit flipped", DType::f32, 0x1.fffffep127f, 0x1p-126f, false, false, true, true};
}

void CastCounts::add(const CastCounts& o) {
  values += o.values;
  non_finite += o.non_finite;
  overflow += o.overflow;
  underflow += o.underflow;
  subnormal += o.subnormal;
  exact += o.exact;
  absmax = std::max(absmax, o.absmax);
  largest_error = std::max(largest_error, o.largest_error);
  error_sum += o.error_sum;
  measured += o.measured;
}

CastCounts round_rows(const FloatTarget& target, const Tensor& x, Tensor* out,
                      std::vector<double>* columns) {
  const int64_t k = x.rank() == 0 ? 1 : x.dim(-1), rows = k == 0 ? 0 : x.numel() / k;
  const float* from = x.data<float>();
  float* to = out ? out->mutable_data<float>() : nullptr;
  HONE_ASSERT(!out || out->numel() == x.numel());
  Part all = sum_parts(rows, [&](int64_t begin, int64_t end) {
    Part p;
    if (columns) p.columns.resize(static_cast<size_t>(k));
    std::vector<float> buffer(to ? 0 : static_cast<size_t>(k));
    for (int64_t r = begin; r < end; ++r) {
      const float* row = from + r * k;
      float* y = to ? to + r * k : buffer.data();
      float scale = scale_of(target, row, k);
      round_row(target, row, k, scale, y);
      count_row(target, row, y, k, scale, p.counts);
      if (!columns) continue;
      for (int64_t i = 0; i < k; ++i) {
        double d = double{row[i]} - y[i];
        if (std::isfinite(d)) p.columns[static_cast<size_t>(i)] += d * d;
      }
    }
    return p;
  });
  if (columns) *columns = std::move(all.columns);
  return all.counts;
}

Tensor rounded(const FloatTarget& target, const Tensor& x) {
  Tensor out = Tensor::empty(x.shape(), DType::f32);
  round_rows(target, x, &out);
  return out;
}

}  // namespace hone
