// LoRA (Hu et al. 2021): y = W·x + b + s·B(A·drop(x)), s = α/r; A begins uniform in ±1/√in, B at 0.
//   rsLoRA (Kalajdzievski 2023): s = α/√r.
//   DoRA (Liu et al. 2024): the rows of W + s·BA get a trained length m of their own:
//     y = (m/n)∘((W + s·BA)·x) + b with n = ‖W + s·BA‖ of each row, a constant to gradients.
//     n² = ‖w‖² + 2s·b·(Aw) + s²·b·(AAᵀ)·bᵀ, so that W + s·BA is never made.
// A is one more product of the layer's input, run together with the layer's own; B is added to its
// result in place. W may have any encoding: it stays as it is (QLoRA, Dettmers et al. 2023). Of a
// fused q, k and v the three parts share A, and each has its rows of B. Of an embedding A's columns
// are looked up as the table's rows are: y + s·B·A[:, token]; there A begins at 0, B normal.
#include <algorithm>
#include <cmath>
#include <utility>

#include "adapters/adapter.h"
#include "base/random.h"
#include "base/threads.h"
#include "encodings/low_rank.h"
#include "formats/peft_modules.h"
#include "ops/dense.h"
#include "ops/elementwise.h"
#include "ops/tape.h"

namespace hone {
namespace lora {

void fill_uniform(Tensor& t, double bound, uint64_t seed) {
  float* out = t.mutable_data<float>();
  for (int64_t i = 0; i < t.numel(); ++i)
    out[i] = static_cast<float>(bound * (2 * random_uniform(seed, static_cast<uint64_t>(i)) - 1));
}

double dot(const float* a, const float* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += double{a[i]} * double{b[i]};
  return sum;
}

// What one Linear gets.
class LoraLayer : public LinearAdapter {
 public:
  std::shared_ptr<DenseMatrix> a;  // [r, in], shared by the parts of a fused matrix
  DenseMatrix b;                   // [out, r]
  Tensor magnitude;                // DoRA: [out]
  float scale = 1;                 // s times the adapter's weight
  double dropout = 0;
  uint64_t site = 0;

  std::vector<Product> products() override {
    if (scale == 0 || drops()) return {};
    return {a->product()};
  }

  Tensor output(Linear& layer, const Tensor& x, std::span<const Tensor> products, Tensor y,
                Activations act) override {
    if (scale == 0) return y;
    const Tensor dropped = drops() ? ops::dropout(x, dropout, site) : x;
    const Product low = a->product();
    Tensor u = drops() ? multiply_all(LinearInput(dropped), {&low, 1}, act)[0] : products[0];
    u = ops::scale(u, scale);
    if (magnitude.empty_handle()) return add_product(y, u, b, act);
    const Tensor factor = row_factor(layer);
    if (drops()) {
      // W·x stays as it is, what the factor adds comes from the dropped x.
      Tensor own = base(layer, dropped, act);
      const Tensor rest = ops::add(y, ops::scale(own, -1));
      return ops::add(rest, ops::scale_columns(add_product(own, u, b, act), factor));
    }
    if (layer.bias().empty_handle()) return ops::scale_columns(add_product(y, u, b, act), factor);
    const Tensor without = ops::add_row(y, layer.bias(), -1);
    return ops::add_row(ops::scale_columns(add_product(without, u, b, act), factor), layer.bias(),
                        1);
  }

  /// m/n of each row, n without a gradient.
  Tensor row_factor(Linear& layer) {
    const Tensor n = row_lengths(layer);
    Tensor inverse = Tensor::empty(n.shape(), DType::f32);
    for (int64_t i = 0; i < n.numel(); ++i)
      inverse.mutable_data<float>()[i] = 1 / n.data<float>()[i];
    return ops::scale_columns(magnitude.reshape({1, n.numel()}), inverse);
  }

