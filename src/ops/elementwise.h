// Differentiable operations that fine-tuning and training add to those of a transformer. As in
// ops/dense.h: f32, rows of tokens, new tensors.
#pragma once

#include <span>
#include <string_view>

#include "tensor/tensor.h"

namespace hone::ops {

/// y[t, n] = x[t, n]·c[n].
Tensor scale_columns(const Tensor& x, const Tensor& c);
/// y[t, n] = x[t, n] + sign·b[n].
Tensor add_row(const Tensor& x, const Tensor& b, float sign);
/// Columns [begin, end) of x [T, D].
Tensor slice_columns(const Tensor& x, int64_t begin, int64_t end);
/// The rows of x [T, D] that `rows` names, in that order; a row may come at most once.
Tensor gather_rows(const Tensor& x, std::span<const int64_t> rows);
/// Rows [begin, end) of x [T, D].
Tensor slice_rows(const Tensor& x, int64_t begin, int64_t end);
/// The rows of all parts [T_i, D], one behind the other; at least one part.
Tensor concat_rows(std::span<const Tensor> parts);

/// Zero with probability p, else x/(1−p), where a TrainingStep lives; else x itself. What is
/// dropped is a function of the step's seed, `site` (which of the model's dropouts it is) and the
/// element. Srivastava et al. 2014.
Tensor dropout(const Tensor& x, double p, uint64_t site);

enum class Nonlinearity {
  relu,
  silu,
  gelu,  ///< exact, by erf
  tanh,
  sigmoid,
  log_sigmoid,
  softplus,
  exp,
  squared_relu,
  elu_plus_one  ///< x + 1 above 0, e^x below: the feature map of Katharopoulos et al. 2020
};
/// "relu", "silu" or "swish", "gelu", "tanh"; raises invalid_argument naming them for others.
Nonlinearity nonlinearity_from_name(std::string_view name);
Tensor apply(Nonlinearity f, const Tensor& x);
/// a + (b − a)·c: c [D] for all rows of a and b [T, D], or an own row for each, [T, D].
Tensor lerp(const Tensor& a, const Tensor& b, const Tensor& c);

}  // namespace hone::ops
