// rotate: fuses random orthogonal rotations into the weights. The model computes the same function
// (up to float rounding) with other numbers: off any grid that they were on, and without the
// outlier channels that make weights and activations hard to quantise (Chee et al. 2023, "QuIP";
// Ashkboos et al. 2024, "QuaRot").
//
// residual: hidden states x become x·Q. Norm weights are folded into the matrices behind them, what
// reads the residual stream becomes W·Q, what writes to it Qᵀ·W. An RMS norm does not see the
// rotation; a layer norm neither if Q keeps the mean. Norms on the outputs of mixer and MLP
// (Gemma 3) have weights in a fixed basis, and such models are refused. A head that shared its
// table with the embedding gets its own, for the final norm's weight is folded into it alone.
//
// values: in each key/value head, v becomes R·v and the output projection undoes it.
#include "base/random.h"
#include "base/threads.h"
#include "nn/mixture.h"
#include "ops/linalg.h"
#include "passes/pass.h"
#include "tensor/transpose.h"

namespace hone {
namespace {

// Counters of the seed: one rotation for the residual stream, one for each key/value head.
constexpr uint64_t kResidual = 1, kValues = 2;

// Right multiplication by an orthogonal Q [D, D]: rows x become x·Q.
class Rotation {
 public:
  explicit Rotation(const Tensor& q) : packed_(pack_weight(float_weight(transposed(q)))) {}
  Tensor rows(const Tensor& x) const {
    return multiply(LinearInput(x), packed_, {}, Activations::f32);
  }
  Tensor columns(const Tensor& x) const { return transposed(rows(transposed(x))); }
  Tensor vector(const Tensor& x) const {
    return rows(x.reshape({1, x.numel()})).reshape({x.numel()});
  }

