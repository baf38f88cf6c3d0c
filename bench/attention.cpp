// Speed of softmax attention alone: a prefill, beside the f32 multiply-add peak of this moment, and
// a decode step behind many keys, beside the bytes of its keys and values.
//
//   attention [--keys N] [--heads H] [--kv-heads H] [--head-size D] [--rounds N] [--prefill-only]
//   [--json]
//
// Operations are counted as 2·(k_dim + v_dim) a query head and a pair that the pattern shows.
#include "attention/attention.h"

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"
#include "base/median.h"
#include "base/threads.h"
#include "kernels/machine.h"
#include "kernels/select.h"
#include "random_tensor.h"

namespace hone {
namespace {

struct Flags {
  int64_t keys = 4096, heads = 8, kv_heads = 8, head_size = 128, rounds = 5;
  std::string isa = "auto";
  bool json = false, prefill_only = false;
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

Result measure(const Case& c, const Flags& f, const kernels::RoofMeter& meter) {
  const AttentionSpec& s = c.spec;
  KvCache cache({{s.kv_heads, s.k_dim, s.v_dim}}, c.type);
  KvSequence kv;
  Tensor k = random_tensor({f.keys, s.kv_heads * s.k_dim}, 1);
  Tensor v = random_tensor({f.keys, s.kv_heads * s.v_dim}, 2);
  Tensor q = random_tensor({c.queries, s.heads * s.k_dim}, 3);
  cache.reserve(kv, f.keys);
  cache.write(0, kv, 0, f.keys, k.data<float>(), v.data<float>());
  std::vector<SequenceSpan> spans{{0, c.queries, f.keys - c.queries, &kv}};
  Result r;
  for (int64_t i = 0; i < c.queries; ++i)
    for (int64_t j = 0; j < f.keys; ++j) r.operations += s.pattern.sees(f.keys - c.queries + i, j);
  r.operations *= 2.0 * double(s.heads) * double(s.k_dim + s.v_dim);
  r.bytes = double(cache.page_bytes()) * double(f.keys) / kernels::kPageKeys;
  std::vector<double> seconds, of_peak, of_bandwidth;
  attend(s, q, cache, 0, spans);
  for (int64_t i = 0; i < f.rounds; ++i) {
    kernels::Roofs roofs = meter.measure();
    int calls = 0;
    double started = monotonic_seconds(), took = 0;
    for (; took < 0.05; took = monotonic_seconds() - started, ++calls)
      attend(s, q, cache, 0, spans);
    seconds.push_back(took / calls);
    of_peak.push_back(r.operations / seconds.back() / roofs.f32_per_second);
    of_bandwidth.push_back(r.bytes / seconds.back() / roofs.read_per_second(r.bytes));
  }
  r.seconds = median(seconds);
  r.of_peak = median(of_peak);
  r.of_bandwidth = median(of_bandwidth);
  return r;
}

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
  auto report = [&](const std::string& name, const Case& c) {
    Result r = measure(c, f, meter);
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
  };
  if (!f.prefill_only) report("prefill, every key", {full, KvType::f32, f.keys});
  for (KvType t : kv_types())
    if (t == KvType::f32 || !f.prefill_only) report("prefill, causal", {spec, t, f.keys});
  for (KvType t : kv_types())
    if (!f.prefill_only) report("decode", {spec, t, 1});
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
  app.add_flag("--prefill-only", f.prefill_only);
  CLI11_PARSE(app, argc, argv);
  try {
    hone::run(f);
  } catch (const std::exception& e) {
    fmt::print(stderr, "attention: {}\n", e.what());
    return 1;
  }
}
