// hone explain attention: of one sequence, which kernel and path attention takes, how much of it a
// pattern leaves, how long that takes on this machine, and what was refused; of a hybrid batch
// (--prefill, --decode), what interleaving gains.
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "attention/planner.h"
#include "base/log.h"
#include "base/threads.h"
#include "command.h"
#include "kernels/select.h"

namespace hone {
namespace explain_command {

struct ExplainFlags {
  std::string topic, pattern = "causal";
  int64_t heads = 32, kv_heads = 0, head_dim = 128, v_dim = 0, queries = 0, keys = 0;
  bool backward = false;
  std::vector<std::string> prefills, decodes;
};

Json json_of(const AttentionPlan& p, const AttentionSpec& spec) {
  Json refused = Json::array();
  for (const auto& r : p.refused) refused.push_back({{"path", r.path}, {"why", r.why}});
  return {{"pattern", spec.pattern.describe()},
          {"isa", p.isa},
          {"threads", thread_count()},
          {"kernel", p.kernel},
          {"path", p.path},
          {"units", p.units},
          {"unit_rows", p.unit_rows},
          {"splits", p.splits},
          {"tiles_kept", p.tiles_kept},
          {"tiles_full", p.tiles_full},
          {"tiles_all", p.tiles_all},
          {"operations", p.operations},
          {"bytes", p.bytes},
          {"memory_bytes", p.memory_bytes},
          {"scores_bytes", p.scores_bytes},
          {"seconds", p.seconds ? Json(*p.seconds) : Json()},
          {"refused", refused}};
}

std::string duration(double seconds) {
  return seconds < 1 ? fmt::format("{:.3g} ms", 1e3 * seconds) : fmt::format("{:.3g} s", seconds);
}

constexpr const char* kNotMeasured =
    "not known: hone bench --machine measures this machine's limits";

void line(const char* name, const std::string& value) {
  print_text(fmt::format("{:10} {}\n", name, value));
}

void print(const AttentionPlan& p, const AttentionSpec& spec) {
  line("pattern", spec.pattern.describe());
  line("kernel", fmt::format("{}; {}, {} threads", p.kernel, p.isa, thread_count()));
  line("path", fmt::format("{} ({} units of {} rows, up to {} splits)", p.path, p.units,
                           p.unit_rows, p.splits));
  line("tiles", fmt::format("{} of {} kept ({:.3g} %), {} of them full", p.tiles_kept, p.tiles_all,
                            100.0 * double(p.tiles_kept) / double(p.tiles_all), p.tiles_full));
  line("work", fmt::format("{:.3g} GFLOP; {} of keys and values read", p.operations / 1e9,
                           human_bytes(p.bytes)));
  line("memory", fmt::format("{}; all scores would be {}", human_bytes(double(p.memory_bytes)),
                             human_bytes(p.scores_bytes)));
  line("time", p.seconds ? duration(*p.seconds) + ", predicted" : kNotMeasured);
  for (const auto& r : p.refused) line("refused", fmt::format("{}: {}", r.path, r.why));
}

// "512@4096"
std::pair<int64_t, int64_t> at_keys(const char* flag, const std::string& text) {
  constexpr int64_t kMost = 16777216;
  int64_t n = 0, keys = 0;
  const char* end = text.data() + text.size();
  auto [at, error] = std::from_chars(text.data(), end, n);
  if (error == std::errc() && at != end && *at == '@') {
    auto [rest, wrong] = std::from_chars(at + 1, end, keys);
    if (wrong == std::errc() && rest == end && n >= 1 && n <= kMost && keys >= 1 && keys <= kMost)
      return {n, keys};
  }
  throw UsageError(fmt::format("{} {}: expected N@KEYS, as in 16@8192", flag, text));
}

std::vector<HybridPart> parts_of(const ExplainFlags& f, KvType cache) {
  std::vector<HybridPart> parts;
  for (const std::string& text : f.prefills) {
    auto [queries, keys] = at_keys("--prefill", text);
    if (queries > keys)
      throw UsageError(fmt::format("--prefill {}: the queries are the last of the keys", text));
    parts.push_back({{queries, keys, false, cache}, 1});
  }
  for (const std::string& text : f.decodes) {
    auto [sequences, keys] = at_keys("--decode", text);
    parts.push_back({{1, keys, false, cache}, sequences});
  }
  return parts;
}

void print_hybrid(const HybridPlan& p, const CommonOptions& common) {
  if (common.json) {
    Json j{{"isa", kernels::table().isa},
           {"threads", thread_count()},
           {"computing_units", p.computing_units},
           {"streaming_units", p.streaming_units},
           {"operations", p.operations},
           {"bytes", p.bytes},
           {"pace", p.pace},
           {"hidden", p.hidden},
           {"prefill_seconds", Json()},
           {"decode_seconds", Json()},
           {"seconds", Json()},
           {"bound", Json()}};
    if (p.seconds) {
      j["prefill_seconds"] = p.seconds->prefill;
      j["decode_seconds"] = p.seconds->decode;
      j["seconds"] = p.seconds->interleaved;
      j["bound"] = p.seconds->bound();
    }
    return print_json(j);
  }
  line("computing", fmt::format("{} units, {:.3g} GFLOP", p.computing_units, p.operations / 1e9));
  line("streaming",
       fmt::format("{} units, {} of keys and values", p.streaming_units, human_bytes(p.bytes)));
  if (p.computing_units > 0 && p.streaming_units > 0)
    line("order",
         fmt::format("interleaved: a cache line is fetched every {} steps of the products, "
                     "{:.3g} % of all lines",
                     p.pace, 100 * p.hidden));
  else
    line("order", "one kind of work only: nothing to interleave");
  if (!p.seconds) return line("time", kNotMeasured);
  line("prefill", duration(p.seconds->prefill) + ", predicted");
  line("decode", duration(p.seconds->decode) + ", predicted");
  line("together",
       fmt::format("{}, predicted: {:.3g} times as fast; {:.3g} at most",
                   duration(p.seconds->interleaved), p.seconds->gain(), p.seconds->bound()));
}

void run(const ExplainFlags& f, const CommonOptions& common) {
  AttentionSpec spec;
  spec.heads = f.heads;
  spec.kv_heads = f.kv_heads > 0 ? f.kv_heads : f.heads;
  spec.k_dim = f.head_dim;
  spec.v_dim = f.v_dim > 0 ? f.v_dim : f.head_dim;
  spec.scale = 1 / std::sqrt(float(f.head_dim));
  if (spec.heads % spec.kv_heads != 0)
    throw UsageError(
        fmt::format("--heads {} is no multiple of --kv-heads {}", spec.heads, spec.kv_heads));
  try {
    spec.pattern = Pattern::parse(f.pattern);
  } catch (const Error& e) {
    throw UsageError(fmt::format("--pattern: {}", e.what()));
  }
  std::optional<kernels::Roofs> roofs;
  if (known_machine()) roofs = kernels::roofs_of(*known_machine(), kernels::table().isa);
  if (!f.prefills.empty() || !f.decodes.empty()) {
    if (f.queries > 0 || f.keys > 0 || f.backward)
      throw UsageError("--prefill and --decode stand for --queries, --keys, without --backward");
    return print_hybrid(plan_hybrid(spec, parts_of(f, common.kv()), roofs), common);
  }
  if (f.queries == 0) throw UsageError("--queries is required (or --prefill, --decode)");
  AttentionTask task{f.queries, f.keys > 0 ? f.keys : f.queries, f.backward, common.kv()};
  if (f.backward && task.cache != KvType::f32)
    throw UsageError("--backward: gradients need --kv-cache f32");
  const AttentionPlan plan = plan_attention(spec, task, roofs);
  if (common.json) return print_json(json_of(plan, spec));
  print(plan, spec);
}

std::function<void()> add(CLI::App& app, CommonOptions& common) {
  auto f = std::make_shared<ExplainFlags>();
  app.add_option("TOPIC", f->topic, "attention")->check(one_of({"attention"}))->required();
  auto number = [&](const char* name, int64_t& n, double least, double most, const char* help) {
    return app.add_option(name, n, help)->check(between(least, most))->type_name("N");
  };
  number("--heads", f->heads, 1, 65536, "query heads")->capture_default_str();
  number("--kv-heads", f->kv_heads, 1, 65536, "key and value heads (default: as many)");
  number("--head-dim", f->head_dim, 1, 65536, "size of a head")->capture_default_str();
  number("--v-dim", f->v_dim, 1, 65536, "size of a value's head (default: --head-dim)");
  app.add_option("--pattern", f->pattern, "which keys a query sees, as docs/attention.md has it")
      ->type_name("TEXT")
      ->capture_default_str();
  number("--queries", f->queries, 1, 16777216, "the last of the keys");
  number("--keys", f->keys, 1, 16777216, "(default: as many as queries)");
  app.add_flag("--backward", f->backward, "the gradients, not the result");
  auto sequences = [&](const char* name, std::vector<std::string>& v, const char* help) {
    app.add_option(name, v, help)->type_name("N@KEYS")->expected(1)->take_all();
  };
  sequences("--prefill", f->prefills,
            "hybrid batch: a chunk of N queries, the last of KEYS (repeatable)");
  sequences("--decode", f->decodes,
            "hybrid batch: N sequences of one query behind KEYS each (repeatable)");
  return [f, &common] { run(*f, common); };
}

}  // namespace explain_command

extern const Command kExplainCommand;
const Command kExplainCommand{"explain", "say which kernel attention takes, how long, and why",
                              explain_command::add};

}  // namespace hone
