// The optimizers behind make_optimizer (optimizer.h).
#pragma once

#include <memory>

#include "kernels/kernel_table.h"
#include "train/optimizer.h"

namespace hone {

/// adamw, adamw8bit, sgd, lion: a method whose elements change independently of each other.
std::unique_ptr<Optimizer> make_elementwise(OptimizerOptions resolved);
std::unique_ptr<Optimizer> make_adafactor(OptimizerOptions resolved);

/// The kernels' name of a parameter's type.
inline kernels::FloatType float_type(DType t) {
  return t == DType::bf16 ? kernels::kBf16 : t == DType::f16 ? kernels::kF16 : kernels::kF32;
}

}  // namespace hone
