#include "adapters/adapter.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "adapters/parameters.h"

namespace hone {
namespace {

// An adapter whose files hold whole parameters, too.
class WithParameters : public Adapter {
 public:
  WithParameters(Model& model, std::unique_ptr<Adapter> method, WholeParameters parameters)
      : method_(std::move(method)),
        stack_(ParameterStack::of(model)),
        parameters_(std::make_shared<WholeParameters>(std::move(parameters))) {
    stack_.add(parameters_);
  }
  std::string_view method() const override { return method_->method(); }
  std::vector<NamedTensor> train() override { return method_->train(); }
  void values_changed() override { method_->values_changed(); }
  void set_weight(float weight) override {
    HONE_CHECK(weight == 0 || weight == 1, unsupported,
               "the adapter holds parameters of the model (biases or modules_to_save): it is on or "
               "off and has no weight {}",
               weight);
    method_->set_weight(weight);
    stack_.switch_to(*parameters_, weight != 0);
  }
  PeftAdapter save() const override { return method_->save(); }
  std::string merge_refusal(int sign) const override {
    if (sign < 0) return "it replaced parameters of the model, whose own are gone";
    return method_->merge_refusal(sign);
  }
  void merge(const Linear& l, Tensor& values, Tensor& bias, int sign) const override {
    method_->merge(l, values, bias, sign);
  }
  void merge_embedding(Tensor& values, int sign) const override {
    method_->merge_embedding(values, sign);
  }

 private:
  std::unique_ptr<Adapter> method_;
  ParameterStack& stack_;
  std::shared_ptr<WholeParameters> parameters_;
};

}  // namespace

void AdapterOptions::visit(OptionVisitor& v) {
  v.belong_to("lora, dora");
  v.option("rank", rank, "columns of B");
  v.option("alpha", alpha, "s = alpha/rank multiplies B·A");
  v.option("dropout", dropout, "of what A multiplies");
  v.option("rslora", rslora, "s = alpha/√rank");
  v.belong_to("lora, dora, ia3");
  v.option("targets", targets, "names of modules with commas");
  v.belong_to("prefix, prompt");
  v.option("virtual_tokens", virtual_tokens, "positions in front of the text");
  v.belong_to("prefix");
  v.option("projection", projection, "train it through an MLP");
  v.option("hidden", hidden, "width of that MLP");
  v.belong_to("houlsby, pfeiffer, parallel");
  v.option("reduction", reduction, "width of the model / of the adapter");
  v.option("nonlinearity", nonlinearity, "relu, silu, gelu or tanh");
  v.belong_to("");
}

void AdapterOptions::check() const {
  HONE_CHECK(rank > 0 && rank <= 65536, invalid_argument, "rank {}: expected 1 to 65536", rank);
  HONE_CHECK(alpha > 0 && std::isfinite(alpha), invalid_argument,
             "alpha {}: expected a number above 0", alpha);
  HONE_CHECK(dropout >= 0 && dropout < 1, invalid_argument, "dropout {}: expected 0 to below 1",
             dropout);
  HONE_CHECK(virtual_tokens > 0 && virtual_tokens <= 65536, invalid_argument,
             "virtual_tokens {}: expected 1 to 65536", virtual_tokens);
  HONE_CHECK(hidden > 0 && hidden <= 65536, invalid_argument, "hidden {}: expected 1 to 65536",
             hidden);
  HONE_CHECK(reduction > 0, invalid_argument, "reduction {}: expected 1 or more", reduction);
}

PeftModules AdapterOptions::modules() const {
  PeftModules m;
  if (targets == "all-linear") {
    m.pattern = targets;
    return m;
  }
  for (size_t at = 0; at <= targets.size();) {
    const size_t end = std::min(targets.find(',', at), targets.size());
    if (end > at) m.names.push_back(targets.substr(at, end - at));
    at = end + 1;
  }
  HONE_CHECK(!m.names.empty(), invalid_argument, "targets '{}': expected names of modules",
             targets);
  return m;
}

void check_elements(const PeftAdapter& files, double wanted) {
  double held = 0;
  for (const auto& [name, t] : files.tensors) held += static_cast<double>(t.numel());
  HONE_CHECK(wanted <= held, corrupt,
             "the adapter's tensors hold {:.0f} numbers, its configuration asks for {:.0f}", held,
             wanted);
}

const AdapterMethod& adapter_method(std::string_view name) {
  std::vector<std::string_view> known;
  for (const AdapterMethod& m : adapter_methods()) {
    if (m.name == name) return m;
    known.push_back(m.name);
  }
  fail(ErrorKind::invalid_argument, "no fine-tuning method '{}': expected {}", name,
       fmt::join(known, ", "));
}

std::unique_ptr<Adapter> load_adapter(Model& model, const PeftAdapter& files,
                                      const std::string& source) {
  for (const AdapterMethod& m : adapter_methods()) {
    if (!m.reads(files.config)) continue;
    try {
      WholeParameters parameters(model, files);
      std::unique_ptr<Adapter> adapter = m.load(model, files);
      if (parameters.empty()) return adapter;
      return std::make_unique<WithParameters>(model, std::move(adapter), std::move(parameters));
    } catch (const Error& e) {
      if (source.empty()) throw;
      fail(e.kind(), "{}: {}", source, e.what());
    }
  }
  fail(ErrorKind::unsupported,
       "an adapter of peft_type '{}': hone runs LORA, IA3, PREFIX_TUNING, "
       "PROMPT_TUNING and its own bottlenecks",
       files.config.peft_type);
}

int64_t PeftModule::out_features() const {
  return std::accumulate(parts.begin(), parts.end(), int64_t{0},
                         [](int64_t n, const Linear* l) { return n + l->out_features(); });
}

std::vector<PeftModule> peft_modules(Model& model) {
  std::vector<PeftModule> all;
  for (Linear* l : model.linears()) {
    std::string name = l->name();
    // Families name the parts of a fused matrix so (models/family.h).
    const bool part = name.ends_with(".q") || name.ends_with(".k") || name.ends_with(".v");
    if (part) name.resize(name.size() - 2);
    if (part && !all.empty() && all.back().name == name)
      all.back().parts.push_back(l);
    else
      all.push_back({name, {l}});
  }
  return all;
}

TensorsOnce::TensorsOnce(const PeftAdapter& files) {
  for (const auto& [name, t] : files.tensors)
    if (!WholeParameters::is_one(name)) tensors_[name] = t;
}

void TensorsOnce::copy(const PeftTensorName& name, Tensor& to) {
  auto it = tensors_.find(peft_tensor_name(name));
  HONE_CHECK(it != tensors_.end(), corrupt, "the adapter has no tensor '{}'",
             peft_tensor_name(name));
  HONE_CHECK(it->second.numel() == to.numel(), corrupt,
             "the adapter's '{}' is {}, but this model's layer takes {}", it->first,
             shape_string(it->second.shape()), shape_string(to.shape()));
  const Tensor values = it->second.to(DType::f32);
  std::copy_n(values.data<float>(), values.numel(), to.mutable_data<float>());
  tensors_.erase(it);
}

void TensorsOnce::check_all_used() const {
  HONE_CHECK(tensors_.empty(), unsupported, "the adapter's '{}' belongs to no layer of this model",
             tensors_.begin()->first);
}

}  // namespace hone
