#include "attention/planner.h"

#include <algorithm>
#include <cmath>

#include "attention/terms.h"
#include "attention/units.h"
#include "base/checked.h"
#include "base/threads.h"
#include "kernels/select.h"

namespace hone {
namespace {

using kernels::kPageKeys;
using kernels::kPanel;
using kernels::kValueGroup;

// Rows that the kernel multiplies at once: where none of them sees a tile, it is passed over.
constexpr int64_t kBlockRows = 8;
// Queries of one tile of the backward.
constexpr int64_t kBackwardRows = 96;
// What a vector multiply-add counts, and what the softmax of a row and tile takes of them, forward
// and backward.
constexpr double kVectorOperations = 32, kSoftmaxSteps = 60, kBackwardSteps = 140;
// The part of the peak that the products reach.
constexpr double kForwardReaches = 0.92, kBackwardReaches = 0.85;
// What reading takes, of its own time, where it is fetched beside products: the requests and the
// second reading, out of the second-level cache (bench/hybrid.cpp measures it).
constexpr double kHiddenCost = 0.45;

// Rows × tiles of one kv head, for blocks of so many positions.
double row_tiles(const AttentionSpec& spec, const AttentionTask& t, int64_t positions) {
  const int64_t start = t.keys - t.queries, group = spec.heads / spec.kv_heads;
  std::vector<double> of_block(static_cast<size_t>(ceil_div(t.queries, positions)));
  parallel_for(std::ssize(of_block), 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i * positions, last = std::min(t.queries, first + positions);
      int64_t tiles = 0;
      for (const TileRun& r : spec.pattern.tile_runs(start + first, start + last, t.keys))
        tiles += r.last - r.first;
      of_block[i] = double(tiles) * double((last - first) * group);
    }
  });
  double sum = 0;
  for (double x : of_block) sum += x;
  return sum;
}

// Of a row and tile: products of f32 vectors, and with them what else takes time.
struct Cost {
  double products, all;
};
Cost cost_of(const AttentionSpec& spec, bool backward) {
  const auto d = double(spec.k_dim), e = double(spec.v_dim);
  const double padded = double(round_up(spec.v_dim, kValueGroup));
  constexpr double kVectors = double(kPageKeys) / kPanel;
  if (!backward)
    return {kVectors * (d + padded), kVectors * (d + padded) / kForwardReaches + kSoftmaxSteps};
  const double products = kVectors * (3 * d + 2 * e);
  return {products, products / kBackwardReaches + kBackwardSteps};
}

// Few rows read a vector of keys for few multiply-adds: two loads and one of each row for two
// multiply-adds of each, where two of either go at once.
double load_factor(int64_t rows) {
  const double n = double(std::min(rows, kBlockRows));
  return std::max(1.0, (2 + n) / (2 * n));
}

int64_t memory_of(const AttentionSpec& s, const AttentionTask& t, int64_t unit_rows) {
  const int64_t d = s.k_dim, e = s.v_dim;
  const KvPageShape shape{d, e};
  const int64_t pages = ceil_div(t.keys, kPageKeys) * s.kv_heads *
                        (k_page_bytes(t.cache, shape) + v_page_bytes(t.cache, shape));
  int64_t floats = t.queries * s.heads * (e + 1);
  const int64_t dp = round_up(d, kPanel), ep = round_up(e, kValueGroup);
  int64_t of_thread = unit_rows * (2 * dp + 2 * kPageKeys + 32) + kPageKeys * (dp + ep) +
                      2 * part_floats(unit_rows, e);
  if (t.backward) {
    floats += t.queries * s.heads * (d + e) + t.keys * s.kv_heads * (d + e);
    of_thread =
        std::max(of_thread, t.queries * (dp + ep + 2 * kPanel + 8) + kPageKeys * (4 * dp + 2 * ep) +
                                2 * kBackwardRows * kPageKeys);
  }
  return pages + 4 * (floats + of_thread * thread_count());
}

void explain_paths(const AttentionSpec& spec, const AttentionTask& t,
                   const std::vector<AttentionUnit>& units, AttentionPlan& plan) {
  auto refuse = [&](const char* path, std::string why) {
    plan.refused.push_back({path, std::move(why)});
  };
  if (t.backward) {
    plan.kernel = "f32 products of 96 queries and 64 keys";
    plan.path = "scores are made anew, tile by tile, from log sums";
    refuse("keeping the probabilities",
           fmt::format("they are {:.3g} GB, and reading them back costs more than the products",
                       plan.scores_bytes / 1e9));
    if (spec.kv_heads < thread_count())
      refuse("sharing a kv head between threads", "sums would depend on their number");
    return;
  }
  const bool few = plan.unit_rows <= kBlockRows;
  plan.kernel = few ? "online softmax on pages as they are" : "online softmax on f32 tiles";
  if (t.cache != KvType::f32)
    refuse(
        few ? "expanding a page to f32" : "multiplying with pages as they are",
        few ? "too few rows share it" : fmt::format("{} rows share one expansion", plan.unit_rows));
  const std::string_view why = why_not_shared_splits(spec, units);
  if (why.empty()) {
    plan.path = "splits of 512 keys, shared by the threads";
    refuse("whole units for each thread",
           fmt::format("{} units for {} threads", units.size(), thread_count()));
  } else {
    plan.path = "whole units for each thread";
    refuse("splits of 512 keys, shared by the threads", std::string(why));
  }
  if (plan.tiles_kept < plan.tiles_all)
    refuse("every tile", fmt::format("{} of {} show nobody anything",
                                     plan.tiles_all - plan.tiles_kept, plan.tiles_all));
}

