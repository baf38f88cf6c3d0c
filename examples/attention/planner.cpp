// The planner: what attention will do for a spec and lengths, how much that is, and why. It runs
// nothing. `hone explain attention` prints the same.
//
//   build/examples/attention/planner
//
// Prints the plans of a long prefill under two patterns, and of a decode. Times are predicted where
// `hone bench --machine` has measured this machine.
#include "attention/planner.h"

#include "example.h"
#include "kernels/select.h"

using namespace hone;

namespace {

AttentionPlan explain(const AttentionSpec& spec, const AttentionTask& task) {
  std::optional<kernels::Roofs> roofs;
  if (const auto machine = kernels::load_machine(kernels::machine_cache()))
    roofs = kernels::roofs_of(*machine, kernels::table().isa);
  const AttentionPlan p = plan_attention(spec, task, roofs);
  fmt::print("{}; {} queries, {} keys{}\n", spec.pattern.describe(), task.queries, task.keys,
             task.backward ? ", backward" : "");
  fmt::print("  {}, path {}: {} units, up to {} parts each\n", p.kernel, p.path, p.units, p.splits);
  fmt::print("  {} of {} tiles, {:.3g} GFLOP, {:.3g} MB of memory (all scores: {:.3g} MB)\n",
             p.tiles_kept, p.tiles_all, p.operations / 1e9, double(p.memory_bytes) / 1e6,
             p.scores_bytes / 1e6);
  if (p.seconds) fmt::print("  {:.3g} ms, predicted\n", 1e3 * *p.seconds);
  for (const auto& [path, why] : p.refused) fmt::print("  not {}: {}\n", path, why);
  return p;
}

void show(example::Checks& check) {
  AttentionSpec spec;
  spec.heads = 32;
  spec.kv_heads = 8;
  spec.k_dim = 128;
  spec.v_dim = 128;
  const AttentionTask prefill{.queries = 32768, .keys = 32768};
  const AttentionPlan full = explain(spec, prefill);
  spec.pattern = Pattern::parse("causal & (window(512) | sinks(4))");
  const AttentionPlan narrow = explain(spec, prefill);
  const AttentionPlan backward = explain(spec, {prefill.queries, prefill.keys, true});
  spec.pattern = Pattern::causal();
  const AttentionPlan decode = explain(spec, {.queries = 1, .keys = 32768, .cache = KvType::int8});

  check(narrow.operations * 20 < full.operations, "the window leaves less than a twentieth");
  check(double(full.memory_bytes) * 20 < full.scores_bytes, "memory is not that of the scores");
  check(backward.operations > 2 * narrow.operations, "a backward is more than two forwards");
  // Keys and values of 8 heads of 128 in f32 would be eight bytes for each pair.
  check(decode.bytes < 32768.0 * 8 * 128 * 8 / 3, "an int8 cache reads less than a third");
  check(!full.refused.empty() && !decode.refused.empty(), "what was refused is named");
}

}  // namespace

int main() { return example::run(show); }
