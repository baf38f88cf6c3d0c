#include "text/bpe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "base/error.h"
#include "text/unicode.h"

namespace hone {
namespace {

using Ids = std::vector<int32_t>;

Ids encode(const Bpe& bpe, std::string_view word) {
  Ids out;
  bpe.encode(word, out);
  return out;
}

// A random merge table over the bytes a … d: every token is the join of two earlier ones.
struct RandomBpe {
  std::vector<std::string> tokens;
  std::vector<Bpe::Merge> merges;
  std::map<std::pair<int, int>, std::pair<int, int>> table;  // pair -> rank, result

  RandomBpe(std::mt19937& rng, int size) {
    for (char c = 'a'; c <= 'd'; ++c) tokens.emplace_back(1, c);
    while (static_cast<int>(tokens.size()) < size) {
      const int left = static_cast<int>(rng() % tokens.size());
      const int right = static_cast<int>(rng() % tokens.size());
      const std::string text = tokens[left] + tokens[right];
      if (text.size() > 9 || table.contains({left, right})) continue;
      auto at = std::find(tokens.begin(), tokens.end(), text);
      const int result = static_cast<int>(at - tokens.begin());
      if (at == tokens.end()) tokens.push_back(text);
      table[{left, right}] = {static_cast<int>(merges.size()), result};
      merges.push_back({left, right, result});
    }
    std::shuffle(merges.begin(), merges.end(), rng);
    for (size_t r = 0; r < merges.size(); ++r) {
      table[{merges[r].left, merges[r].right}].first = static_cast<int>(r);
    }
  }

