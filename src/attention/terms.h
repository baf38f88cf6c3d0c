// What attend() and the backward of attention() share beside the kernels: dropout's bits, the bits
// of keys that a bias leaves, and the checks of what a caller brings.
#pragma once

#include <cstdint>

#include "attention/attention.h"

namespace hone {

class AttentionDropout {
 public:
  explicit AttentionDropout(const AttentionTerms& terms);
  bool active() const { return threshold_ > 0; }
  /// Of what survives: 1/(1 − p).
  float factor() const;
  /// Bit j is set where the key k0 + j survives. Costs a hash for four keys.
  uint64_t keep(int64_t sequence, int64_t head, int64_t query, int64_t k0) const;

 private:
  uint64_t seed_;
  uint64_t threshold_;  // of 2^16
};

/// Bit j is set where bias[j] is not −∞; n ≤ 64.
uint64_t visible_bits(const float* bias, int64_t n);

/// A bias as rows: the one of q's row and head begins at data() + offset().
class BiasRows {
 public:
  explicit BiasRows(const Tensor& bias)
      : heads_(bias.empty_handle() ? 0 : bias.dim(0)),
        rows_(heads_ > 0 ? bias.dim(1) : 0),
        width_(heads_ > 0 ? bias.dim(2) : 0) {}
  int64_t offset(int64_t head, int64_t row) const {
    return ((heads_ == 1 ? 0 : head) * rows_ + row) * width_;
  }

 private:
  int64_t heads_, rows_, width_;
};

/// Raise invalid_argument. `keys`: the most that a row may see.
void check_spec(const AttentionSpec& spec);
void check_terms(const AttentionSpec& spec, const AttentionTerms& terms, int64_t rows,
                 int64_t keys);

}  // namespace hone
