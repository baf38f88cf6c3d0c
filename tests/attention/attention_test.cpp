// attend() against the definition of softmax attention, in double, key by key: every head ratio,
// pattern, length around a page's end, and several sequences whose pages interleave.
#include "attention/attention.h"

#include "base/threads.h"
#include "testing.h"

namespace hone {
namespace {

using testing::random_values;
using testing::relative_distance;

// One sequence as plain arrays: what attend() should have seen.
struct Plain {
  int64_t length = 0;
  std::vector<float> q, k, v;  // rows of heads·k_dim, kv_heads·k_dim, kv_heads·v_dim
};

Plain random_sequence(const AttentionSpec& s, int64_t length, uint32_t seed) {
  auto values = [&](int64_t width, uint32_t part) {
    return random_values(static_cast<size_t>(length * width), seed * 3 + part);
  };
  return {length, values(s.heads * s.k_dim, 0), values(s.kv_heads * s.k_dim, 1),
          values(s.kv_heads * s.v_dim, 2)};
}

// o[p, h] = Σ_j softmax_j(scale·q·k_j)·v_j over the keys that the pattern shows.
std::vector<float> naive(const AttentionSpec& s, const Plain& x) {
  std::vector<float> out;
  int64_t group = s.heads / s.kv_heads;
  for (int64_t p = 0; p < x.length; ++p)
    for (int64_t h = 0; h < s.heads; ++h) {
      std::vector<double> weight;
      std::vector<int64_t> keys;
      for (int64_t j = 0; j < x.length; ++j) {
        if (!s.pattern.sees(p, j)) continue;
        double dot = 0;
        for (int64_t c = 0; c < s.k_dim; ++c)
          dot += double{x.q[(p * s.heads + h) * s.k_dim + c]} *
                 x.k[(j * s.kv_heads + h / group) * s.k_dim + c];
        dot *= s.scale;
        if (s.softcap > 0) dot = s.softcap * std::tanh(dot / s.softcap);
        keys.push_back(j);
        weight.push_back(dot);
      }
      double top = keys.empty() ? 0 : *std::max_element(weight.begin(), weight.end()), total = 0;
      for (double& w : weight) total += w = std::exp(w - top);
      for (int64_t c = 0; c < s.v_dim; ++c) {
        double sum = 0;
        for (size_t i = 0; i < keys.size(); ++i)
          sum += weight[i] * x.v[(keys[i] * s.kv_heads + h / group) * s.v_dim + c];
        out.push_back(keys.empty() ? 0.0f : static_cast<float>(sum / total));
      }
    }
  return out;
}

// Runs positions [from, to) of each sequence in one batch.
struct Slice {
  const Plain* plain;
  KvSequence* kv;
  int64_t from, to;
};
Tensor run(const AttentionSpec& s, KvCache& cache, const std::vector<Slice>& slices) {
  std::vector<float> q;
  std::vector<SequenceSpan> spans;
  int64_t row = 0, k_width = s.kv_heads * s.k_dim, v_width = s.kv_heads * s.v_dim;
  for (const Slice& x : slices) {
    int64_t count = x.to - x.from;
    cache.reserve(*x.kv, x.to);
    std::vector<float> other(static_cast<size_t>(count * 24), 0.5f);
    cache.write(0, *x.kv, x.from, count, other.data(), other.data());
    cache.write(1, *x.kv, x.from, count, x.plain->k.data() + x.from * k_width,
                x.plain->v.data() + x.from * v_width);
    auto begin = x.plain->q.begin() + x.from * s.heads * s.k_dim;
    q.insert(q.end(), begin, begin + count * s.heads * s.k_dim);
    spans.push_back({row, row + count, x.from, x.kv});
    row += count;
  }
  Tensor out = attend(s, Tensor::from(q, {row, s.heads * s.k_dim}), cache, 1, spans);
  for (const Slice& x : slices) cache.commit(*x.kv, x.to);
  return out;
}

AttentionSpec spec(int64_t heads, int64_t kv_heads, int64_t k_dim, int64_t v_dim,
                   Pattern pattern = Pattern::causal()) {
  AttentionSpec s;
  s.heads = heads;
  s.kv_heads = kv_heads;
  s.k_dim = k_dim;
  s.v_dim = v_dim;
  s.scale = 1 / std::sqrt(static_cast<float>(k_dim));
  s.pattern = pattern;
  return s;
}

// The layer that is looked at stands behind one of another shape.
KvCache cache_of(const AttentionSpec& s, KvType type = KvType::f32) {
  return KvCache({{1, 24, 8}, {s.kv_heads, s.k_dim, s.v_dim}}, type);
}

void expect_naive(const AttentionSpec& s, int64_t length) {
  Plain x = random_sequence(s, length, static_cast<uint32_t>(length));
  KvCache cache = cache_of(s);
  KvSequence kv;
  Tensor got = run(s, cache, {{&x, &kv, 0, length}});
  std::vector<float> expected = naive(s, x);
  EXPECT_LT(relative_distance(got.data<float>(), expected.data(), got.numel()), 2e-6)
      << s.pattern.describe() << ", " << s.heads << "/" << s.kv_heads << " heads of " << s.k_dim
      << ", " << s.v_dim << ", length " << length;
}

// 1 key, and around the end of one page and of two.
const int64_t kLengths[] = {1, 2, 17, 63, 64, 65, 127, 128, 129};

TEST(Attention, EveryHeadRatioEqualsTheDefinition) {
  for (auto [heads, kv_heads] : {std::pair(4, 4), {4, 2}, {6, 2}, {8, 1}, {5, 5}, {3, 1}})
    for (int64_t length : {1, 40, 65}) expect_naive(spec(heads, kv_heads, 16, 16), length);
}

TEST(Attention, EveryLengthAroundAPageEqualsTheDefinition) {
  for (int64_t length : kLengths) expect_naive(spec(4, 2, 16, 16), length);
}

TEST(Attention, OddAndUnequalHeadSizesEqualTheDefinition) {
  for (auto [k, v] : {std::pair(1, 1), {7, 7}, {20, 12}, {16, 33}, {80, 64}, {128, 128}})
    expect_naive(spec(2, 1, k, v), 66);
}

TEST(Attention, EveryPatternEqualsTheDefinition) {
  // The last ones look ahead: an encoder, a window to both sides, a prefix language model.
  Pattern c = Pattern::causal();
  for (const Pattern& p :
       {c & Pattern::window(1), c & Pattern::window(5), c & Pattern::window(64),
        c & Pattern::window(65), c & (Pattern::window(9) | Pattern::prefix(3)),
        c & Pattern::window(INT64_MAX), c & Pattern::prefix(70), c & !Pattern::window(4),
        c & !Pattern::prefix(2), Pattern(), Pattern::window(9), c | Pattern::prefix(70)})
    for (int64_t length : {30, 64, 65, 150}) expect_naive(spec(4, 2, 16, 16, p), length);
}

TEST(Attention, ScaleAndSoftcapEqualTheDefinition) {
  AttentionSpec s = spec(4, 2, 16, 16);
  s.scale = 1.7f;
  expect_naive(s, 70);
  s.softcap = 3;
  expect_naive(s, 70);
}

TEST(Attention, LargeScoresDoNotOverflow) {
  AttentionSpec s = spec(2, 2, 16, 16);
  s.scale = 300;
  expect_naive(s, 70);
}

class AttentionCache : public ::testing::TestWithParam<KvType> {};

// Chunks of odd sizes, several sequences a batch in changing order: pages interleave in the pool.
// Of the coded types, codes and exact pages must meet the same queries however they are cut.
TEST_P(AttentionCache, ChunksAndNeighboursChangeNoBit) {
  AttentionSpec s = spec(4, 2, 16, 16, Pattern::causal() & Pattern::window(40));
  std::vector<Plain> plain;
  std::vector<Tensor> alone;
  const int64_t lengths[] = {63, 330, 65};
  for (int64_t length : lengths) {
    plain.push_back(random_sequence(s, length, static_cast<uint32_t>(length)));
    KvCache cache = cache_of(s, GetParam());
    KvSequence kv;
    alone.push_back(run(s, cache, {{&plain.back(), &kv, 0, length}}));
  }
  KvCache cache = cache_of(s, GetParam());
  std::vector<KvSequence> kv(3);
  std::vector<int64_t> at(3);
  for (int64_t step : {5, 1, 64, 13, 200, 1, 130}) {
    std::vector<Slice> slices;
    for (size_t i : {size_t{2}, size_t{0}, size_t{1}}) {
      int64_t to = std::min(lengths[i], at[i] + step + static_cast<int64_t>(i));
      if (to > at[i]) slices.push_back({&plain[i], &kv[i], at[i], to});
    }
    Tensor got = run(s, cache, slices);
    int64_t row = 0;
    for (const Slice& x : slices) {
      auto i = static_cast<size_t>(x.kv - kv.data());
      int64_t count = x.to - x.from;
      Tensor a = got.rows(row, row + count), b = alone[i].rows(x.from, x.to);
      EXPECT_EQ(0, std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.byte_size())))
          << "sequence " << i << " from " << x.from;
      row += count;
      at[i] = x.to;
    }
  }
}