  /// ‖W + s·BA‖ of each row.
  Tensor row_lengths(Linear& layer) {
    const Tensor &av = a->values(), &bv = b.values();
    const int64_t r = av.dim(0), k = av.dim(1), n = bv.dim(0);
    const Product own = layer.product();
    if (squares_.empty_handle()) squares_ = row_squares(*own.weight);
    const Tensor none;
    const Tensor aw = [&] {
      TapePause pause;
      const Product plain{own.weight, &none};
      return multiply_all(LinearInput(av.detached()), {&plain, 1}, Activations::f32)[0];  // [r, n]
    }();
    std::vector<float> gram(static_cast<size_t>(r * r));
    for (int64_t i = 0; i < r; ++i)
      for (int64_t j = 0; j < r; ++j)
        gram[size_t(i * r + j)] =
            static_cast<float>(dot(av.data<float>() + i * k, av.data<float>() + j * k, k));
    Tensor lengths = Tensor::empty({n}, DType::f32);
    for (int64_t row = 0; row < n; ++row) {
      const float* bn = bv.data<float>() + row * r;
      double cross = 0, own_square = 0;
      for (int64_t i = 0; i < r; ++i) {
        cross += double{bn[i]} * double{aw.data<float>()[i * n + row]};
        own_square += double{bn[i]} * dot(&gram[size_t(i * r)], bn, r);
      }
      const double square = double{squares_.data<float>()[row]} + 2.0 * double{scale} * cross +
                            double{scale} * double{scale} * own_square;
      lengths.mutable_data<float>()[row] = static_cast<float>(std::sqrt(std::max(square, 1e-30)));
    }
    return lengths;
  }

 private:
  bool drops() const { return dropout > 0 && TrainingStep::current() != nullptr; }
  // W·x without the bias.
  static Tensor base(Linear& layer, const Tensor& x, Activations act) {
    const Tensor none;
    const Product own = layer.product(), plain{own.weight, &none, own.values};
    return multiply_all(LinearInput(x), {&plain, 1}, act)[0];
  }
  Tensor squares_;  // ‖w‖² of each row; W does not change while it is adapted
};

// What the embedding gets: neither dropout nor row lengths.
class LoraEmbedding : public EmbeddingAdapter {
 public:
  Tensor a;       // [r, V]
  DenseMatrix b;  // [D, r]
  float scale = 1;

  Tensor output(std::span<const int32_t> ids, Tensor y) override {
    if (scale == 0) return y;
    return add_product(std::move(y), ops::scale(columns(ids), scale), b, Activations::f32);
  }

  void merge(Tensor& values, int sign) const {
    const int64_t d = values.dim(1), r = a.dim(0), vocabulary = a.dim(1);
    const float *av = a.data<float>(), *bv = b.values().data<float>();
    float* out = values.mutable_data<float>();
    parallel_for(vocabulary, 64, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row)
        for (int64_t c = 0; c < d; ++c) {
          double change = 0;
          for (int64_t j = 0; j < r; ++j)
            change += double{av[j * vocabulary + row]} * double{bv[c * r + j]};
          float& at = out[row * d + c];
          at = static_cast<float>(double{at} + sign * double{scale} * change);
        }
    });
  }

 private:
  // A's columns of the tokens, [T, r].
  Tensor columns(std::span<const int32_t> ids) const {
    const int64_t r = a.dim(0), vocabulary = a.dim(1);
    Tensor u = Tensor::empty({std::ssize(ids), r}, DType::f32);
    float* out = u.mutable_data<float>();
    for (const int32_t id : ids)
      for (int64_t j = 0; j < r; ++j) *out++ = a.data<float>()[j * vocabulary + id];
    if (recorded({&a}))
      record(u, [a = a.hollow(), rows = std::vector<int32_t>(ids.begin(), ids.end()), r,
                 vocabulary](const Tensor& du) {
        float* sum = gradient_of(a).mutable_data<float>();
        const float* g = du.data<float>();
        for (const int32_t id : rows)
          for (int64_t j = 0; j < r; ++j) sum[j * vocabulary + id] += *g++;
      });
    return u;
  }
};

class LoraAdapter : public Adapter {
 public:
  struct Module {
    PeftModule of;
    float scale = 1;         // s
    Tensor a, b, magnitude;  // of the whole module; the layers share rows of b and magnitude
    std::vector<std::shared_ptr<LoraLayer>> layers;  // one for each part
  };
  struct EmbeddingModule {
    Embedding* of = nullptr;  // null: not adapted
    float scale = 1;          // s
    std::shared_ptr<LoraEmbedding> layer;
  };
  struct Modules {
    std::vector<Module> linears;
    EmbeddingModule embedding;
  };

