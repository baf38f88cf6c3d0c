// The paged KV cache: who owns which page, what is written where, and what comes back.
#include "attention/kv_cache.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>
#include <tuple>

#include "attention/attention.h"
#include "testing.h"

namespace hone {
namespace {

std::set<int64_t> pages_of(const std::vector<const KvSequence*>& sequences) {
  std::set<int64_t> all;
  for (const KvSequence* s : sequences)
    for (int64_t page : s->pages.empty() ? std::vector<int64_t>() : s->pages[0])
      EXPECT_TRUE(all.insert(page).second) << "page shared: " << page;
  return all;
}

TEST(KvCache, GivesAPageForEvery64Positions) {
  KvCache cache({{2, 8, 8}});
  for (auto [length, pages] :
       {std::pair<int64_t, size_t>(0, 0), {1, 1}, {63, 1}, {64, 1}, {65, 2}, {128, 2}, {129, 3}}) {
    KvSequence s;
    cache.reserve(s, length);
    EXPECT_EQ(pages_of({&s}).size(), pages) << length;
    EXPECT_EQ(s.length, 0) << "reserving holds no keys";
    cache.reserve(s, length / 2);
    EXPECT_EQ(pages_of({&s}).size(), pages) << "reserve never takes away";
    cache.truncate(s, 0);
  }
}

TEST(KvCache, CountsTheBytesOfAllLayers) {
  // Values are padded to 32.
  EXPECT_EQ(KvCache({{2, 8, 8}}).page_bytes(), 64 * 2 * (8 + 32) * 4);
  KvCache cache({{2, 8, 32}, {1, 4, 6}});
  EXPECT_EQ(cache.page_bytes(), 64 * (2 * 40 + 36) * 4);
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
  std::vector<int64_t> before = s.pages[0];
  cache.truncate(s, 400);
  EXPECT_EQ(s.length, 300);
  EXPECT_EQ(s.pages[0], before);
  cache.truncate(s, 129);
  EXPECT_EQ(s.length, 129);
  EXPECT_EQ(s.pages[0], std::vector<int64_t>(before.begin(), before.begin() + 3));
  cache.truncate(s, 128);
  EXPECT_EQ(s.pages[0].size(), 2u);
  cache.truncate(s, 0);
  EXPECT_TRUE(s.pages.empty());
}

// Key position p of head h lies in lane p % 16 of panel p / 16; a value in row p.
TEST(KvCache, WritesEachPositionToItsPlaceInEveryLayer) {
  const int64_t kv_heads = 2, d = 3, dv = 37, length = 150;
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
        kernels::KvTile tile = cache.pooled(s, layer, h, p / 64);
        auto *kp = static_cast<const float*>(tile.k), *vp = static_cast<const float*>(tile.v);
        for (int64_t c = 0; c < d; ++c)
          ASSERT_EQ(kp[p % 64 / 16 * d * 16 + c * 16 + p % 16],
                    k[layer][(p * kv_heads + h) * d + c]);
        for (int64_t c = 0; c < dv; ++c)
          ASSERT_EQ(vp[(c / 32 * 64 + p % 64) * 32 + c % 32],
                    v[layer][(p * kv_heads + h) * dv + c]);
      }
  auto* untouched = static_cast<const float*>(cache.pooled(other, 0, 0, 0).k);
  EXPECT_TRUE(
      std::all_of(untouched, untouched + cache.page_bytes() / 4, [](float x) { return x == 0; }));
}

TEST(KvCache, HalfTypesTakeHalf) {
  EXPECT_EQ(KvCache({{2, 8, 8}}, KvType::bf16).page_bytes(), 64 * 2 * 40 * 2);
  KvCache cache({{1, 2, 3}}, KvType::f16);
  KvSequence s;
  cache.reserve(s, 1);
  const float keys[] = {0.1f, -2}, values[] = {1, 1000.4f, 3};
  cache.write(0, s, 0, 1, keys, values);
  kernels::KvTile tile = cache.pooled(s, 0, 0, 0);
  auto *k = static_cast<const f16*>(tile.k), *v = static_cast<const f16*>(tile.v);
  EXPECT_EQ(k[0].bits, to_f16(0.1f).bits);
  EXPECT_EQ(k[16].bits, to_f16(-2).bits);
  EXPECT_EQ(v[1].bits, to_f16(1000.4f).bits);
}

// The largest error of a code is half a step of its grid; a channel of outliers spoils no other.
TEST(KvCache, CodedPagesAreNearWhatWasWritten) {
  const KvPageShape shape{5, 37};
  std::vector<float> k = testing::random_values(64 * 5, 1), v(64 * 64);
  for (int64_t j = 0; j < 64; ++j) {
    float& outlier = k[(j / 16 * 5 + 2) * 16 + j % 16];
    outlier = 1000 + 50 * outlier;
    for (int64_t c = 0; c < 37; ++c)
      v[(c / 32 * 64 + j) * 32 + c % 32] = static_cast<float>(c * j % 17) / (j == 3 ? 1 : 100);
  }
  for (KvType type : {KvType::int8, KvType::int4}) {
    const double levels = type == KvType::int8 ? 255 : 15;
    std::vector<std::byte> kp(k_page_bytes(type, shape)), vp(v_page_bytes(type, shape));
    encode_page(type, shape, k.data(), v.data(), kp.data(), vp.data());
    std::vector<float> k2(k.size()), v2(v.size());
    decode_page(type, shape, kp.data(), vp.data(), k2.data(), v2.data());
    // The scale is rounded up to f16, and the least of the outliers down by up to a half.
    for (int64_t c = 0; c < 5; ++c) {
      auto at = [&](int64_t j) { return (j / 16 * 5 + c) * 16 + j % 16; };
      float low = k[at(0)], high = low;
      for (int64_t j = 0; j < 64; ++j) {
        low = std::min(low, k[at(j)]);
        high = std::max(high, k[at(j)]);
      }
      for (int64_t j = 0; j < 64; ++j)
        ASSERT_NEAR(k2[at(j)], k[at(j)], (high - low + (c == 2 ? 0.5 : 0.001)) * 0.502 / levels)
            << c;
    }
    for (int64_t j = 0; j < 64; ++j)
      for (int64_t c = 0; c < 37; ++c) {
        double range = j == 3 ? 16 : 0.16;
        int64_t at = (c / 32 * 64 + j) * 32 + c % 32;
        ASSERT_NEAR(v2[at], v[at], (range + 0.002) * 0.502 / levels) << j << " " << c;
      }
  }
}

// Within half a last place of every value, whatever else the page holds; twice written, the same.
TEST(KvCache, Fp8PagesAreNearWhatWasWritten) {
  const KvPageShape shape{5, 37};
  for (auto [type, mantissa, largest, least] :
       {std::tuple(KvType::fp8_e4m3, 3, 448.0f, -9), {KvType::fp8_e5m2, 2, 57344.0f, -16}})
    // Ends of the range of a scale, just beyond them, beyond 1, outliers.
    for (float factor : {1.0f, largest, largest * 1.0001f, 1e-20f, 1e20f, 1e-36f}) {
      std::vector<float> k = testing::random_values(64 * 5, 1), v(64 * 64);
      for (int64_t j = 0; j < 64; ++j) {
        k[(j / 16 * 5 + 2) * 16 + j % 16] *= 1000;
        for (int64_t c = 0; c < 37; ++c)
          v[(c / 32 * 64 + j) * 32 + c % 32] = float(c * j % 17) * (j == 3 ? -100.0f : 1.0f);
      }
      auto scale_to = [&](std::vector<float>& x) {
        float most = 0;
        for (float e : x) most = std::max(most, std::fabs(e));
        for (float& e : x) e = e / most * factor;
      };
      scale_to(k);
      scale_to(v);
      std::vector<std::byte> kp(k_page_bytes(type, shape)), vp(v_page_bytes(type, shape));
      encode_page(type, shape, k.data(), v.data(), kp.data(), vp.data());
      std::vector<float> k2(k.size()), v2(v.size());
      decode_page(type, shape, kp.data(), vp.data(), k2.data(), v2.data());
      for (auto [page, x, y] : {std::tuple(&kp, &k, &k2), {&vp, &v, &v2}}) {
        float scale = 0;
        std::memcpy(&scale, page->data(), 4);
        int exponent = 0;
        ASSERT_EQ(std::frexp(scale, &exponent), 0.5f) << "a power of two";
        ASSERT_LE(factor, largest * scale * 1.0002f);
        if (factor > 1e-30f) {
          ASSERT_GT(factor, largest * scale / 2) << "the smallest";
        }
        for (size_t i = 0; i < x->size(); ++i)
          ASSERT_NEAR(
              (*y)[i], (*x)[i],
              std::max(std::ldexp(std::fabs((*x)[i]), -mantissa - 1), std::ldexp(scale, least - 1)))
              << kv_type_name(type) << " " << factor << " " << i;
      }
      std::vector<float> k3(k.size()), v3(v.size());
      encode_page(type, shape, k2.data(), v2.data(), kp.data(), vp.data());
      decode_page(type, shape, kp.data(), vp.data(), k3.data(), v3.data());
      EXPECT_EQ(k2, k3) << "opened and closed again";
      EXPECT_EQ(v2, v3);
    }
}

// The f32 page of a batch's middle is not cleared: what stands behind the last value is no value.
TEST(KvCache, Fp8ScalesIgnoreThePadding) {
  const KvPageShape shape{2, 3};
  std::vector<float> k(128, 1), v(64 * 32, 1e30f);
  for (int64_t j = 0; j < 64; ++j) std::fill_n(&v[j * 32], 3, 1.0f);
  std::vector<std::byte> kp(k_page_bytes(KvType::fp8_e4m3, shape));
  std::vector<std::byte> vp(v_page_bytes(KvType::fp8_e4m3, shape));
  encode_page(KvType::fp8_e4m3, shape, k.data(), v.data(), kp.data(), vp.data());
  std::vector<float> k2(k.size()), v2(v.size());
  decode_page(KvType::fp8_e4m3, shape, kp.data(), vp.data(), k2.data(), v2.data());
  EXPECT_EQ(v2[63 * 32 + 2], 1);
}

TEST(KvCache, AnFp8PageOfZerosIsOne) {
  const KvPageShape shape{2, 3};
  std::vector<float> k(128), v(64 * 32), k2(128, 7), v2(64 * 32, 7);
  std::vector<std::byte> kp(k_page_bytes(KvType::fp8_e4m3, shape));
  std::vector<std::byte> vp(v_page_bytes(KvType::fp8_e4m3, shape));
  encode_page(KvType::fp8_e4m3, shape, k.data(), v.data(), kp.data(), vp.data());
  decode_page(KvType::fp8_e4m3, shape, kp.data(), vp.data(), k2.data(), v2.data());
  EXPECT_EQ(k2, k);
  EXPECT_EQ(v2[0], 0);
}

TEST(KvCache, AnFp8ValueThatIsNotFiniteSpoilsItsPageOnly) {
  const KvPageShape shape{2, 64};
  for (KvType type : {KvType::fp8_e4m3, KvType::fp8_e5m2})
    for (float bad : {NAN, INFINITY}) {
      std::vector<float> k(128, 1), v(64 * 64, 2);
      v[5 * 32 + 1] = bad;
      std::vector<std::byte> kp(k_page_bytes(type, shape)), vp(v_page_bytes(type, shape));
      encode_page(type, shape, k.data(), v.data(), kp.data(), vp.data());
      decode_page(type, shape, kp.data(), vp.data(), k.data(), v.data());
      EXPECT_TRUE(std::isnan(v[5 * 32 + 1]) && std::isnan(v[0]) && std::isnan(v[64 * 32]));
      EXPECT_EQ(k[0], 1) << "keys have a scale of their own";
    }
}

TEST(KvCache, ValuesThatAreNotFiniteStayWithTheirGroup) {
  const KvPageShape shape{2, 64};
  for (float bad : {NAN, INFINITY}) {
    std::vector<float> k(128, 1), v(64 * 64, 2);
    k[0] = bad;           // channel 0, key 0
    v[5 * 32 + 1] = bad;  // key 5, first group
    std::vector<std::byte> kp(k_page_bytes(KvType::int4, shape));
    std::vector<std::byte> vp(v_page_bytes(KvType::int4, shape));
    encode_page(KvType::int4, shape, k.data(), v.data(), kp.data(), vp.data());
    decode_page(KvType::int4, shape, kp.data(), vp.data(), k.data(), v.data());
    EXPECT_TRUE(std::isnan(k[0]));
    EXPECT_EQ(k[16], 1) << "channel 1";
    EXPECT_TRUE(std::isnan(v[5 * 32 + 1]));
    EXPECT_EQ(v[6 * 32 + 1], 2) << "another key";
    EXPECT_EQ(v[(64 + 5) * 32], 2) << "another group";
  }
}

TEST(KvCache, CodedTypesTakeLessAndNamesAreChecked) {
  std::vector<KvShape> shape{{4, 128, 128}};
  // 8.5 + 9 and 4.5 + 5 bits a value.
  EXPECT_EQ(KvCache(shape, KvType::int8).page_bytes(), 4 * 64 * 128 * 175 / 80);
  EXPECT_EQ(KvCache(shape, KvType::int4).page_bytes(), 4 * 64 * 128 * 95 / 80);
  // A byte a value, and a scale in 32 bytes.
  for (KvType type : {KvType::fp8_e4m3, KvType::fp8_e5m2})
    EXPECT_EQ(KvCache(shape, type).page_bytes(), 4 * 2 * (64 * 128 + 32));
  EXPECT_EQ(kv_type_from_name("fp8"), KvType::fp8_e4m3);
  for (KvType type : kv_types()) EXPECT_EQ(kv_type_from_name(kv_type_name(type)), type);
  EXPECT_THROW(kv_type_from_name("int3"), Error);
}

// A sequence that is cut inside a coded page goes on from the values of its codes; one that is cut
// inside its exact page loses nothing.
class CodedCache : public ::testing::TestWithParam<KvType> {};

TEST_P(CodedCache, ACutPageIsOpenedAgain) {
  KvCache cache({{1, 4, 4}}, GetParam());
  KvSequence s;
  auto k = testing::random_values(100 * 4, 1), v = testing::random_values(100 * 4, 2);
  cache.reserve(s, 100);
  cache.write(0, s, 0, 100, k.data(), v.data());
  cache.commit(s, 100);
  cache.truncate(s, 90);
  auto key = [&](int64_t p) {
    return static_cast<const float*>(cache.exact(s, 0, 0, p / 64).k)[p % 64 / 16 * 64 + p % 16];
  };
  EXPECT_EQ(key(89), k[89 * 4]);
  cache.truncate(s, 50);
  EXPECT_EQ(s.pages[0].size(), 1u);
  EXPECT_NE(key(49), k[49 * 4]) << "opened from codes";
  // Relative to the largest for int8, to the key for the others.
  EXPECT_NEAR(key(49), k[49 * 4], GetParam() == KvType::int8 ? 0.01 : std::fabs(k[49 * 4]) / 8);
  cache.reserve(s, 51);
  cache.write(0, s, 50, 1, k.data(), v.data());
  EXPECT_EQ(key(50), k[0]);
}

INSTANTIATE_TEST_SUITE_P(CodedTypes, CodedCache,
                         ::testing::Values(KvType::int8, KvType::fp8_e4m3, KvType::fp8_e5m2),
                         [](const auto& p) { return std::string(kv_type_name(p.param)); });

// Constant memory behind a window, with the first keys kept, and the bits of a cache that keeps
// all.
TEST(KvCache, GivesBackPagesThatNoLaterQuerySees) {
  AttentionSpec spec;
  spec.heads = spec.kv_heads = 1;
  spec.k_dim = spec.v_dim = 4;
  spec.pattern = Pattern::causal() & (Pattern::window(100) | Pattern::prefix(70));
  for (KvType type : {KvType::f32, KvType::fp8_e4m3, KvType::int8}) {
    KvCache all({{1, 4, 4}}, type), some({{1, 4, 4, spec.pattern.horizon()}}, type);
    KvSequence a, b;
    for (int64_t at = 0; at < 1500; at += 50) {
      const Tensor k = testing::random_tensor({50, 4}, 1 + uint32_t(at));
      const Tensor v = testing::random_tensor({50, 4}, 2 + uint32_t(at));
      const Tensor q = testing::random_tensor({50, 4}, 3 + uint32_t(at));
      Tensor results[2];
      for (auto [cache, s, y] : {std::tuple(&all, &a, &results[0]), {&some, &b, &results[1]}}) {
        cache->reserve(*s, at + 50);
        cache->write(0, *s, at, 50, k.data<float>(), v.data<float>());
        *y = attend(spec, q, *cache, 0, {{0, 50, at, s}});
        cache->commit(*s, at + 50);
      }
      ASSERT_EQ(0, std::memcmp(results[0].raw(), results[1].raw(), 50 * 4 * 4)) << at;
      // Two of the first keys, and those of the window and of the page that is being filled.
      const auto held = std::ranges::count_if(b.pages[0], [](int64_t p) { return p >= 0; });
      EXPECT_LE(held, 2 + 3) << at;
      EXPECT_EQ(some.bytes_of(at + 50), held * some.page_bytes()) << at;
      EXPECT_EQ(all.bytes_of(at + 50), std::ssize(a.pages[0]) * all.page_bytes()) << at;
    }
    EXPECT_GE(b.pages[0][0], 0);
    EXPECT_GE(b.pages[0][1], 0);
    EXPECT_EQ(some.truncate(b, 1490), 1490);
    EXPECT_EQ(some.truncate(b, 700), 0) << "its window is gone";
    EXPECT_EQ(all.truncate(a, 700), 700);
  }
}

// A layer that sees everything keeps all its pages, and those beside it no more than their windows.
// Where no later query sees anything behind a prefix, the page in hand is still needed.
TEST(KvCache, KeepsThePageThatIsBeingFilled) {
  KvCache cache({{1, 4, 4, (Pattern::causal() & Pattern::prefix(10)).horizon()}});
  KvSequence s;
  const std::vector<float> row(4, 1.0f);
  for (int64_t at = 0; at < 300; ++at) {
    cache.reserve(s, at + 1);
    ASSERT_GE(s.pages[0].back(), 0) << at;
    cache.write(0, s, at, 1, row.data(), row.data());
    cache.commit(s, at + 1);
  }
}

TEST(KvCache, EachLayerKeepsWhatItsOwnPatternShows) {
  const Pattern window = Pattern::causal() & (Pattern::window(100) | Pattern::prefix(4));
  std::vector<AttentionSpec> specs(3);
  for (AttentionSpec& s : specs) {
    s.heads = s.kv_heads = 1;
    s.k_dim = s.v_dim = 4;
  }
  specs[0].pattern = specs[2].pattern = window;
  const KvShape narrow{1, 4, 4, window.horizon()}, wide{1, 4, 4, Pattern::causal().horizon()};
  for (KvType type : {KvType::f32, KvType::int4}) {
    KvCache cache({narrow, wide, narrow}, type), all({wide, wide, wide}, type);
    KvSequence s, a;
    auto held = [](const std::vector<int64_t>& pages) {
      return std::ranges::count_if(pages, [](int64_t p) { return p >= 0; });
    };
    for (int64_t at = 0; at < 1000; at += 40) {
      cache.reserve(s, at + 40);
      all.reserve(a, at + 40);
      for (int64_t layer = 0; layer < 3; ++layer) {
        const auto seed = static_cast<uint32_t>(at * 8 + layer);
        const Tensor k = testing::random_tensor({40, 4}, seed), q = k;
        const Tensor v = testing::random_tensor({40, 4}, seed + 4);
        cache.write(layer, s, at, 40, k.data<float>(), v.data<float>());
        all.write(layer, a, at, 40, k.data<float>(), v.data<float>());
        const Tensor got = attend(specs[layer], q, cache, layer, {{0, 40, at, &s}});
        const Tensor expected = attend(specs[layer], q, all, layer, {{0, 40, at, &a}});
        ASSERT_EQ(0, std::memcmp(got.raw(), expected.raw(), 40 * 4 * 4)) << at << " " << layer;
      }
      cache.commit(s, at + 40);
      all.commit(a, at + 40);
      ASSERT_EQ(s.pages.size(), 2u);
      EXPECT_LE(held(s.pages[0]), 1 + 3) << at;
      EXPECT_EQ(held(s.pages[1]), (at + 40 + 63) / 64);
      const int64_t layer_page = all.page_bytes() / 3;
      EXPECT_EQ(cache.bytes_of(at + 40), layer_page * (2 * held(s.pages[0]) + held(s.pages[1])));
      EXPECT_EQ(all.bytes_of(at + 40), 3 * layer_page * held(a.pages[0]));
    }
    EXPECT_EQ(cache.truncate(s, 997), 997);
    EXPECT_EQ(cache.truncate(s, 700), 0) << "a window is gone";
    EXPECT_TRUE(s.pages.empty());
  }
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
