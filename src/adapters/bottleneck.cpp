// Bottleneck adapters: h + U·f(D·h + d) + u, D [m, width] and U [width, m], with U at 0 at first.
//   houlsby   behind the mixer and behind the MLP (Houlsby et al. 2019)
//   pfeiffer  behind the MLP (Pfeiffer et al. 2021)
//   parallel  beside the MLP: f sees what the MLP sees (He et al. 2022)
// peft has none of these; they are saved in a directory of the same form, with peft_type
// "BOTTLENECK" and keys of hone's own.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "adapters/adapter.h"
#include "base/random.h"
#include "encodings/low_rank.h"
#include "ops/dense.h"
#include "ops/elementwise.h"

namespace hone {
namespace bottleneck {

struct Bottleneck {
  DenseMatrix down, up;
  Tensor down_bias, up_bias;

  Tensor forward(const Tensor& x, ops::Nonlinearity f, Activations a) const {
    const Product first = down.product(), second = up.product();
    Tensor h = multiply_all(LinearInput(x), {&first, 1}, a)[0];
    h = ops::apply(f, ops::add_row(h, down_bias, 1));
    return ops::add_row(multiply_all(LinearInput(h), {&second, 1}, a)[0], up_bias, 1);
  }
};

class BottleneckLayer : public BlockAdapter {
 public:
  Bottleneck mixer, mlp;  // undefined where the kind has none
  ops::Nonlinearity f = ops::Nonlinearity::relu;
  bool parallel = false;
  float weight = 1;

  Tensor mixer_output(const Tensor&, Tensor y, Activations a) override {
    return mixer.down.defined() ? with(mixer, y, y, a) : y;
  }
  Tensor mlp_output(const Tensor& x, Tensor y, Activations a) override {
    return with(mlp, parallel ? x : y, y, a);
  }

 private:
  Tensor with(const Bottleneck& b, const Tensor& x, const Tensor& y, Activations a) const {
    if (weight == 0) return y;
    Tensor more = b.forward(x, f, a);
    return ops::add(y, weight == 1 ? more : ops::scale(more, weight));
  }
};

class BottleneckAdapter : public Adapter {
 public:
  BottleneckAdapter(PeftAdapter files, std::string kind, Model& model, int64_t m,
                    ops::Nonlinearity f, uint64_t seed)
      : files_(std::move(files)), kind_(std::move(kind)) {
    const int64_t d = model.width();
    auto make = [&](Bottleneck& b) {
      Tensor down = Tensor::empty({m, d}, DType::f32);
      ++seed;
      for (int64_t i = 0; i < down.numel(); ++i)
        down.mutable_data<float>()[i] =
            static_cast<float>(0.02 * random_normal(mix64(seed), uint64_t(i)));
      b.down = DenseMatrix(down);
      b.up = DenseMatrix(Tensor::zeros({d, m}, DType::f32));
      b.down_bias = Tensor::zeros({m}, DType::f32);
      b.up_bias = Tensor::zeros({d}, DType::f32);
    };
    for (size_t i = 0; i < model.blocks.size(); ++i) {
      auto layer = std::make_shared<BottleneckLayer>();
      layer->f = f;
      layer->parallel = kind_ == "parallel";
      if (kind_ == "houlsby") make(layer->mixer);
      make(layer->mlp);
      model.blocks[i].adapters.push_back(layer);
      layers_.push_back(layer);
    }
  }

  // f(name, tensor) for everything that is trained and saved.
  template <typename F>
  void each(F f) const {
    for (size_t i = 0; i < layers_.size(); ++i)
      for (Bottleneck* b : {&layers_[i]->mixer, &layers_[i]->mlp}) {
        const char* place = b == &layers_[i]->mlp ? "mlp" : "mixer";
        if (!b->down.defined()) continue;
        const std::string name = "bottlenecks." + std::to_string(i) + "." + place;
        f(name + ".down.weight", b->down.values());
        f(name + ".down.bias", b->down_bias);
        f(name + ".up.weight", b->up.values());
        f(name + ".up.bias", b->up_bias);
      }
  }