// The definition with keys and values as a query sees them: those of the pages in front of its own
// as their codes stand for, the others exact. Errors of codes are bounded in kv_cache_test.cpp.
TEST_P(AttentionCache, EqualsTheDefinitionOnWhatItHolds) {
  for (const Pattern& pattern : {Pattern::causal(), Pattern::causal() & Pattern::window(70)}) {
    AttentionSpec s = spec(4, 2, 16, 40, pattern);
    const int64_t length = 200;
    Plain x = random_sequence(s, length, 3);
    KvCache cache = cache_of(s, GetParam());
    KvSequence kv;
    Tensor got = run(s, cache, {{&x, &kv, 0, length}});
    // What the pool holds: whole pages as they come back when a sequence is cut inside them.
    Plain held = x;
    const KvPageShape page{s.k_dim, s.v_dim};
    for (int64_t h = 0; h < s.kv_heads; ++h)
      for (int64_t p = 0; kv_is_coded(GetParam()) && p < length / 64; ++p) {
        kernels::KvTile tile = cache.pooled(kv, 1, h, p);
        std::vector<float> k(64 * s.k_dim), v(64 * 64);
        decode_page(GetParam(), page, static_cast<const std::byte*>(tile.k),
                    static_cast<const std::byte*>(tile.v), k.data(), v.data());
        for (int64_t j = 0; j < 64; ++j) {
          int64_t row = (p * 64 + j) * s.kv_heads + h;
          for (int64_t c = 0; c < s.k_dim; ++c)
            held.k[row * s.k_dim + c] = k[(j / 16 * s.k_dim + c) * 16 + j % 16];
          for (int64_t c = 0; c < s.v_dim; ++c)
            held.v[row * s.v_dim + c] = v[(c / 32 * 64 + j) * 32 + c % 32];
        }
      }
    const double tolerance = GetParam() == KvType::bf16 ? 2e-2 : 2e-3;
    for (int64_t p = 0; p < length; p += 23) {
      Plain seen = held;
      for (auto [exact, mixed, width] :
           {std::tuple(&x.k, &seen.k, s.kv_heads * s.k_dim), {&x.v, &seen.v, s.kv_heads * s.v_dim}})
        std::copy(exact->begin() + p / 64 * 64 * width, exact->end(),
                  mixed->begin() + p / 64 * 64 * width);
      seen.length = p + 1;
      std::vector<float> expected = naive(s, seen);
      const int64_t width = s.heads * s.v_dim;
      EXPECT_LT(relative_distance(got.data<float>() + p * width, &expected[p * width], width),
                kv_is_coded(GetParam()) || GetParam() == KvType::f32 ? 2e-6 : tolerance)
          << p << ", " << pattern.describe();
    }
  }
}