// Of units that never stand idle.
double busy_seconds(const AttentionSpec& spec, const AttentionPlan& plan,
                    const kernels::Roofs& roofs, double bytes_per_second) {
  const double work = plan.row_tiles * cost_of(spec, false).all * kVectorOperations *
                      load_factor(plan.unit_rows) / roofs.fma_per_second;
  return std::max(work, plan.bytes / bytes_per_second);
}

}  // namespace

AttentionPlan plan_attention(const AttentionSpec& spec, const AttentionTask& t,
                             const std::optional<kernels::Roofs>& roofs) {
  check_spec(spec);
  constexpr int64_t kMost = int64_t{1} << 32;
  HONE_CHECK(t.queries >= 1 && t.keys >= 1 && t.queries <= kMost && t.keys <= kMost,
             invalid_argument, "expected 1 to 2^32 queries and keys, got {} and {}", t.queries,
             t.keys);
  HONE_CHECK(!t.backward || t.cache == KvType::f32, unsupported,
             "a backward over {} keys: gradients need f32 ones", kv_type_name(t.cache));
  AttentionPlan plan;
  plan.isa = kernels::table().isa;
  const std::vector<SequenceSpan> spans{{0, t.queries, t.keys - t.queries, nullptr, t.keys}};
  const std::vector<AttentionRows> rows = plan_rows(spec, spans);
  const std::vector<AttentionUnit> units = plan_units(spec, rows);
  plan.units = std::ssize(units);
  plan.unit_rows = unit_rows(spec, units.front());
  plan.tiles_all = std::ssize(rows) * ceil_div(t.keys, kPageKeys);
  for (const AttentionRows& r : rows) {
    plan.splits = std::max<int64_t>(plan.splits, std::ssize(r.splits));
    for (const TileRun& run : r.runs) {
      plan.tiles_kept += run.last - run.first;
      plan.tiles_full += run.kind == TileKind::full ? run.last - run.first : 0;
    }
  }
  const int64_t group = spec.heads / spec.kv_heads;
  plan.row_tiles =
      double(spec.kv_heads) *
      row_tiles(spec, t, t.backward ? kBackwardRows : std::max<int64_t>(1, kBlockRows / group));
  const Cost cost = cost_of(spec, t.backward);
  plan.operations = plan.row_tiles * cost.products * kVectorOperations;
  const KvPageShape shape{spec.k_dim, spec.v_dim};
  plan.bytes = double(plan.tiles_kept) * double(spec.kv_heads) *
               double(k_page_bytes(t.cache, shape) + v_page_bytes(t.cache, shape));
  plan.memory_bytes = memory_of(spec, t, plan.unit_rows);
  plan.scores_bytes = 4.0 * double(spec.heads) * double(t.queries) * double(t.keys);
  explain_paths(spec, t, units, plan);
  if (!roofs) return plan;
  // Items that threads take: some may stand idle.
  const int64_t items = t.backward ? spec.kv_heads : plan.units * plan.splits;
  const int64_t turns = ceil_div(items, thread_count());
  const double idle = std::max(1.0, double(turns) * thread_count() / double(items));
  const double work = plan.row_tiles * cost.all * kVectorOperations * idle *
                      (t.backward ? 1 : load_factor(plan.unit_rows)) / roofs->fma_per_second;
  plan.seconds =
      t.backward ? work : std::max(work, plan.bytes / roofs->read_per_second(plan.bytes));
  return plan;
}

HybridPlan plan_hybrid(const AttentionSpec& spec, const std::vector<HybridPart>& parts,
                       const std::optional<kernels::Roofs>& roofs) {
  HONE_CHECK(!parts.empty(), invalid_argument, "a batch of no sequences");
  HybridPlan plan;
  std::vector<AttentionPlan> plans;
  double steps = 0;
  for (const HybridPart& part : parts) {
    HONE_CHECK(part.sequences >= 1 && !part.task.backward, invalid_argument,
               "expected a forward of 1 or more sequences");
    const AttentionPlan& p = plans.emplace_back(plan_attention(spec, part.task, {}));
    const auto n = double(part.sequences);
    if (p.unit_rows <= kStreamRows) {
      plan.streaming_units += part.sequences * p.units;
      plan.bytes += n * p.bytes;
    } else {
      plan.computing_units += part.sequences * p.units;
      plan.operations += n * p.operations;
      steps += n * p.row_tiles / double(p.unit_rows) * double(product_steps(spec, p.unit_rows));
    }
  }
  const double lines = plan.bytes / 64;
  plan.pace = kernels::kFetchSeldom;
  if (lines * double(plan.pace) > steps) plan.pace = kernels::kFetchOften;
  if (lines > 0) plan.hidden = std::min(1.0, steps / double(plan.pace) / lines);
  if (!roofs) return plan;
  HybridPlan::Times t{0, 0, 0};
  // Of memory: in a model what the other layers read stands between two calls.
  const double bandwidth = roofs->bytes_per_second;
  for (size_t i = 0; i < parts.size(); ++i)
    (plans[i].unit_rows <= kStreamRows ? t.decode : t.prefill) +=
        double(parts[i].sequences) * busy_seconds(spec, plans[i], *roofs, bandwidth);
  t.interleaved = std::max(std::max(t.prefill, t.decode),
                           t.prefill + t.decode * (1 - plan.hidden * (1 - kHiddenCost)));
  plan.seconds = t;
  return plan;
}

}  // namespace hone