 private:
  PackedWeight packed_;
};

void set_values(Linear& l, const Tensor& values, const Tensor& bias) {
  l.set_weight(float_weight(values));
  if (!l.bias().empty_handle()) l.set_bias(bias);
}

// What reads the stream behind `norm`: W·diag(norm)·Q.
void rotate_input(Linear& l, const Norm& norm, const Rotation& q) {
  Tensor w = decode_weight(l.weight()).clone();
  float* x = w.mutable_data<float>();
  const float* g = norm.weight.data<float>();
  int64_t n = w.dim(0), d = w.dim(1);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < d; ++j) x[i * d + j] *= g[j] + norm.offset;
  set_values(l, q.rows(w), l.bias());
}

// What writes to the stream: Qᵀ·W.
void rotate_output(Linear& l, const Rotation& q) {
  Tensor bias = l.bias().empty_handle() ? Tensor() : q.vector(l.bias());
  set_values(l, q.columns(decode_weight(l.weight())), bias);
}

// Leaves a norm without weights of its own; its bias b goes to where (b/g)·Q·(W·diag(g)·Q)ᵀ = b·Wᵀ.
void clear_norm(Norm& norm, const Rotation& q) {
  Tensor weight = norm.weight.clone();
  float* g = weight.mutable_data<float>();
  if (!norm.bias.empty_handle()) {
    Tensor bias = norm.bias.clone();
    float* b = bias.mutable_data<float>();
    for (int64_t i = 0; i < bias.numel(); ++i) {
      HONE_CHECK(g[i] + norm.offset != 0 || b[i] == 0, unsupported,
                 "rotate: {} has a bias but no weight in channel {}; its bias cannot be folded",
                 norm.name, i);
      if (b[i] != 0) b[i] /= g[i] + norm.offset;
    }
    norm.bias = q.vector(bias);
  }
  std::fill(g, g + weight.numel(), 1 - norm.offset);
  norm.weight = weight;
}

void rotate_values(SoftmaxAttention& a, uint64_t seed) {
  int64_t dim = a.spec.v_dim, kv_heads = a.spec.kv_heads, per_kv = a.spec.heads / kv_heads;
  // Heads in turn as rows of blocks: v is [kv_heads·dim, D], oᵀ is [heads·dim, D].
  Tensor v = decode_weight(a.v.weight()).clone();
  Tensor o = transposed(decode_weight(a.o.weight()));
  Tensor bias = a.v.bias().empty_handle() ? Tensor() : a.v.bias().clone();
  auto replace = [](Tensor& whole, int64_t first, const Tensor& part) {
    std::copy_n(part.data<float>(), part.numel(),
                whole.mutable_data<float>() + first * (whole.numel() / whole.dim(0)));
  };
  for (int64_t h = 0; h < kv_heads; ++h) {
    Rotation r(ops::random_orthogonal(dim, mix64(seed) + static_cast<uint64_t>(h), false));
    replace(v, h * dim, r.columns(v.rows(h * dim, (h + 1) * dim)));
    if (!bias.empty_handle()) replace(bias, h * dim, r.vector(bias.rows(h * dim, (h + 1) * dim)));
    for (int64_t i = h * per_kv; i < (h + 1) * per_kv; ++i)
      replace(o, i * dim, r.columns(o.rows(i * dim, (i + 1) * dim)));
  }
  set_values(a.v, v, bias);
  set_values(a.o, transposed(o), a.o.bias());
}

class Rotate final : public Pass {
 public:
  PassKind kind() const override { return PassKind::transform; }
  void visit_options(OptionVisitor& v) override {
    v.option("residual", residual_, "rotate the hidden states between the blocks");
    v.option("values", values_, "rotate the values inside each attention head");
  }
  void check_options() const override {
    HONE_CHECK(residual_ || values_, invalid_argument,
               "rotate: neither residual nor values: nothing to do");
  }
  void check_model(const Model& m) const override {
    HONE_CHECK(
        !residual_ || !m.embedding_norm.defined(), unsupported,
        "rotate: this {} has a norm behind its embedding, whose weight cannot be folded; set "
        "residual: false",
        m.family);
    for (const Block& b : m.blocks) {
      HONE_CHECK(!residual_ || dynamic_cast<Mixture*>(b.feed_forward.get()) == nullptr, unsupported,
                 "rotate: the residual of a mixture of experts is not rotated yet; set residual: "
                 "false");
      HONE_CHECK(!residual_ || (dynamic_cast<SoftmaxAttention*>(b.mixer.get()) && b.mlp()),
                 unsupported,
                 "rotate: layers of this {} scale their input channel by channel, which a rotation "
                 "would mix; set residual: false",
                 m.family);
      HONE_CHECK(!residual_ || (!b.post_mixer_norm.defined() && !b.post_mlp_norm.defined()),
                 unsupported,
                 "rotate: this {} has norms on the outputs of its layers, whose weights cannot be "
                 "folded; set residual: false",
                 m.family);
    }
  }
  WeightForm form(int64_t) const override { return {"f32", {}}; }
  void run(PassContext& c) override {
    Model& m = *c.model.model;
    auto blocks = static_cast<int64_t>(m.blocks.size());
    std::optional<Rotation> q;
    if (residual_) {
      bool keep_mean = m.final_norm.kind == Norm::Kind::layer;
      q.emplace(ops::random_orthogonal(m.width(), mix64(c.seed) + kResidual, keep_mean));
      rotate_ends(m, *q);
    }
    for (int64_t i = 0; i < blocks; ++i) {
      Block& b = m.blocks[i];
      if (q) rotate_block(b, *q);
      if (auto* a = dynamic_cast<SoftmaxAttention*>(b.mixer.get()); a != nullptr && values_)
        rotate_values(*a, mix64(mix64(c.seed) + kValues) + static_cast<uint64_t>(i));
      if (c.progress) c.progress(i + 1, blocks, "");
    }
  }

 private:
  static void rotate_ends(Model& m, const Rotation& q) {
    m.tied_head = false;
    rotate_input(m.head, m.final_norm, q);
    clear_norm(m.final_norm, q);
    m.embedding.set_weight(float_weight(q.rows(decode_weight(m.embedding.weight()))));
    if (!m.position_table.empty_handle()) m.position_table = q.rows(m.position_table);
  }

  static void rotate_block(Block& b, const Rotation& q) {
    auto stages = b.stages();
    for (Linear* l : stages[0]) rotate_input(*l, b.mixer_norm, q);
    for (Linear* l : stages[1]) rotate_output(*l, q);
    for (Linear* l : stages[2]) rotate_input(*l, b.feed_forward_norm(), q);
    for (Linear* l : stages[3]) rotate_output(*l, q);
    clear_norm(b.mixer_norm, q);
    if (b.mlp_norm.defined()) clear_norm(b.mlp_norm, q);
  }

  bool residual_ = true, values_ = true;
};

}  // namespace

std::unique_ptr<Pass> make_rotate_pass() { return std::make_unique<Rotate>(); }

}  // namespace hone