  LoraAdapter(PeftAdapter files, Modules modules, double dropout)
      : files_(std::move(files)),
        modules_(std::move(modules.linears)),
        embedding_(std::move(modules.embedding)) {
    if (embedding_.of != nullptr) {
      LoraEmbedding& layer = *embedding_.layer;
      layer.scale = embedding_.scale;
      layer.b.values_changed();
      embedding_.of->adapters.push_back(embedding_.layer);
    }
    uint64_t site = 0;
    for (Module& m : modules_) {
      auto a = std::make_shared<DenseMatrix>(m.a);
      int64_t row = 0;
      for (Linear* part : m.of.parts) {
        auto layer = std::make_shared<LoraLayer>();
        const int64_t end = row + part->out_features();
        layer->a = a;
        layer->b = DenseMatrix(m.b.rows(row, end));
        if (!m.magnitude.empty_handle()) layer->magnitude = m.magnitude.rows(row, end);
        layer->scale = m.scale;
        layer->dropout = dropout;
        layer->site = site++;
        row = end;
        part->adapters.push_back(layer);
        m.layers.push_back(layer);
      }
    }
  }

  std::string_view method() const override { return files_.config.use_dora ? "dora" : "lora"; }

  std::vector<NamedTensor> train() override {
    std::vector<NamedTensor> all;
    if (embedding_.of != nullptr) {
      LoraEmbedding& layer = *embedding_.layer;
      layer.a.require_gradient();
      layer.b.values().require_gradient();
      all.push_back({embedding_.of->name() + ".lora_embedding_A", layer.a});
      all.push_back({embedding_.of->name() + ".lora_embedding_B", layer.b.values()});
    }
    for (Module& m : modules_) {
      Tensor& a = m.layers[0]->a->values();
      a.require_gradient();
      all.push_back({m.of.name + ".lora_A", a});
      for (size_t i = 0; i < m.layers.size(); ++i) {
        // The parts of a fused matrix train their own rows.
        const std::string part = m.layers.size() == 1 ? "" : "." + std::to_string(i);
        LoraLayer& layer = *m.layers[i];
        layer.b.values().require_gradient();
        all.push_back({m.of.name + ".lora_B" + part, layer.b.values()});
        if (layer.magnitude.empty_handle()) continue;
        layer.magnitude.require_gradient();
        all.push_back({m.of.name + ".lora_magnitude_vector" + part, layer.magnitude});
      }
    }
    return all;
  }

  void values_changed() override {
    if (embedding_.of != nullptr) embedding_.layer->b.values_changed();
    for (Module& m : modules_) {
      m.layers[0]->a->values_changed();
      for (auto& layer : m.layers) layer->b.values_changed();
    }
  }

  void set_weight(float weight) override {
    HONE_CHECK(!files_.config.use_dora || weight == 0 || weight == 1, unsupported,
               "DoRA's row lengths belong to all of its change: it is on or off and has no weight "
               "{}",
               weight);
    if (embedding_.of != nullptr) embedding_.layer->scale = embedding_.scale * weight;
    for (Module& m : modules_)
      for (auto& layer : m.layers) layer->scale = m.scale * weight;
  }

  PeftAdapter save() const override {
    PeftAdapter out = files_;
    auto put = [&](const std::string& module, const char* part, const Tensor& t) {
      out.tensors[peft_tensor_name({module, part})] = t.detached();
    };
    if (embedding_.of != nullptr) {
      put(embedding_.of->name(), "lora_embedding_A", embedding_.layer->a);
      put(embedding_.of->name(), "lora_embedding_B", embedding_.layer->b.values());
    }
    for (const Module& m : modules_) {
      put(m.of.name, "lora_A.weight", m.a);
      put(m.of.name, "lora_B.weight", m.b);
      if (!m.magnitude.empty_handle()) put(m.of.name, "lora_magnitude_vector", m.magnitude);
    }
    return out;
  }

  std::string merge_refusal(int sign) const override {
    if (sign > 0 || !files_.config.use_dora) return {};
    return "DoRA's row lengths replace those of the weights, which are then gone";
  }

