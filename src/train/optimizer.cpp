#include "train/optimizer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>

#include "base/checked.h"
#include "base/random.h"
#include "train/methods.h"

namespace hone {
namespace {

// The registry: a method's maker, and what it takes where nothing is said.
struct Method {
  const char* name;
  std::unique_ptr<Optimizer> (*make)(OptimizerOptions resolved);
  double lr, weight_decay, beta1, beta2, eps;
};
constexpr Method kMethods[] = {
    {"adamw", make_elementwise, 1e-3, 0.01, 0.9, 0.999, 1e-8},
    {"adamw8bit", make_elementwise, 1e-3, 0.01, 0.9, 0.999, 1e-8},
    {"adafactor", make_adafactor, 1e-3, 0, 0, 0.999, 1e-30},
    {"sgd", make_elementwise, 1e-3, 0, 0.9, 0.999, 1e-8},
    {"lion", make_elementwise, 1e-4, 0, 0.9, 0.99, 1e-8},
};

const Method& method_of(const std::string& name) {
  std::string names;
  for (const Method& m : kMethods) {
    if (name == m.name) return m;
    names += names.empty() ? m.name : std::string(", ") + m.name;
  }
  fail(ErrorKind::invalid_argument, "optimizer {}: expected one of {}", name, names);
}

void check_range(const OptimizerOptions& o, const char* key, double value, double least,
                 double below) {
  HONE_CHECK(value >= least && value < below, invalid_argument,
             "optimizer {}: {} {}: expected {} or more, and less than {}", o.optimizer, key, value,
             least, below);
}

}  // namespace

void OptimizerOptions::visit(OptionVisitor& v) {
  v.option("optimizer", optimizer, "adamw, adamw8bit, adafactor, sgd or lion");
  v.option("lr", lr, "learning rate; -1: the default of what is trained, lion: a tenth");
  v.option("weight_decay", weight_decay,
           "-1: the method's default, 0.01 for adamw and adamw8bit, else 0");
  v.option("beta1", beta1, "decay of the first moment; -1: 0.9, for adafactor 0 (no such moment)");
  v.option("beta2", beta2, "decay of the second moment; -1: 0.999, for lion 0.99");
  v.option("eps", eps, "keeps divisors from 0; -1: 1e-8, for adafactor 1e-30");
  v.option("momentum", momentum, "sgd: decay of the sum of gradients");
  v.option("nesterov", nesterov, "sgd: Nesterov's momentum");
  v.option("relative_step", relative_step, "adafactor: learning rate from the step, not from lr");
  v.option("scale_parameter", scale_parameter,
           "adafactor: learning rate times the parameter's root mean square");
  v.option("warmup_init", warmup_init, "adafactor: relative steps begin small");
  v.option("clip_threshold", clip_threshold, "adafactor: largest root mean square of an update");
  v.option("decay_rate", decay_rate, "adafactor: beta2 of step t is 1 - t^decay_rate");
  v.option("stochastic_rounding", stochastic_rounding,
           "16-bit parameters without masters: round at random, in proportion");
  v.option("count_unchanged", count_unchanged, "count updates that are lost in rounding");
}

OptimizerOptions OptimizerOptions::resolved() const {
  const Method& method = method_of(optimizer);
  OptimizerOptions o = *this;
  auto fill = [](double& value, double standard) {
    if (value == -1) value = standard;
  };
  fill(o.lr, method.lr);
  fill(o.weight_decay, method.weight_decay);
  fill(o.beta1, method.beta1);
  fill(o.beta2, method.beta2);
  fill(o.eps, method.eps);
  const double inf = std::numeric_limits<double>::infinity();
  check_range(o, "lr", o.lr, 0, inf);
  check_range(o, "weight_decay", o.weight_decay, 0, inf);
  check_range(o, "beta1", o.beta1, 0, 1);
  check_range(o, "beta2", o.beta2, 0, 1);
  check_range(o, "eps", o.eps, 0, inf);
  check_range(o, "momentum", o.momentum, 0, 1);
  HONE_CHECK(o.clip_threshold > 0 && o.clip_threshold < inf, invalid_argument,
             "optimizer {}: clip_threshold {}: expected more than 0", optimizer, o.clip_threshold);
  HONE_CHECK(o.decay_rate < 0 && o.decay_rate >= -1, invalid_argument,
             "optimizer {}: decay_rate {}: expected -1 or more, and less than 0", optimizer,
             o.decay_rate);
  HONE_CHECK(optimizer == "sgd" || (momentum == 0 && !nesterov), invalid_argument,
             "optimizer {}: momentum and nesterov belong to sgd", optimizer);
  HONE_CHECK(!nesterov || momentum > 0, invalid_argument,
             "optimizer sgd: nesterov needs a momentum");
  HONE_CHECK(
      optimizer == "adafactor" || (!relative_step && !scale_parameter && !warmup_init &&
                                   clip_threshold == 1 && decay_rate == -0.8),
      invalid_argument,
      "optimizer {}: relative_step, scale_parameter, warmup_init, clip_threshold and decay_rate "
      "belong to adafactor",
      optimizer);
  HONE_CHECK(!warmup_init || relative_step, invalid_argument,
             "optimizer adafactor: warmup_init needs relative_step");
  return o;
}

std::vector<std::string> optimizer_names() {
  std::vector<std::string> names;
  for (const Method& m : kMethods) names.emplace_back(m.name);
  return names;
}

std::unique_ptr<Optimizer> make_optimizer(const OptimizerOptions& options) {
  return method_of(options.optimizer).make(options.resolved());
}

Optimizer::State Optimizer::initial_state(const Parameter& p) const {
  State s;
  for (const Slot& slot : slots(p.value)) {
    Tensor t = Tensor::empty(slot.shape, slot.dtype);
    if (t.byte_size() > 0)
      std::memset(t.mutable_raw(), slot.fill, static_cast<size_t>(t.byte_size()));
    s.tensors.push_back({p.name + "." + slot.name, std::move(t)});
  }
  return s;
}

void Optimizer::step(std::span<Parameter> parameters, double lr, double gradient_factor,
                     int64_t step) {
  HONE_CHECK(lr >= 0 && std::isfinite(lr), invalid_argument, "learning rate {}: expected 0 or more",
             lr);
  unchanged_.assign(parameters.size(), 0);
  const uint64_t step_key =
      mix64(mix64(static_cast<uint64_t>(options_.seed)) ^ static_cast<uint64_t>(step));
  std::set<std::string_view> seen;
  std::vector<Work> work;
  for (size_t i = 0; i < parameters.size(); ++i) {
    Parameter& p = parameters[i];
    const DType type = p.value.dtype();
    HONE_ASSERT(seen.insert(p.name).second);
    HONE_ASSERT(type == DType::f32 || type == DType::bf16 || type == DType::f16);
    const Tensor& g = p.value.gradient();
    if (g.empty_handle()) continue;
    HONE_ASSERT(g.dtype() == DType::f32 && g.numel() == p.value.numel());
    auto found = states_.find(p.name);
    if (found == states_.end()) found = states_.emplace(p.name, initial_state(p)).first;
    ++found->second.steps;
    work.push_back({i, &p, &found->second, lr, gradient_factor, mix64(step_key ^ i)});
  }
  run(work);
}

std::vector<NamedTensor> Optimizer::state() const {
  std::vector<NamedTensor> all;
  for (const auto& [name, s] : states_) {
    all.push_back({name + ".steps", Tensor::from(std::vector<int64_t>{s.steps})});
    all.insert(all.end(), s.tensors.begin(), s.tensors.end());
  }
  return all;
}

void Optimizer::load_state(std::span<const Parameter> parameters,
                           const std::vector<NamedTensor>& state) {
  std::map<std::string_view, const Tensor*> given;
  for (const NamedTensor& t : state)
    HONE_CHECK(given.emplace(t.name, &t.value).second, corrupt,
               "optimizer state: {} stands there twice", t.name);
  std::map<std::string, State> loaded;
  // The tensor of a name, copied; it is taken off the list.
  auto take = [&](const std::string& name, const Shape& shape, DType type) {
    auto found = given.find(name);
    HONE_CHECK(found != given.end(), corrupt, "optimizer state: {} is missing", name);
    const Tensor& t = *found->second;
    HONE_CHECK(t.dtype() == type && t.shape() == shape, corrupt,
               "optimizer state: {}: expected {} {} ({}), got {} {}", name, dtype_name(type),
               shape_string(shape), options_.optimizer, dtype_name(t.dtype()),
               shape_string(t.shape()));
    given.erase(found);
    return t.clone();
  };
  for (const Parameter& p : parameters) {
    // Nothing where no gradient had reached the parameter.
    if (!given.contains(p.name + ".steps")) continue;
    State s;
    s.steps = take(p.name + ".steps", {1}, DType::i64).data<int64_t>()[0];
    HONE_CHECK(s.steps >= 0, corrupt, "optimizer state: {}.steps: {}: expected 0 or more", p.name,
               s.steps);
    for (const Slot& slot : slots(p.value)) {
      const std::string name = p.name + "." + slot.name;
      s.tensors.push_back({name, take(name, slot.shape, slot.dtype)});
    }
    loaded.emplace(p.name, std::move(s));
  }
  HONE_CHECK(given.empty(), corrupt,
             "optimizer state: {} belongs to no parameter of this run with {}",
             given.begin()->first, options_.optimizer);
  states_ = std::move(loaded);
}

int64_t Optimizer::state_bytes(std::span<const Parameter> parameters) const {
  int64_t bytes = 0;
  for (const Parameter& p : parameters)
    for (const Slot& slot : slots(p.value))
      bytes = checked_add(
          bytes, checked_mul(checked_numel(slot.shape, "state"), dtype_size(slot.dtype), "state"),
          "state");
  return bytes;
}

}  // namespace hone
