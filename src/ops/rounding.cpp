#include "ops/rounding.h"

#include <atomic>
#include <utility>

#include "base/threads.h"
#include "kernels/select.h"

namespace hone::ops {
namespace {

thread_local FlightRecorder* t_recorder = nullptr;

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

void FlightRecorder::add(std::string_view operation, const Counts& more) {
  auto it = counts_.find(operation);
  if (it == counts_.end()) it = counts_.emplace(operation, Counts()).first;
  it->second.values += more.values;
  it->second.overflows += more.overflows;
  it->second.underflows += more.underflows;
  if (more.overflows > 0 && first_overflow_.empty()) first_overflow_ = operation;
}

Tensor rounded(const Tensor& x, Rounding to, std::string_view operation) {
  Tensor y = Tensor::empty(x.shape(), DType::f32);
  round_to(x, to, operation, y.mutable_data<float>());
  return y;
}

void round_in_place(Tensor& x, Rounding to, std::string_view operation) {
  round_to(x, to, operation, x.mutable_data<float>());
}

}  // namespace hone::ops
