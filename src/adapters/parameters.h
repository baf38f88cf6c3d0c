// Parameters that a PEFT directory holds whole, beside the method's own tensors: trained biases
// (bias: all, lora_only) and modules_to_save. They take the place of the model's.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "adapters/adapter.h"

namespace hone {

class WholeParameters {
 public:
  /// Whether this tensor of a PEFT directory is one.
  static bool is_one(const std::string& tensor);
  /// Finds the model's; changes nothing yet. Raises unsupported for one that the model has not,
  /// corrupt for one of another shape.
  WholeParameters(Model& model, const PeftAdapter& files);

  bool empty() const { return linears_.empty() && vectors_.empty() && !embedding_.defined(); }
  /// Exchanges the model's and the file's. A tied head and embedding of which one is replaced are
  /// two parameters while it is.
  void exchange();

 private:
  bool take_vector(const std::string& name, const Tensor& t);
  bool take_embedding(const std::string& name, const Tensor& t);
  bool take_linear(const std::string& name, const Tensor& t, bool turned);

  Model& model_;
  std::vector<PeftModule> modules_;
  std::map<Linear*, Linear> linears_;
  std::vector<std::pair<Tensor*, Tensor>> vectors_;  // norms, and learned positions
  Embedding embedding_;
  bool tied_;  // whether the model's head is, with the other set
};

}  // namespace hone
