// The paged KV cache: who owns which page, what is written where, and what comes back.
#include "attention/kv_cache.h"

#include <algorithm>
#include <set>

#include "testing.h"

namespace hone {
namespace {

std::set<int64_t> pages_of(const std::vector<const KvSequence*>& sequences) {
  std::set<int64_t> all;
  for (const KvSequence* s : sequences)
    for (int64_t page : s->pages) EXPECT_TRUE(all.insert(page).second) << "page shared: " << page;
  return all;
}

TEST(KvCache, GivesAPageForEvery64Positions) {
  KvCache cache({{2, 8, 8}});
  for (auto [length, pages] :
       {std::pair<int64_t, size_t>(0, 0), {1, 1}, {63, 1}, {64, 1}, {65, 2}, {128, 2}, {129, 3}}) {
    KvSequence s;
    cache.reserve(s, length);
    EXPECT_EQ(s.pages.size(), pages) << length;
    EXPECT_EQ(s.length, 0) << "reserving holds no keys";
    cache.reserve(s, length / 2);
    EXPECT_EQ(s.pages.size(), pages) << "reserve never takes away";
    cache.truncate(s, 0);
  }
}

TEST(KvCache, CountsTheBytesOfAllLayers) {
  EXPECT_EQ(KvCache({{2, 8, 8}}).page_bytes(), 64 * 2 * 16 * 4);
  KvCache cache({{2, 8, 8}, {1, 4, 6}});
  EXPECT_EQ(cache.page_bytes(), 64 * (2 * 16 + 10) * 4);
  EXPECT_EQ(cache.layers(), 2);
  EXPECT_EQ(cache.shape(1).v_dim, 6);
}

// Sequences grow, shrink and end in turn: no page has two owners, and the pool never grows beyond
// the most that was held at once.
TEST(KvCache, PagesAreReusedAndNeverShared) {
  KvCache cache({{1, 4, 4}});
  std::vector<KvSequence> s(5);
  std::mt19937 random(1);
  size_t most = 0;
  std::set<int64_t> ever;
  for (int step = 0; step < 400; ++step) {
    KvSequence& one = s[random() % s.size()];
    int64_t length = random() % 700;
    if (random() % 2 == 0)
      cache.reserve(one, length);
    else
      cache.truncate(one, length);
    std::vector<const KvSequence*> all;
    for (const KvSequence& x : s) all.push_back(&x);
    std::set<int64_t> held = pages_of(all);
    ever.insert(held.begin(), held.end());
    most = std::max(most, held.size());
    ASSERT_EQ(ever.size(), most) << "a new page while others lay free";
  }
}

TEST(KvCache, TruncateKeepsTheFirstPagesAndTheirOrder) {
  KvCache cache({{1, 4, 4}});
  KvSequence s;
  cache.reserve(s, 300);
  s.length = 300;
  std::vector<int64_t> before = s.pages;
  cache.truncate(s, 400);
  EXPECT_EQ(s.length, 300);
  EXPECT_EQ(s.pages, before);
  cache.truncate(s, 129);
  EXPECT_EQ(s.length, 129);
  EXPECT_EQ(s.pages, std::vector<int64_t>(before.begin(), before.begin() + 3));
  cache.truncate(s, 128);
  EXPECT_EQ(s.pages.size(), 2u);
  cache.truncate(s, 0);
  EXPECT_TRUE(s.pages.empty());
}

// Key position p of head h lies in lane p % 16 of panel p / 16; a value in row p.
TEST(KvCache, WritesEachPositionToItsPlaceInEveryLayer) {
  const int64_t kv_heads = 2, d = 3, dv = 5, length = 150;
  KvCache cache({{kv_heads, d, dv}, {kv_heads, d, dv}});
  KvSequence other, s;
  cache.reserve(other, 1);
  cache.reserve(s, length);
  std::vector<std::vector<float>> k, v;
  for (uint32_t layer = 0; layer < 2; ++layer) {
    k.push_back(testing::random_values(length * kv_heads * d, layer));
    v.push_back(testing::random_values(length * kv_heads * dv, layer + 9));
    // In pieces that end inside a page.
    for (int64_t at = 0; at < length; at += 37)
      cache.write(layer, s, at, std::min<int64_t>(37, length - at),
                  k[layer].data() + at * kv_heads * d, v[layer].data() + at * kv_heads * dv);
  }
  for (int64_t layer = 0; layer < 2; ++layer)
    for (int64_t p = 0; p < length; ++p)
      for (int64_t h = 0; h < kv_heads; ++h) {
        auto* kp = reinterpret_cast<const float*>(cache.k_page(layer, s.pages[p / 64], h));
        auto* vp = reinterpret_cast<const float*>(cache.v_page(layer, s.pages[p / 64], h));
        for (int64_t c = 0; c < d; ++c)
          ASSERT_EQ(kp[p % 64 / 16 * d * 16 + c * 16 + p % 16],
                    k[layer][(p * kv_heads + h) * d + c]);
        for (int64_t c = 0; c < dv; ++c)
          ASSERT_EQ(vp[p % 64 * dv + c], v[layer][(p * kv_heads + h) * dv + c]);
      }
  auto* untouched = reinterpret_cast<const float*>(cache.k_page(0, other.pages[0], 0));
  EXPECT_TRUE(
      std::all_of(untouched, untouched + cache.page_bytes() / 4, [](float x) { return x == 0; }));
}

TEST(KvCache, HalfTypesTakeHalfAndOthersAreRefused) {
  EXPECT_EQ(KvCache({{2, 8, 8}}, DType::bf16).page_bytes(), 64 * 2 * 16 * 2);
  EXPECT_THROW(KvCache({{2, 8, 8}}, DType::i8), Error);
  KvCache cache({{1, 2, 3}}, DType::f16);
  KvSequence s;
  cache.reserve(s, 1);
  const float keys[] = {0.1f, -2}, values[] = {1, 1000.4f, 3};
  cache.write(0, s, 0, 1, keys, values);
  auto* k = reinterpret_cast<const f16*>(cache.k_page(0, s.pages[0], 0));
  auto* v = reinterpret_cast<const f16*>(cache.v_page(0, s.pages[0], 0));
  EXPECT_EQ(k[0].bits, to_f16(0.1f).bits);
  EXPECT_EQ(k[16].bits, to_f16(-2).bits);
  EXPECT_EQ(v[1].bits, to_f16(1000.4f).bits);
}

TEST(KvCache, RefusesToWriteBeyondItsPages) {
  KvCache cache({{1, 2, 2}});
  KvSequence s;
  cache.reserve(s, 64);
  std::vector<float> row(2);
  EXPECT_NO_THROW(cache.write(0, s, 63, 1, row.data(), row.data()));
  EXPECT_THROW(cache.write(0, s, 64, 1, row.data(), row.data()), Error);
}

}  // namespace
}  // namespace hone
