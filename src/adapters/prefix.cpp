// Prefix tuning (Li & Liang 2021): trained keys and values in front of every sequence, in every
// layer: P [n, 2·L·d] in the order K0 V0 K1 V1 …, without rotation. With a projection P is made of
// a smaller E [n, d] by an MLP, tanh between two linear layers, while it is trained; what is saved
// is P. It may begin with the keys and values of a text, which trains far more steadily than random
// ones do.
#include <algorithm>
#include <cmath>
#include <utility>

#include "adapters/adapter.h"
#include "base/random.h"
#include "encodings/low_rank.h"
#include "ops/elementwise.h"
#include "ops/tape.h"

namespace hone {
namespace prefix {

class PrefixValues : public Prefix {
 public:
  int64_t width = 0;  // of the keys of a layer, and of its values
  Tensor p;           // [n, 2·L·width]; what a projection made last
  // The projection: E [n, width], then [hidden, width] and [2·L·width, hidden] with biases.
  Tensor e, first_bias, second_bias;
  DenseMatrix first, second;

  int64_t length() const override { return p.dim(0); }
  void begin() override {
    if (first.defined()) project();
  }
  Tensor keys(int64_t layer) override {
    return ops::slice_columns(p, 2 * layer * width, (2 * layer + 1) * width);
  }
  Tensor values(int64_t layer) override {
    return ops::slice_columns(p, (2 * layer + 1) * width, (2 * layer + 2) * width);
  }
  void project() {
    auto product = [](const Tensor& x, const DenseMatrix& w, const Tensor& bias) {
      const Product one = w.product();
      return ops::add_row(multiply_all(LinearInput(x), {&one, 1}, Activations::f32)[0], bias, 1);
    };
    p = product(ops::apply(ops::Nonlinearity::tanh, product(e, first, first_bias)), second,
                second_bias);
  }
};

class PrefixAdapter : public Adapter {
 public:
  PrefixAdapter(PeftAdapter files, Model& model, std::shared_ptr<PrefixValues> values)
      : files_(std::move(files)), model_(model), values_(std::move(values)) {
    model_.set_prefix(values_);
  }

  std::string_view method() const override { return "prefix"; }

  std::vector<NamedTensor> train() override {
    PrefixValues& v = *values_;
    if (!v.first.defined()) {
      v.p.require_gradient();
      return {{"prompt_embeddings", v.p}};
    }
    std::vector<NamedTensor> all;
    auto add = [&](const char* name, Tensor& t) {
      t.require_gradient();
      all.push_back({name, t});
    };
    add("embedding.weight", v.e);
    add("transform.0.weight", v.first.values());
    add("transform.0.bias", v.first_bias);
    add("transform.2.weight", v.second.values());
    add("transform.2.bias", v.second_bias);
    return all;
  }

  void values_changed() override {
    if (!values_->first.defined()) return;
    values_->first.values_changed();
    values_->second.values_changed();
  }

  void set_weight(float weight) override {
    HONE_CHECK(weight == 0 || weight == 1, unsupported,
               "prefix tuning is on or off: it has no weight {}", weight);
    model_.set_prefix(weight == 0 ? nullptr : values_);
  }

  PeftAdapter save() const override {
    PeftAdapter out = files_;
    if (values_->first.defined()) values_->project();
    out.tensors["prompt_embeddings"] = values_->p.detached();
    return out;
  }

  std::string merge_refusal(int) const override {
    return "a prefix is keys and values, not a change of weights";
  }

