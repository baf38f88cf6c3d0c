// attention() and its gradients against PyTorch's, in double (tools/golden/make_attention.py).
#include <nlohmann/json.hpp>

#include "attention/attention.h"
#include "base/json.h"
#include "formats/safetensors.h"
#include "ops/tape.h"
#include "testing.h"

namespace hone {
namespace {

using testing::relative_distance;

TEST(AttentionGolden, EqualsPytorchForwardAndBackward) {
  const auto file = SafetensorsFile::open(testing::golden("attention.safetensors"));
  const Json cases = Json::parse(file.metadata().at("cases"));
  ASSERT_EQ(cases.size(), 10u);
  for (const auto& [name, c] : cases.items()) {
    SCOPED_TRACE(name);
    auto rows = [&](const char* tensor) {
      Tensor t = file.tensor(tensor);
      return t.reshape({t.dim(0), t.dim(1) * t.dim(2)}).clone();
    };
    Tensor q = rows("q"), k = rows("k"), v = rows("v");
    AttentionSpec s;
    s.heads = 4;
    s.kv_heads = 2;
    s.k_dim = 8;
    s.v_dim = 6;
    s.scale = 0.5f;
    s.softcap = c.value("softcap", 0.0f);
    s.pattern = Pattern::parse(c["pattern"].get<std::string>());
    s.alibi = {c.value("slopes", std::vector<float>{}), c.value("signed", false),
               c.value("before_cap", false)};
    s.top_left = c.value("top_left", false);
    AttentionTerms terms;
    if (c.value("bias", false)) terms.bias = file.tensor("bias").clone();
    if (c.value("sinks", false)) terms.sinks = file.tensor("sinks").clone();
    for (Tensor* t : {&q, &k, &v, &terms.bias, &terms.sinks})
      if (!t->empty_handle()) t->require_gradient();
    Tape tape;
    Tensor log_sum, o = attention(s, q, k, v, {{0, 30, 0, 70}}, terms, &log_sum);
    tape.backward(o, rows("grad"));
    auto expect = [&](const char* part, const Tensor& got) {
      const Tensor expected = file.tensor(name + "." + part);
      ASSERT_EQ(got.numel(), expected.numel());
      EXPECT_LT(relative_distance(got.data<float>(), expected.data<float>(), got.numel()), 3e-6)
          << part;
    };
    expect("o", o);
    expect("log_sum", log_sum);
    expect("dq", q.gradient());
    expect("dk", k.gradient());
    expect("dv", v.gradient());
    if (!terms.bias.empty_handle()) expect("dbias", terms.bias.gradient());
    if (!terms.sinks.empty_handle()) expect("dsinks", terms.sinks.gradient());
  }
}

}  // namespace
}  // namespace hone
