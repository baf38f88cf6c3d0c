// What an optimizer changes: a named tensor and the place of its gradient.
#pragma once

#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace hone {

/// `value` is f32, or bf16 or f16 where a model trains without f32 masters. It requires a gradient;
/// where none has flowed (an empty handle), a step leaves parameter and state alone.
struct Parameter {
  std::string name;  ///< unique among those of one optimizer
  Tensor value;
  bool decay = true;  ///< whether weight decay applies
  /// The learning rate is multiplied by it: what is small by nature (the step of a grid) must not
  /// move as far as a weight does where a method's steps are of one size (Adam).
  double rate = 1;
};

/// As parameters; norms, biases and everything else that is no matrix is not pulled towards 0.
inline std::vector<Parameter> parameters_of(const std::vector<NamedTensor>& trained) {
  std::vector<Parameter> all;
  for (const NamedTensor& t : trained) all.push_back({t.name, t.value, t.value.rank() >= 2});
  return all;
}

}  // namespace hone
