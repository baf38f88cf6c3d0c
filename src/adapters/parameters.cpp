#include "adapters/parameters.h"

#include "tensor/transpose.h"

namespace hone {
namespace {

void check_shape(const std::string& name, const Tensor& t, const Shape& expected) {
  HONE_CHECK(t.shape() == expected, corrupt, "the adapter's '{}' is {}, but the model's is {}",
             name, shape_string(t.shape()), shape_string(expected));
}

// In a type that weights may have.
Tensor weight_values(const Tensor& t) {
  const bool plain = t.dtype() == DType::f32 || t.dtype() == DType::f16 || t.dtype() == DType::bf16;
  return plain ? t : t.to(DType::f32);
}

}  // namespace

bool WholeParameters::is_one(const std::string& tensor) {
  const PeftTensorName name = split_peft_name(tensor, "the adapter");
  return name.part.empty() && !name.module.starts_with("bottlenecks.");
}

WholeParameters::WholeParameters(Model& model, const PeftAdapter& files)
    : model_(model), modules_(peft_modules(model)) {
  for (const auto& [tensor, t] : files.tensors) {
    if (!is_one(tensor)) continue;
    std::string name = split_peft_name(tensor, "the adapter").module;
    // With bias: all, peft saves those of a module that is kept whole in all its copies.
    if (name.find(".original_module.") != name.npos) continue;
    // The bias of a layer that is adapted, and of such a copy.
    for (const std::string inner : {".base_layer.", ".modules_to_save."})
      if (const size_t at = name.rfind(inner); at != name.npos) name.erase(at, inner.size() - 1);
    HONE_CHECK(take_vector(name, t) || take_embedding(name, t) ||
                   take_linear(name, t, files.config.fan_in_fan_out),
               unsupported, "the adapter's '{}' is no parameter of this model", tensor);
  }
  // Where the model only runs, nothing but the packed copy is kept.
  for (auto& [linear, r] : linears_)
    if (r.weight && !linear->weight().defined()) r.own.pack(false);
}

bool WholeParameters::take_vector(const std::string& name, const Tensor& t) {
  auto take = [&](const std::string& own, Tensor& to) {
    if (name != own || to.empty_handle()) return false;
    check_shape(name, t, to.shape());
    // With bias: all, peft may have one under two names.
    std::erase_if(vectors_, [&](const auto& v) { return v.first == &to; });
    vectors_.emplace_back(&to, t.to(DType::f32));
    return true;
  };
  auto norm = [&](Norm& n) {
    return take(n.name + ".weight", n.weight) || take(n.name + ".bias", n.bias);
  };
  if (norm(model_.final_norm)) return true;
  if (take(model_.position_name + ".weight", model_.position_table)) return true;
  for (Block& b : model_.blocks)
    for (Norm* n : b.norms())
      if (norm(*n)) return true;
  return false;
}

bool WholeParameters::take_embedding(const std::string& name, const Tensor& t) {
  const Embedding& own = model_.embedding;
  if (name != own.name() + ".weight") return false;
  check_shape(name, t, own.weight().shape);
  embedding_ = Embedding(own.name(), float_weight(weight_values(t)));
  unties_ = true;
  return true;
}

bool WholeParameters::take_linear(const std::string& name, const Tensor& t, bool turned) {
  const size_t dot = name.rfind('.');
  const std::string module = name.substr(0, dot), leaf = dot == name.npos ? "" : name.substr(dot);
  for (PeftModule& m : modules_) {
    if (m.name != module) continue;
    if (leaf != ".weight" && (leaf != ".bias" || m.parts[0]->bias().empty_handle())) return false;
    const bool head = m.parts[0] == &model_.head;
    Tensor values = leaf == ".bias" ? t.to(DType::f32) : weight_values(t);
    if (leaf == ".weight" && turned && !head && t.rank() == 2) values = transposed(values);
    Shape expected{m.out_features()};
    if (leaf == ".weight") expected.push_back(m.in_features());
    check_shape(name, values, expected);
    int64_t row = 0;
    for (Linear* part : m.parts) {
      Replaced& r = linears_.try_emplace(part, Replaced{*part, {}}).first->second;
      const Tensor own = values.rows(row, row + part->out_features());
      if (leaf == ".bias")
        r.own.set_bias(own), r.bias = true;
      else
        r.own.set_weight(float_weight(own)), r.weight = true;
      row += part->out_features();
    }
    unties_ = unties_ || head;
    return true;
  }
  return false;
}

void WholeParameters::put() {
  for (auto& [linear, r] : linears_) {
    r.before = *linear;
    if (r.weight) {
      *linear = r.own;
      linear->adapters = r.before.adapters;
    }
    const Tensor& bias = r.bias ? r.own.bias() : r.before.bias();
    if (!bias.empty_handle()) linear->set_bias(bias);
  }
  exchange();
  on_ = true;
}

void WholeParameters::take() {
  for (auto& [linear, r] : linears_) {
    if (r.weight) r.own = *linear;  // with its packed copy
    std::swap(*linear, r.before);
    std::swap(linear->adapters, r.before.adapters);
    r.before = {};
  }
  exchange();
  on_ = false;
}

void WholeParameters::exchange() {
  for (auto& [own, held] : vectors_) std::swap(*own, held);
  if (embedding_.defined()) {
    std::swap(model_.embedding, embedding_);
    std::swap(model_.embedding.adapters, embedding_.adapters);
  }
  if (unties_) std::swap(model_.tied_head, tied_);
}

ParameterStack& ParameterStack::of(Model& model) {
  if (model.parameter_stack == nullptr) model.parameter_stack = std::make_shared<ParameterStack>();
  return *model.parameter_stack;
}

void ParameterStack::add(std::shared_ptr<WholeParameters> parameters) {
  all_.push_back(std::move(parameters));
  all_.back()->put();
}

void ParameterStack::switch_to(WholeParameters& one, bool on) {
  if (one.on() == on) return;
  std::vector<WholeParameters*> above;
  for (size_t i = all_.size(); i-- > 0 && all_[i].get() != &one;)
    if (all_[i]->on()) above.push_back(all_[i].get()), above.back()->take();
  if (on)
    one.put();
  else
    one.take();
  while (!above.empty()) above.back()->put(), above.pop_back();
}

}  // namespace hone
