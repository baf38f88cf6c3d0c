// Patterns: classification by intervals against the definition, key by key.
#include "attention/pattern.h"

#include <gtest/gtest.h>

namespace hone {
namespace {

std::vector<Pattern> patterns() {
  Pattern c = Pattern::causal(), w = Pattern::window(5), p = Pattern::prefix(3);
  return {c, w, p, c & w, (c & w) | (c & p), !c, !(c & w), Pattern(), c & !p};
}

TEST(Pattern, ClassifyNeverContradictsTheDefinition) {
  for (const Pattern& p : patterns())
    for (int64_t q0 = 0; q0 < 24; q0 += 3)
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

TEST(Pattern, SimplePatternsAreClassifiedTightly) {
  Pattern c = Pattern::causal(), w = Pattern::causal() & Pattern::window(64);
  EXPECT_EQ(c.classify(64, 80, 0, 64), TileKind::full);
  EXPECT_EQ(c.classify(64, 80, 80, 144), TileKind::empty);
  EXPECT_EQ(w.classify(200, 216, 0, 64), TileKind::empty);
}

TEST(Pattern, WindowCountsTheQueryItself) {
  Pattern w = Pattern::causal() & Pattern::window(3);
  EXPECT_EQ(w.mask(10, 0), (uint64_t{7} << 8));
}

}  // namespace
}  // namespace hone
