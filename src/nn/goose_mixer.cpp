// RWKV-7's time mixing (Peng et al. 2025, "RWKV-7 Goose with Expressive Dynamic State Evolution").
//
//   S ← S·Diag(w) − S·κ̂·(a∘κ̂)ᵀ + v·kᵀ,   w = exp(−e^−½·σ(w0 + tanh(x_w·W1)·W2)),   a = σ(a0 + …)
//
// with x_• between a token and the one before, κ̂ the normed removal key, v drawn towards that of
// the first layer. The result is normed head by head, gets the token's own r·k of v, and a gate.
//
// Spec: width, heads, k_dim = v_dim, decay_rank, rate_rank, value_rank, gate_rank, eps, first.
// State: the token before, [1, D]; S.
#include <array>
#include <cmath>

#include "nn/recurrence.h"
#include "nn/registry.h"
#include "ops/dense.h"
#include "ops/elementwise.h"
#include "ops/heads.h"

namespace hone {
namespace {

constexpr float kTinyNorm = 1e-24f;  // of κ², as torch's normalize has 1e-12 of κ

class Goose final : public Mixer {
 public:
  explicit Goose(const MixerSpec& spec) : spec_(spec), attention_(rwkv7(spec.heads, spec.k_dim)) {}

  Mixed mix(const LinearInput& in, const Batch& batch, MixerState& state) override {
    using enum ops::Nonlinearity;
    const Tensor &x = in.x(), before = token_before(x, batch, state, 0);
    auto moved = [&](Shifted to) { return LinearInput(ops::lerp(x, before, shift_[to].values)); };
    // Small products, whose results go into exponents: always of f32 activations.
    auto small = [](Linear& l, const LinearInput& to) { return l.forward(to, Activations::f32); };
    const LinearInput xv = moved(kV), xa = moved(kA), xg = moved(kG);
    const Tensor r = r_.forward(moved(kR), batch.activations);
    Tensor k = k_.forward(moved(kK), batch.activations);
    Tensor v = v_.forward(xv, batch.activations);
    const Tensor w = small(w2_, LinearInput(ops::apply(tanh, small(w1_, moved(kW)))));
    const Tensor rate = ops::apply(sigmoid, small(a2_, LinearInput(small(a1_, xa))));
    const Tensor gate = small(g2_, LinearInput(ops::apply(sigmoid, small(g1_, xg))));
    if (spec_.first) {
      state.shared = v;
    } else {
      const Tensor towards = ops::apply(sigmoid, small(v2_, LinearInput(small(v1_, xv))));
      v = ops::lerp(v, state.shared, towards);
    }
    const Tensor removal =
        ops::l2_norm(ops::scale_columns(k, removal_.values), spec_.k_dim, kTinyNorm);
    k = ops::lerp(k, ops::mul(k, rate), kept_.values);
    LinearAttentionInputs q;
    q.q = r;
    q.k = k;
    q.v = v;
    q.g = ops::scale(ops::apply(sigmoid, w), -std::exp(-0.5f));
    q.a = ops::scale(removal, -1);
    q.b = ops::mul(removal, rate);
    Tensor y = recur(attention_, q, batch, state, 1);
    y = ops::group_norm(y, norm_.weight, norm_.bias, spec_.heads, norm_.eps);
    const Tensor own = ops::head_sums(ops::scale_columns(ops::mul(r, k), own_.values), spec_.heads);
    return ops::mul(ops::add(y, ops::scale_heads(v, own)), gate);
  }
  std::vector<Linear*> inputs() override { return {&r_, &k_, &v_}; }
  bool shares_input() const override { return false; }
  Tensor input_of(size_t i, const Tensor& x, const Batch& batch, const MixerState& state) override {
    constexpr Shifted kOf[] = {kR, kK, kV};
    return ops::lerp(x, token_before(x, batch, state, 0), shift_[kOf[i]].values);
  }
  Linear& output() override { return o_; }
  std::vector<Norm*> norms() override { return {&norm_}; }
  std::vector<MixerParameter> parameters() override;
  std::vector<Shape> state_shapes() const override {
    return {{1, spec_.width}, attention_.state_shape()};
  }
  bool gives_shared() const override { return spec_.first; }
  std::string describe() const override {
    return fmt::format("RWKV-7, {} heads of {}", spec_.heads, spec_.k_dim);
  }

 private:
  enum Shifted { kR, kW, kK, kV, kA, kG, kAll };

  MixerSpec spec_;
  LinearAttentionSpec attention_;
  std::array<Coefficients, kAll> shift_;
  Coefficients removal_, kept_, own_;
  Linear r_, k_, v_, o_;
  Linear w1_, w2_, a1_, a2_, v1_, v2_, g1_, g2_;
  Norm norm_;
};

std::vector<MixerParameter> Goose::parameters() {
  const int64_t d = spec_.width, n = spec_.heads * spec_.k_dim;
  norm_.kind = Norm::Kind::layer;
  norm_.eps = spec_.eps;
  std::vector<MixerParameter> all;
  constexpr const char* kNames[] = {"mix_r", "mix_w", "mix_k", "mix_v", "mix_a", "mix_g"};
  for (int i = 0; i < kAll; ++i) all.push_back(coefficients(kNames[i], {d}, shift_[i]));
  auto low_rank = [&](const char* down, const char* up, const char* bias, int64_t rank, Linear& one,
                      Linear& two) {
    all.push_back(linear(down, {rank, d}, one));
    all.push_back(linear(up, {n, rank}, two));
    if (bias != nullptr) all.push_back(bias_of(bias, {n}, two));
  };
  low_rank("w1", "w2", "w0", spec_.decay_rank, w1_, w2_);
  low_rank("a1", "a2", "a0", spec_.rate_rank, a1_, a2_);
  if (!spec_.first) low_rank("v1", "v2", "v0", spec_.value_rank, v1_, v2_);
  low_rank("g1", "g2", nullptr, spec_.gate_rank, g1_, g2_);
  all.insert(all.end(),
             {coefficients("k_k", {n}, removal_), coefficients("k_a", {n}, kept_),
              coefficients("r_k", {n}, own_), linear("r", {n, d}, r_), linear("k", {n, d}, k_),
              linear("v", {n, d}, v_), linear("o", {d, n}, o_), norm("norm", {n}, norm_)});
  return all;
}

}  // namespace

std::unique_ptr<Mixer> make_goose(const MixerSpec& spec) { return std::make_unique<Goose>(spec); }

}  // namespace hone
