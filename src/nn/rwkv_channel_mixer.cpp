// RWKV's feed-forward, which sees the token before as well (Peng et al. 2023): with x' between
// the two, output(max(0, key(x'_k))²), times σ(receptance(x'_r)) where it is gated (RWKV-5, -6).
//
// Spec: width, hidden. State: the token before, [1, D].
#include "nn/recurrence.h"
#include "nn/registry.h"
#include "ops/elementwise.h"
#include "ops/heads.h"

namespace hone {
namespace {

class RwkvChannels final : public Mixer {
 public:
  RwkvChannels(const MixerSpec& spec, bool gated) : spec_(spec), gated_(gated) {}

  Mixed mix(const LinearInput& x, const Batch& batch, MixerState& state) override {
    const Tensor before = token_before(x.x(), batch, state, 0);
    const Activations a = batch.activations;
    const Tensor k = ops::lerp(x.x(), before, mix_k_.values);
    Mixed out = ops::apply(ops::Nonlinearity::squared_relu, key_.forward(LinearInput(k), a));
    if (!gated_) return out;
    const Tensor r = ops::lerp(x.x(), before, mix_r_.values);
    out.combine = [g = ops::apply(ops::Nonlinearity::sigmoid,
                                  receptance_.forward(LinearInput(r), a))](const Tensor& y) {
      return ops::mul(y, g);
    };
    return out;
  }
  std::vector<Linear*> inputs() override {
    if (!gated_) return {&key_};
    return {&key_, &receptance_};
  }
  bool shares_input() const override { return false; }
  Tensor input_of(size_t i, const Tensor& x, const Batch& batch, const MixerState& state) override {
    return ops::lerp(x, token_before(x, batch, state, 0), (i == 0 ? mix_k_ : mix_r_).values);
  }
  Linear& output() override { return value_; }
  std::vector<MixerParameter> parameters() override {
    const int64_t d = spec_.width, f = spec_.hidden;
    std::vector<MixerParameter> all = {coefficients("ffn_mix_k", {d}, mix_k_),
                                       linear("ffn_key", {f, d}, key_),
                                       linear("ffn_value", {d, f}, value_)};
    if (!gated_) return all;
    all.push_back(coefficients("ffn_mix_r", {d}, mix_r_));
    all.push_back(linear("ffn_receptance", {d, d}, receptance_));
    return all;
  }
  std::vector<Shape> state_shapes() const override { return {{1, spec_.width}}; }
  std::string describe() const override {
    return gated_ ? "gated squared ReLU with token shift" : "squared ReLU with token shift";
  }

 private:
  MixerSpec spec_;
  bool gated_;
  Coefficients mix_k_, mix_r_;
  Linear key_, value_, receptance_;
};

}  // namespace

std::unique_ptr<Mixer> make_gated_rwkv_channels(const MixerSpec& spec) {
  return std::make_unique<RwkvChannels>(spec, true);
}
std::unique_ptr<Mixer> make_rwkv_channels(const MixerSpec& spec) {
  return std::make_unique<RwkvChannels>(spec, false);
}

}  // namespace hone
