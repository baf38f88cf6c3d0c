// Speed of softmax attention alone: a prefill, beside the f32 multiply-add peak of this moment, and
// a decode step behind many keys, beside the bytes of its keys and values.
//
//   attention [--keys N] [--heads H] [--kv-heads H] [--head-size D] [--rounds N]
//   [--prefill-only | --decode-only] [--json]
//
//   attention --patterns [--most-keys N] [--backward] [--pattern TEXT ...]
//
// Operations are counted as 2·(k_dim + v_dim) a query head and a pair that the pattern shows.
// --patterns runs each pattern over 1024, 4096, … keys, beside what the planner
// predicts from the tiles that are kept and the peak of this moment, and the largest memory that
// was added.
#include "attention/attention.h"

#include <fmt/core.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "attention/planner.h"
#include "base/error.h"
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
  int64_t keys = 4096, heads = 8, kv_heads = 8, head_size = 128, rounds = 5;
  std::string isa = "auto";
  bool json = false, prefill_only = false, decode_only = false;
  bool patterns = false, backward = false;
  int64_t most_keys = 65536;
  std::vector<std::string> texts{"all",
                                 "causal",
                                 "causal & window(512)",
                                 "causal & (window(512) | prefix(4))",
                                 "strided(512)",
                                 "fixed(512, 64)",
                                 "longformer(256, 64)",
                                 "causal & block(1024)"};
};

struct Case {
  AttentionSpec spec;
  KvType type = KvType::f32;
  int64_t queries;  // the last of the keys
};

// Seconds of one call, the median of some; the bytes of the cache that it reads.
struct Result {
  double seconds = 0, bytes = 0, operations = 0, of_peak = 0, of_bandwidth = 0;
};

// One case: its cache, and what was measured of it so far.
class Measurement {
 public:
  Measurement(const Case& c, const Flags& f)
      : c_(c),
        cache_({{c.spec.kv_heads, c.spec.k_dim, c.spec.v_dim}}, c.type),
        q_(random_tensor({c.queries, c.spec.heads * c.spec.k_dim}, 3)),
        start_(f.keys - c.queries) {
    const AttentionSpec& s = c.spec;
    Tensor k = random_tensor({f.keys, s.kv_heads * s.k_dim}, 1);
    Tensor v = random_tensor({f.keys, s.kv_heads * s.v_dim}, 2);
    cache_.reserve(kv_, f.keys);
    cache_.write(0, kv_, 0, f.keys, k.data<float>(), v.data<float>());
    for (int64_t i = 0; i < c.queries; ++i)
      for (int64_t j = 0; j < f.keys; ++j) r_.operations += s.pattern.sees(start_ + i, j);
    r_.operations *= 2.0 * double(s.heads) * double(s.k_dim + s.v_dim);
    r_.bytes = double(cache_.page_bytes()) * double(f.keys) / kernels::kPageKeys;
    call();
  }
  void round(const kernels::RoofMeter& meter) {
    const kernels::Roofs roofs = meter.measure();
    call();  // the meter has emptied the caches
    int calls = 0;
    double started = monotonic_seconds(), took = 0;
    for (; took < 0.05; took = monotonic_seconds() - started, ++calls) call();
    seconds_.push_back(took / calls);
    of_peak_.push_back(r_.operations / seconds_.back() / roofs.fma_per_second);
    of_bandwidth_.push_back(r_.bytes / seconds_.back() / roofs.read_per_second(r_.bytes));
  }
  Result result() const {
    Result r = r_;
    r.seconds = median(seconds_);
    r.of_peak = median(of_peak_);
    r.of_bandwidth = median(of_bandwidth_);
    return r;
  }
  const Case& measured() const { return c_; }

 private:
  void call() { attend(c_.spec, q_, cache_, 0, {{{0, c_.queries, start_, &kv_}}}); }

  Case c_;
  KvCache cache_;
  KvSequence kv_;
  Tensor q_;
  int64_t start_;
  Result r_;
  std::vector<double> seconds_, of_peak_, of_bandwidth_;
};

