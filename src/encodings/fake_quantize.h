// Fake quantisation: floats that are multiplied as what an integer grid makes of them, and trained
// through it as if rounding were nothing (the straight-through estimator, Bengio et al. 2013).
//
// Weights become "int_group" weights, the very ones that are stored in the end, so that kernels
// multiply codes in training too. With v = w/s for a group's step s and codes 0 … top, of which
// `zero` is the code of 0:
//
//   code = clamp(round(v) + zero, 0, top)      ŵ = s·(code − zero)
//
// Learned steps (LSQ, Esser et al. 2020): a weight inside, −zero < v < top − zero, has dŵ/dw = 1
// and dŵ/ds = round(v) − v; one outside has dŵ/dw = 0 and dŵ/ds = −zero or top − zero. What a
// group's n weights sum up to is scaled by 1/√(n·qmax), qmax the largest code above 0 of a
// symmetric grid, else top. An asymmetric grid has a learned low end b too (LSQ+, Bhalgat et al.
// 2020), zero = round(−b/s): then dŵ/db = 1 outside and 0 inside, and dŵ/ds = 0 below and top
// above.
#pragma once

#include "encodings/encoding.h"

namespace hone {

/// The learned grids of a matrix [N, K] in G = ceil(K/group) groups a row, f32.
struct LearnedGrids {
  Tensor steps;  ///< [N, G]; used as rounded to the parameters' scale_type, and kept positive
  Tensor lows;   ///< [N, G]; an empty handle where the parameters are symmetric
};

/// Parameters of int_group that fake quantisation takes; raises invalid_argument otherwise.
WeightParams integer_params(int64_t bits, int64_t group, bool symmetric, DType scale_type);

/// Those of find_grid (int_grid.h) for values [N, K], with its search for a narrower range.
LearnedGrids first_grids(const Tensor& values, const WeightParams& params);

/// The int_group weight of values [N, K] on these grids. Values must be finite: invalid_argument.
Weight quantize_on(const Tensor& values, const LearnedGrids& grids, const WeightParams& params);

/// What dL/dŵ [N, K] flows back as: the gradients of values and of grids that require one grow by
/// it. Sums do not depend on threads.
void quantize_backward(const Tensor& dw, const Tensor& values, const LearnedGrids& grids,
                       const WeightParams& params);

/// Activations x [T, K] as 8-bit codes −128 … 127 make them, with a step for each row: its largest
/// magnitude over 127.5. Recorded: the gradient goes through as it is.
Tensor quantize_rows(const Tensor& x);

/// The same with one learned step for all, [1] f32 above 0. Recorded: as of weights, with n = K.
Tensor quantize_all(const Tensor& x, const Tensor& step);
/// Where it begins: 2·mean|x|/√127 (LSQ); 1 where all are 0.
float first_step(const Tensor& x);

}  // namespace hone
