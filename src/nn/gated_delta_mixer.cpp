// Gated DeltaNet (Yang et al. 2025), as Qwen3-Next and Qwen3.5 have it beside softmax attention.
//
// A short convolution over q, k and v; q and k of length 1; the delta rule on a decaying state,
// S ← e^g·S, S ← S + β·k·(v − Sᵀ·k)ᵀ, with β = σ(b) and g = −A·softplus(a + bias); then the RMS
// norm of each head's result, times SiLU(z).
//
// Spec: width, heads (of v_dim), qk_heads (of k_dim), filter, eps.
// State: the rows in front of the filter, [filter − 1, channels]; S.
#include "nn/recurrence.h"
#include "nn/registry.h"
#include "ops/dense.h"
#include "ops/elementwise.h"
#include "ops/heads.h"

namespace hone {
namespace {

constexpr float kNormEps = 1e-6f;  // of q's and k's squared length

class GatedDelta final : public Mixer {
 public:
  explicit GatedDelta(const MixerSpec& s)
      : spec_(s),
        attention_(gated_delta_net(s.heads, s.qk_heads, s.k_dim, s.v_dim)),
        keys_(s.qk_heads * s.k_dim),
        values_(s.heads * s.v_dim) {}

  Mixed mix(const LinearInput& in, const Batch& batch, MixerState& state) override {
    using enum ops::Nonlinearity;
    std::vector<Linear*> linears = inputs();
    const std::vector<Tensor> y = forward_all(linears, in, batch.activations);
    const Tensor a = a_.forward(in, Activations::f32), b = b_.forward(in, Activations::f32);
    const Tensor qkv = convolve(y[0], filter_.values, {}, batch, state, 0);
    LinearAttentionInputs q;
    q.q = ops::l2_norm(ops::slice_columns(qkv, 0, keys_), spec_.k_dim, kNormEps);
    q.k = ops::l2_norm(ops::slice_columns(qkv, keys_, 2 * keys_), spec_.k_dim, kNormEps);
    q.v = ops::slice_columns(qkv, 2 * keys_, 2 * keys_ + values_);
    q.beta = ops::apply(sigmoid, b);
    q.g = ops::scale_columns(ops::apply(softplus, ops::add_row(a, step_bias_.values, 1)),
                             ops::scale(ops::apply(exp, log_a_.values), -1));
    return ops::silu_mul(y[1], norm_.forward(recur(attention_, q, batch, state, 1)));
  }
  std::vector<Linear*> inputs() override { return {&qkv_, &z_}; }
  Linear& output() override { return out_; }
  std::vector<Norm*> norms() override { return {&norm_}; }
  std::vector<MixerParameter> parameters() override {
    const int64_t d = spec_.width, h = spec_.heads, c = 2 * keys_ + values_;
    norm_.eps = spec_.eps;
    return {linear("qkv", {c, d}, qkv_),
            linear("z", {values_, d}, z_),
            linear("a", {h, d}, a_),
            linear("b", {h, d}, b_),
            linear("out", {d, values_}, out_),
            coefficients("filter", {c, spec_.filter}, filter_),
            coefficients("step_bias", {h}, step_bias_),
            coefficients("log_a", {h}, log_a_),
            norm("norm", {spec_.v_dim}, norm_)};
  }
  std::vector<Shape> state_shapes() const override {
    return {{spec_.filter - 1, 2 * keys_ + values_}, attention_.state_shape()};
  }
  std::string describe() const override {
    return fmt::format("Gated DeltaNet, {}/{} heads of {}", spec_.heads, spec_.qk_heads,
                       spec_.v_dim);
  }

 private:
  MixerSpec spec_;
  LinearAttentionSpec attention_;
  int64_t keys_, values_;
  Linear qkv_, z_, a_, b_, out_;
  Coefficients filter_, step_bias_, log_a_;
  Norm norm_;
};

}  // namespace

std::unique_ptr<Mixer> make_gated_delta(const MixerSpec& spec) {
  return std::make_unique<GatedDelta>(spec);
}

}  // namespace hone
