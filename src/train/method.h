// What a run trains: the model itself, an adapter, the fake-quantised model, or scales.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "models/loader.h"
#include "train/options.h"
#include "train/parameter.h"

namespace hone {

/// The methods that train a model itself, for help and errors.
struct TrainingMethodName {
  const char* name;
  const char* summary;
  double lr;  ///< AdamW's where none is given, of a model that knows its language
};
const std::vector<TrainingMethodName>& training_methods();
/// The rate of one of them, or of adapters/; another optimizer's is to AdamW's as its own default.
double default_learning_rate(const std::string& method, const std::string& optimizer);
/// Whether `name` is one of them; otherwise it is one of adapters/.
bool trains_the_model(const std::string& name);

class TrainingMethod {
 public:
  virtual ~TrainingMethod() = default;
  /// What is trained; the values are shared with the model.
  const std::vector<Parameter>& parameters() const { return parameters_; }
  /// Call it when the values were written to.
  virtual void values_changed() { model_.values_changed(); }
  /// Call it in front of the first step of a run that begins: rehearsals left nothing.
  virtual void begin() {}
  /// Ends training: the model's weights are what was trained.
  virtual void finish() {}
  /// Where it is an adapter that was trained.
  virtual Adapter* adapter() { return nullptr; }

 protected:
  explicit TrainingMethod(Model& model) : model_(model) {}
  Model& model_;
  std::vector<Parameter> parameters_;
};

/// Prepares the model, which was loaded with inference for an adapter alone and lives as long.
/// Raises invalid_argument and unsupported, with reasons.
std::unique_ptr<TrainingMethod> prepare_training(LoadedModel& model, const TrainingOptions& o);

}  // namespace hone