  std::string_view method() const override { return kind_; }
  std::vector<NamedTensor> train() override {
    std::vector<NamedTensor> all;
    each([&](const std::string& name, Tensor& t) {
      t.require_gradient();
      all.push_back({name, t});
    });
    return all;
  }
  void values_changed() override {
    for (auto& layer : layers_)
      for (Bottleneck* b : {&layer->mixer, &layer->mlp}) {
        if (!b->down.defined()) continue;
        b->down.values_changed();
        b->up.values_changed();
      }
  }
  void set_weight(float weight) override {
    for (auto& layer : layers_) layer->weight = weight;
  }
  PeftAdapter save() const override {
    PeftAdapter out = files_;
    each([&](const std::string& name, const Tensor& t) {
      out.tensors[peft_tensor_name({name, ""})] = t.detached();
    });
    return out;
  }
  std::string merge_refusal(int) const override {
    return "a bottleneck has a nonlinearity, which no weight can hold";
  }

 private:
  PeftAdapter files_;
  std::string kind_;
  std::vector<std::shared_ptr<BottleneckLayer>> layers_;
};

std::unique_ptr<Adapter> make(Model& model, const AdapterOptions& o, const char* kind) {
  const ops::Nonlinearity f = ops::nonlinearity_from_name(o.nonlinearity);
  const int64_t m = std::max<int64_t>(1, model.width() / o.reduction);
  PeftAdapter files;
  files.config.peft_type = "BOTTLENECK";
  files.config.task_type = "CAUSAL_LM";
  files.json = Json{{"bottleneck_kind", kind},
                    {"bottleneck_width", m},
                    {"non_linearity", o.nonlinearity},
                    {"peft_type", "BOTTLENECK"},
                    {"task_type", "CAUSAL_LM"}};
  return std::make_unique<BottleneckAdapter>(std::move(files), kind, model, m, f, o.seed);
}

std::unique_ptr<Adapter> load(Model& model, const PeftAdapter& files) {
  auto text = [&](const char* key) {
    const Json value = files.json.value(key, Json());
    HONE_CHECK(value.is_string(), corrupt, "the adapter's {} is no text", key);
    return value.get<std::string>();
  };
  const std::string kind = text("bottleneck_kind");
  HONE_CHECK(kind == "houlsby" || kind == "pfeiffer" || kind == "parallel", unsupported,
             "the adapter's bottleneck_kind is '{}': expected houlsby, pfeiffer or parallel", kind);
  const int64_t m = json_integer(files.json.value("bottleneck_width", Json()), "bottleneck_width",
                                 "adapter_config.json");
  HONE_CHECK(m > 0 && m <= 65536, corrupt, "the adapter's bottleneck_width is {}", m);
  const ops::Nonlinearity f = ops::nonlinearity_from_name(text("non_linearity"));
  check_elements(files, 2.0 * double(m) * double(model.width()) * double(model.blocks.size()) *
                            (kind == "houlsby" ? 2 : 1));
  auto adapter = std::make_unique<BottleneckAdapter>(files, kind, model, m, f, 0);
  TensorsOnce tensors(files);
  adapter->each([&](const std::string& name, Tensor& t) { tensors.copy({name, ""}, t); });
  tensors.check_all_used();
  adapter->values_changed();
  return adapter;
}

std::unique_ptr<Adapter> make_houlsby(Model& m, const AdapterOptions& o) {
  return make(m, o, "houlsby");
}
std::unique_ptr<Adapter> make_pfeiffer(Model& m, const AdapterOptions& o) {
  return make(m, o, "pfeiffer");
}
std::unique_ptr<Adapter> make_parallel(Model& m, const AdapterOptions& o) {
  return make(m, o, "parallel");
}
bool reads(const PeftConfig& c) { return c.peft_type == "BOTTLENECK"; }

}  // namespace bottleneck

extern const AdapterMethod kHoulsbyMethod, kPfeifferMethod, kParallelMethod;
const AdapterMethod kHoulsbyMethod{"houlsby", "bottlenecks behind mixer and MLP", bottleneck::reads,
                                   bottleneck::make_houlsby, bottleneck::load};
const AdapterMethod kPfeifferMethod{"pfeiffer", "a bottleneck behind each MLP", bottleneck::reads,
                                    bottleneck::make_pfeiffer, bottleneck::load};
const AdapterMethod kParallelMethod{"parallel", "a bottleneck beside each MLP", bottleneck::reads,
                                    bottleneck::make_parallel, bottleneck::load};

}  // namespace hone
