// Differentiable operations that take rows apart and put them together again: a router sends each
// token's row to few of many experts, and what they make of it is added up (Shazeer et al. 2017).
// As in ops/dense.h: f32, new tensors.
#pragma once

#include <cstdint>
#include <vector>

#include "tensor/tensor.h"

namespace hone::ops {

/// Which rows go to which expert: expert after expert, and of each expert in order of tokens.
struct Routes {
  std::vector<int64_t> tokens;  ///< [T·used]: the row of x that stands there
  std::vector<int64_t> first;   ///< [experts + 1]: expert e has [first[e], first[e + 1])
  Tensor weights;               ///< [T·used]: of what it makes of them
};

/// For logits [T, experts], of each token the `used` largest; of equal ones the first. The weights
/// are the softmax over all experts, or with `normalised` over the chosen ones.
Routes route(const Tensor& logits, int64_t used, bool normalised);

/// Row i of the result is row rows[i] of x [T, D]; a row may come several times.
Tensor take_rows(const Tensor& x, std::vector<int64_t> rows);
/// The rows of all parts [·, D], one below the other; parts without rows may be empty handles.
Tensor join_rows(const std::vector<Tensor>& parts);
/// y[rows[i]] += weights[i]·x[i], for x [R, D], from y = 0 [n, D], in the order of i.
Tensor add_rows(const Tensor& x, const Tensor& weights, std::vector<int64_t> rows, int64_t n);

}  // namespace hone::ops
