// The time mixing of RWKV-5.2 and RWKV-6 (Peng et al. 2024, "Eagle and Finch: RWKV with
// Matrix-Valued States and Dynamic Recurrence").
//
//   S_t = Diag(w_t)·S_{t−1} + k_t·v_tᵀ,   o_t = r_tᵀ·(S_{t−1} + u∘k_t·v_tᵀ),   w = exp(−exp(decay))
//
// with r, k, v and the gate made of what lies between a token and the one before. In Eagle the
// places there and the decay are parameters; in Finch low-rank functions of the tokens add to them.
// The result is normed head by head and multiplied by SiLU(gate).
//
// Spec: width, heads, k_dim = v_dim, eps; Finch: mix_rank, decay_rank.
// State: the token before, [1, D]; S.
#include <array>

#include "nn/recurrence.h"
#include "nn/registry.h"
#include "ops/dense.h"
#include "ops/elementwise.h"
#include "ops/heads.h"

namespace hone {
namespace {

using enum ops::Nonlinearity;

class Eagle : public Mixer {
 public:
  explicit Eagle(const MixerSpec& spec) : spec_(spec), attention_(rwkv6(spec.heads, spec.k_dim)) {}

  Mixed mix(const LinearInput& in, const Batch& batch, MixerState& state) override {
    const Tensor &x = in.x(), before = token_before(x, batch, state, 0);
    const std::vector<Tensor> to = moved(x, before);
    const Activations a = batch.activations;
    LinearAttentionInputs q;
    q.q = r_.forward(LinearInput(to[kR]), a);
    q.k = k_.forward(LinearInput(to[kK]), a);
    q.v = v_.forward(LinearInput(to[kV]), a);
    const Tensor gate = ops::apply(silu, g_.forward(LinearInput(to[kG]), a));
    q.g = ops::scale(ops::apply(exp, decay(to)), -1);
    q.u = bonus_.values;
    Tensor y = recur(attention_, q, batch, state, 1);
    y = ops::group_norm(y, norm_.weight, norm_.bias, spec_.heads, norm_.eps);
    return ops::mul(y, gate);
  }
  std::vector<Linear*> inputs() override { return {&r_, &k_, &v_, &g_}; }
  bool shares_input() const override { return false; }
  Tensor input_of(size_t i, const Tensor& x, const Batch& batch, const MixerState& state) override {
    return moved(x, token_before(x, batch, state, 0))[i];
  }
  Linear& output() override { return o_; }
  std::vector<Norm*> norms() override { return {&norm_}; }
  std::vector<MixerParameter> parameters() override {
    const int64_t d = spec_.width, n = spec_.heads * spec_.k_dim;
    norm_.kind = Norm::Kind::layer;
    norm_.eps = spec_.eps;
    std::vector<MixerParameter> all = {linear("r", {n, d}, r_),
                                       linear("k", {n, d}, k_),
                                       linear("v", {n, d}, v_),
                                       linear("g", {n, d}, g_),
                                       linear("o", {d, n}, o_),
                                       norm("norm", {n}, norm_),
                                       coefficients("decay", {n}, decay_),
                                       coefficients("bonus", {n}, bonus_)};
    for (int i = 0; i < shifts(); ++i) all.push_back(coefficients(kShiftNames[i], {d}, shift_[i]));
    return all;
  }
  std::vector<Shape> state_shapes() const override {
    return {{1, spec_.width}, attention_.state_shape()};
  }
  std::string describe() const override {
    return fmt::format("RWKV-5, {} heads of {}", spec_.heads, spec_.k_dim);
  }

 protected:
  // The first four are inputs() in their order.
  enum Shifted : int { kR, kK, kV, kG, kW, kAll };
  static constexpr const char* kShiftNames[] = {"mix_r", "mix_k", "mix_v", "mix_g", "mix_w"};
  virtual int shifts() const { return kW; }
  // What each of the linears multiplies, between x and the token before.
  virtual std::vector<Tensor> moved(const Tensor& x, const Tensor& before) {
    std::vector<Tensor> to;
    for (int i = 0; i < shifts(); ++i) to.push_back(ops::lerp(x, before, shift_[i].values));
    return to;
  }
  // log(−log w): one row, or one a token.
  virtual Tensor decay(const std::vector<Tensor>&) {
    return decay_.values.reshape({1, decay_.values.numel()});
  }

  MixerSpec spec_;
  LinearAttentionSpec attention_;
  std::array<Coefficients, kAll> shift_;
  Coefficients decay_, bonus_;
  Linear r_, k_, v_, g_, o_;
  Norm norm_;
};

class Finch final : public Eagle {
 public:
  explicit Finch(const MixerSpec& spec) : Eagle(spec) {}

  std::vector<MixerParameter> parameters() override {
    const int64_t d = spec_.width, n = spec_.heads * spec_.k_dim, m = spec_.mix_rank;
    std::vector<MixerParameter> all = Eagle::parameters();
    all.insert(all.end(),
               {coefficients("mix_x", {d}, shift_x_), linear("mix1", {kAll * m, d}, mix1_),
                linear("decay1", {spec_.decay_rank, d}, decay1_),
                linear("decay2", {n, spec_.decay_rank}, decay2_)});
    constexpr const char* kNames[] = {"mix2_r", "mix2_k", "mix2_v", "mix2_g", "mix2_w"};
    for (int i = 0; i < kAll; ++i) all.push_back(linear(kNames[i], {d, m}, mix2_[i]));
    return all;
  }
  std::string describe() const override {
    return fmt::format("RWKV-6, {} heads of {}", spec_.heads, spec_.k_dim);
  }

 protected:
  int shifts() const override { return kAll; }
  std::vector<Tensor> moved(const Tensor& x, const Tensor& before) override {
    // Blocks of mix1's rows, in the order of the published checkpoints.
    constexpr int kBlock[] = {3, 1, 2, 4, 0};
    const LinearInput between(ops::lerp(x, before, shift_x_.values));
    const Tensor inner = ops::apply(tanh, mix1_.forward(between, Activations::f32));
    const int64_t m = spec_.mix_rank;
    std::vector<Tensor> to;
    for (int i = 0; i < kAll; ++i) {
      const int64_t at = kBlock[i] * m;
      const Tensor more =
          mix2_[i].forward(LinearInput(ops::slice_columns(inner, at, at + m)), Activations::f32);
      to.push_back(ops::lerp(x, before, ops::add_row(more, shift_[i].values, 1)));
    }
    return to;
  }
  Tensor decay(const std::vector<Tensor>& to) override {
    const Tensor inner = ops::apply(tanh, decay1_.forward(LinearInput(to[kW]), Activations::f32));
    return ops::add_row(decay2_.forward(LinearInput(inner), Activations::f32), decay_.values, 1);
  }

 private:
  Coefficients shift_x_;
  Linear mix1_, decay1_, decay2_;
  std::array<Linear, kAll> mix2_;
};

}  // namespace

std::unique_ptr<Mixer> make_eagle(const MixerSpec& spec) { return std::make_unique<Eagle>(spec); }
std::unique_ptr<Mixer> make_finch(const MixerSpec& spec) { return std::make_unique<Finch>(spec); }

}  // namespace hone
