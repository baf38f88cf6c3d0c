// Optimizers: what turns gradients into changes of parameters.
//
//   adamw       Loshchilov & Hutter 2019, bias-corrected as in PyTorch: 8 bytes of state an element
//   adamw8bit   the same with states of 8 bits (Dettmers et al. 2022): blocks of 256, the dynamic
//               map, signed for m, unsigned for v; parameters of fewer than 4096 elements keep
//               32 bits. 2 bytes an element
//   adafactor   Shazeer & Stern 2018, as in transformers with relative_step and scale_parameter off
//               (as its Trainer runs it); both can be turned on. A row and a column of state for
//               each matrix; a vector has one value for each element
//   sgd         with momentum, and Nesterov's; weight decay is added to the gradient, as in PyTorch
//   lion        Chen et al. 2023: 4 bytes an element
//
// A step is one pass over memory: gradients are unscaled and clipped as they are read (adafactor
// reads them three times). Results do not depend on threads.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/options.h"
#include "train/parameter.h"

namespace hone {

/// −1: the method's own default, which is the one of its usual implementation.
struct OptimizerOptions {
  std::string optimizer = "adamw";
  double lr = -1;            ///< 1e-3; lion 1e-4. The schedule multiplies it
  double weight_decay = -1;  ///< adamw and adamw8bit 0.01, else 0
  double beta1 = -1;         ///< 0.9; adafactor 0, which is no first moment
  double beta2 = -1;         ///< 0.999; lion 0.99
  double eps = -1;           ///< 1e-8; adafactor 1e-30, added to squared gradients
  double momentum = 0;       ///< sgd
  bool nesterov = false;     ///< sgd
  bool relative_step = false, scale_parameter = false, warmup_init = false;  ///< adafactor
  double clip_threshold = 1, decay_rate = -0.8;                              ///< adafactor
  bool stochastic_rounding = false;  ///< of bf16 and f16 parameters, else to the nearest
  bool count_unchanged = false;      ///< Optimizer::unchanged
  int64_t seed = 0;                  ///< of stochastic rounding; not an option of its own

  void visit(OptionVisitor& v);
  /// With the method's defaults for what is −1. Raises invalid_argument where a value or the
  /// method's name is wrong, or a value belongs to another method.
  OptimizerOptions resolved() const;
};

/// The names of all methods.
std::vector<std::string> optimizer_names();

class Optimizer {
 public:
  virtual ~Optimizer() = default;

  /// One step for the parameters that have a gradient g: w changes by the method's rule for
  /// gradient_factor·g (what undoes the loss scale, times what clips) and the learning rate lr. A
  /// new `step` for each call gives stochastic rounding new draws; the methods count a parameter's
  /// steps themselves, as PyTorch does. Gradients stay.
  void step(std::span<Parameter> parameters, double lr, double gradient_factor, int64_t step);

  /// The state after the last step, for checkpoints: "<parameter>.<slot>", in order of names. The
  /// handles share storage with the optimizer.
  std::vector<NamedTensor> state() const;
  /// Takes over what state() gave for the same parameters, as copies: the next steps then give the
  /// same bits. Raises corrupt where a tensor is missing, superfluous or of another type or shape.
  void load_state(std::span<const Parameter> parameters, const std::vector<NamedTensor>& state);
  /// Bytes of state that these parameters will have.
  int64_t state_bytes(std::span<const Parameter> parameters) const;

  /// With count_unchanged, for each parameter of the last step (0 for those without a gradient):
  /// the elements whose update was not zero, but too small to change the stored value.
  const std::vector<int64_t>& unchanged() const { return unchanged_; }

 protected:
  explicit Optimizer(OptimizerOptions resolved) : options_(std::move(resolved)) {}

  /// A tensor of a parameter's state, at first filled with a byte.
  struct Slot {
    const char* name;
    Shape shape;
    DType dtype;
    int fill = 0;
  };
  struct State {
    int64_t steps = 0;                 // of this parameter
    std::vector<NamedTensor> tensors;  // one for each slot
  };
  /// A parameter that takes part in a step.
  struct Work {
    size_t index;  // among the parameters
    Parameter* parameter;
    State* state;
    double lr, gradient_factor;
    uint64_t key;  // of random numbers
    Tensor& slot(size_t i) const { return state->tensors[i].value; }
  };
  virtual std::vector<Slot> slots(const Tensor& value) const = 0;

  /// Does the step; adds to unchanged_.
  virtual void run(std::span<const Work> work) = 0;

  OptimizerOptions options_;
  std::vector<int64_t> unchanged_;

 private:
  State initial_state(const Parameter& p) const;
  std::map<std::string, State> states_;
};

/// Raises as OptimizerOptions::resolved.
std::unique_ptr<Optimizer> make_optimizer(const OptimizerOptions& options);

}  // namespace hone
