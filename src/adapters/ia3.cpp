// IA3 (Liu et al. 2022): a trained factor l for each output of a layer, y = l∘(W·x + b), or, in
// feed-forward layers, for each input, y = W·(l∘x) + b. All begin at 1.
#include <algorithm>
#include <utility>

#include "adapters/adapter.h"
#include "formats/peft_modules.h"
#include "ops/elementwise.h"

namespace hone {
namespace ia3 {

class Ia3Layer : public LinearAdapter {
 public:
  Tensor l;
  bool feedforward = false;
  bool active = true;

  bool changes_input() const override { return feedforward && active; }
  Tensor input(const Tensor& x) override { return changes_input() ? ops::scale_columns(x, l) : x; }
  Tensor output(Linear&, const Tensor&, std::span<const Tensor>, Tensor y, Activations) override {
    return feedforward || !active ? y : ops::scale_columns(y, l);
  }
};

class Ia3Adapter : public Adapter {
 public:
  struct Module {
    PeftModule of;
    Tensor l;
    bool feedforward = false;
    std::vector<std::shared_ptr<Ia3Layer>> layers;
  };

  Ia3Adapter(PeftAdapter files, std::vector<Module> modules)
      : files_(std::move(files)), modules_(std::move(modules)) {
    for (Module& m : modules_) {
      int64_t row = 0;
      for (Linear* part : m.of.parts) {
        auto layer = std::make_shared<Ia3Layer>();
        const int64_t end = row + part->out_features();
        layer->l = m.feedforward ? m.l : m.l.rows(row, end);
        layer->feedforward = m.feedforward;
        row = end;
        part->adapters.push_back(layer);
        m.layers.push_back(layer);
      }
    }
  }

  std::string_view method() const override { return "ia3"; }

  std::vector<NamedTensor> train() override {
    std::vector<NamedTensor> all;
    for (Module& m : modules_)
      for (size_t i = 0; i < m.layers.size(); ++i) {
        m.layers[i]->l.require_gradient();
        const std::string part = m.layers.size() == 1 ? "" : "." + std::to_string(i);
        all.push_back({m.of.name + ".ia3_l" + part, m.layers[i]->l});
      }
    return all;
  }

  void values_changed() override {}

  void set_weight(float weight) override {
    HONE_CHECK(weight == 0 || weight == 1, unsupported, "IA3 is on or off: it has no weight {}",
               weight);
    for (Module& m : modules_)
      for (auto& layer : m.layers) layer->active = weight != 0;
  }

  PeftAdapter save() const override {
    PeftAdapter out = files_;
    for (const Module& m : modules_) {
      const Shape shape = m.feedforward ? Shape{1, m.l.numel()} : Shape{m.l.numel(), 1};
      out.tensors[peft_tensor_name({m.of.name, "ia3_l"})] = m.l.reshape(shape);
    }
    return out;
  }

  void merge(const Linear& linear, Tensor& values, Tensor& bias, int sign) const override {
    for (const Module& m : modules_)
      for (size_t i = 0; i < m.layers.size(); ++i)
        if (m.of.parts[i] == &linear && m.layers[i]->active)
          merge_layer(*m.layers[i], values, bias, sign);
  }

 private:
  static void merge_layer(const Ia3Layer& layer, Tensor& values, Tensor& bias, int sign) {
    const int64_t n = values.dim(0), k = values.dim(1);
    const float* l = layer.l.data<float>();
    auto factor = [&](int64_t i) { return sign > 0 ? l[i] : 1 / l[i]; };
    float* w = values.mutable_data<float>();
    for (int64_t r = 0; r < n; ++r)
      for (int64_t c = 0; c < k; ++c) w[r * k + c] *= factor(layer.feedforward ? c : r);
    if (layer.feedforward || bias.empty_handle()) return;
    for (int64_t r = 0; r < n; ++r) bias.mutable_data<float>()[r] *= factor(r);
  }

  PeftAdapter files_;
  std::vector<Module> modules_;
};

std::vector<Ia3Adapter::Module> modules_of(Model& model, const PeftConfig& c) {
  const PeftMatcher matcher(c, "the adapter");
  std::vector<Ia3Adapter::Module> modules;
  for (PeftModule& of : peft_modules(model)) {
    if (!matcher.adapts(of.name, true, of.parts[0] == &model.head)) continue;
    Ia3Adapter::Module m;
    m.feedforward = matcher.feedforward(of.name);
    m.l = Tensor::empty({m.feedforward ? of.in_features() : of.out_features()}, DType::f32);
    std::fill_n(m.l.mutable_data<float>(), m.l.numel(), 1.0f);
    m.of = std::move(of);
    modules.push_back(std::move(m));
  }
  HONE_CHECK(!modules.empty(), invalid_argument,
             "the adapter's target_modules name no layer of this model");
  return modules;
}

std::unique_ptr<Adapter> make(Model& model, const AdapterOptions& o) {
  PeftAdapter files;
  PeftConfig& c = files.config;
  c.peft_type = "IA3";
  c.task_type = "CAUSAL_LM";
  c.target_modules = o.modules();
  // As published: keys, values, and what the last layer of the MLP multiplies.
  Block& first = model.blocks.at(0);
  auto leaf = [](const std::string& name) { return name.substr(name.rfind('.') + 1); };
  HONE_CHECK(first.feed_forward != nullptr, unsupported, "IA3 needs a feed-forward in each block");
  // The only one, or the first expert's, for the others are called alike.
  const std::vector<Linear*> outputs = first.feed_forward->outputs();
  const Linear& last = *outputs[0];
  const std::string down = leaf(last.name());
  if (o.targets == "all-linear") {
    c.target_modules = {};
    for (const PeftModule& m : peft_modules(model)) {
      const std::string name = leaf(m.name);
      const bool wanted = m.name.find("attn") != std::string::npos
                              ? name != leaf(first.mixer->output().name()) && name != "q_proj"
                              : name == down && m.parts[0] == &last;
      if (wanted && std::ranges::find(c.target_modules.names, name) == c.target_modules.names.end())
        c.target_modules.names.push_back(name);
    }
  }
  // peft matches by the end of the name; the attention's output may be called like the MLP's.
  const bool nested = outputs.size() == 1 && last.name().find(".mlp.") != std::string::npos;
  c.feedforward_modules.names = {nested ? "mlp." + down : down};
  return std::make_unique<Ia3Adapter>(std::move(files), modules_of(model, c));
}

std::unique_ptr<Adapter> load(Model& model, const PeftAdapter& files) {
  std::vector<Ia3Adapter::Module> modules = modules_of(model, files.config);
  TensorsOnce tensors(files);
  for (Ia3Adapter::Module& m : modules) tensors.copy({m.of.name, "ia3_l"}, m.l);
  tensors.check_all_used();
  return std::make_unique<Ia3Adapter>(files, std::move(modules));
}

bool reads(const PeftConfig& c) { return c.peft_type == "IA3"; }

}  // namespace ia3

extern const AdapterMethod kIa3Method;
const AdapterMethod kIa3Method{"ia3", "a factor for each key, value and inner feature", ia3::reads,
                               ia3::make, ia3::load};

}  // namespace hone
