#include "train/qat.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "encodings/fake_quantize.h"
#include "ops/tape.h"

namespace hone {
namespace {

double mean_size(const Tensor& t) {
  double sum = 0;
  for (int64_t i = 0; i < t.numel(); ++i) sum += std::abs(double{t.data<float>()[i]});
  return sum / static_cast<double>(t.numel());
}

class QuantizedWeight final : public WeightSource {
 public:
  QuantizedWeight(Tensor values, const WeightParams& params, bool learned)
      : values_(std::move(values)), params_(params), learned_(learned) {
    values_.require_gradient();
    if (!learned_) return;
    grids_ = first_grids(values_, params_);
    grids_.steps.require_gradient();
    if (!grids_.lows.empty_handle()) grids_.lows.require_gradient();
  }

  Weight weight() override {
    if (learned_) return quantize_on(values_, grids_, params_);
    return encoding("int_group")
        .encode(values_.data<float>(), values_.dim(0), values_.dim(1), {.params = params_});
  }

  void backward(const Tensor& dw) override {
    if (learned_) return quantize_backward(dw, values_, grids_, params_);
    // The widest values are the grid's ends: none is outside.
    add_gradient(values_, dw);
  }

  void append(const std::string& module, std::vector<Parameter>& all) const {
    all.push_back({module + ".weight", values_, true});
    // At a rate of 1e-3 a step of the grid changes by a thousandth of itself.
    if (learned_) all.push_back({module + ".steps", grids_.steps, false, mean_size(grids_.steps)});
    if (!grids_.lows.empty_handle())
      all.push_back({module + ".lows", grids_.lows, false, mean_size(grids_.steps)});
  }

 private:
  Tensor values_;
  LearnedGrids grids_;
  WeightParams params_;
  bool learned_;
};

class ActivationQuantizer final : public LinearAdapter {
 public:
  explicit ActivationQuantizer(bool learned) {
    if (!learned) return;
    step_ = Tensor::zeros({1}, DType::f32);
    step_.require_gradient();
  }

  bool changes_input() const override { return true; }
  Tensor input(const Tensor& x) override {
    if (step_.empty_handle()) return quantize_rows(x);
    // 0: it has seen nothing.
    if (step_.data<float>()[0] == 0) step_.mutable_data<float>()[0] = first_step(x);
    return quantize_all(x, step_);
  }
  Tensor output(Linear&, const Tensor&, std::span<const Tensor>, Tensor y, Activations) override {
    return y;
  }

  const Tensor& step() const { return step_; }
  void freeze() { step_ = step_.detached(); }
  void forget() {
    if (!step_.empty_handle()) step_.mutable_data<float>()[0] = 0;
  }

 private:
  Tensor step_;  // empty: one for each token
};

DType scale_type_of(const QatOptions& o) {
  for (DType t : {DType::f16, DType::bf16, DType::f32})
    if (dtype_name(t) == o.scale_type) return t;
  fail(ErrorKind::invalid_argument, "scale_type '{}': expected f16, bf16 or f32", o.scale_type);
}

void one_of(const char* name, const std::string& value, std::initializer_list<const char*> known) {
  std::string list;
  for (const char* k : known) {
    if (value == k) return;
    list += (list.empty() ? "" : ", ") + std::string(k);
  }
  fail(ErrorKind::invalid_argument, "{} '{}': expected one of {}", name, value, list);
}

template <typename F>
void each_quantizer(Model& model, F f) {
  for (Linear* l : model.linears())
    for (const auto& adapter : l->adapters)
      if (auto* q = dynamic_cast<ActivationQuantizer*>(adapter.get())) f(*l, *q);
}

}  // namespace

void QatOptions::visit(OptionVisitor& v) {
  v.belong_to("qat");
  v.option("bits", bits, "bits of a weight, 2 to 8");
  v.option("group", group, "columns that share a step, 0 = the row");
  v.option("symmetric", symmetric, "no zero points");
  v.option("grid", grid, "learned or min_max: steps of the grid");
  v.option("scale_type", scale_type, "of stored steps: f16, bf16 or f32");
  v.option("activation_codes", activations, "8-bit activations: none, token or tensor");
  v.option("others", others, "train embedding, norms and biases too");
  v.belong_to("");
}

void QatOptions::check() const {
  integer_params(bits, group, symmetric, scale_type_of(*this));
  one_of("grid", grid, {"learned", "min_max"});
  one_of("activation_codes", activations, {"none", "token", "tensor"});
}

std::vector<Parameter> prepare_qat(Model& model, const QatOptions& o,
                                   const std::function<bool(const std::string&)>& select) {
  o.check();
  const WeightParams params = integer_params(o.bits, o.group, o.symmetric, scale_type_of(o));
  std::vector<Parameter> all;
  std::set<std::string> prepared;
  for (Linear* l : model.linears()) {
    const bool head = l == &model.head;
    if (select != nullptr ? !select(l->name()) : head) continue;
    HONE_CHECK(!head || !model.tied_head, unsupported,
               "{}: it is tied to the embedding, and cannot be quantised alone", l->name());
    auto source =
        std::make_shared<QuantizedWeight>(decode_weight(l->weight()), params, o.grid == "learned");
    source->append(l->name(), all);
    l->set_source(source);
    prepared.insert(l->name() + ".weight");
    if (o.activations == "none") continue;
    auto quantizer = std::make_shared<ActivationQuantizer>(o.activations == "tensor");
    if (!quantizer->step().empty_handle())
      all.push_back({l->name() + ".input_step", quantizer->step(), false});
    l->adapters.insert(l->adapters.begin(), quantizer);
  }
  HONE_CHECK(!prepared.empty(), invalid_argument, "no layer is selected to be quantised");
  if (!o.others) return all;
  const std::vector<Parameter> others =
      parameters_of(model.train([&](const std::string& name) { return !prepared.contains(name); }));
  all.insert(all.end(), others.begin(), others.end());
  return all;
}

void convert_qat(Model& model) {
  for (Linear* l : model.linears()) l->set_source(nullptr);
  each_quantizer(model, [](Linear&, ActivationQuantizer& q) { q.freeze(); });
}

std::vector<NamedTensor> activation_steps(Model& model) {
  std::vector<NamedTensor> all;
  each_quantizer(model, [&](Linear& l, ActivationQuantizer& q) {
    if (!q.step().empty_handle()) all.push_back({l.name(), q.step().clone()});
  });
  return all;
}

void forget_activations(Model& model) {
  each_quantizer(model, [](Linear&, ActivationQuantizer& q) { q.forget(); });
}

void remove_activation_quantizers(Model& model) {
  for (Linear* l : model.linears())
    std::erase_if(l->adapters, [](const auto& a) {
      return dynamic_cast<const ActivationQuantizer*>(a.get()) != nullptr;
    });
}

}  // namespace hone
