// linear_attention() and what stands around it against other implementations: values and gradients
// of flash-linear-attention's and transformers' (tools/golden/make_linear_attention.py).
#include "attention/linear_attention.h"
#include "attention/short_conv.h"
#include "formats/safetensors.h"
#include "gradients.h"
#include "ops/dense.h"
#include "ops/elementwise.h"
#include "ops/heads.h"

namespace hone {
namespace {

using namespace testing;

constexpr int64_t kTokens = 21, kGoldenHeads = 4, kKeys = 6, kValues = 5;

class LinearGolden : public ::testing::Test {
 protected:
  const SafetensorsFile file = SafetensorsFile::open(golden("linear_attention.safetensors"));

  Tensor read(const std::string& name) const { return file.tensor(name).clone(); }

  void expect_same(const Tensor& got, const std::string& name) const {
    const Tensor want = read(name);
    ASSERT_EQ(got.numel(), want.numel()) << name;
    EXPECT_LT(relative_distance(got.data<float>(), want.data<float>(), want.numel()), 5e-6) << name;
  }

  // `names` are those of the inputs in the golden, in the order of LinearAttentionInputs, empty
  // where there is none.
  void expect_case(const std::string& name, const LinearAttentionSpec& spec,
                   std::vector<std::string> names, bool states = true, bool feature_map = false) {
    names.resize(8);
    for (LinearForm form : {LinearForm::recurrent, LinearForm::chunked}) {
      SCOPED_TRACE(form == LinearForm::chunked ? "chunked" : "recurrent");
      std::vector<Tensor> x(8);
      for (size_t i = 0; i < 8; ++i) {
        if (names[i].empty()) continue;
        x[i] = read(names[i]);
        if (i < 2 && spec.qk_heads < kGoldenHeads)
          x[i] = ops::slice_columns(x[i], 0, spec.qk_heads * kKeys).clone();
        x[i].require_gradient();
      }
      Tensor state = read("state");
      state.require_gradient();
      Tape tape;
      LinearAttentionInputs in{x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7]};
      if (feature_map) {
        in.q = ops::apply(ops::Nonlinearity::elu_plus_one, x[0]);
        in.k = ops::apply(ops::Nonlinearity::elu_plus_one, x[1]);
      }
      if (spec.decay == Decay::head && in.g.empty_handle()) in.g = retnet_decay(kGoldenHeads);
      LinearAttentionResult r =
          linear_attention(spec, in, {{0, kTokens, states ? state : Tensor()}}, form);
      expect_same(r.o, name + ".o");
      Tensor loss = Tensor::zeros({1}, DType::f32);
      record(loss, [&](const Tensor&) {
        add_gradient(r.o, read("d_o"));
        if (states) add_gradient(r.states[0], read("d_state"));
      });
      tape.backward(loss, Tensor::from(std::vector<float>{1}));
      const char* inputs[] = {"q", "k", "v", "g", "beta", "a", "b", "u"};
      for (size_t i = 0; i < 8; ++i)
        if (!names[i].empty()) expect_same(x[i].gradient(), name + ".d_" + inputs[i]);
      if (!states) continue;
      expect_same(r.states[0], name + ".state");
      expect_same(state.gradient(), name + ".d_initial");
    }
  }
};

TEST_F(LinearGolden, FlashLinearAttention) {
  expect_case("linear", katharopoulos(kGoldenHeads, kKeys, kValues, false), {"q", "k", "v"});
  expect_case("normalised", katharopoulos(kGoldenHeads, kKeys, kValues, true), {"q", "k", "v"},
              false, true);
  expect_case("retnet", retnet(kGoldenHeads, kKeys, kValues), {"q", "k", "v"}, false);
  LinearAttentionSpec simple = mamba2(kGoldenHeads, kGoldenHeads, kKeys, kValues);
  simple.scale = 1 / std::sqrt(float{kKeys});
  expect_case("simple_gla", simple, {"q", "k", "v", "g_head"});
  expect_case("gla", gla(kGoldenHeads, kKeys, kValues), {"q", "k", "v", "g"});
  LinearAttentionSpec finch = rwkv6(kGoldenHeads, kKeys);
  finch.v_dim = kValues;
  expect_case("rwkv6", finch, {"q", "k", "v", "g", "", "", "", "u"});
  expect_case("delta_net", delta_net(kGoldenHeads, kKeys, kValues),
              {"q", "k_unit", "v", "", "beta"});
  expect_case("gated_delta", gated_delta_net(kGoldenHeads, kGoldenHeads, kKeys, kValues),
              {"q", "k_unit", "v", "g_head", "beta"});
  LinearAttentionSpec kimi = gated_delta_net(kGoldenHeads, 2, kKeys, kValues);
  kimi.decay = Decay::channel;
  expect_case("kda", kimi, {"q", "k_unit", "v", "g", "beta"});
  LinearAttentionSpec goose = rwkv7(kGoldenHeads, kKeys);
  goose.v_dim = kValues;
  goose.scale = 1 / std::sqrt(float{kKeys});
  expect_case("dplr", goose, {"q", "k_unit", "v", "g", "", "a", "b"});
}

TEST_F(LinearGolden, Qwen3Next) {
  expect_case("qwen3_next", gated_delta_net(kGoldenHeads, 2, kKeys, kValues),
              {"q", "k_unit", "v", "g_head", "beta"});
}

// A whole mixer between its projections: convolution, gates, attention with two groups, gated norm.
TEST_F(LinearGolden, Mamba2Mixer) {
  const int64_t inner = 24, groups = 2, size = 5, channels = inner + 2 * groups * size;
  const Tensor all = read("mixer.projected");
  const Tensor gate = ops::slice_columns(all, 0, inner);
  const Tensor x =
      short_conv(ops::slice_columns(all, inner, inner + channels), read("mixer.conv_weight"),
                 read("mixer.conv_bias"), true, {{0, kTokens, {}}})
          .y;
  const Tensor dt = ops::apply(
      ops::Nonlinearity::softplus,
      ops::add_row(ops::slice_columns(all, inner + channels, inner + channels + kGoldenHeads),
                   read("mixer.dt_bias"), 1));
  const Tensor rate = ops::scale(ops::apply(ops::Nonlinearity::exp, read("mixer.A_log")), -1);
  LinearAttentionInputs in;
  in.v = ops::slice_columns(x, 0, inner);
  in.k = ops::slice_columns(x, inner, inner + groups * size);
  in.q = ops::slice_columns(x, inner + groups * size, channels);
  in.beta = dt;
  in.g = ops::scale_columns(dt, rate);
  const LinearAttentionSpec spec = mamba2(kGoldenHeads, groups, size, inner / kGoldenHeads);
  for (LinearForm form : {LinearForm::recurrent, LinearForm::chunked}) {
    const Tensor y = linear_attention(spec, in, {{0, kTokens, {}}}, form).o;
    const Tensor skip =
        ops::scale_columns(in.v, ops::repeat_heads(read("mixer.D").reshape({1, kGoldenHeads}),
                                                   kGoldenHeads, inner / kGoldenHeads)
                                     .reshape({inner}));
    expect_same(ops::group_rms_norm(ops::silu_mul(gate, ops::add(y, skip)), read("mixer.norm"),
                                    groups, 1e-5f),
                "mixer.out");
  }
}

}  // namespace
}  // namespace hone
