// Batches: nothing lost, nothing twice, the same for the same seed at any step, split without
// overlap. The cache under them gives each token an id of its own, so that a target tells where it
// came from.
#include "text/batches.h"

#include <map>
#include <numeric>
#include <set>

#include "golden.h"
#include "testing.h"

namespace hone {
namespace {

/// Examples of these lengths; token t of all has id t; `learned` says which are learned.
std::shared_ptr<const TokenCache> cache_of(const std::vector<int64_t>& lengths,
                                           const std::function<bool(int64_t, int64_t)>& learned) {
  testing::TemporaryDirectory scratch;
  const int64_t all = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
  TokenCacheWriter writer(scratch / "c", static_cast<int32_t>(all + 70'000));
  int32_t id = 0;
  for (size_t i = 0; i < lengths.size(); ++i) {
    std::vector<int32_t> tokens;
    std::vector<uint8_t> bits;
    for (int64_t t = 0; t < lengths[i]; ++t) {
      tokens.push_back(id++);
      bits.push_back(t > 0 && learned(static_cast<int64_t>(i), t));
    }
    writer.append(tokens, bits);
    writer.end_example();
  }
  writer.finish("test");
  return TokenCache::open(scratch / "c");
}

std::vector<int64_t> mixed_lengths() {
  std::vector<int64_t> lengths;
  for (int64_t i = 0; i < 150; ++i) lengths.push_back(1 + i * i % 57);
  lengths[20] = 1000;
  lengths[90] = 331;
  return lengths;
}
bool most(int64_t example, int64_t t) { return (example + t) % 4 != 0; }

/// Fails unless a batch is what its header says; counts each target.
void check_batch(const TrainingBatch& b, const TokenCache& cache, std::map<int32_t, int>& seen) {
  ASSERT_EQ(b.tokens.size(), b.targets.size());
  ASSERT_EQ(b.row_spans.front(), 0);
  ASSERT_EQ(b.row_spans.back(), static_cast<int64_t>(b.spans.size()));
  int64_t at = 0, targets = 0;
  for (const auto& span : b.spans) {
    ASSERT_EQ(span.begin, at);
    ASSERT_LT(span.begin, span.end);
    for (int64_t t = span.begin; t < span.end; ++t) {
      // One example's tokens, one behind the other, each with its follower as the target.
      const int32_t id = b.tokens[t];
      ASSERT_EQ(id, b.tokens[span.begin] + (t - span.begin));
      const bool learned = cache.is_learned(id + 1);
      ASSERT_EQ(b.targets[t], learned ? id + 1 : -1);
      if (learned) ++seen[id + 1];
      targets += learned;
    }
    at = span.end;
  }
  ASSERT_EQ(at, static_cast<int64_t>(b.tokens.size()));
  ASSERT_EQ(b.target_count, targets);
}

std::vector<TrainingBatch> epoch_of(const Batches& batches, int64_t rows, int64_t epoch) {
  // In batches of one row, which end where epochs do.
  EXPECT_EQ(rows, 1);
  std::vector<TrainingBatch> all;
  for (int64_t r = 0; r < batches.rows(); ++r)
    all.push_back(batches.batch(epoch * batches.rows() + r));
  return all;
}

TEST(Batches, PackingLosesNothingAndRepeatsNothing) {
  const auto cache = cache_of(mixed_lengths(), most);
  for (const char* packing : {"cut", "whole"}) {
    for (int64_t length : {1, 7, 64, 100'000}) {
      const Batches batches(cache, {.rows = 1, .length = length, .packing = packing, .seed = 3},
                            Batches::Part::all);
      EXPECT_EQ(batches.targets(), cache->learned());
      for (int64_t epoch : {0, 1, 5}) {
        std::map<int32_t, int> seen;
        for (const TrainingBatch& b : epoch_of(batches, 1, epoch)) {
          check_batch(b, *cache, seen);
          EXPECT_EQ(b.rows(), 1);
          EXPECT_GT(b.target_count, 0);
          EXPECT_LE(static_cast<int64_t>(b.tokens.size()), length);
        }
        EXPECT_EQ(static_cast<int64_t>(seen.size()), cache->learned()) << packing << length;
        for (const auto& [id, count] : seen) ASSERT_EQ(count, 1) << id;
      }
    }
  }
}

TEST(Batches, CutRowsAreFull) {
  const auto cache = cache_of(mixed_lengths(), [](int64_t, int64_t) { return true; });
  const Batches batches(cache, {.rows = 1, .length = 64}, Batches::Part::all);
  int64_t shorter = 0;
  for (const TrainingBatch& b : epoch_of(batches, 1, 0)) shorter += b.tokens.size() != 64;
  EXPECT_LE(shorter, 1);
  // Every token but the first of each example is a target.
  EXPECT_EQ(batches.rows(), (cache->tokens() - cache->examples() + 63) / 64);
}

TEST(Batches, WholeExamplesAreCutOnlyWhereTheyMust) {
  const auto cache = cache_of(mixed_lengths(), [](int64_t, int64_t) { return true; });
  const Batches batches(cache, {.rows = 1, .length = 64, .packing = "whole"}, Batches::Part::all);
  std::map<int64_t, int> pieces;
  for (const TrainingBatch& b : epoch_of(batches, 1, 0))
    for (const auto& span : b.spans) {
      int64_t example = 0;
      while (cache->end(example) <= b.tokens[span.begin]) ++example;
      ++pieces[example];
    }
  for (const auto& [example, count] : pieces) {
    const int64_t positions = cache->end(example) - cache->begin(example) - 1;
    EXPECT_EQ(count, (positions + 63) / 64) << example;
  }
  // Several share a row.
  EXPECT_LT(batches.rows(), 110);
}

TEST(Batches, SingleRowsAreTruncated) {
  const std::vector<int64_t> lengths = {5, 30, 1, 12, 9};
  // Example 3 learns behind the tenth token alone, example 4 nothing.
  const auto cache = cache_of(lengths, [](int64_t i, int64_t t) {
    return i == 4 ? false : i == 3 ? t > 10 : true;
  });
  const Batches batches(cache, {.rows = 2, .length = 10, .packing = "single"}, Batches::Part::all);
  EXPECT_EQ(batches.rows(), 2);
  EXPECT_EQ(batches.steps(), 1);
  EXPECT_EQ(batches.targets(), 4 + 10);
  EXPECT_EQ(batches.left().targets, 19 + 1);
  EXPECT_EQ(batches.left().examples, 2);
  std::map<int32_t, int> seen;
  const TrainingBatch b = batches.batch(0);
  check_batch(b, *cache, seen);
  ASSERT_EQ(b.spans.size(), 2u);
  EXPECT_EQ(b.row_spans, (std::vector<int64_t>{0, 1, 2}));
  std::set<std::pair<int32_t, int64_t>> rows;
  for (const auto& s : b.spans) rows.insert({b.tokens[s.begin], s.end - s.begin});
  EXPECT_EQ(rows, (std::set<std::pair<int32_t, int64_t>>{{0, 4}, {5, 10}}));
}

bool same(const TrainingBatch& a, const TrainingBatch& b) {
  return a.tokens == b.tokens && a.targets == b.targets && a.row_spans == b.row_spans &&
         a.target_count == b.target_count && a.spans.size() == b.spans.size() &&
         std::equal(a.spans.begin(), a.spans.end(), b.spans.begin(),
                    [](auto& x, auto& y) { return x.begin == y.begin && x.end == y.end; });
}

TEST(Batches, AreAFunctionOfSeedAndStep) {
  const auto cache = cache_of(mixed_lengths(), most);
  for (const char* packing : {"cut", "whole", "single"}) {
    const BatchOptions o{.rows = 4, .length = 40, .packing = packing, .held_out = 0, .seed = 8};
    const Batches first(cache, o, Batches::Part::all), second(cache, o, Batches::Part::all);
    std::vector<TrainingBatch> in_order;
    const int64_t n = 3 * first.steps();
    for (int64_t s = 0; s < n; ++s) in_order.push_back(first.batch(s));
    for (int64_t s = n; s-- > 0;) EXPECT_TRUE(same(second.batch(s), in_order[s])) << packing << s;
    // Rows run on over the ends of epochs.
    for (const TrainingBatch& b : in_order) EXPECT_EQ(b.rows(), 4);
    BatchOptions other = o;
    other.seed = 9;
    EXPECT_FALSE(same(Batches(cache, other, Batches::Part::all).batch(0), in_order[0]));
  }
}

TEST(Batches, EpochsComeInDifferentOrders) {
  const auto cache = cache_of(mixed_lengths(), most);
  const Batches batches(cache, {.rows = 1, .length = 40}, Batches::Part::all);
  std::set<std::vector<int32_t>> orders;
  for (int64_t epoch = 0; epoch < 20; ++epoch) {
    std::vector<int32_t> firsts;
    for (const TrainingBatch& b : epoch_of(batches, 1, epoch)) firsts.push_back(b.tokens[0]);
    orders.insert(firsts);
    std::sort(firsts.begin(), firsts.end());
    EXPECT_EQ(std::unique(firsts.begin(), firsts.end()), firsts.end());
  }
  EXPECT_EQ(orders.size(), 20u);
}

TEST(Batches, APassGoesThroughAllRowsOnce) {
  const auto cache = cache_of(mixed_lengths(), most);
  const Batches batches(cache, {.rows = 4, .length = 40, .packing = "whole"}, Batches::Part::all);
  std::map<int32_t, int> seen;
  int64_t rows = 0;
  for (int64_t s = 0; s < batches.steps(); ++s) {
    const TrainingBatch b = batches.pass_batch(s);
    check_batch(b, *cache, seen);
    rows += b.rows();
  }
  EXPECT_EQ(rows, batches.rows());
  EXPECT_EQ(static_cast<int64_t>(seen.size()), cache->learned());
}

std::set<int32_t> targets_of(const Batches& batches, const TokenCache& cache) {
  std::map<int32_t, int> seen;
  for (int64_t s = 0; s < batches.steps(); ++s) check_batch(batches.pass_batch(s), cache, seen);
  std::set<int32_t> ids;
  for (const auto& [id, count] : seen) ids.insert(id);
  return ids;
}

TEST(Batches, TheSplitIsDisjointAndComplete) {
  std::vector<int64_t> lengths = mixed_lengths();
  lengths.push_back(100'000);  // 25 blocks
  const auto cache = cache_of(lengths, most);
  std::set<std::set<int32_t>> splits;
  for (uint64_t seed = 0; seed < 6; ++seed) {
    const BatchOptions o{.rows = 4, .length = 64, .packing = "cut", .held_out = 0.2, .seed = seed};
    const Batches train(cache, o, Batches::Part::train), held(cache, o, Batches::Part::held_out);
    const auto a = targets_of(train, *cache), b = targets_of(held, *cache);
    EXPECT_FALSE(b.empty());
    EXPECT_EQ(static_cast<int64_t>(a.size() + b.size()), cache->learned());
    for (int32_t id : b) ASSERT_FALSE(a.contains(id));
    EXPECT_NEAR(static_cast<double>(b.size()) / static_cast<double>(cache->learned()), 0.2, 0.15);
    splits.insert(b);
    // The rows' length does not move it, and neither does the packing.
    BatchOptions longer = o;
    longer.length = 500;
    longer.packing = "whole";
    EXPECT_EQ(targets_of(Batches(cache, longer, Batches::Part::held_out), *cache), b);
    // Short examples are on one side as a whole.
    for (int64_t i = 0; i < cache->examples() - 1; ++i) {
      int held_here = 0, all = 0;
      for (int64_t t = cache->begin(i); t < cache->end(i); ++t)
        if (cache->is_learned(t)) ++all, held_here += b.contains(static_cast<int32_t>(t));
      ASSERT_TRUE(held_here == 0 || held_here == all) << i;
    }
  }
  EXPECT_EQ(splits.size(), 6u);
}

TEST(Batches, HoldsOutPartsOfASingleText) {
  const auto cache = cache_of({50'000}, [](int64_t, int64_t) { return true; });
  const BatchOptions o{.rows = 1, .length = 10'000, .packing = "cut", .held_out = 0.1, .seed = 1};
  const Batches train(cache, o, Batches::Part::train), held(cache, o, Batches::Part::held_out);
  EXPECT_EQ(train.targets() + held.targets(), 49'999);
  EXPECT_LE(held.targets(), 4096);
  EXPECT_GT(held.targets(), 0);
  // Blocks that lie together stay together: no span ends at a block without need.
  for (int64_t s = 0; s < train.steps(); ++s) EXPECT_LE(train.pass_batch(s).spans.size(), 3u);
}

TEST(Batches, PartsOfABatchAreTheBatch) {
  const auto cache = cache_of(mixed_lengths(), most);
  const Batches batches(cache, {.rows = 7, .length = 40, .packing = "whole"}, Batches::Part::all);
  const TrainingBatch whole = batches.batch(2);
  for (int64_t parts : {1, 2, 3, 7}) {
    const auto split = split_batch(whole, parts);
    ASSERT_EQ(static_cast<int64_t>(split.size()), parts);
    TrainingBatch joined;
    joined.row_spans = {0};
    for (const TrainingBatch& p : split) {
      std::map<int32_t, int> seen;
      check_batch(p, *cache, seen);
      EXPECT_GE(p.rows(), 7 / parts);
      const auto at = static_cast<int64_t>(joined.tokens.size());
      const auto spans = static_cast<int64_t>(joined.spans.size());
      joined.tokens.insert(joined.tokens.end(), p.tokens.begin(), p.tokens.end());
      joined.targets.insert(joined.targets.end(), p.targets.begin(), p.targets.end());
      for (const auto& s : p.spans) joined.spans.push_back({at + s.begin, at + s.end});
      for (size_t r = 1; r < p.row_spans.size(); ++r)
        joined.row_spans.push_back(spans + p.row_spans[r]);
      joined.target_count += p.target_count;
    }
    EXPECT_TRUE(same(joined, whole)) << parts;
  }
  EXPECT_THROW(split_batch(whole, 0), Error);
  EXPECT_THROW(split_batch(whole, 8), Error);
}

TEST(Batches, RefusesWhatCannotBe) {
  const auto cache = cache_of({5, 6}, [](int64_t i, int64_t) { return i == 0; });
  const auto nothing = cache_of({5, 1}, [](int64_t, int64_t) { return false; });
  const auto empty = cache_of({}, most);
  auto error = [](const std::shared_ptr<const TokenCache>& c, const BatchOptions& o,
                  Batches::Part part = Batches::Part::all) {
    return error_of([&] { Batches(c, o, part); });
  };
  for (const BatchOptions& o : std::vector<BatchOptions>{{.rows = 0},
                                                         {.length = 0},
                                                         {.packing = "tight"},
                                                         {.held_out = 0.7},
                                                         {.held_out = -1},
                                                         {.held_out = NAN}})
    EXPECT_TRUE(error(cache, o).starts_with("invalid_argument: "));
  EXPECT_NE(error(nothing, {}).find("nothing to learn"), std::string::npos);
  EXPECT_NE(error(empty, {}).find("nothing to learn"), std::string::npos);
  EXPECT_NE(error(cache, {}, Batches::Part::held_out).find("held-out data hold nothing"),
            std::string::npos);
}

TEST(Permutation, IsOneForEverySizeAndKey) {
  for (int64_t n : {0, 1, 2, 3, 5, 16, 255, 256, 257, 1000, 70'000}) {
    for (uint64_t key : {0, 1, 77}) {
      const Permutation p(n, key);
      std::vector<bool> hit(static_cast<size_t>(n));
      for (int64_t i = 0; i < n; ++i) {
        ASSERT_GE(p(i), 0);
        ASSERT_LT(p(i), n);
        ASSERT_FALSE(hit[p(i)]);
        hit[p(i)] = true;
      }
    }
  }
  // Large ones cost no memory.
  const Permutation huge(int64_t{1} << 40, 5);
  EXPECT_NE(huge(0), huge(1));
}

TEST(Permutation, EveryOrderIsAsLikely) {
  // χ² of the 24 orders of 4 things, and of where each of 50 goes.
  std::map<std::vector<int64_t>, int> orders;
  constexpr int kKeys = 24'000;
  for (int key = 0; key < kKeys; ++key) {
    const Permutation p(4, static_cast<uint64_t>(key));
    ++orders[{p(0), p(1), p(2), p(3)}];
  }
  ASSERT_EQ(orders.size(), 24u);
  double chi = 0;
  for (const auto& [order, n] : orders) chi += (n - 1000.0) * (n - 1000.0) / 1000;
  EXPECT_LT(chi, 60);  // 23 degrees of freedom: above 60 once in 30,000
  std::vector<double> places(50 * 50);
  for (uint64_t key = 0; key < 5000; ++key) {
    const Permutation p(50, key);
    for (int64_t i = 0; i < 50; ++i) ++places[50 * i + p(i)];
  }
  chi = 0;
  for (double n : places) chi += (n - 100) * (n - 100) / 100;
  EXPECT_NEAR(chi, 2401, 5 * std::sqrt(2.0 * 2401));
}

}  // namespace
}  // namespace hone
