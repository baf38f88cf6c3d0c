// The sampler against the distribution it promises, computed plainly from its description, by
// counting draws; what is cut off must never be drawn.
#include "models/sampler.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "base/error.h"
#include "base/random.h"
#include "testing.h"

namespace hone {
namespace {

// Probabilities of each token: penalty, temperature, min-p, top-k, top-p, in this order.
std::vector<double> distribution(std::vector<float> logits, const SamplerOptions& o,
                                 const std::vector<int32_t>& seen) {
  for (int32_t id : std::set<int32_t>(seen.begin(), seen.end())) {
    float& l = logits[static_cast<size_t>(id)];
    l = l > 0 ? l / o.repetition_penalty : l * o.repetition_penalty;
  }
  std::vector<size_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  std::vector<double> p(logits.size());
  for (size_t i : order) p[i] = std::exp((double{logits[i]} - logits[order[0]]) / o.temperature);
  size_t keep = order.size();
  while (p[order[keep - 1]] < o.min_p) --keep;
  if (o.top_k > 0) keep = std::min(keep, static_cast<size_t>(o.top_k));
  double total = 0, nucleus = 0;
  for (size_t i = 0; i < keep; ++i) total += p[order[i]];
  size_t n = 0;
  while (n < keep && (o.top_p >= 1 || nucleus < double{o.top_p} * total)) nucleus += p[order[n++]];
  std::vector<double> result(logits.size());
  for (size_t i = 0; i < n; ++i) result[order[i]] = p[order[i]] / nucleus;
  return result;
}

// Counts many draws and compares each token's share, within six standard deviations.
void expect_distribution(const std::vector<float>& logits, const SamplerOptions& o,
                         const std::vector<int32_t>& seen = {}, int draws = 100000) {
  std::vector<double> expected = distribution(logits, o, seen);
  std::vector<int> counts(logits.size());
  Sampler sampler(o);
  for (int i = 0; i < draws; ++i) {
    int32_t id = sampler.sample(logits, seen);
    ASSERT_TRUE(id >= 0 && static_cast<size_t>(id) < logits.size());
    ++counts[static_cast<size_t>(id)];
  }
  for (size_t i = 0; i < logits.size(); ++i) {
    double p = expected[i], share = double(counts[i]) / draws;
    if (p == 0)
      EXPECT_EQ(counts[i], 0) << "token " << i << " is cut off";
    else
      EXPECT_NEAR(share, p, 6 * std::sqrt(p * (1 - p) / draws) + 1e-6) << "token " << i;
  }
}

const std::vector<float> kLogits = {1.0f, 3.0f, -2.0f, 2.5f, 3.0f, 0.0f, -0.5f, 2.0f};

SamplerOptions options(float temperature) {
  SamplerOptions o;
  o.temperature = temperature;
  o.seed = 7;
  return o;
}

TEST(Sampler, GreedyTakesTheLargestAndTheLowestIdOnTies) {
  Sampler sampler(options(0));
  EXPECT_EQ(sampler.sample(kLogits, {}), 1);
  EXPECT_EQ(sampler.sample(std::vector<float>{-5, -3, -3}, {}), 1);
  EXPECT_EQ(sampler.sample(std::vector<float>{4}, {}), 0);
  EXPECT_EQ(argmax(std::vector<float>{2, 2, 1}), 0);
}

TEST(Sampler, TemperatureGivesTheSoftmax) {
  for (float t : {0.3f, 1.0f, 2.5f, 50.0f}) expect_distribution(kLogits, options(t));
}

TEST(Sampler, TopKKeepsTheLikeliest) {
  for (int64_t k : {1, 2, 3, 7, 8, 100}) {
    SamplerOptions o = options(1);
    o.top_k = k;
    expect_distribution(kLogits, o);
  }
}

TEST(Sampler, TopPKeepsTheSmallestSetThatReachesIt) {
  for (float p : {1e-6f, 0.3f, 0.34f, 0.65f, 0.9f, 0.999f, std::nextafter(1.0f, 0.0f)}) {
    SamplerOptions o = options(1);
    o.top_p = p;
    expect_distribution(kLogits, o);
  }
}

TEST(Sampler, MinPDropsWhatIsFarBelowTheLikeliest) {
  for (float p : {0.01f, 0.2f, 0.5f, 1.0f})
    for (float t : {0.5f, 1.0f, 3.0f}) {
      SamplerOptions o = options(t);
      o.min_p = p;
      expect_distribution(kLogits, o);
    }
}

TEST(Sampler, FiltersWorkTogetherInOrder) {
  SamplerOptions o = options(1.5f);
  o.top_k = 5;
  o.top_p = 0.8f;
  o.min_p = 0.1f;
  o.repetition_penalty = 1.3f;
  expect_distribution(kLogits, o, {1, 2, 1});
}

// More tokens about the threshold than are sorted at first.
TEST(Sampler, AWideNucleusIsExact) {
  std::vector<float> logits = testing::random_values(700, 3, 0.2f);
  for (float p : {0.1f, 0.5f, 0.97f}) {
    SamplerOptions o = options(1);
    o.top_p = p;
    expect_distribution(logits, o, {}, 5000);
  }
}

// Draws as the options describe them: the kept tokens by id.
std::vector<int32_t> plain_draws(const std::vector<float>& logits, const SamplerOptions& o, int n) {
  std::vector<double> p = distribution(logits, o, {});
  std::vector<int32_t> draws;
  for (int i = 0; i < n; ++i) {
    double point = random_uniform(o.seed, static_cast<uint64_t>(i));
    size_t at = 0;
    while ((point -= p[at]) >= 0) ++at;
    draws.push_back(static_cast<int32_t>(at));
  }
  return draws;
}

TEST(Sampler, DrawsFromALargeVocabularyAreThoseOfAPlainSort) {
  std::vector<float> logits = testing::random_values(20'011, 5, 2.0f);
  for (size_t i = 0; i + 1 < logits.size(); i += 3) logits[i] = logits[i + 1];  // ties
  logits[17'000] = -INFINITY;
  SamplerOptions wide_p = options(1), narrow_p = options(0.5f), few = options(1), many = options(2),
                 min_p = options(1), flat = options(5);
  wide_p.top_p = 0.999f;
  narrow_p.top_p = 0.4f;
  few.top_k = 40;
  many.top_k = 5000;
  min_p.min_p = 0.002f;
  int beyond_head = 0;
  for (const SamplerOptions& o :
       {options(1), options(0.6f), wide_p, narrow_p, few, many, min_p, flat}) {
    Sampler sampler(o);
    for (int32_t expected : plain_draws(logits, o, 60)) {
      int32_t id = sampler.sample(logits, {});
      ASSERT_EQ(id, expected) << "temperature " << o.temperature << " top-k " << o.top_k;
      beyond_head += std::count_if(logits.begin(), logits.end(),
                                   [&](float l) { return l > logits[id]; }) >= 256;
    }
  }
  EXPECT_GT(beyond_head, 100);
}

// More ties at the threshold than bisection can part.
TEST(Sampler, OfManyTiesTheLowestIdsStay) {
  std::vector<float> logits(1500, 2.5f);
  logits[700] = 3;
  SamplerOptions few = options(1), nucleus = options(1);
  few.top_k = 300;
  nucleus.top_p = 0.4f;
  for (const SamplerOptions& o : {few, nucleus}) {
    Sampler sampler(o);
    for (int32_t expected : plain_draws(logits, o, 200))
      ASSERT_EQ(sampler.sample(logits, {}), expected);
  }
}

TEST(Sampler, RepetitionPenaltyCountsEachTokenOnce) {
  SamplerOptions o = options(1);
  o.repetition_penalty = 2;
  expect_distribution(kLogits, o, {1});
  expect_distribution(kLogits, o, {1, 1, 1, 2, 5});
  o.repetition_penalty = 0.5f;
  expect_distribution(kLogits, o, {6, 3});
  o.temperature = 0;
  o.repetition_penalty = 2;
  Sampler greedy(o);
  EXPECT_EQ(greedy.sample(kLogits, std::vector<int32_t>{1}), 4);
  EXPECT_EQ(greedy.sample(kLogits, std::vector<int32_t>{1, 4}), 3);
  EXPECT_EQ(greedy.sample(kLogits, std::vector<int32_t>{-1, 99, INT32_MAX}), 1);
}

TEST(Sampler, ADrawDependsOnSeedAndNumberOnly) {
  auto draw = [](uint64_t seed) {
    SamplerOptions o = options(2);
    o.seed = seed;
    Sampler s(o);
    std::vector<int32_t> ids;
    for (int i = 0; i < 64; ++i) ids.push_back(s.sample(kLogits, {}));
    return ids;
  };
  EXPECT_EQ(draw(1), draw(1));
  std::set<std::vector<int32_t>> different;
  for (uint64_t seed = 0; seed < 50; ++seed) different.insert(draw(seed));
  EXPECT_EQ(different.size(), 50u);
  // Another distribution in between does not shift later draws.
  Sampler a(options(2)), b(options(2));
  a.sample(std::vector<float>{1, 2, 3}, {});
  b.sample(kLogits, {});
  for (int i = 0; i < 20; ++i) EXPECT_EQ(a.sample(kLogits, {}), b.sample(kLogits, {}));
}

// The first draws of many seeds are as good as the draws of one.
TEST(Sampler, FirstDrawsOfManySeedsFollowTheDistribution) {
  std::vector<double> expected = distribution(kLogits, options(1), {});
  std::vector<int> counts(kLogits.size());
  const int seeds = 40000;
  for (int seed = 0; seed < seeds; ++seed) {
    SamplerOptions o = options(1);
    o.seed = static_cast<uint64_t>(seed);
    ++counts[static_cast<size_t>(Sampler(o).sample(kLogits, {}))];
  }
  for (size_t i = 0; i < kLogits.size(); ++i)
    EXPECT_NEAR(double(counts[i]) / seeds, expected[i],
                6 * std::sqrt(expected[i] * (1 - expected[i]) / seeds));
}

TEST(Sampler, RefusesOptionsOutOfRange) {
  auto refuses = [](auto set) {
    SamplerOptions o;
    set(o);
    EXPECT_THROW(Sampler{o}, Error);
  };
  for (float bad : {-1.0f, NAN, INFINITY}) {
    refuses([&](SamplerOptions& o) { o.temperature = bad; });
    refuses([&](SamplerOptions& o) { o.top_p = bad; });
    refuses([&](SamplerOptions& o) { o.min_p = bad; });
    refuses([&](SamplerOptions& o) { o.repetition_penalty = bad; });
  }
  refuses([](SamplerOptions& o) { o.top_p = 0; });
  refuses([](SamplerOptions& o) { o.top_p = 1.01f; });
  refuses([](SamplerOptions& o) { o.top_k = -1; });
  refuses([](SamplerOptions& o) { o.repetition_penalty = 0; });
}

// A broken model must not crash who runs it. -inf is a token that cannot be, which is fine.
TEST(Sampler, RefusesLogitsThatAreNoNumbers) {
  for (float t : {0.0f, 1.0f})
    for (float bad : {NAN, INFINITY}) {
      Sampler s(options(t));
      EXPECT_THROW(s.sample(std::vector<float>{bad, bad, bad}, {}), Error);
    }
  std::vector<float> nothing(4, -INFINITY);
  EXPECT_THROW(Sampler(options(1)).sample(nothing, {}), Error);
  EXPECT_EQ(Sampler(options(1e-42f)).sample(std::vector<float>{1, 3, 3, NAN}, {}), 1);
  nothing[2] = 1;
  EXPECT_EQ(Sampler(options(1)).sample(nothing, {}), 2);
}

}  // namespace
}  // namespace hone