INSTANTIATE_TEST_SUITE_P(AllTypes, AttentionCache, ::testing::ValuesIn(kv_types()),
                         [](const auto& p) { return std::string(kv_type_name(p.param)); });

// One query behind more keys than one split holds: its splits are handed out to the threads.
TEST(Attention, LongContextsEqualTheDefinitionAndThePrefill) {
  AttentionSpec s = spec(6, 3, 16, 16);
  const int64_t length = 1400;
  Plain x = random_sequence(s, length, 5);
  KvCache whole = cache_of(s), steps = cache_of(s);
  KvSequence a, b;
  Tensor prefill = run(s, whole, {{&x, &a, 0, length}});
  run(s, steps, {{&x, &b, 0, length - 1}});
  Tensor last = run(s, steps, {{&x, &b, length - 1, length}});
  const int64_t width = s.heads * s.v_dim;
  EXPECT_EQ(0, std::memcmp(prefill.data<float>() + (length - 1) * width, last.raw(), width * 4));
  std::vector<float> expected = naive(s, x);
  EXPECT_LT(relative_distance(last.data<float>(), &expected[(length - 1) * width], width), 2e-6);
}

// Units as they are (a prefill of many rows), and keys that threads share (one row behind many).
TEST_P(AttentionCache, ThreadsChangeNoBit) {
  for (const Pattern& pattern : {Pattern::causal(), Pattern::causal() & Pattern::window(100)}) {
    AttentionSpec s = spec(8, 2, 16, 16, pattern);
    const int64_t length = 1300;
    Plain x = random_sequence(s, length, 7);
    std::vector<Tensor> results;
    for (int threads : {1, 3}) {
      set_threads(threads);
      KvCache cache = cache_of(s, GetParam());
      KvSequence kv;
      results.push_back(run(s, cache, {{&x, &kv, 0, length - 1}}));
      results.push_back(run(s, cache, {{&x, &kv, length - 1, length}}));
    }
    set_threads(0);
    for (size_t i : {0, 1})
      EXPECT_EQ(0, std::memcmp(results[i].raw(), results[i + 2].raw(),
                               static_cast<size_t>(results[i].byte_size())))
          << pattern.describe() << (i == 0 ? ", prefill" : ", one row");
  }
}