  Vocabulary vocabulary() const {
    Vocabulary v(static_cast<int32_t>(tokens.size()));
    for (size_t i = 0; i < tokens.size(); ++i) EXPECT_TRUE(v.add(tokens[i], static_cast<int>(i)));
    return v;
  }
  // The definition: merge the best pair, leftmost first, one at a time.
  Ids reference(const std::string& word) const {
    Ids ids;
    for (char c : word) ids.push_back(c - 'a');
    for (;;) {
      size_t best = 0;
      int rank = INT32_MAX;
      for (size_t i = 0; i + 1 < ids.size(); ++i) {
        const auto at = table.find({ids[i], ids[i + 1]});
        if (at != table.end() && at->second.first < rank) rank = at->second.first, best = i;
      }
      if (rank == INT32_MAX) return ids;
      ids[best] = table.at({ids[best], ids[best + 1]}).second;
      ids.erase(ids.begin() + static_cast<long>(best) + 1);
    }
  }
};

std::string random_word(std::mt19937& rng, size_t size) {
  std::string word;
  for (size_t i = 0; i < size; ++i) word += static_cast<char>('a' + rng() % 4);
  return word;
}

TEST(Bpe, MergesByRankAsDefined) {
  std::mt19937 rng(1);
  for (int round = 0; round < 30; ++round) {
    const RandomBpe random(rng, 10 + round * 5);
    const Bpe bpe(random.vocabulary(), random.merges, {});
    for (int i = 0; i < 200; ++i) {
      const std::string word = random_word(rng, rng() % 120);  // short and long
      ASSERT_EQ(encode(bpe, word), random.reference(word)) << word;
      ASSERT_EQ(encode(bpe, word), random.reference(word)) << "again, from the cache";
    }
  }
}

TEST(Bpe, MergesByScoreAsDefined) {
  std::mt19937 rng(2);
  for (int round = 0; round < 30; ++round) {
    RandomBpe random(rng, 10 + round * 5);
    std::vector<float> scores;
    for (size_t i = 0; i < random.tokens.size(); ++i) scores.push_back(-float(rng() % 20));
    std::vector<bool> joins(scores.size(), true);
    const Bpe bpe(random.vocabulary(), scores, joins, {.bytes = false});
    // All pairs whose text is a token, better scores first, equal ones leftmost first.
    const auto reference = [&](const std::string& word) {
      std::vector<std::string> parts;
      for (char c : word) parts.emplace_back(1, c);
      for (;;) {
        int best = -1;
        float score = 0;
        for (size_t i = 0; i + 1 < parts.size(); ++i) {
          const auto at =
              std::find(random.tokens.begin(), random.tokens.end(), parts[i] + parts[i + 1]);
          if (at == random.tokens.end()) continue;
          const float s = scores[at - random.tokens.begin()];
          if (best < 0 || s > score) best = static_cast<int>(i), score = s;
        }
        if (best < 0) break;
        parts[best] += parts[best + 1];
        parts.erase(parts.begin() + best + 1);
      }
      Ids ids;
      for (const auto& p : parts) {
        ids.push_back(static_cast<int>(std::find(random.tokens.begin(), random.tokens.end(), p) -
                                       random.tokens.begin()));
      }
      return ids;
    };
    for (int i = 0; i < 100; ++i) {
      const std::string word = random_word(rng, rng() % 90);
      ASSERT_EQ(encode(bpe, word), reference(word)) << word;
    }
  }
}

Vocabulary vocabulary_of(const std::vector<std::string>& tokens) {
  Vocabulary v(static_cast<int32_t>(tokens.size()));
  for (size_t i = 0; i < tokens.size(); ++i) v.add(tokens[i], static_cast<int32_t>(i));
  return v;
}

TEST(Bpe, FallsBackToBytesThenToUnk) {
  const std::vector<std::string> tokens = {"<unk>", "a", "<0xC3>", "<0xA9>", "ab", "b"};
  const auto make = [&](BpeOptions options) {
    return Bpe(vocabulary_of(tokens), {{1, 5, 4}}, options);
  };
  // é has both its byte tokens; ü lacks one.
  EXPECT_EQ(encode(make({.bytes = false, .byte_fallback = true, .unk = 0}), "abéüüb"),
            (Ids{4, 2, 3, 0, 0, 5}));
  EXPECT_EQ(
      encode(make({.bytes = false, .byte_fallback = true, .fuse_unk = true, .unk = 0}), "üüéü"),
      (Ids{0, 2, 3, 0}));
  EXPECT_EQ(encode(make({.bytes = false, .unk = 0}), "aéb"), (Ids{1, 0, 5}));
  // Dropped where there is no unk; then the neighbours meet.
  EXPECT_EQ(encode(make({.bytes = false}), "aéb"), (Ids{4}));
  // The same by score, where what is unknown keeps its place.
  std::vector<bool> joins = {false, true, false, false, true, true};
  const Bpe scored(vocabulary_of(tokens), std::vector<float>(6), joins,
                   {.bytes = false, .byte_fallback = true, .fuse_unk = true, .unk = 0});
  EXPECT_EQ(encode(scored, "abéüüaüb"), (Ids{4, 2, 3, 0, 1, 0, 5}));
}

TEST(Bpe, IgnoreMergesTakesAWholeWord) {
  const std::vector<std::string> tokens = {"a", "b", "aba"};
  EXPECT_EQ(encode(Bpe(vocabulary_of(tokens), {}, {.ignore_merges = true}), "aba"), (Ids{2}));
  EXPECT_EQ(encode(Bpe(vocabulary_of(tokens), {}, {}), "aba"), (Ids{0, 1, 0}));
  EXPECT_EQ(encode(Bpe(vocabulary_of(tokens), {}, {}), ""), (Ids{}));
}

// A text that is all one word costs n log n: this would take hours if it were quadratic.
TEST(Bpe, LongWordsAreNotQuadratic) {
  std::mt19937 rng(3);
  const RandomBpe random(rng, 60);
  const Bpe bpe(random.vocabulary(), random.merges, {});
  EXPECT_LT(encode(bpe, random_word(rng, 1'000'000)).size(), 1'000'000u);
  EXPECT_LE(encode(bpe, std::string(1'000'000, 'a')).size(), 1'000'000u);
}

TEST(Bpe, ThreadsAgree) {
  std::mt19937 rng(4);
  const RandomBpe one(rng, 80), two(rng, 80);
  const Bpe first(one.vocabulary(), one.merges, {}), second(two.vocabulary(), two.merges, {});
  std::vector<std::thread> threads;
  std::vector<int> wrong(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 mine(static_cast<unsigned>(t));
      for (int i = 0; i < 500; ++i) {
        const std::string word = random_word(mine, mine() % 40);
        // Two objects in one thread do not share what they remember.
        wrong[t] += encode(first, word) != one.reference(word);
        wrong[t] += encode(second, word) != two.reference(word);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4));
}

TEST(Vocabulary, KeepsTheFirstOfEqualTexts) {
  Vocabulary v(3);
  EXPECT_TRUE(v.add("a", 2));
  EXPECT_FALSE(v.add("a", 1));
  EXPECT_TRUE(v.add("", 0));
  EXPECT_EQ(v.find("a"), 2);
  EXPECT_EQ(v.find(""), 0);
  EXPECT_EQ(v.find("b"), -1);
  EXPECT_EQ(v.text(2), "a");
  EXPECT_EQ(v.text(1), "");
}

}  // namespace
}  // namespace hone
