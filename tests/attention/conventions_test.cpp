// Other libraries' arguments: what each shows, key by key, by the rule that its own kernel applies;
// the cases where they differ by one; and scores with ALiBi, caps and bases by their formulas.
#include "attention/conventions.h"

#include "gradients.h"
#include "plain_attention.h"

namespace hone {
namespace {

using namespace testing;

const HeadShape kShape{4, 2, 8, 8};

// The keys that the last of `queries` queries and the first one see.
std::vector<bool> seen(const AttentionSpec& s, int64_t queries, int64_t keys, int64_t query) {
  std::vector<bool> row;
  const int64_t start = s.top_left ? 0 : keys - queries;
  for (int64_t j = 0; j < keys; ++j) row.push_back(s.pattern.sees(start + query, j));
  return row;
}

template <typename Rule>
void expect_rule(const AttentionSpec& s, Rule rule, const std::string& what) {
  for (auto [queries, keys] : {std::pair(9, 9), {4, 9}, {9, 4}, {1, 9}})
    for (int64_t i = 0; i < queries; ++i)
      for (int64_t j = 0; j < keys; ++j)
        ASSERT_EQ(seen(s, queries, keys, i)[j], rule(i, j, queries, keys))
            << what << ": query " << i << " of " << queries << ", key " << j << " of " << keys;
}

TEST(Conventions, FlashAttentionsWindowAndAlignment) {
  for (bool causal : {false, true})
    for (int64_t left : {-1, 0, 1, 3})
      for (int64_t right : {-1, 0, 2}) {
        FaArguments a;
        a.causal = causal;
        a.window_left = left;
        a.window_right = right;
        const int64_t r = causal ? 0 : right;
        expect_rule(
            from_fa(kShape, a),
            [&](int64_t i, int64_t j, int64_t sq, int64_t sk) {
              return (left < 0 || j >= i + sk - sq - left) && (r < 0 || j <= i + sk - sq + r);
            },
            fmt::format("causal {}, window ({}, {})", causal, left, right));
      }
}

TEST(Conventions, HuggingFacesWindowIsOneKeyShorter) {
  for (int64_t window : {0, 1, 3}) {
    HfArguments a;
    a.sliding_window = window;
    expect_rule(
        from_hf(kShape, a),
        [&](int64_t i, int64_t j, int64_t sq, int64_t sk) {
          const int64_t q = i + sk - sq;
          return j <= q && (window == 0 || j > q - window);
        },
        fmt::format("window {}", window));
  }
  HfArguments chunks;
  chunks.attention_chunk_size = 4;
  expect_rule(
      from_hf(kShape, chunks),
      [](int64_t i, int64_t j, int64_t sq, int64_t sk) {
        const int64_t q = i + sk - sq;
        return j <= q && q >= 0 && j / 4 == q / 4;
      },
      "chunks");
  HfArguments encoder;
  encoder.is_causal = false;
  expect_rule(
      from_hf(kShape, encoder), [](int64_t, int64_t, int64_t, int64_t) { return true; }, "encoder");
}

TEST(Conventions, TorchAlignsTheFirstQuery) {
  expect_rule(
      from_torch(kShape, {0, true}), [](int64_t i, int64_t j, int64_t, int64_t) { return j <= i; },
      "is_causal");
}

TEST(Conventions, FlashinfersWindowHasOneSide) {
  for (bool causal : {false, true})
    for (int64_t left : {-1, 0, 3}) {
      FlashinferArguments a;
      a.causal = causal;
      a.window_left = left;
      expect_rule(
          from_flashinfer(kShape, a),
          [&](int64_t i, int64_t j, int64_t sq, int64_t sk) {
            const int64_t q = i + sk - sq;
            return (!causal || j <= q) && (left < 0 || j + left >= q);
          },
          fmt::format("causal {}, window_left {}", causal, left));
    }
}

TEST(Conventions, GgmlsWindows) {
  for (bool causal : {false, true})
    for (GgmlWindow window : {GgmlWindow::standard, GgmlWindow::chunked, GgmlWindow::symmetric})
      for (int64_t n : {0, 1, 3, 4}) {
        GgmlArguments a;
        a.causal = causal;
        a.n_swa = n;
        a.window = window;
        // llama.cpp hides by positions p0 of the key and p1 of the token, both from 0 on.
        for (int64_t p1 = 0; p1 < 12; ++p1)
          for (int64_t p0 = 0; p0 < 12; ++p0) {
            bool hidden = causal && p0 > p1;
            if (n > 0 && window == GgmlWindow::standard) hidden |= p1 - p0 >= n;
            if (n > 0 && window == GgmlWindow::chunked) hidden |= p0 < p1 / n * n;
            if (n > 0 && window == GgmlWindow::symmetric)
              hidden |= p1 - p0 < -(n / 2) || p1 - p0 > n / 2;
            ASSERT_EQ(from_ggml(kShape, a).pattern.sees(p1, p0), !hidden)
                << "window " << int(window) << " of " << n << ": " << p1 << " " << p0;
          }
      }
}

// The same window, four ways to write it.
TEST(Conventions, TheSameFiveKeysInEveryLibrary) {
  FaArguments fa;
  fa.causal = true;
  fa.window_left = 4;
  HfArguments hf;
  hf.sliding_window = 5;
  FlashinferArguments fi;
  fi.causal = true;
  fi.window_left = 4;
  GgmlArguments ggml;
  ggml.n_swa = 5;
  for (int64_t q = 0; q < 200; ++q)
    for (const AttentionSpec& s :
         {from_fa(kShape, fa), from_flashinfer(kShape, fi), from_ggml(kShape, ggml)})
      ASSERT_EQ(s.pattern.mask(q, q / 64 * 64), from_hf(kShape, hf).pattern.mask(q, q / 64 * 64));
}

// One query of 5 keys in numbers: q·k = 2, cap 3, by each library's formula.
TEST(Conventions, AlibiSignsAndOrders) {
  const int64_t keys = 5, query = 2;
  HeadShape one{1, 1, 1, 1};
  const Doubles q{2}, k(keys, 1), v{1, 2, 4, 8, 16};
  auto result = [&](AttentionSpec s) {
    s.scale = 1;
    s.pattern = Pattern();
    // A single query, at position 2, before three keys.
    Doubles padded(3, 0);
    padded[query] = q[0];
    s.top_left = true;
    std::vector<float> row(padded.begin(), padded.end());
    Tensor o =
        attention(s, Tensor::from(row, {3, 1}), Tensor::from(std::vector<float>(5, 1), {5, 1}),
                  Tensor::from(std::vector<float>{1, 2, 4, 8, 16}, {5, 1}), {{0, 3, 0, 5}});
    return double{o.data<float>()[query]};
  };
  auto expected = [&](auto score) {
    double sum = 0, total = 0;
    for (int64_t j = 0; j < keys; ++j) {
      const double w = std::exp(score(double(j - query)));
      total += w;
      sum += w * v[j];
    }
    return sum / total;
  };
  FaArguments fa;
  fa.softcap = 3;
  fa.alibi_slopes = {0.5f};
  EXPECT_NEAR(result(from_fa(one, fa)),
              expected([](double d) { return 3 * std::tanh(2 / 3.0) - 0.5 * std::fabs(d); }), 1e-5);
  FlashinferArguments fi;
  fi.logits_soft_cap = 3;
  fi.alibi = true;  // the slope of one head is 2^−8
  const double slope = std::exp2(-8.0);
  EXPECT_NEAR(result(from_flashinfer(one, fi)),
              expected([&](double d) { return 3 * std::tanh((2 + slope * d) / 3); }), 1e-5);
  EXPECT_GT(
      std::fabs(expected([&](double d) { return 3 * std::tanh((2 + slope * d) / 3); }) -
                expected([&](double d) { return 3 * std::tanh((2 - slope * std::fabs(d)) / 3); })),
      1e-3);
  GgmlArguments ggml;
  ggml.logit_softcap = 3;
  ggml.max_bias = 1;  // the slope is 2^−1
  EXPECT_NEAR(result(from_ggml(one, ggml)),
              expected([](double d) { return 3 * std::tanh(2 / 3.0) - 0.5 * std::fabs(d); }), 1e-5);
}

TEST(Conventions, GgmlsSlopesAreThePapersWhereMaxBiasIsEight) {
  GgmlArguments a;
  a.max_bias = 8;
  for (int64_t heads : {1, 4, 12, 32, 71}) {
    const std::vector<float> slopes = from_ggml({heads, 1, 8, 8}, a).alibi.slopes;
    const std::vector<float> paper = alibi_slopes(heads);
    ASSERT_EQ(slopes.size(), paper.size());
    for (size_t i = 0; i < paper.size(); ++i) EXPECT_FLOAT_EQ(slopes[i], paper[i]) << heads;
  }
}

TEST(Conventions, BaseTwoGoesThereAndBack) {
  Tensor x = Tensor::from(std::vector<float>{0, 1, -3, -INFINITY});
  to_base_two(x);
  EXPECT_FLOAT_EQ(x.data<float>()[1], 1.442695f);
  EXPECT_EQ(x.data<float>()[3], -INFINITY);
  from_base_two(x);
  EXPECT_FLOAT_EQ(x.data<float>()[2], -3);
}

TEST(Conventions, ScalesAndRefusals) {
  EXPECT_FLOAT_EQ(from_fa(kShape, {}).scale, 1 / std::sqrt(8.0f));
  FaArguments fa;
  fa.softmax_scale = 0.5;
  EXPECT_EQ(from_fa(kShape, fa).scale, 0.5f);
  fa.alibi_slopes = {1, 2};
  EXPECT_THROW(from_fa(kShape, fa), Error);
  fa.alibi_slopes = {};
  fa.window_left = -2;
  EXPECT_THROW(from_fa(kShape, fa), Error);
  EXPECT_THROW(from_hf({3, 2, 8, 8}, {}), Error);
  HfArguments hf;
  hf.sliding_window = hf.attention_chunk_size = 4;
  EXPECT_THROW(from_hf(kShape, hf), Error);
  GgmlArguments ggml;
  ggml.n_swa = -1;
  EXPECT_THROW(from_ggml(kShape, ggml), Error);
}

}  // namespace
}  // namespace hone