// What a page held before must not show, be it NaN: neither to another sequence that gets the page,
// nor to the same one when it takes positions back.
TEST(Attention, PagesForgetWhatTheyHeld) {
  AttentionSpec s = spec(4, 2, 16, 16);
  Plain broken = random_sequence(s, 128, 1), x = random_sequence(s, 70, 2);
  for (auto* values : {&broken.k, &broken.v})
    for (float& value : *values) value = NAN;
  std::vector<float> expected = naive(s, x);
  KvCache cache = cache_of(s);
  KvSequence first, second;
  run(s, cache, {{&broken, &first, 0, 128}});
  cache.truncate(first, 0);
  Tensor got = run(s, cache, {{&x, &second, 0, 70}});
  EXPECT_LT(relative_distance(got.data<float>(), expected.data(), got.numel()), 2e-6);
  cache.truncate(second, 3);
  run(s, cache, {{&broken, &second, 3, 128}});
  cache.truncate(second, 3);
  for (int64_t at = 3; at < 70; ++at) {
    Tensor row = run(s, cache, {{&x, &second, at, at + 1}});
    ASSERT_LT(relative_distance(row.data<float>(), expected.data() + at * 64, 64), 2e-6) << at;
  }
}

// A session that takes back its last positions and says something else.
TEST(Attention, RewrittenPositionsEqualFreshOnes) {
  AttentionSpec s = spec(4, 2, 16, 16);
  Plain old = random_sequence(s, 150, 1), x = random_sequence(s, 150, 2);
  KvCache cache = cache_of(s);
  KvSequence kv;
  run(s, cache, {{&old, &kv, 0, 150}});
  for (int64_t keep : {100, 64, 63, 1, 0}) {
    cache.truncate(kv, keep);
    EXPECT_EQ(kv.length, keep);
    for (auto [from, to, width] : {std::tuple(&old.q, &x.q, s.heads * s.k_dim),
                                   {&old.k, &x.k, s.kv_heads * s.k_dim},
                                   {&old.v, &x.v, s.kv_heads * s.v_dim}})
      std::copy(to->begin() + keep * width, to->end(), from->begin() + keep * width);
    Tensor got = run(s, cache, {{&old, &kv, keep, 150}});
    std::vector<float> expected = naive(s, old);
    EXPECT_LT(relative_distance(got.data<float>(), expected.data() + keep * s.heads * s.v_dim,
                                got.numel()),
              2e-6)
        << keep;
    x = random_sequence(s, 150, static_cast<uint32_t>(keep + 3));
  }
}

}  // namespace
}  // namespace hone
