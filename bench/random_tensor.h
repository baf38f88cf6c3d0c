// Inputs of benchmarks.
#pragma once

#include <random>

#include "tensor/tensor.h"

namespace hone {

/// Normally distributed f32 values.
inline Tensor random_tensor(Shape shape, uint32_t seed) {
  Tensor t = Tensor::empty(std::move(shape), DType::f32);
  std::mt19937 bits(seed);
  std::normal_distribution<float> normal;
  float* p = t.mutable_data<float>();
  for (int64_t i = 0; i < t.numel(); ++i) p[i] = normal(bits);
  return t;
}

}  // namespace hone
