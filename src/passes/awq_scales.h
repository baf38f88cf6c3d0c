// AWQ's two searches (Lin et al. 2023, "AWQ: Activation-aware Weight Quantization for LLM
// compression and acceleration"): scales of channels, and how far each group of weights is clipped.
//
// Scales: s = m^r with m the mean magnitude of a channel and r = 0, 1/steps, 2/steps, ..., divided
// by √(max·min). What is minimised is the output error of the Linears that read the channels,
// ‖(W − Q(W·diag s)·diag 1/s)·X‖²/‖W·X‖², added up over them; X enters through its Gram matrix. The
// authors' program takes the error of a whole attention or MLP instead, which costs a run of it for
// each r. A scale that makes one of the Linears worse than round-to-nearest is not taken.
//
// Clipping: values of a row's group beyond p times the group's largest magnitude become that, for
// p = 1, 1 − 1/steps, ... above 0.5, by the output error of this group alone; where that makes the
// whole row's output worse, the row stays as it is.
#pragma once

#include <span>
#include <vector>

#include "passes/pass.h"

namespace hone {

struct AwqOptions {
  int64_t bits = 4;
  int64_t group = 128;  ///< columns that share a scale; 0 = the whole row
  bool symmetric = false;
  bool scale = true;  ///< search scales
  bool clip = true;   ///< search clipping
  bool duo = false;   ///< s = m^r/w^(1−r), w the mean relative magnitude of a column's weights
  int64_t steps = 20;
};

/// What a Linear multiplied, over all calibration tokens.
struct InputStatistics {
  Tensor gram;              ///< Σ x·xᵀ [K, K], upper triangle
  std::vector<double> sum;  ///< Σ|x| [K]
  int64_t tokens = 0;
  void add(const Tensor& x);  ///< x [T, K]; results do not depend on threads
  std::vector<float> mean() const;
};

/// A Linear whose columns get scales and whose rows have some already (1 where none).
struct AwqLayer {
  Tensor values;            ///< [N, K] f32, before any scale
  std::vector<float> rows;  ///< [N]: what its output is divided by
};

/// Σ over tokens of the squared output error of each row, where columns are multiplied by `columns`
/// before rounding and divided by it after: [N].
std::vector<double> awq_errors(const AwqLayer& layer, std::span<const float> columns,
                               const InputStatistics& in, const AwqOptions& o);

/// The scales [K] of candidate `step` (0 … steps − 1).
std::vector<float> awq_candidate(std::span<const AwqLayer> layers, const InputStatistics& in,
                                 int64_t step, const AwqOptions& o);

/// The best scales [K] for layers that read one vector; 1 where none is better.
std::vector<float> awq_search(std::span<const AwqLayer> layers, const InputStatistics& in,
                              const AwqOptions& o);

struct AwqResult {
  Weight weight;
  double error = 0, rtn_error = 0;  ///< relative to the output; the latter without columns and clip
};
/// Scales, clips if `clip`, and rounds.
AwqResult awq_store(const std::string& module, const AwqLayer& layer,
                    std::span<const float> columns, const InputStatistics& in, bool clip,
                    const AwqOptions& o);

}  // namespace hone
