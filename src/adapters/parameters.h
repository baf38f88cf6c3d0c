// Parameters that a PEFT directory holds whole, beside the method's own tensors: trained biases
// (bias: all, lora_only) and modules_to_save. They take the place of the model's. Where several
// adapters have the same one, the model has that of the adapter that was loaded last, of those that
// are on, in whatever order they are switched.
#pragma once

#include <map>
#include <memory>
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
  bool on() const { return on_; }
  /// Puts the file's in place of the model's, or takes them back: in the reverse order of those
  /// that were put since. A tied head and embedding of which one is replaced are two parameters
  /// while it is.
  void put();
  void take();

 private:
  // A layer's weight, its bias, or both.
  struct Replaced {
    Linear own, before;
    bool weight = false, bias = false;
  };
  void exchange();  // all but the linears
  bool take_vector(const std::string& name, const Tensor& t);
  bool take_embedding(const std::string& name, const Tensor& t);
  bool take_linear(const std::string& name, const Tensor& t, bool turned);

  Model& model_;
  std::vector<PeftModule> modules_;
  std::map<Linear*, Replaced> linears_;
  std::vector<std::pair<Tensor*, Tensor>> vectors_;  // norms, and learned positions
  Embedding embedding_;
  bool unties_ = false, tied_ = false;  // the model's head, with the other set
  bool on_ = false;
};

/// All that adapters brought into one model, in the order in which they were loaded.
class ParameterStack {
 public:
  /// The model's.
  static ParameterStack& of(Model& model);
  void add(std::shared_ptr<WholeParameters> parameters);
  void switch_to(WholeParameters& one, bool on);

 private:
  std::vector<std::shared_ptr<WholeParameters>> all_;
};

}  // namespace hone
