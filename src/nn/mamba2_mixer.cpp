// Mamba-2 (Dao & Gu 2024, "Transformers are SSMs"): a block without a feed-forward.
//
// One projection gives gate z, x, B, C and the time step Δ; a short convolution over x, B and C; a
// state space with one decay a head, h ← exp(Δ·A)·h + Δ·B·xᵀ, y = C·h + D·x; then the RMS norm of
// SiLU(z)·y over each group.
//
// Spec: width, heads (of v_dim), qk_heads (groups), k_dim (state size), filter, filter_bias, bias,
// eps. State: the rows in front of the filter, [filter − 1, channels]; h.
#include "nn/recurrence.h"
#include "nn/registry.h"
#include "ops/dense.h"
#include "ops/elementwise.h"
#include "ops/heads.h"

namespace hone {
namespace {

class Mamba2 final : public Mixer {
 public:
  explicit Mamba2(const MixerSpec& s)
      : spec_(s),
        attention_(mamba2(s.heads, s.qk_heads, s.k_dim, s.v_dim)),
        inner_(s.heads * s.v_dim),
        channels_(inner_ + 2 * s.qk_heads * s.k_dim) {}

  Mixed mix(const LinearInput& in, const Batch& batch, MixerState& state) override {
    using enum ops::Nonlinearity;
    const Tensor all = in_.forward(in, batch.activations);
    const Tensor z = ops::slice_columns(all, 0, inner_);
    const Tensor xbc = convolve(ops::slice_columns(all, inner_, inner_ + channels_), filter_.values,
                                filter_bias_.values, batch, state, 0);
    const Tensor step =
        ops::apply(softplus, ops::add_row(ops::slice_columns(all, inner_ + channels_, all.dim(1)),
                                          step_bias_.values, 1));
    const int64_t keys = spec_.qk_heads * spec_.k_dim;
    const Tensor x = ops::slice_columns(xbc, 0, inner_);
    LinearAttentionInputs q;
    q.v = x;
    q.k = ops::slice_columns(xbc, inner_, inner_ + keys);
    q.q = ops::slice_columns(xbc, inner_ + keys, channels_);
    q.beta = step;
    q.g = ops::scale_columns(step, ops::scale(ops::apply(exp, log_a_.values), -1));
    const Tensor skip =
        ops::repeat_heads(skip_.values.reshape({1, spec_.heads}), spec_.heads, spec_.v_dim);
    const Tensor y = ops::add(recur(attention_, q, batch, state, 1), ops::scale_columns(x, skip));
    return ops::group_rms_norm(ops::silu_mul(z, y), norm_.weight, spec_.qk_heads, norm_.eps);
  }
  std::vector<Linear*> inputs() override { return {&in_}; }
  Linear& output() override { return out_; }
  std::vector<Norm*> norms() override { return {&norm_}; }
  std::vector<MixerParameter> parameters() override {
    const int64_t d = spec_.width, n = inner_ + channels_ + spec_.heads;
    norm_.eps = spec_.eps;
    std::vector<MixerParameter> all = {linear("in", {n, d}, in_),
                                       linear("out", {d, inner_}, out_),
                                       coefficients("filter", {channels_, spec_.filter}, filter_),
                                       coefficients("step_bias", {spec_.heads}, step_bias_),
                                       coefficients("log_a", {spec_.heads}, log_a_),
                                       coefficients("skip", {spec_.heads}, skip_),
                                       norm("norm", {inner_}, norm_)};
    if (spec_.filter_bias) all.push_back(coefficients("filter_bias", {channels_}, filter_bias_));
    if (spec_.bias) all.push_back(bias_of("in_bias", {n}, in_));
    if (spec_.bias) all.push_back(bias_of("out_bias", {d}, out_));
    return all;
  }
  std::vector<Shape> state_shapes() const override {
    return {{spec_.filter - 1, channels_}, attention_.state_shape()};
  }
  std::string describe() const override {
    return fmt::format("Mamba-2, {} heads of {}, state {} in {} groups", spec_.heads, spec_.v_dim,
                       spec_.k_dim, spec_.qk_heads);
  }

 private:
  MixerSpec spec_;
  LinearAttentionSpec attention_;
  int64_t inner_, channels_;
  Linear in_, out_;
  Coefficients filter_, filter_bias_, step_bias_, log_a_, skip_;
  Norm norm_;
};

}  // namespace

std::unique_ptr<Mixer> make_mamba2(const MixerSpec& spec) { return std::make_unique<Mamba2>(spec); }

}  // namespace hone
