#include "ops/rounding.h"

#include <algorithm>
#include <utility>

#include "base/threads.h"
#include "kernels/select.h"

namespace hone::ops {
namespace {

thread_local FlightRecorder* t_recorder = nullptr;
thread_local bool t_counting = true;

void round_to(const Tensor& x, Rounding to, std::string_view operation, float* out) {
  const float* in = x.data<float>();
  std::atomic<int64_t> overflows = 0, underflows = 0;
  parallel_for(x.numel(), 1 << 14, [&](int64_t b, int64_t e) {
    int64_t lost[2] = {0, 0};
    kernels::table().round_values(in + b, e - b, to, out + b, lost);
    overflows += lost[0];
    underflows += lost[1];
  });
  if (t_recorder != nullptr) t_recorder->add(operation, {x.numel(), overflows, underflows});
}

}  // namespace

FlightRecorder::FlightRecorder() : outer_(std::exchange(t_recorder, this)) {}
FlightRecorder::~FlightRecorder() { t_recorder = outer_; }
FlightRecorder* FlightRecorder::current() { return t_recorder; }
FlightRecorder::Pause::Pause() : counted_(std::exchange(t_counting, false)) {}
FlightRecorder::Pause::~Pause() { t_counting = counted_; }

void FlightRecorder::add(std::string_view operation, const Counts& more) {
  if (more.overflows > 0 && first_overflow_.empty()) first_overflow_ = operation;
  if (!t_counting) return;
  auto it = counts_.find(operation);
  if (it == counts_.end()) it = counts_.emplace(operation, Counts()).first;
  it->second.values += more.values;
  it->second.overflows += more.overflows;
  it->second.underflows += more.underflows;
}

Tensor rounded(const Tensor& x, Rounding to, std::string_view operation) {
  Tensor y = Tensor::empty(x.shape(), DType::f32);
  round_to(x, to, operation, y.mutable_data<float>());
  return y;
}

void round_in_place(Tensor& x, Rounding to, std::string_view operation) {
  round_to(x, to, operation, x.mutable_data<float>());
}

namespace {
Tensor rounded_half(const Tensor& x, Rounding to, std::string_view operation) {
  constexpr int64_t kAtOnce = 2048;
  const DType type = to == kernels::kRoundBf16 ? DType::bf16 : DType::f16;
  Tensor y = Tensor::empty(x.shape(), type);
  const float* in = x.data<float>();
  auto* out = reinterpret_cast<uint16_t*>(y.mutable_raw());
  std::atomic<int64_t> overflows = 0, underflows = 0;
  parallel_for(x.numel(), 1 << 14, [&](int64_t b, int64_t e) {
    int64_t lost[2] = {0, 0};
    if (type == DType::bf16) {
      kernels::table().round_to_bf16(in + b, e - b, out + b, lost);
      b = e;
    }
    float part[kAtOnce];
    for (; b < e; b += kAtOnce) {
      const int64_t n = std::min(kAtOnce, e - b);
      kernels::table().round_values(in + b, n, to, part, lost);
      convert_floats(part, DType::f32, out + b, type, n);
    }
    overflows += lost[0];
    underflows += lost[1];
  });
  if (t_recorder != nullptr) t_recorder->add(operation, {x.numel(), overflows, underflows});
  return y;
}
}  // namespace

Tensor rounded_bf16(const Tensor& x, std::string_view operation) {
  return rounded_half(x, kernels::kRoundBf16, operation);
}

Tensor rounded_f16(const Tensor& x, std::string_view operation) {
  return rounded_half(x, kernels::kRoundF16, operation);
}

void PartRounding::round(float* values, int64_t rows, int64_t columns, int64_t stride) {
  int64_t lost[2] = {0, 0};
  for (int64_t r = 0; r < rows; ++r) {
    float* row = values + r * stride;
    kernels::table().round_values(row, columns, to_, row, lost);
  }
  overflows_ += lost[0];
  underflows_ += lost[1];
}

void PartRounding::record(std::string_view operation, int64_t values) const {
  if (t_recorder != nullptr) t_recorder->add(operation, {values, overflows_, underflows_});
}

}  // namespace hone::ops
