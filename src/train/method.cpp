#include "train/method.h"

#include <algorithm>

#include "base/glob.h"
#include "base/log.h"
#include "train/dwq.h"

namespace hone {
namespace {

class Full : public TrainingMethod {
 public:
  Full(LoadedModel& m, const TrainingOptions& o) : TrainingMethod(*m.model) {
    parameters_ = parameters_of(model_.train(
        [&](const std::string& name) {
          return o.train_only.empty() || glob_matches(o.train_only, name);
        },
        o.masters              ? DType::f32
        : o.precision == "f16" ? DType::f16
                               : DType::bf16));
    HONE_CHECK(!parameters_.empty(), invalid_argument, "train_only '{}' names no parameter of {}",
               o.train_only, m.path);
  }
};

class WithAdapter : public TrainingMethod {
 public:
  WithAdapter(LoadedModel& m, const TrainingOptions& o) : TrainingMethod(*m.model) {
    AdapterOptions options = o.adapter;
    if (!o.initialise.empty()) options.first_tokens = m.encode(o.initialise, false);
    adapter_ = adapter_method(o.method).make(model_, options);
    parameters_ = parameters_of(adapter_->train());
  }
  void values_changed() override { adapter_->values_changed(); }
  Adapter* adapter() override { return adapter_.get(); }

 private:
  std::unique_ptr<Adapter> adapter_;
};

class Quantised : public TrainingMethod {
 public:
  Quantised(LoadedModel& m, const TrainingOptions& o) : TrainingMethod(*m.model) {
    parameters_ = prepare_qat(model_, o.qat);
  }
  void begin() override { forget_activations(model_); }
  void finish() override {
    convert_qat(model_);
    remove_activation_quantizers(model_);
  }
};

class Scales : public TrainingMethod {
 public:
  explicit Scales(LoadedModel& m) : TrainingMethod(*m.model) {
    DwqParameters made = prepare_dwq(model_);
    for (const auto& [module, reason] : made.refused)
      log_info("{} stays as it is: {}", module, reason);
    parameters_ = std::move(made.parameters);
  }
  void finish() override { convert_dwq(model_); }
};

}  // namespace

const std::vector<TrainingMethodName>& training_methods() {
  static const std::vector<TrainingMethodName> all{
      {"full", "every parameter of the model", 5e-5},
      {"distill", "the same, towards what --teacher says", 5e-5},
      {"qat", "quantisation-aware: weights are trained as their --bits codes", 2e-5},
      // A trained scale moves by about as much a step (dwq.h).
      {"dwq", "the scales of a quantised model, its codes as they are, towards --teacher", 1e-6},
  };
  return all;
}

double default_learning_rate(const std::string& method, const std::string& optimizer) {
  const double standard = OptimizerOptions().resolved().lr;
  OptimizerOptions o;
  o.optimizer = optimizer;
  for (const TrainingMethodName& m : training_methods())
    if (method == m.name) return m.lr * (o.resolved().lr / standard);
  return o.resolved().lr;
}

bool trains_the_model(const std::string& name) {
  return std::ranges::any_of(training_methods(), [&](const auto& m) { return name == m.name; });
}

std::unique_ptr<TrainingMethod> prepare_training(LoadedModel& m, const TrainingOptions& o) {
  if (o.method == "qat") return std::make_unique<Quantised>(m, o);
  if (o.method == "dwq") return std::make_unique<Scales>(m);
  if (trains_the_model(o.method)) return std::make_unique<Full>(m, o);
  return std::make_unique<WithAdapter>(m, o);
}

}  // namespace hone