void run(const Flags& f) {
  HONE_CHECK(f.heads % f.kv_heads == 0, invalid_argument,
             "--heads {} is no multiple of --kv-heads {}", f.heads, f.kv_heads);
  kernels::set_isa(f.isa);
  kernels::RoofMeter meter;
  AttentionSpec spec;
  spec.heads = f.heads;
  spec.kv_heads = f.kv_heads;
  spec.k_dim = spec.v_dim = f.head_size;
  spec.scale = 1 / std::sqrt(float(f.head_size));
  AttentionSpec full = spec;
  full.pattern = Pattern();
  nlohmann::json all = nlohmann::json::array();
  if (!f.json)
    fmt::print("{} keys, {}/{} heads of {}, {} threads, {}\n{:28} {:>10} {:>9} {:>7} {:>7} {:>7}\n",
               f.keys, f.heads, f.kv_heads, f.head_size, thread_count(), kernels::table().isa, "",
               "ms", "GFLOP/s", "of f32", "GB/s", "of read");
  // Round by round, so that what disturbs the machine for a while disturbs all.
  auto report = [&](const std::string& name, const std::vector<Case>& cases) {
    std::vector<std::unique_ptr<Measurement>> all_cases;
    for (const Case& c : cases) all_cases.push_back(std::make_unique<Measurement>(c, f));
    for (int64_t i = 0; i < f.rounds; ++i)
      for (auto& m : all_cases) m->round(meter);
    for (const auto& m : all_cases) {
      const Case& c = m->measured();
      const Result r = m->result();
      if (f.json)
        all.push_back({{"name", name},
                       {"cache", kv_type_name(c.type)},
                       {"queries", c.queries},
                       {"seconds", r.seconds},
                       {"operations", r.operations},
                       {"of_f32_peak", r.of_peak},
                       {"bytes", r.bytes},
                       {"of_bandwidth", r.of_bandwidth}});
      else
        fmt::print("{:28} {:10.3f} {:9.1f} {:5.0f} % {:7.1f} {:5.0f} %\n",
                   fmt::format("{}, {} cache", name, kv_type_name(c.type)), 1e3 * r.seconds,
                   r.operations / r.seconds / 1e9, 100 * r.of_peak, r.bytes / r.seconds / 1e9,
                   100 * r.of_bandwidth);
    }
  };
  const bool both = !f.prefill_only && !f.decode_only;
  if (both) report("prefill, every key", {{full, KvType::f32, f.keys}});
  if (f.prefill_only) report("prefill, causal", {{spec, KvType::f32, f.keys}});
  std::vector<Case> prefill, decode;
  for (KvType t : kv_types()) prefill.push_back({spec, t, f.keys});
  for (KvType t : kv_types()) decode.push_back({spec, t, 1});
  if (both) report("prefill, causal", prefill);
  if (!f.prefill_only) report("decode", decode);
  if (f.json)
    fmt::print("{}\n", nlohmann::json{{"keys", f.keys},
                                      {"heads", f.heads},
                                      {"kv_heads", f.kv_heads},
                                      {"head_size", f.head_size},
                                      {"threads", thread_count()},
                                      {"isa", kernels::table().isa},
                                      {"cases", all}}
                           .dump());
}

int64_t peak_bytes() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

void run_patterns(const Flags& f) {
  kernels::set_isa(f.isa);
  kernels::RoofMeter meter;
  AttentionSpec spec;
  spec.heads = f.heads;
  spec.kv_heads = f.kv_heads;
  spec.k_dim = spec.v_dim = f.head_size;
  spec.scale = 1 / std::sqrt(float(f.head_size));
  fmt::print("{}/{} heads of {}, {}, {} threads, {}\n{:36} {:>7} {:>10} {:>10} {:>6} {:>7} {:>7}\n",
             f.heads, f.kv_heads, f.head_size, f.backward ? "backward" : "forward", thread_count(),
             kernels::table().isa, "", "keys", "ms", "predicted", "ratio", "of f32", "peak MB");
  for (const std::string& text : f.texts)
    for (int64_t n = 1024; n <= f.most_keys; n *= 4) {
      spec.pattern = Pattern::parse(text);
      Tensor q = random_tensor({n, f.heads * f.head_size}, 1);
      Tensor k = random_tensor({n, f.kv_heads * f.head_size}, 2);
      Tensor v = random_tensor({n, f.kv_heads * f.head_size}, 3);
      const Tensor grad = random_tensor({n, f.heads * f.head_size}, 4);
      if (f.backward)
        for (Tensor* t : {&q, &k, &v}) t->require_gradient();
      std::vector<double> seconds, ratios, of_peak;
      for (int64_t round = 0; round < f.rounds; ++round) {
        const kernels::Roofs roofs = meter.measure(true);
        const AttentionPlan plan = plan_attention(spec, {n, n, f.backward, KvType::f32}, roofs);
        double took = 0;
        int calls = 0;
        for (; took < 0.02; ++calls) {
          Tape tape;
          double started = monotonic_seconds();
          Tensor o = attention(spec, q, k, v, {{0, n, 0, n}});
          if (f.backward) {
            started = monotonic_seconds();
            tape.backward(o, grad);
          }
          took += monotonic_seconds() - started;
        }
        seconds.push_back(took / calls);
        ratios.push_back(seconds.back() / *plan.seconds);
        of_peak.push_back(plan.operations / seconds.back() / roofs.fma_per_second);
      }
      const double s = median(seconds), ratio = median(ratios);
      fmt::print("{:36} {:7} {:10.3f} {:10.3f} {:6.2f} {:5.0f} % {:7.0f}\n", text, n, 1e3 * s,
                 1e3 * s / ratio, ratio, 100 * median(of_peak), double(peak_bytes()) / 1e6);
      std::fflush(stdout);
    }
}

}  // namespace
}  // namespace hone

int main(int argc, char** argv) {
  hone::Flags f;
  CLI::App app("attention speed");
  app.add_option("--keys", f.keys)->check(CLI::Range(1, 1 << 20));
  app.add_option("--heads", f.heads)->check(CLI::Range(1, 1 << 10));
  app.add_option("--kv-heads", f.kv_heads)->check(CLI::Range(1, 1 << 10));
  app.add_option("--head-size", f.head_size)->check(CLI::Range(1, 1 << 10));
  app.add_option("--rounds", f.rounds)->check(CLI::Range(1, 1000));
  app.add_option("--isa", f.isa);
  app.add_flag("--json", f.json);
  auto* prefill = app.add_flag("--prefill-only", f.prefill_only);
  app.add_flag("--decode-only", f.decode_only)->excludes(prefill);
  app.add_flag("--patterns", f.patterns);
  app.add_flag("--backward", f.backward);
  app.add_option("--most-keys", f.most_keys)->check(CLI::Range(1024, 1 << 20));
  app.add_option("--pattern", f.texts);
  CLI11_PARSE(app, argc, argv);
  try {
    f.patterns ? hone::run_patterns(f) : hone::run(f);
  } catch (const std::exception& e) {
    fmt::print(stderr, "attention: {}\n", e.what());
    return 1;
  }
}
