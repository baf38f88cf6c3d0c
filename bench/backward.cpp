// Speed of what training adds to a product: forward, what flows back to its input, and what its
// weight gets, beside the f32 multiply-add peak of this moment; and attention's backward.
//
//   backward [--tokens N] [--rounds N] [--json]
//
// A product of T tokens with [N, K] counts 2·T·N·K operations in each of the three; attention's
// backward 10 a channel and pair that the pattern shows.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <nlohmann/json.hpp>

#include "attention/attention.h"
#include "base/log.h"
#include "base/median.h"
#include "base/threads.h"
#include "encodings/low_rank.h"
#include "encodings/product.h"
#include "kernels/machine.h"
#include "kernels/select.h"
#include "ops/dense.h"
#include "ops/tape.h"
#include "random_tensor.h"

namespace hone {
namespace {

struct Flags {
  int64_t tokens = 512, rounds = 5;
  bool json = false;
};

class Bench {
 public:
  explicit Bench(const Flags& f) : f_(f) {}

  void report(const std::string& name, double operations, const std::function<void()>& work) {
    work();
    std::vector<double> seconds, of_peak;
    for (int64_t i = 0; i < f_.rounds; ++i) {
      const kernels::Roofs roofs = meter_.measure(true);
      int calls = 0;
      double started = monotonic_seconds(), took = 0;
      for (; took < 0.05; took = monotonic_seconds() - started, ++calls) work();
      seconds.push_back(took / calls);
      of_peak.push_back(operations / seconds.back() / roofs.fma_per_second);
    }
    const double s = median(seconds), part = median(of_peak);
    if (f_.json)
      all_.push_back(
          {{"name", name}, {"seconds", s}, {"operations", operations}, {"of_f32_peak", part}});
    else
      fmt::print("{:44} {:10.3f} ms {:8.1f} GFLOP/s {:5.0f} % of f32\n", name, 1e3 * s,
                 operations / s / 1e9, 100 * part);
  }

  void product(int64_t n, int64_t k, const char* encoding_name) {
    const int64_t t = f_.tokens;
    Tensor values = random_tensor({n, k}, 1), x = random_tensor({t, k}, 2), bias;
    Weight w = float_weight(values);
    if (std::string(encoding_name) != "f32")
      w = encoding(encoding_name).encode(values.data<float>(), n, k, {});
    const PackedWeight packed = pack_weight(w);
    const Tensor dy = random_tensor({t, n}, 3);
    const std::string shape = fmt::format("{} [{}, {}]", encoding_name, n, k);
    const double operations = 2.0 * double(t) * double(n) * double(k);
    report(shape + " forward", operations,
           [&] { multiply(LinearInput(x), packed, bias, Activations::f32); });
    report(shape + " to the input", operations, [&] { multiply_transposed(dy, packed); });
    if (std::string(encoding_name) != "f32") return;
    Tensor dw = Tensor::zeros({n, k}, DType::f32);
    report(shape + " to the weight", operations, [&] { ops::accumulate_product(dy, x, dw); });
    PackedWeight again = packed;
    report(shape + " packing", operations, [&] { pack_again(w, again); });
  }

  void low_rank(int64_t n, int64_t k, int64_t r) {
    const int64_t t = f_.tokens;
    Tensor x = random_tensor({t, k}, 1), y = random_tensor({t, n}, 2),
           dy = random_tensor({t, n}, 3);
    DenseMatrix a(random_tensor({r, k}, 4)), b(random_tensor({n, r}, 5));
    const Product down = a.product();
    const double one = 2.0 * double(t) * double(r);
    Tensor u = random_tensor({t, r}, 6);
    const std::string shape = fmt::format("rank {} of [{}, {}]", r, n, k);
    report(shape + " A", one * double(k), [&] {
      multiply_all(LinearInput(x), {&down, 1}, Activations::f32);
    });
    report(shape + " B", one * double(n), [&] { add_product(y, u, b, Activations::f32); });
    report(shape + " back through B", one * double(n),
           [&] { multiply_transposed(dy, b.packed()); });
    report(shape + " back through A", one * double(k), [&] { multiply_transposed(u, a.packed()); });
    Tensor da = Tensor::zeros({r, k}, DType::f32), db = Tensor::zeros({n, r}, DType::f32);
    report(shape + " to A", one * double(k), [&] { ops::accumulate_product(u, x, da); });
    report(shape + " to B", one * double(n), [&] { ops::accumulate_product(dy, u, db); });
  }

  void attend(int64_t heads, int64_t kv_heads, int64_t d) {
    const int64_t t = f_.tokens;
    AttentionSpec s;
    s.heads = heads;
    s.kv_heads = kv_heads;
    s.k_dim = s.v_dim = d;
    s.scale = 1 / std::sqrt(float(d));
    Tensor q = random_tensor({t, heads * d}, 1), k = random_tensor({t, kv_heads * d}, 2);
    Tensor v = random_tensor({t, kv_heads * d}, 3), dy = random_tensor({t, heads * d}, 4);
    const double pairs = double(t) * double(t + 1) / 2 * double(heads);
    report(fmt::format("attention {}/{} heads of {} forward", heads, kv_heads, d),
           4 * pairs * double(d), [&] {
             attention(s, q, k, v, {{0, t, 0, t}});
           });
    q.require_gradient();
    k.require_gradient();
    v.require_gradient();
    report(fmt::format("attention {}/{} heads of {} both", heads, kv_heads, d),
           14 * pairs * double(d), [&] {
             Tape tape;
             Tensor y = attention(s, q, k, v, {{0, t, 0, t}});
             tape.backward(y, dy);
           });
  }

  void run() {
    if (!f_.json)
      fmt::print("{} tokens, {} threads, {}\n", f_.tokens, thread_count(), kernels::table().isa);
    product(768, 768, "f32");
    product(3072, 768, "f32");
    product(768, 3072, "f32");
    product(1536, 576, "f32");
    product(1536, 576, "q4_0");
    product(1536, 576, "nf4");
    product(5632, 2048, "q4_k");
    low_rank(1536, 576, 16);
    low_rank(2048, 5632, 16);
    attend(12, 12, 64);
    attend(9, 3, 64);
    if (f_.json)
      fmt::print("{}\n", nlohmann::json{{"tokens", f_.tokens},
                                        {"threads", thread_count()},
                                        {"isa", kernels::table().isa},
                                        {"cases", all_}}
                             .dump());
  }

 private:
  const Flags& f_;
  kernels::RoofMeter meter_;
  nlohmann::json all_ = nlohmann::json::array();
};

}  // namespace
}  // namespace hone

int main(int argc, char** argv) {
  hone::Flags f;
  CLI::App app("speed of the backward");
  app.add_option("--tokens", f.tokens)->check(CLI::Range(1, 1 << 20));
  app.add_option("--rounds", f.rounds)->check(CLI::Range(1, 1000));
  app.add_flag("--json", f.json);
  CLI11_PARSE(app, argc, argv);
  try {
    hone::Bench(f).run();
  } catch (const std::exception& e) {
    fmt::print(stderr, "backward: {}\n", e.what());
    return 1;
  }
}
