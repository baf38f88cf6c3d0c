// Speed of linear attention beside softmax attention over the same tokens and heads, measured in
// turn: a prefill in both forms, what flows back, and a decode step.
//
//   linear_attention [--tokens N] [--heads H] [--head-size D] [--rounds N] [--isa NAME] [--json]
//
// Operations are those of products with the state: 4·k_dim·v_dim a token and head, 6 with the delta
// rule, 8 with a and b; the same for both forms, so that what a form does beside them counts
// against it. A decode step reads and writes its states.
#include "attention/linear_attention.h"

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>

#include "attention/attention.h"
#include "base/log.h"
#include "base/median.h"
#include "base/threads.h"
#include "kernels/machine.h"
#include "kernels/select.h"
#include "ops/tape.h"
#include "random_tensor.h"

namespace hone {
namespace {

struct Flags {
  int64_t tokens = 16384, heads = 8, head_size = 128, rounds = 3;
  std::string isa = "auto";
  bool json = false;
};

double seconds_of(const std::function<void()>& f) {
  const double started = monotonic_seconds();
  int calls = 0;
  double took = 0;
  for (; took < 0.02; took = monotonic_seconds() - started, ++calls) f();
  return took / calls;
}

struct Case {
  const char* name;
  LinearAttentionSpec spec;
};

LinearAttentionInputs inputs_of(const LinearAttentionSpec& s, int64_t t) {
  auto mapped = [](Tensor x, float (*f)(float)) {
    for (int64_t i = 0; i < x.numel(); ++i) x.mutable_data<float>()[i] = f(x.data<float>()[i]);
    return x;
  };
  LinearAttentionInputs in;
  const float small = 1 / std::sqrt(float(s.k_dim));
  auto unit = [&](Tensor x) {
    for (int64_t i = 0; i < x.numel(); ++i) x.mutable_data<float>()[i] *= small;
    return x;
  };
  in.q = random_tensor({t, s.qk_heads * s.k_dim}, 1);
  in.k = unit(random_tensor({t, s.qk_heads * s.k_dim}, 2));
  in.v = random_tensor({t, s.heads * s.v_dim}, 3);
  if (s.decay != Decay::none)
    in.g = mapped(random_tensor({t, s.heads * (s.decay == Decay::head ? 1 : s.k_dim)}, 4),
                  [](float x) { return -0.05f * std::fabs(x); });
  if (s.low_rank == LowRank::delta)
    in.beta = mapped(random_tensor({t, s.heads}, 5), [](float x) { return 1 / (1 + std::exp(x)); });
  if (s.low_rank == LowRank::general) {
    in.a = unit(random_tensor({t, s.heads * s.k_dim}, 6));
    in.b = mapped(in.a.clone(), [](float x) { return -0.5f * x; });
  }
  if (s.reads_previous) in.u = random_tensor({s.heads * s.k_dim}, 7);
  return in;
}

double softmax_seconds(const Flags& f) {
  AttentionSpec s;
  s.heads = s.kv_heads = f.heads;
  s.k_dim = s.v_dim = f.head_size;
  s.scale = 1 / std::sqrt(float(f.head_size));
  const int64_t width = f.heads * f.head_size;
  KvCache cache({{f.heads, f.head_size, f.head_size}}, KvType::f32);
  KvSequence kv;
  Tensor q = random_tensor({f.tokens, width}, 1), k = random_tensor({f.tokens, width}, 2),
         v = random_tensor({f.tokens, width}, 3);
  cache.reserve(kv, f.tokens);
  cache.write(0, kv, 0, f.tokens, k.data<float>(), v.data<float>());
  const std::vector<SequenceSpan> spans{{0, f.tokens, 0, &kv}};
  return seconds_of([&] { attend(s, q, cache, 0, spans); });
}

// Forward of both forms, backward and decode; seconds.
struct Times {
  double recurrent, chunked, backward, decode;
};

Times measure(const LinearAttentionSpec& s, int64_t tokens) {
  LinearAttentionInputs in = inputs_of(s, tokens), one = inputs_of(s, 1);
  auto forward = [&](const LinearAttentionInputs& x, LinearForm form) {
    std::vector<LinearSpan> span{{0, x.q.dim(0), Tensor::zeros(s.state_shape(), DType::f32)}};
    linear_attend(s, x, span, form);
    return seconds_of([&] { linear_attend(s, x, span, form); });
  };
  Times t{};
  t.recurrent = forward(in, LinearForm::recurrent);
  t.chunked = forward(in, LinearForm::chunked);
  t.decode = forward(one, LinearForm::recurrent);
  for (Tensor* x : {&in.q, &in.k, &in.v, &in.g, &in.beta, &in.a, &in.b, &in.u})
    if (!x->empty_handle()) x->require_gradient();
  Tape tape;
  Tensor o = linear_attention(s, in, {{0, tokens, {}}}, LinearForm::chunked).o;
  const Tensor seed = random_tensor(o.shape(), 8);
  const double started = monotonic_seconds();
  tape.backward(o, seed);
  t.backward = monotonic_seconds() - started;
  return t;
}

void run(const Flags& f) {
  kernels::set_isa(f.isa);
  const kernels::RoofMeter meter;
  const int64_t h = f.heads, d = f.head_size;
  const std::vector<Case> cases{{"linear", katharopoulos(h, d, d, false)},
                                {"RetNet, Mamba-2", mamba2(h, h, d, d)},
                                {"GLA", gla(h, d, d)},
                                {"RWKV-6", rwkv6(h, d)},
                                {"DeltaNet", delta_net(h, d, d)},
                                {"Gated DeltaNet", gated_delta_net(h, h, d, d)},
                                {"RWKV-7", rwkv7(h, d)}};
  nlohmann::json all = nlohmann::json::array();
  if (!f.json)
    fmt::print(
        "{} tokens, {} heads of {}, {} threads, {}; x: times faster than causal softmax attention\n"
        "{:16} {:>9} {:>6} {:>7} {:>9} {:>6} {:>7} {:>9} {:>9} {:>7}\n",
        f.tokens, h, d, thread_count(), kernels::table().isa, "", "recurrent", "x", "of f32",
        "chunked", "x", "of f32", "backward", "decode", "GB/s");
  for (const Case& c : cases) {
    std::vector<double> recurrent, chunked, backward, decode, softmax, of_recurrent, of_chunked;
    const double state = double(h) * double(d) * double(d);
    const double per_token = c.spec.low_rank == LowRank::none    ? 4
                             : c.spec.low_rank == LowRank::delta ? 6
                                                                 : 8;
    for (int64_t i = 0; i < f.rounds; ++i) {
      const double peak = meter.measure().fma_per_second;
      const Times t = measure(c.spec, f.tokens);
      softmax.push_back(softmax_seconds(f));
      recurrent.push_back(t.recurrent);
      chunked.push_back(t.chunked);
      backward.push_back(t.backward);
      decode.push_back(t.decode);
      const double operations = per_token * state * double(f.tokens);
      of_recurrent.push_back(operations / t.recurrent / peak);
      of_chunked.push_back(operations / t.chunked / peak);
    }
    const double soft = median(softmax);
    if (f.json)
      all.push_back({{"name", c.name},
                     {"recurrent_seconds", median(recurrent)},
                     {"chunked_seconds", median(chunked)},
                     {"backward_seconds", median(backward)},
                     {"decode_seconds", median(decode)},
                     {"softmax_seconds", soft},
                     {"recurrent_of_f32_peak", median(of_recurrent)},
                     {"chunked_of_f32_peak", median(of_chunked)}});
    else
      fmt::print(
          "{:16} {:6.1f} ms {:6.1f} {:5.0f} % {:6.1f} ms {:6.1f} {:5.0f} % {:6.0f} ms {:6.1f} us "
          "{:7.1f}\n",
          c.name, 1e3 * median(recurrent), soft / median(recurrent), 100 * median(of_recurrent),
          1e3 * median(chunked), soft / median(chunked), 100 * median(of_chunked),
          1e3 * median(backward), 1e6 * median(decode), 8 * state / median(decode) / 1e9);
  }
  if (f.json)
    fmt::print("{}\n", nlohmann::json{{"tokens", f.tokens},
                                      {"heads", h},
                                      {"head_size", d},
                                      {"threads", thread_count()},
                                      {"isa", kernels::table().isa},
                                      {"cases", all}}
                           .dump());
}

}  // namespace
}  // namespace hone

int main(int argc, char** argv) {
  hone::Flags f;
  CLI::App app("linear attention speed");
  app.add_option("--tokens", f.tokens)->check(CLI::Range(1, 1 << 20));
  app.add_option("--heads", f.heads)->check(CLI::Range(1, 1 << 10));
  app.add_option("--head-size", f.head_size)->check(CLI::Range(1, 1 << 10));
  app.add_option("--rounds", f.rounds)->check(CLI::Range(1, 1000));
  app.add_option("--isa", f.isa);
  app.add_flag("--json", f.json);
  CLI11_PARSE(app, argc, argv);
  try {
    hone::run(f);
  } catch (const std::exception& e) {
    fmt::print(stderr, "linear_attention: {}\n", e.what());
    return 1;
  }
}
