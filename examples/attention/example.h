// What the attention examples share: numbers to work on, distances, and checks that say what they
// found. A program ends with status 1 where one of its checks failed, or on an error.
#pragma once

#include <fmt/core.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <functional>
#include <string_view>

#include "base/random.h"
#include "tensor/tensor.h"

namespace hone::example {

/// Standard normal numbers, f32.
inline Tensor normal(Shape shape, uint64_t seed) {
  Tensor t = Tensor::empty(std::move(shape), DType::f32);
  float* x = t.mutable_data<float>();
  for (int64_t i = 0; i < t.numel(); ++i)
    x[i] = static_cast<float>(random_normal(seed, static_cast<uint64_t>(i)));
  return t;
}

/// ‖a − b‖/‖b‖ of f32 tensors of one size.
inline double distance(const Tensor& a, const Tensor& b) {
  double difference = 0, size = 0;
  for (int64_t i = 0; i < b.numel(); ++i) {
    const double x = a.data<float>()[i], y = b.data<float>()[i];
    difference += (x - y) * (x - y);
    size += y * y;
  }
  return std::sqrt(difference / size);
}

inline bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() &&
         std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.byte_size())) == 0;
}

/// Called with what must hold, and what that means.
class Checks {
 public:
  void operator()(bool holds, std::string_view meaning) {
    fmt::print("{:5} {}\n", holds ? "true" : "WRONG", meaning);
    failed_ |= !holds;
  }
  bool failed() const { return failed_; }

 private:
  bool failed_ = false;
};

/// The exit status of a program that shows something.
inline int run(const std::function<void(Checks&)>& show) {
  Checks checks;
  try {
    show(checks);
  } catch (const std::exception& e) {
    fmt::print(stderr, "{}\n", e.what());
    return 1;
  }
  return checks.failed() ? 1 : 0;
}

}  // namespace hone::example
