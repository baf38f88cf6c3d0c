// DWQ, distilled weight quantisation (as MLX has it): a quantised model's scales and mins are
// trained towards the model that it was made of, while its codes stay as they are.
//
// What is trained are f32 copies; the layers multiply the weight with those copies rounded to the
// type that stores them, which is what is written in the end. Encodings whose scales are not floats
// of their own refuse (Encoding::scales_refusal): K-quants, double quantisation.
//
// Usual: distillation.h with λ = 1 and T = 2 from the original, by way of a cache or not, AdamW
// without decay at 1e-6. A trained scale moves by about the learning rate a step.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "nn/model.h"
#include "train/parameter.h"

namespace hone {

constexpr double kDwqTemperature = 2;

struct DwqParameters {
  std::vector<Parameter> parameters;  ///< "<module>.scales", "<module>.mins"
  /// Quantised modules that stay as they are, and why.
  std::vector<std::pair<std::string, std::string>> refused;
};

/// Prepares the Linears that `select` takes by name, by default all. The model computes what it
/// computed. Call Model::values_changed() when the parameters were written to. Needs a model with
/// its canonical weights. Raises unsupported, with the first reason, where nothing can be trained.
DwqParameters prepare_dwq(Model& model,
                          const std::function<bool(const std::string& module)>& select = nullptr);

/// Ends it: weights have the trained scales.
void convert_dwq(Model& model);

}  // namespace hone
