// Plans against counts by hand: tiles, rows, operations, and what follows from a machine's limits.
#include "attention/planner.h"

#include "base/threads.h"
#include "plain_attention.h"
#include "testing.h"

namespace hone {
namespace {

using testing::attention_spec;

AttentionPlan plan(const char* pattern, AttentionTask task,
                   std::optional<kernels::Roofs> roofs = {}, int64_t heads = 8,
                   int64_t kv_heads = 8) {
  return plan_attention(attention_spec(heads, kv_heads, 128, 128, Pattern::parse(pattern)), task,
                        roofs);
}

kernels::Roofs some_roofs() {
  kernels::Roofs r;
  r.bytes_per_second = 1e10;
  r.fma_per_second = 1e11;
  return r;
}

TEST(AttentionPlanner, CountsTilesAndRows) {
  // 8 units of 128 positions, 16 tiles each; unit i sees 2(i + 1), of which 2 are cut.
  AttentionPlan p = plan("causal", {1024, 1024});
  EXPECT_EQ(p.units, 8 * 8);
  EXPECT_EQ(p.unit_rows, 128);
  EXPECT_EQ(p.splits, 2);
  EXPECT_EQ(p.tiles_all, 128);
  EXPECT_EQ(p.tiles_kept, 72);
  EXPECT_EQ(p.tiles_full, 56);
  // Blocks of 8 rows: 64 of them for each tile of the diagonal and every one below.
  EXPECT_EQ(p.row_tiles, 8.0 * 8 * (8 * (16 * 17 / 2)));
  EXPECT_EQ(p.operations, p.row_tiles * 64 * 2 * (128 + 128));
  EXPECT_EQ(plan("all", {1024, 1024}).tiles_full, 128);
  EXPECT_EQ(plan("causal", {1, 4096}).tiles_kept, 64);
  EXPECT_EQ(plan("causal & window(512)", {16384, 16384}).tiles_kept, 2 + 4 + 6 + 8 + 124 * 10);
}

TEST(AttentionPlanner, TimeFollowsTheLimits) {
  const AttentionTask prefill{2048, 2048}, decode{1, 65536};
  EXPECT_FALSE(plan("causal", prefill).seconds.has_value());
  kernels::Roofs roofs = some_roofs(), faster = roofs, wider = roofs;
  faster.fma_per_second *= 2;
  wider.bytes_per_second *= 2;
  EXPECT_NEAR(*plan("causal", prefill, roofs).seconds, 2 * *plan("causal", prefill, faster).seconds,
              1e-9);
  EXPECT_EQ(*plan("causal", prefill, roofs).seconds, *plan("causal", prefill, wider).seconds);
  // 8 heads of 65536 keys and values of 512 bytes.
  EXPECT_NEAR(*plan("causal", decode, roofs).seconds, 8 * 65536 * 1024 / 1e10, 1e-4);
  EXPECT_NEAR(*plan("causal", decode, wider).seconds, 8 * 65536 * 1024 / 2e10, 1e-4);
  const double window = *plan("causal & window(512)", {16384, 16384}, roofs).seconds;
  EXPECT_GT(*plan("causal", {16384, 16384}, roofs).seconds, 12 * window);
  EXPECT_GT(*plan("causal", {2048, 2048, true}, roofs).seconds,
            2 * *plan("causal", prefill, roofs).seconds);
}

TEST(AttentionPlanner, MemoryGrowsWithTheLength) {
  for (bool backward : {false, true}) {
    const auto one = double(plan("causal", {8192, 8192, backward}).memory_bytes);
    const auto four = double(plan("causal", {32768, 32768, backward}).memory_bytes);
    EXPECT_GT(four, 3.5 * one);
    EXPECT_LT(four, 4.01 * one);
  }
  EXPECT_EQ(plan("causal", {8192, 8192}).scores_bytes, 4.0 * 8 * 8192 * 8192);
}

TEST(AttentionPlanner, SaysWhatItRefusesAndWhy) {
  auto refuses = [](const AttentionPlan& p, const std::string& path) {
    for (const auto& r : p.refused)
      if (r.path.find(path) != std::string::npos) return !r.why.empty();
    return false;
  };
  set_threads(1);
  AttentionPlan prefill = plan("causal", {4096, 4096});
  AttentionPlan decode = plan("causal", {1, 4096}, {}, 4, 1);
  set_threads(0);
  EXPECT_EQ(prefill.path, "whole units for each thread");
  EXPECT_TRUE(refuses(prefill, "splits"));
  EXPECT_TRUE(refuses(prefill, "every tile"));
  EXPECT_EQ(decode.path, "splits of 512 keys, shared by the threads");
  EXPECT_EQ(decode.splits, 8);
  EXPECT_TRUE(refuses(decode, "whole units"));
  EXPECT_TRUE(refuses(plan("causal", {64, 64, false, KvType::int8}), "as they are"));
  EXPECT_TRUE(refuses(plan("causal", {1, 64, false, KvType::int8}), "expanding"));
  EXPECT_TRUE(refuses(plan("causal", {64, 64, true}), "keeping the probabilities"));
  EXPECT_THROW(plan("causal", {64, 64, true, KvType::int8}), Error);
  EXPECT_THROW(plan("causal", {0, 64}), Error);
  EXPECT_THROW(plan("causal", {1, 1}, {}, 3, 2), Error);
}

HybridPlan hybrid(const std::vector<HybridPart>& parts, std::optional<kernels::Roofs> roofs = {}) {
  return plan_hybrid(attention_spec(8, 2, 128, 128), parts, roofs);
}

TEST(AttentionPlanner, HybridBatchesAreBothKindsAndTheirBound) {
  const HybridPart chunk{{128, 4096}, 1}, decodes{{1, 8192}, 16};
  HybridPlan p = hybrid({chunk, decodes}, some_roofs());
  // A unit is 32 positions of 4 heads.
  EXPECT_EQ(p.computing_units, 4 * 2);
  EXPECT_EQ(p.streaming_units, 16 * 2);
  EXPECT_EQ(p.bytes, 16.0 * 8192 * 2 * 1024);
  ASSERT_TRUE(p.seconds.has_value());
  EXPECT_NEAR(p.seconds->decode, p.bytes / 1e10, 1e-9);
  EXPECT_NEAR(p.seconds->prefill, hybrid({chunk}, some_roofs()).seconds->prefill, 1e-12);
  EXPECT_GT(p.seconds->gain(), 1);
  EXPECT_LT(p.seconds->gain(), p.seconds->bound());
  EXPECT_LT(p.seconds->bound(), 2);
  EXPECT_EQ(p.pace, 2) << "more lines than steps";
  EXPECT_LT(p.hidden, 1);
  HybridPlan few = hybrid({{{512, 4096}, 1}, {{1, 100}, 1}}, some_roofs());
  EXPECT_EQ(few.pace, 4);
  EXPECT_EQ(few.hidden, 1);
  HybridPlan one_kind = hybrid({decodes}, some_roofs());
  EXPECT_EQ(one_kind.computing_units, 0);
  EXPECT_EQ(one_kind.seconds->gain(), 1);
  EXPECT_EQ(one_kind.seconds->bound(), 1);
  EXPECT_FALSE(hybrid({chunk, decodes}).seconds.has_value());
  EXPECT_THROW(hybrid({}), Error);
  EXPECT_THROW(hybrid({{{1, 8}, 0}}), Error);
}

}  // namespace
}  // namespace hone
