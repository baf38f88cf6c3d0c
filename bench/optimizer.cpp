// Speed of optimizer steps beside the memory bandwidth of the same access pattern.
//
//   optimizer [--parameters 10000000,124000000] [--method NAME] [--rounds N] [--json]
//
// The bandwidth is that of a plain loop, in the same threads and chunks, right before and after
// each step, over arrays of the same size: it reads four streams (w, g, m, v) and writes three of
// them (w += g, m -= g, v += g), 28 bytes an element, which is what AdamW in f32 does. Each
// method's bytes are those that its step must move: adafactor reads gradients three times, 8-bit
// states are bytes. 124000000 stands for the tensors of GPT-2; any other number is cut into
// matrices of 2500 x 4000.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"
#include "base/median.h"
#include "base/threads.h"
#include "kernels/select.h"
#include "ops/tape.h"
#include "train/optimizer.h"

namespace hone {
namespace {

constexpr int64_t kGpt2 = 124000000;
constexpr int64_t kChunk = 1 << 16;

struct Flags {
  std::vector<int64_t> parameters = {10000000, kGpt2};
  std::string method;
  int64_t rounds = 7;
  std::string isa = "auto";
  bool json = false;
};

// What a step reads and writes for each parameter.
struct Method {
  const char* name;
  double bytes;
};
constexpr Method kMethods[] = {{"adamw", 16 + 12},
                               {"adamw8bit", 10 + 6 + 4 * 4.0 / 256},
                               {"adafactor", 3 * 4 + 4 + 4},
                               {"sgd", 12 + 8},
                               {"lion", 12 + 8}};

Tensor filled(Shape shape, float value) {
  Tensor t = Tensor::empty(std::move(shape), DType::f32);
  float* p = t.mutable_data<float>();
  parallel_for(t.numel(), kChunk, [&](int64_t b, int64_t e) { std::fill(p + b, p + e, value); });
  return t;
}

std::vector<Parameter> make_parameters(int64_t n) {
  std::vector<Shape> shapes;
  if (n == kGpt2) {
    shapes = {{50257, 768}, {1024, 768}, {768}, {768}};
    for (int i = 0; i < 12; ++i)
      for (const Shape& s : {Shape{768},
                             {768},
                             {2304, 768},
                             {2304},
                             {768, 768},
                             {768},
                             {768},
                             {768},
                             {3072, 768},
                             {3072},
                             {768, 3072},
                             {768}})
        shapes.push_back(s);
  } else {
    for (; n > 0; n -= 2500 * 4000)
      shapes.push_back({std::min<int64_t>(2500, (n + 3999) / 4000), 4000});
  }
  std::vector<Parameter> all;
  for (Shape& s : shapes) {
    Parameter p{std::to_string(all.size()), filled(s, 0.1f), s.size() > 1};
    p.value.require_gradient();
    add_gradient(p.value, filled(s, 1e-3f));
    all.push_back(std::move(p));
  }
  return all;
}

// The plain loop.
class Streams {
 public:
  explicit Streams(int64_t n) : n_(n / kChunk * kChunk) {
    for (Tensor& t : arrays_) t = filled({n_}, 1e-3f);
  }
  // Bytes a second of one pass.
  double pass() {
    typedef float Lanes __attribute__((vector_size(16)));
    Lanes* p[4];
    for (int i = 0; i < 4; ++i) p[i] = reinterpret_cast<Lanes*>(arrays_[i].mutable_data<float>());
    const double started = monotonic_seconds();
    parallel_for(n_ / 4, kChunk / 4, [&](int64_t b, int64_t e) {
      Lanes* __restrict w = p[0], * __restrict g = p[1], * __restrict m = p[2], * __restrict v = p[3];
      for (int64_t i = b; i < e; ++i) {
        w[i] += g[i];
        m[i] -= g[i];
        v[i] += g[i];
      }
    });
    return 28.0 * double(n_) / (monotonic_seconds() - started);
  }

 private:
  int64_t n_;
  Tensor arrays_[4];
};

void run(const Flags& f) {
  kernels::set_isa(f.isa);
  nlohmann::json all = nlohmann::json::array();
  if (!f.json)
    fmt::print("{} threads, {}\n{:12} {:>12} {:>9} {:>8} {:>12} {:>8}\n", thread_count(),
               kernels::table().isa, "", "parameters", "ms", "GB/s", "plain GB/s", "of it");
  for (int64_t wanted : f.parameters) {
    for (const Method& method : kMethods) {
      if (!f.method.empty() && f.method != method.name) continue;
      auto parameters = make_parameters(wanted);
      int64_t n = 0;
      for (const Parameter& p : parameters) n += p.value.numel();
      OptimizerOptions o;
      o.optimizer = method.name;
      if (o.optimizer == "sgd") o.momentum = 0.9;
      o = o.resolved();
      auto optimizer = make_optimizer(o);
      Streams streams(n);
      optimizer->step(parameters, o.lr, 1, 0);
      streams.pass();
      std::vector<double> seconds, plain, fraction;
      for (int64_t i = 1; i <= f.rounds; ++i) {
        const double before = streams.pass();
        const double started = monotonic_seconds();
        optimizer->step(parameters, o.lr, 1, i);
        seconds.push_back(monotonic_seconds() - started);
        plain.push_back((before + streams.pass()) / 2);
        fraction.push_back(method.bytes * double(n) / seconds.back() / plain.back());
      }
      const double s = median(seconds);
      if (f.json)
        all.push_back({{"method", method.name},
                       {"parameters", n},
                       {"seconds", s},
                       {"bytes_per_parameter", method.bytes},
                       {"bytes_per_second", method.bytes * double(n) / s},
                       {"plain_bytes_per_second", median(plain)},
                       {"of_plain", median(fraction)}});
      else
        fmt::print("{:12} {:12} {:9.2f} {:8.1f} {:12.1f} {:6.0f} %\n", method.name, n, 1e3 * s,
                   method.bytes * double(n) / s / 1e9, median(plain) / 1e9, 100 * median(fraction));
    }
  }
  if (f.json)
    fmt::print(
        "{}\n",
        nlohmann::json{{"threads", thread_count()}, {"isa", kernels::table().isa}, {"cases", all}}
            .dump());
}

}  // namespace
}  // namespace hone

int main(int argc, char** argv) {
  hone::Flags f;
  CLI::App app("optimizer speed");
  app.add_option("--parameters", f.parameters)->delimiter(',')->check(CLI::Range(65536l, 1l << 32));
  app.add_option("--method", f.method)
      ->check(CLI::IsMember(std::vector<std::string>(hone::optimizer_names())));
  app.add_option("--rounds", f.rounds)->check(CLI::Range(1, 1000));
  app.add_option("--isa", f.isa);
  app.add_flag("--json", f.json);
  CLI11_PARSE(app, argc, argv);
  try {
    hone::run(f);
  } catch (const std::exception& e) {
    fmt::print(stderr, "optimizer: {}\n", e.what());
    return 1;
  }
}
