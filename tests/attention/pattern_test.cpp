// Patterns: intervals of keys, tiles and masks against the predicate, key by key; the predicate
// against what the literature writes down; and the text form.
#include "attention/pattern.h"

#include <gtest/gtest.h>

#include <set>

#include "base/error.h"

namespace hone {
namespace {

using P = Pattern;

// Every leaf, the compositions, and what they do under and, or, not.
std::vector<Pattern> patterns() {
  const P c = P::causal(), w = P::window(5), p = P::prefix(3), g = P::global({{2, 4}, {70, 71}});
  const P d = P::documents({0, 9, 9, 30, 100}), b = P::block(7), s = P::stride(3);
  const P r = P::random(4, 2, 40, 5), l = P::block_list(8, {{0, 0}, {1, 0}, {1, 3}, {9, 9}});
  return {c,
          w,
          p,
          c & w,
          (c & w) | (c & p),
          !c,
          !(c & w),
          P(),
          !P(),
          c & !p,
          P::band(4, 2),
          P::band(-1, 3),
          P::band(0, 0),
          b,
          P::block(5, 1, 0) & c,
          P::block(64, 1, 1),
          s,
          P::stride(1),
          P::stride(150),
          c & P::stride(200),
          !P::stride(130),
          P::summary(8, 2),
          P::summary(4, 4),
          !P::summary(100, 20),
          g,
          !g,
          g & c,
          d,
          d & c,
          !d,
          P::documents({}),
          P::global({}),
          P::block_list(3, {}),
          r,
          P::random(70, 1, 0, 1) & c,
          (!r) & c,
          l,
          !l,
          (d & c & (w | g)) | l,
          P::dilated(4, 3),
          P::strided(10),
          P::fixed(16, 3),
          P::longformer(6, 2),
          P::bigbird(16, 2, 12, 3)};
}

TEST(Pattern, ClassifyNeverContradictsTheDefinition) {
  for (const Pattern& p : patterns())
    for (int64_t q0 = -6; q0 < 24; q0 += 3)
      for (int64_t q1 : {q0 + 1, q0 + 4})
        for (int64_t k0 = 0; k0 < 24; k0 += 3)
          for (int64_t k1 : {k0 + 1, k0 + 6}) {
            int seen = 0, total = 0;
            for (int64_t q = q0; q < q1; ++q)
              for (int64_t k = k0; k < k1; ++k, ++total) seen += p.sees(q, k);
            TileKind kind = p.classify(q0, q1, k0, k1);
            if (kind == TileKind::empty) {
              EXPECT_EQ(seen, 0) << p.describe();
            }
            if (kind == TileKind::full) {
              EXPECT_EQ(seen, total) << p.describe();
            }
          }
}

TEST(Pattern, MasksAreTheDefinition) {
  for (const Pattern& p : patterns())
    for (int64_t q : {-70, -1, 0, 2, 8, 9, 30, 63, 64, 70, 127, 200})
      for (int64_t k0 : {0, 64, 128}) {
        uint64_t expected = 0;
        for (int64_t j = 0; j < 64; ++j) expected |= uint64_t{p.sees(q, k0 + j)} << j;
        ASSERT_EQ(p.mask(q, k0), expected) << p.describe() << ", query " << q << ", key " << k0;
      }
}

// Runs ascend, are not empty, join where they can, and hold what the definition shows: no tile that
// is left out is seen, and a full one is seen whole.
TEST(Pattern, TileRunsHoldWhatIsSeen) {
  for (const Pattern& p : patterns())
    for (int64_t keys : {1, 64, 200, 300})
      for (auto [q0, q1] : {std::pair(-5, -2),
                            {-3, 5},
                            {0, 1},
                            {0, 128},
                            {60, 70},
                            {130, 131},
                            {140, 300},
                            {299, 300}}) {
        std::vector<TileKind> kinds((keys + 63) / 64, TileKind::empty);
        int64_t before = -1;
        for (const TileRun& r : p.tile_runs(q0, q1, keys)) {
          ASSERT_LT(before, r.first + 1) << p.describe();
          ASSERT_LT(r.first, r.last);
          ASSERT_LE(r.last, std::ssize(kinds));
          before = r.last;
          for (int64_t t = r.first; t < r.last; ++t) kinds[t] = r.kind;
        }
        for (int64_t t = 0; t < std::ssize(kinds); ++t) {
          const int64_t end = std::min(keys, (t + 1) * 64);
          int64_t seen = 0;
          for (int64_t q = q0; q < q1; ++q)
            for (int64_t k = t * 64; k < end; ++k) seen += p.sees(q, k);
          const bool all = seen == (q1 - q0) * (end - t * 64);
          ASSERT_FALSE(kinds[t] == TileKind::empty && seen > 0)
              << p.describe() << ", queries " << q0 << " on, tile " << t << " of " << keys;
          ASSERT_FALSE(kinds[t] == TileKind::full && !all)
              << p.describe() << ", queries " << q0 << " on, tile " << t << " of " << keys;
        }
      }
}

TEST(Pattern, CausalOnesAreRecognised) {
  for (const Pattern& p : patterns()) {
    EXPECT_TRUE((P::causal() & p).is_causal()) << p.describe();
    EXPECT_TRUE((p & P::causal()).is_causal()) << p.describe();
    EXPECT_TRUE((!((!P::causal()) | p)).is_causal()) << p.describe();
    if (!p.is_causal()) continue;
    for (int64_t q = 0; q < 80; ++q)
      for (int64_t k = q + 1; k < 160; ++k) ASSERT_FALSE(p.sees(q, k)) << p.describe();
  }
  for (const char* text : {"all", "window(2)", "causal | sinks(4)", "causal | window(3)", "!causal",
                           "band(4, 1)", "documents(10)"})
    EXPECT_FALSE(P::parse(text).is_causal()) << text;
  EXPECT_TRUE(P::parse("band(4, 0) | window(1)").is_causal());
}

TEST(Pattern, SimplePatternsAreClassifiedTightly) {
  Pattern c = Pattern::causal(), w = Pattern::causal() & Pattern::window(64);
  EXPECT_EQ(c.classify(64, 80, 0, 64), TileKind::full);
  EXPECT_EQ(c.classify(64, 80, 80, 144), TileKind::empty);
  EXPECT_EQ(w.classify(200, 216, 0, 64), TileKind::empty);
}

// How many tiles of 64k keys 128 queries need: a plan that kept all would be right and useless.
TEST(Pattern, SparsePatternsKeepFewTiles) {
  auto kept = [](const Pattern& p) {
    int64_t tiles = 0;
    for (const TileRun& r : p.tile_runs(40000, 40128, 65536)) tiles += r.last - r.first;
    return tiles;
  };
  const P c = P::causal();
  EXPECT_EQ(kept(P()), 1024);
  EXPECT_EQ(kept(c), 627);
  EXPECT_EQ(kept(c & P::window(512)), 10);
  EXPECT_EQ(kept(c & (P::window(512) | P::prefix(4))), 11);
  EXPECT_EQ(kept(P::longformer(256, 64)), 11);
  EXPECT_EQ(kept(c & P::block(1024)), 3);
  EXPECT_EQ(kept(c & P::documents({0, 39990, 50000})), 3);
  EXPECT_EQ(kept(c & P::stride(4096)), 10 * 2);
  EXPECT_EQ(kept(P::fixed(4096, 64)), 9 + 51);
  EXPECT_EQ(kept(P::block_list(64, {{625, 0}, {626, 3}, {700, 5}})), 2);
  EXPECT_LE(kept(P::bigbird(64, 3, 1024, 7)), 4 + 2 + 6);
  EXPECT_EQ(kept((!P()) | (c & P::window(64))), 3);
}

TEST(Pattern, BothWindowConventionsCountAsTheirLibrariesDo) {
  // Hugging Face: W keys, itself among them.
  EXPECT_EQ((P::causal() & P::window(3)).mask(10, 0), uint64_t{7} << 8);
  // FlashAttention window_size=(3, 0), flashinfer window_left=3: W + 1.
  EXPECT_EQ(P::band(3, 0).mask(10, 0), uint64_t{15} << 7);
  // Longformer, one-sided 3: 2·3 + 1.
  EXPECT_EQ(P::band(3, 3).mask(10, 0), uint64_t{127} << 7);
  EXPECT_EQ(P::band(-1, 0).mask(10, 0), uint64_t{2047});
}

// Child et al. 2019, section 4.2, with their sets written down for i = 0 … 40.
TEST(Pattern, SparseTransformersAreThePapers) {
  const int64_t l = 6, c = 2;
  for (int64_t i = 0; i < 40; ++i) {
    std::set<int64_t> strided, fixed;
    for (int64_t j = std::max<int64_t>(0, i - l); j <= i; ++j) strided.insert(j);
    for (int64_t j = 0; j <= i; ++j) {
      if ((i - j) % l == 0) strided.insert(j);
      if (j / l == i / l || (j % l >= l - c && j % l <= l)) fixed.insert(j);
    }
    for (int64_t j = 0; j < 40; ++j) {
      EXPECT_EQ(P::strided(l).sees(i, j), strided.contains(j)) << i << " " << j;
      EXPECT_EQ(P::fixed(l, c).sees(i, j), fixed.contains(j)) << i << " " << j;
    }
  }
}

TEST(Pattern, BigBirdSeesWindowGlobalAndRandomBlocks) {
  const int64_t size = 4, blocks = 16;
  const Pattern p = P::bigbird(size, 3, blocks, 9);
  std::set<std::vector<bool>> rows;
  int64_t drawn = 0;
  for (int64_t i = 0; i < blocks; ++i) {
    std::vector<bool> row;
    for (int64_t j = 0; j < blocks; ++j) {
      row.push_back(p.sees(i * size, j * size));
      for (int64_t a = 0; a < size * size; ++a)
        ASSERT_EQ(p.sees(i * size + a / size, j * size + a % size), row.back());
      const bool fixed = std::abs(i - j) <= 1 || i % (blocks - 1) == 0 || j % (blocks - 1) == 0;
      if (fixed) {
        EXPECT_TRUE(row.back());
      }
      drawn += row.back() && !fixed;
    }
    rows.insert(row);
  }
  EXPECT_GT(drawn, blocks);  // 14 rows of up to 3
  EXPECT_LE(drawn, 3 * blocks);
  EXPECT_GT(rows.size(), 10u);
  EXPECT_FALSE(p == P::bigbird(size, 3, blocks, 10));
  bool differs = false;
  for (int64_t i = 0; i < 64; ++i)
    differs |= p.mask(i, 0) != P::bigbird(size, 3, blocks, 10).mask(i, 0);
  EXPECT_TRUE(differs) << "the seed changes nothing";
}

// Each of the first `c` blocks is drawn about as often, and never twice in a row.
TEST(Pattern, RandomBlocksAreDistinctAndEven) {
  std::vector<int> hits(32);
  const Pattern p = P::random(1, 4, 32, 1);
  for (int64_t q = 0; q < 4000; ++q) {
    ASSERT_EQ(__builtin_popcountll(p.mask(q, 0)), 4);
    for (int64_t k = 0; k < 32; ++k) hits[k] += p.sees(q, k);
  }
  for (int n : hits) EXPECT_NEAR(n, 500, 100);
  for (int64_t q = 0; q < 60; ++q) {
    EXPECT_EQ(P::random(1, 4, 0, 1).mask(q, 0) >> q >> 1, 0u) << "ahead of query " << q;
    EXPECT_EQ(__builtin_popcountll(P::random(1, 4, 0, 1).mask(q, 0)), std::min<int>(4, q + 1));
  }
}

TEST(Pattern, TheTextReadsBackToTheSamePattern) {
  for (const Pattern& p : patterns())
    EXPECT_TRUE(P::parse(p.describe()) == p)
        << p.describe() << " / " << P::parse(p.describe()).describe();
  const P a = P::causal(), b = P::window(3), c = P::global({{1, 2}}), d = P::documents({4});
  for (const Pattern& p :
       {a & (b & c), (a & b) & c, a | (b | c), (!(a | b)) & (!!c), c & (d | c), (c | d) & (d | c)})
    EXPECT_TRUE(P::parse(p.describe()) == p) << p.describe();
  EXPECT_EQ((a & b).describe(), "causal & window(3)");
  EXPECT_EQ((a & (b | c)).describe(), "causal & (window(3) | global(1))");
  EXPECT_EQ(P::band(-1, 2).describe(), "band(inf, 2)");
  EXPECT_EQ(P::parse("  causal&( sinks(4)|window( 512 ))").describe(),
            "causal & (prefix(4) | window(512))");
  EXPECT_TRUE(P::parse("bigbird(64, 3, 32)") == P::bigbird(64, 3, 32, 0));
  EXPECT_TRUE(P::parse("strided(8) & !fixed(8, 2)") == (P::strided(8) & !P::fixed(8, 2)));
  EXPECT_TRUE(P::parse("dilated(4, 2) | longformer(3, 1) | block(8)") ==
              (P::dilated(4, 2) | P::longformer(3, 1) | P::block(8)));
}

TEST(Pattern, BadTextsAreRefusedWithThePlace) {
  auto message = [](std::string_view text) {
    try {
      P::parse(text);
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::invalid_argument);
      return std::string(e.what());
    }
    return std::string("accepted");
  };
  for (auto [text, part] : {std::pair("", "expected one of all, causal"),
                            {"causal &", "at character 9, got the end"},
                            {"causal & windw(3)", "at character 10, got \"windw(3)\""},
                            {"causal causal", "expected & or | or the end at character 8"},
                            {"window", "expected window(keys)"},
                            {"window(3, 4)", "expected window(keys)"},
                            {"window(x)", "expected a number or inf"},
                            {"window(3", "expected , or )"},
                            {"window(99999999999999999999)", "expected a number"},
                            {"(causal", "expected )"},
                            {"window(1..3)", "expected window(keys)"},
                            {"global(1:3)", "expected global("},
                            {"block_list(4, 3)", "expected block_list("},
                            {"global(5..5)", "begin < end"},
                            {"global(9223372036854775807)", "begin < end"},
                            {"stride(0)", "at least 1"},
                            {"block(0)", "1 to 2^31"},
                            {"block(4, -1, 0)", "0 or more blocks"},
                            {"summary(4, 5)", "1 to 4 keys"},
                            {"random(4, 65, 9)", "1 to 64 blocks"},
                            {"random(4, 1, -1)", "1 to 2^28"},
                            {"documents(5, 4)", "ascend"},
                            {"bigbird(4, 1, 0)", "1 to 2^28"},
                            {"dilated(0, 1)", "1 or more"},
                            {"longformer(-1, 1)", "0 or more"},
                            {"block_list(4, 0:-1)", "from 0 to 2^28"}})
    EXPECT_NE(message(text).find(part), std::string::npos) << text << ": " << message(text);
  EXPECT_NE(message(std::string(100, '!') + "all").find("less nesting"), std::string::npos);
  std::string deep = "all";
  for (int i = 0; i < 20; ++i) deep = "all & (" + deep + ")";
  EXPECT_NE(message(deep).find("nested operands"), std::string::npos);
}

TEST(Pattern, HugeNumbersDoNotOverflow) {
  for (const char* text :
       {"block(2147483648, 9223372036854775807, 9223372036854775807)",
        "window(9223372036854775807)", "band(9223372036854775807, 0)",
        "prefix(9223372036854775807)", "stride(1152921504606846976)",
        "dilated(2147483648, 268435456)", "window(-5)", "prefix(-9223372036854775808)"}) {
    const Pattern p = P::parse(text);
    EXPECT_EQ(p.sees(70, 70), p.mask(70, 64) >> 6 & 1) << text;
    int64_t tiles = 0;
    for (const TileRun& r : p.tile_runs(0, 128, 128)) tiles += r.last - r.first;
    EXPECT_EQ(tiles > 0, p.sees(70, 70)) << text;
  }
}

}  // namespace
}  // namespace hone
