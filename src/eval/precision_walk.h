// Variants of a model beside the original, one stage of one block at a time: each variant has its
// weights (and, if asked, what flows between its layers) rounded to a float type, but for what it
// keeps. What comes out is how far its predictions are from the original's.
//
// Nothing is stored: the cast copies of one stage take the place of the model's layers while that
// stage runs, and go. In memory are the model as it was loaded, the hidden states of all variants,
// [tokens, width] each, and one stage of each variant; at both ends of the model, the original's
// embedding or head and one variant's.
#pragma once

#include <functional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "eval/precision_cast.h"
#include "eval/token_score.h"
#include "nn/model.h"

namespace hone {

struct PrecisionVariant {
  FloatTarget target;
  std::set<std::string> keep;       ///< modules that stay as they are
  bool hold = false;                ///< linears' inputs and the residual stream are rounded as well
  std::set<std::string> keep_held;  ///< sites that are not rounded
};

/// What casting one tensor did.
struct TensorCast {
  std::string tensor;  ///< "model.layers.0.mlp.down_proj.weight"
  std::string module;  ///< what keep lists name: "model.layers.0.mlp.down_proj"
  CastCounts counts;
};

/// Cast errors seen through a module's own inputs.
struct ModuleError {
  std::string module;
  int64_t parameters = 0;
  int64_t overflow = 0;  ///< weights that became infinite
  /// Expected ‖ŷ−y‖²/‖y‖² of its output on the original's inputs x, from Σ ΔW²·Σx² column by
  /// column: rounding errors of different columns are taken as independent. Where a module
  /// multiplies nothing (norms, embeddings): ‖ΔW‖²/‖W‖².
  double output_error = 0;
};

/// A place where activations can be seen: the input or output of linears, or the residual stream.
struct ActivationSite {
  std::string name;
  bool result = false;           ///< something was computed here: an output, or the residual stream
  double absmax = 0;             ///< of the original
  std::vector<CastCounts> held;  ///< [variants]: the original's values in each variant's type
  /// Of each variant: ‖ŷ−y‖/‖y‖ from the original's, NaN where it is not finite.
  std::vector<double> departure;
};

/// What a first run writes down.
struct PrecisionRecord {
  std::vector<std::vector<TensorCast>> tensors;  ///< [variants], in model order
  std::vector<std::vector<ModuleError>> modules;
  std::vector<ActivationSite> sites;  ///< in the order of computation
};

struct Predictions {
  /// Against the original; its means are NaN where a prediction is not finite.
  Perplexity scores;
  int64_t flips = 0;       ///< other likeliest token than the original's, or not finite
  int64_t non_finite = 0;  ///< predictions that are not
};

class PrecisionWalk {
 public:
  using Progress = std::function<void(int64_t done, int64_t total)>;

  /// `samples` of at least 2 tokens each start at position 0; every token but a sample's first is
  /// scored. The model must have its canonical weights; it and the samples must outlive the walk.
  PrecisionWalk(Model& model, const std::vector<std::vector<int32_t>>& samples)
      : model_(model), samples_(samples) {}

  /// How each variant predicts. The first run needs a `record`: the original runs beside the
  /// variants, everything is written down, and the original's hidden states are kept for later
  /// runs. Raises unsupported, naming the place, where the original's own values are not finite.
  /// Behind it the model is as it was, without packed copies.
  std::vector<Predictions> run(std::span<const PrecisionVariant> variants, PrecisionRecord* record,
                               const Progress& progress = nullptr);

 private:
  Model& model_;
  const std::vector<std::vector<int32_t>>& samples_;
  std::vector<Tensor> original_;  // hidden states of each sample before the final norm
};

}  // namespace hone