 private:
  PeftAdapter files_;
  Model& model_;
  std::shared_ptr<PrefixValues> values_;
};

int64_t width_of(const Model& model) {
  const std::vector<KvShape> shapes = model.kv_shapes();
  HONE_CHECK(model.state_bytes() == 0, unsupported,
             "prefix tuning needs softmax attention in all layers");
  for (const KvShape& s : shapes)
    HONE_CHECK(s.kv_heads == shapes[0].kv_heads && s.k_dim == s.v_dim && s.k_dim == shapes[0].k_dim,
               unsupported, "prefix tuning needs keys and values of one size in all layers");
  return shapes.at(0).kv_heads * shapes[0].k_dim;
}

void fill_normal(Tensor& t, double deviation, uint64_t seed) {
  for (int64_t i = 0; i < t.numel(); ++i)
    t.mutable_data<float>()[i] =
        static_cast<float>(deviation * random_normal(seed, static_cast<uint64_t>(i)));
}

// The keys and values that the model itself makes of tokens.
void fill_from_tokens(Model& model, const std::vector<int32_t>& tokens, int64_t width, Tensor& p) {
  const int64_t n = p.dim(0), all = p.dim(1);
  Batch batch;
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < n; ++i) ids.push_back(tokens[size_t(i) % tokens.size()]);
  batch.append(ids, nullptr);
  KvCache none({});
  BlockState state;
  state.residual = model.embed(batch);
  for (int64_t layer = 0; layer < std::ssize(model.blocks); ++layer) {
    Block& b = model.blocks[size_t(layer)];
    auto& a = dynamic_cast<SoftmaxAttention&>(*b.mixer);
    b.enter(state);
    const LinearInput in(state.x);
    Tensor k = a.k.forward(in, Activations::f32), v = a.v.forward(in, Activations::f32);
    if (a.k_norm.defined()) k = a.k_norm.forward(k);
    if (a.rope.defined()) a.rope.apply(k, a.spec.k_dim, batch.positions);
    for (int64_t i = 0; i < n; ++i) {
      float* row = p.mutable_data<float>() + i * all + 2 * layer * width;
      std::copy_n(k.data<float>() + i * width, width, row);
      std::copy_n(v.data<float>() + i * width, width, row + width);
    }
    b.forward(state, batch, none, layer);
  }
}

void fill_linear(Tensor& weight, Tensor& bias, uint64_t seed) {
  const double bound = 1 / std::sqrt(static_cast<double>(weight.dim(1)));
  uint64_t at = 0;
  for (Tensor* t : {&weight, &bias})
    for (int64_t i = 0; i < t->numel(); ++i)
      t->mutable_data<float>()[i] =
          static_cast<float>(bound * (2 * random_uniform(seed, at++) - 1));
}

std::unique_ptr<Adapter> make(Model& model, const AdapterOptions& o) {
  auto v = std::make_shared<PrefixValues>();
  const int64_t n = o.virtual_tokens, layers = std::ssize(model.blocks);
  v->width = width_of(model);
  v->p = Tensor::empty({n, 2 * layers * v->width}, DType::f32);
  PeftAdapter files;
  PeftConfig& c = files.config;
  c.peft_type = "PREFIX_TUNING";
  c.task_type = "CAUSAL_LM";
  c.num_virtual_tokens = n;
  c.num_layers = layers;
  c.token_dim = v->width;
  c.num_attention_heads = model.kv_shapes().at(0).kv_heads;
  c.prefix_projection = o.projection;
  c.encoder_hidden_size = o.projection ? o.hidden : v->width;
  if (o.projection) {
    v->e = Tensor::empty({n, v->width}, DType::f32);
    fill_normal(v->e, 1, mix64(o.seed));
    auto layer = [&](int64_t out, int64_t in, Tensor& bias, uint64_t seed) {
      Tensor w = Tensor::empty({out, in}, DType::f32);
      bias = Tensor::empty({out}, DType::f32);
      fill_linear(w, bias, seed);
      return DenseMatrix(w);
    };
    v->first = layer(o.hidden, v->width, v->first_bias, mix64(o.seed + 1));
    v->second = layer(2 * layers * v->width, o.hidden, v->second_bias, mix64(o.seed + 2));
  } else if (!o.first_tokens.empty()) {
    fill_from_tokens(model, o.first_tokens, v->width, v->p);
  } else {
    fill_normal(v->p, 1, mix64(o.seed));
  }
  return std::make_unique<PrefixAdapter>(std::move(files), model, std::move(v));
}

std::unique_ptr<Adapter> load(Model& model, const PeftAdapter& files) {
  const PeftConfig& c = files.config;
  auto v = std::make_shared<PrefixValues>();
  v->width = width_of(model);
  HONE_CHECK(c.num_virtual_tokens > 0 && c.num_virtual_tokens <= 65536, corrupt,
             "the adapter's num_virtual_tokens is {}", c.num_virtual_tokens);
  v->p = Tensor::empty({c.num_virtual_tokens, 2 * std::ssize(model.blocks) * v->width}, DType::f32);
  TensorsOnce tensors(files);
  tensors.copy({"", "prompt_embeddings"}, v->p);
  tensors.check_all_used();
  return std::make_unique<PrefixAdapter>(files, model, std::move(v));
}

bool reads(const PeftConfig& c) { return c.peft_type == "PREFIX_TUNING"; }

}  // namespace prefix

extern const AdapterMethod kPrefixMethod;
const AdapterMethod kPrefixMethod{"prefix", "keys and values in front of every sequence",
                                  prefix::reads, prefix::make, prefix::load};

}  // namespace hone
