// What happens to all gradients at once, between the backward pass and the optimizer's step.
//
// Nothing here writes gradients: what unscales and clips is a factor that the step multiplies them
// by as it reads them. Sums are double, over fixed blocks, so that they do not depend on threads.
#pragma once

#include <span>
#include <vector>

#include "train/parameter.h"

namespace hone {

/// Σ x² over a tensor of floats; not finite where, and only where, an element is not.
double sum_of_squares(const Tensor& x);

/// The L2 norm of each parameter's gradient, 0 where there is none. Not finite where the gradient
/// holds an infinity or a NaN: whose it is can thus be said.
std::vector<double> gradient_norms(std::span<const Parameter> parameters);

/// The L2 norm of all gradients together, from gradient_norms.
double total_norm(std::span<const double> norms);

/// What gradients of a norm are multiplied by so that it is at most `most`:
/// min(1, most/(norm + 1e-6)), as in PyTorch. 1 where most is 0 (no clipping) or the norm is not
/// finite.
double clip_factor(double norm, double most);

/// Drops the gradients, so that the next backward pass begins with none.
void clear_gradients(std::span<Parameter> parameters);

}  // namespace hone
