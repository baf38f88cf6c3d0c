// The models beside BPE: Unigram against a search through all ways, WordPiece and the greedy match
// against their definitions, and the trie they stand on.
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "base/error.h"
#include "golden.h"
#include "text/byte_trie.h"
#include "text/longest_match.h"
#include "text/unicode.h"
#include "text/unigram.h"

namespace hone {
namespace {

using Ids = std::vector<int32_t>;

Ids encode(const WordModel& model, std::string_view word) {
  Ids out;
  model.encode(word, out);
  return out;
}

Vocabulary words_vocabulary_of(const std::vector<std::string>& tokens) {
  Vocabulary v(static_cast<int32_t>(tokens.size()));
  for (size_t i = 0; i < tokens.size(); ++i) v.add(tokens[i], static_cast<int32_t>(i));
  return v;
}

std::string random_word(std::mt19937& rng, size_t size, int letters) {
  std::string word;
  for (size_t i = 0; i < size; ++i)
    word += static_cast<char>('a' + rng() % static_cast<unsigned>(letters));
  return word;
}

TEST(ByteTrie, FindsThePrefixesThatAreKeys) {
  std::mt19937 rng(1);
  for (int round = 0; round < 40; ++round) {
    // 26 letters make nodes with tables, 2 make deep ones.
    const int letters = round % 2 ? 26 : 2;
    std::map<std::string, int32_t> keys;
    std::vector<std::string> texts;
    for (int i = 0; i < 200; ++i) texts.push_back(random_word(rng, rng() % 6, letters));
    texts.push_back(std::string("\xFF\x00\x80", 3));
    std::vector<ByteTrie::Key> list;
    for (size_t i = 0; i < texts.size(); ++i) {
      list.emplace_back(texts[i], static_cast<int32_t>(i));
      keys[texts[i]] = static_cast<int32_t>(i);  // the last counts
    }
    const ByteTrie trie(list);
    for (int i = 0; i < 300; ++i) {
      const std::string text = i == 0 ? texts.back() + "a" : random_word(rng, rng() % 9, letters);
      std::vector<std::pair<size_t, int32_t>> expected, got;
      for (size_t n = 1; n <= text.size(); ++n) {
        if (const auto at = keys.find(text.substr(0, n)); at != keys.end())
          expected.emplace_back(n, at->second);
      }
      trie.prefixes(text, [&](size_t n, int32_t value) { got.emplace_back(n, value); });
      ASSERT_EQ(got, expected) << text;
      ASSERT_EQ(trie.longest(text).size, expected.empty() ? 0 : expected.back().first);
    }
  }
  EXPECT_EQ(ByteTrie().longest("a").size, 0u);
}

TEST(Unigram, TakesTheBestOfAllWays) {
  std::mt19937 rng(2);
  for (int round = 0; round < 40; ++round) {
    std::vector<std::string> tokens = {"<unk>", "a", "b"};
    while (tokens.size() < 15) {
      const std::string t = random_word(rng, 1 + rng() % 4, 3);
      if (std::find(tokens.begin(), tokens.end(), t) == tokens.end() && t != "c")
        tokens.push_back(t);
    }
    // Powers of two of no two of which the sums are equal.
    std::vector<double> scores;
    for (size_t i = 0; i < tokens.size(); ++i)
      scores.push_back(-1 - 3 * std::generate_canonical<double, 32>(rng));
    const double unk_score = -20;
    const Unigram model(words_vocabulary_of(tokens), scores, std::vector<bool>(tokens.size(), true),
                        {.unk = 0, .unk_score = unk_score});
    for (int i = 0; i < 100; ++i) {
      const std::string word = random_word(rng, rng() % 12, 3);
      std::vector<std::pair<double, Ids>> best(word.size() + 1, {-1e9, {}});
      best[0] = {0, {}};
      for (size_t at = 0; at < word.size(); ++at) {
        bool single = false;
        for (size_t id = 1; id < tokens.size(); ++id) {
          const std::string& t = tokens[id];
          if (word.compare(at, t.size(), t) != 0) continue;
          single |= t.size() == 1;
          if (best[at].first + scores[id] <= best[at + t.size()].first) continue;
          best[at + t.size()] = best[at];
          best[at + t.size()].first += scores[id];
          best[at + t.size()].second.push_back(static_cast<int32_t>(id));
        }
        if (!single && best[at].first + unk_score > best[at + 1].first) {
          const bool fused = !best[at].second.empty() && best[at].second.back() == 0;
          best[at + 1] = {best[at].first + unk_score, best[at].second};
          if (!fused) best[at + 1].second.push_back(0);
        }
      }
      ASSERT_EQ(encode(model, word), best.back().second) << word;
      ASSERT_EQ(encode(model, word), best.back().second) << "again, from the cache";
    }
  }
}

TEST(Unigram, UnknownTextBecomesBytesOrUnkOrAnError) {
  const std::vector<std::string> tokens = {"<unk>", "a", "<0xC3>", "<0xA9>"};
  const auto make = [&](UnigramOptions options) {
    options.unk_score = -20;
    return Unigram(words_vocabulary_of(tokens), {-1, -1, -1, -1}, {true, true, true, true},
                   options);
  };
  EXPECT_EQ(encode(make({.unk = 0, .byte_fallback = true}), "aéa"), (Ids{1, 2, 3, 1}));
  EXPECT_EQ(encode(make({.unk = 0, .byte_fallback = true}), "aéüa"), (Ids{1, 0, 1}));  // as one
  EXPECT_EQ(encode(make({.unk = 0}), "éüaü"), (Ids{0, 1, 0}));
  EXPECT_EQ(encode(make({.byte_fallback = true}), "é"), (Ids{2, 3}));
  EXPECT_THROW(encode(make({}), "é"), Error);
  EXPECT_EQ(encode(make({}), ""), (Ids{}));
}

TEST(WordPiece, TakesTheLongestPieceOrNone) {
  const std::vector<std::string> tokens = {"[UNK]", "un", "##aff", "##able", "una", "##ff", "##é"};
  const WordPiece model(words_vocabulary_of(tokens), {.unk = 0});
  EXPECT_EQ(encode(model, "una"), (Ids{4}));
  EXPECT_EQ(encode(model, "unaffable"), (Ids{4, 5, 3}));
  EXPECT_EQ(encode(model, "uné"), (Ids{1, 6}));
  EXPECT_EQ(encode(model, "unx"), (Ids{0}));
  EXPECT_EQ(encode(model, "aff"), (Ids{0}));
  EXPECT_EQ(encode(model, "##aff"), (Ids{2}));  // what looks like a piece, at the beginning
  const WordPiece small(words_vocabulary_of(tokens), {.max_characters = 3, .unk = 0});
  EXPECT_EQ(encode(small, "uné"), (Ids{1, 6}));  // characters, not bytes
  EXPECT_EQ(encode(small, "unaff"), (Ids{0}));
  EXPECT_THROW(encode(WordPiece(words_vocabulary_of(tokens), {}), "x"), Error);
}

TEST(GreedyBytes, TakesTheLongestToken) {
  std::vector<std::string> tokens;
  for (int b = 0; b < 256; ++b) tokens.emplace_back(1, static_cast<char>(b));
  tokens.insert(tokens.end(), {"ab", "abcd", "bc", "\xC3\xA9"});
  const GreedyBytes model(words_vocabulary_of(tokens), "test");
  EXPECT_EQ(encode(model, "abcabcdé"), (Ids{256, 'c', 257, 259}));
  tokens[7] = "other";
  EXPECT_EQ(error_of([&] { GreedyBytes(words_vocabulary_of(tokens), "v.txt"); }),
            "corrupt: v.txt: the vocabulary has no token for the byte 0x07");
}

TEST(WordModel, LongWordsTakeLinearTime) {
  const std::string text(2'000'000, 'a');
  const std::vector<std::string> tokens = {"<unk>", "a", "aa", "aaaa"};
  const Unigram unigram(words_vocabulary_of(tokens), {-9, -4, -3, -2},
                        std::vector<bool>(tokens.size(), true), {.unk = 0, .unk_score = -20});
  EXPECT_EQ(encode(unigram, text).size(), text.size() / 4);
  const WordPiece pieces(words_vocabulary_of(tokens),
                         {.prefix = "", .max_characters = SIZE_MAX, .unk = 0});
  EXPECT_EQ(encode(pieces, text).size(), text.size() / 4);
}

}  // namespace
}  // namespace hone
