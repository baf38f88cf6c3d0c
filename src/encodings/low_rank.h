// Trained matrices beside a frozen weight: f32 values, packed for the kernels.
#pragma once

#include "encodings/product.h"

namespace hone {

/// A small f32 matrix W [N, K] that is trained or was: its values and their packed copy.
class DenseMatrix {
 public:
  DenseMatrix() = default;
  /// values [N, K] f32.
  explicit DenseMatrix(Tensor values);

  bool defined() const { return !values_.empty_handle(); }
  const Tensor& values() const { return values_; }
  Tensor& values() { return values_; }
  /// The values were written to: packs them anew.
  void values_changed();
  /// For multiply_all: x·Wᵀ.
  Product product() const { return {&packed_, &no_bias_, &values_}; }
  const PackedWeight& packed() const { return packed_; }

 private:
  Tensor values_, no_bias_;
  PackedWeight packed_;
};

/// y + u·Wᵀ, in place, for u [T, K] and y [T, N]: the second half of LoRA (Hu et al. 2021). Mixed
/// precision rounds u and W as it does for products, not the sum. Under a tape y must come from a
/// function that does not need its result again, as a product does.
Tensor add_product(Tensor y, const Tensor& u, const DenseMatrix& w, Activations a);

}  // namespace hone