  void merge(const Linear& linear, Tensor& values, Tensor&, int sign) const override {
    for (const Module& m : modules_)
      for (size_t i = 0; i < m.layers.size(); ++i)
        if (m.of.parts[i] == &linear) merge_layer(*m.layers[i], values, sign);
  }

  void merge_embedding(Tensor& values, int sign) const override {
    if (embedding_.of != nullptr) embedding_.layer->merge(values, sign);
  }

 private:
  // W ± s·BA; DoRA: (m/n)∘(W + s·BA).
  static void merge_layer(const LoraLayer& l, Tensor& values, int sign) {
    if (l.scale == 0) return;
    const int64_t n = values.dim(0), k = values.dim(1), r = l.a->values().dim(0);
    const float *a = l.a->values().data<float>(), *b = l.b.values().data<float>();
    const bool dora = !l.magnitude.empty_handle();
    float* w = values.mutable_data<float>();
    parallel_for(n, 8, [&](int64_t begin, int64_t end) {
      std::vector<double> change(static_cast<size_t>(k));
      for (int64_t row = begin; row < end; ++row, std::ranges::fill(change, 0.0)) {
        for (int64_t j = 0; j < r; ++j)
          for (int64_t c = 0; c < k; ++c)
            change[size_t(c)] += double{l.scale} * double{b[row * r + j]} * double{a[j * k + c]};
        float* at = w + row * k;
        double factor = 1;
        if (dora) {
          double square = 0;
          for (int64_t c = 0; c < k; ++c) {
            const double v = double{at[c]} + change[size_t(c)];
            square += v * v;
          }
          factor = double{l.magnitude.data<float>()[row]} / std::sqrt(std::max(square, 1e-30));
        }
        for (int64_t c = 0; c < k; ++c)
          at[c] = static_cast<float>(factor * (double{at[c]} + sign * change[size_t(c)]));
      }
    });
  }

  PeftAdapter files_;  // the configuration; its tensors are replaced when it is saved
  std::vector<Module> modules_;
  EmbeddingModule embedding_;
};

void check_rank(const std::string& module, int64_t r, int64_t in, int64_t out) {
  HONE_CHECK(r > 0 && r <= in + out, invalid_argument, "{}: rank {} is not between 1 and {}",
             module, r, in + out);
}

// What a directory or a fresh adapter puts into a model.
LoraAdapter::Module module_of(PeftModule of, const PeftMatcher& matcher, bool dora) {
  LoraAdapter::Module m;
  const int64_t r = matcher.rank(of.name);
  check_rank(of.name, r, of.in_features(), of.out_features());
  m.a = Tensor::zeros({r, of.in_features()}, DType::f32);
  m.b = Tensor::zeros({of.out_features(), r}, DType::f32);
  if (dora) m.magnitude = Tensor::zeros({of.out_features()}, DType::f32);
  m.scale = static_cast<float>(matcher.scale(of.name));
  m.of = std::move(of);
  return m;
}

LoraAdapter::EmbeddingModule embedding_of(Model& model, const PeftMatcher& matcher, bool dora) {
  LoraAdapter::EmbeddingModule m;
  const std::string& name = model.embedding.name();
  if (!matcher.adapts(name, false, false)) return m;
  HONE_CHECK(!dora, unsupported, "{}: DoRA of an embedding", name);
  const int64_t r = matcher.rank(name), vocabulary = model.embedding.weight().rows();
  check_rank(name, r, vocabulary, model.width());
  m.of = &model.embedding;
  m.scale = static_cast<float>(matcher.scale(name));
  m.layer = std::make_shared<LoraEmbedding>();
  m.layer->a = Tensor::zeros({r, vocabulary}, DType::f32);
  m.layer->b = DenseMatrix(Tensor::zeros({model.width(), r}, DType::f32));
  return m;
}

LoraAdapter::Modules modules_of(Model& model, const PeftConfig& c) {
  const PeftMatcher matcher(c, "the adapter");
  LoraAdapter::Modules all;
  all.embedding = embedding_of(model, matcher, c.use_dora);
  for (PeftModule& of : peft_modules(model)) {
    const bool head = of.parts[0] == &model.head;
    if (matcher.adapts(of.name, true, head))
      all.linears.push_back(module_of(std::move(of), matcher, c.use_dora));
  }
  HONE_CHECK(!all.linears.empty() || all.embedding.of != nullptr, invalid_argument,
             "the adapter's target_modules name no layer of this model");
  return all;
}

