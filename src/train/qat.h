// Quantisation-aware training: a model is trained as what quantisation will make of it.
//
//   prepare   each Linear's weight becomes f32 values, of which the layer multiplies the int_group
//             weight that they round to (encodings/fake_quantize.h)
//   train     what the trainer changes: values, and the grids' steps where they are learned
//   convert   layers keep the int_group weight that they multiplied last
//
// As the layers multiply the stored weight itself, the converted model's logits are those of the
// prepared one, bit for bit, with any activations. Where the trainer runs with int8 activations the
// model is also trained through the rounding that hone's own int8 products do, of 32 columns of a
// token at a time. Codes of a whole token or a whole tensor, as other engines have them, are
// simulated in f32 with `activations`.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/options.h"
#include "nn/model.h"
#include "train/parameter.h"

namespace hone {

struct QatOptions {
  int64_t bits = 4;     ///< 2 to 8
  int64_t group = 128;  ///< columns that share a step; 0 = the row
  bool symmetric = true;
  /// learned: LSQ; symmetric grids have no other values, asymmetric ones a low end too. They begin
  /// as the best of a search. min_max: what round-to-nearest would take, of the values of each step
  std::string grid = "learned";
  std::string scale_type = "f16";  ///< of stored steps: f16, bf16 or f32
  /// Of what the layers multiply. none; token: 8-bit codes with a step for each token; tensor: with
  /// a learned step for each layer, which begins with what the layer first sees
  std::string activations = "none";
  bool others = true;  ///< embedding, norms, biases and all other weights are trained too

  void visit(OptionVisitor& v);
  /// Raises invalid_argument.
  void check() const;
};

/// Prepares the Linears that `select` takes by name, by default all but the head, and returns all
/// that is trained: "<module>.weight", ".steps", ".lows", ".input_step", and what Model::train
/// names. Values are as given; with `grid` "min_max" the model is then what round-to-nearest makes
/// of it. Steps do not decay. Call Model::values_changed() when they were written to. Needs a model
/// with its canonical weights. Raises unsupported where a head is selected that is tied to the
/// embedding, invalid_argument where nothing is.
std::vector<Parameter> prepare_qat(
    Model& model, const QatOptions& options,
    const std::function<bool(const std::string& module)>& select = nullptr);

/// Ends it: weights are those last multiplied. Quantised activations stay, as trained.
void convert_qat(Model& model);

/// The learned steps of activations, by module: [1]. No file has a place for them yet.
std::vector<NamedTensor> activation_steps(Model& model);
/// Learned steps begin anew with what layers see next, as after prepare_qat.
void forget_activations(Model& model);
/// Has layers multiply what they are given again.
void remove_activation_quantizers(Model& model);

}  // namespace hone