std::unique_ptr<Adapter> make(Model& model, const AdapterOptions& o, bool dora) {
  PeftAdapter files;
  PeftConfig& c = files.config;
  c.peft_type = "LORA";
  c.task_type = "CAUSAL_LM";
  c.r = o.rank;
  c.lora_alpha = o.alpha;
  c.lora_dropout = o.dropout;
  c.use_rslora = o.rslora;
  c.use_dora = dora;
  c.target_modules = o.modules();
  LoraAdapter::Modules modules = modules_of(model, c);
  if (modules.embedding.of != nullptr) {
    Tensor& b = modules.embedding.layer->b.values();
    for (int64_t i = 0; i < b.numel(); ++i)
      b.mutable_data<float>()[i] =
          static_cast<float>(random_normal(mix64(o.seed), static_cast<uint64_t>(i)));
  }
  uint64_t site = 0;
  for (LoraAdapter::Module& m : modules.linears) {
    const double bound = 1 / std::sqrt(static_cast<double>(m.of.in_features()));
    fill_uniform(m.a, bound, mix64(o.seed) ^ ++site);
    // m begins as the length of W's rows, B being 0.
    int64_t row = 0;
    if (dora)
      for (Linear* part : m.of.parts) {
        const Tensor squares = row_squares(*part->product().weight);
        for (int64_t i = 0; i < squares.numel(); ++i)
          m.magnitude.mutable_data<float>()[row++] = std::sqrt(squares.data<float>()[i]);
      }
  }
  return std::make_unique<LoraAdapter>(std::move(files), std::move(modules), o.dropout);
}

std::unique_ptr<Adapter> make_lora(Model& model, const AdapterOptions& o) {
  return make(model, o, false);
}
std::unique_ptr<Adapter> make_dora(Model& model, const AdapterOptions& o) {
  return make(model, o, true);
}

std::unique_ptr<Adapter> load(Model& model, const PeftAdapter& files) {
  const PeftConfig& c = files.config;
  // Ranks come from the configuration: what they ask for must be in the files before it is made.
  const PeftMatcher matcher(c, "the adapter");
  double wanted = 0;
  for (const PeftModule& of : peft_modules(model))
    if (matcher.adapts(of.name, true, of.parts[0] == &model.head))
      wanted += double(matcher.rank(of.name)) * double(of.in_features() + of.out_features());
  check_elements(files, wanted);
  LoraAdapter::Modules modules = modules_of(model, c);
  TensorsOnce tensors(files);
  if (modules.embedding.of != nullptr) {
    LoraEmbedding& layer = *modules.embedding.layer;
    tensors.copy({modules.embedding.of->name(), "lora_embedding_A"}, layer.a);
    tensors.copy({modules.embedding.of->name(), "lora_embedding_B"}, layer.b.values());
  }
  for (LoraAdapter::Module& m : modules.linears) {
    tensors.copy({m.of.name, "lora_A.weight"}, m.a);
    tensors.copy({m.of.name, "lora_B.weight"}, m.b);
    if (c.use_dora) tensors.copy({m.of.name, "lora_magnitude_vector"}, m.magnitude);
  }
  tensors.check_all_used();
  return std::make_unique<LoraAdapter>(files, std::move(modules), c.lora_dropout);
}

bool reads(const PeftConfig& c) { return c.peft_type == "LORA" && !c.use_dora; }
bool reads_dora(const PeftConfig& c) { return c.peft_type == "LORA" && c.use_dora; }

}  // namespace lora

extern const AdapterMethod kLoraMethod, kDoraMethod;
const AdapterMethod kLoraMethod{"lora", "a product of two thin matrices beside each weight",
                                lora::reads, lora::make_lora, lora::load};
const AdapterMethod kDoraMethod{"dora", "LoRA, and a trained length for each row of a weight",
                                lora::reads_dora, lora::make_dora, lora::load};

}  // namespace hone
