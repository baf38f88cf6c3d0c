// attention() without a cache, and its gradients, against the definition in double.
#include "attention/attention.h"
#include "base/threads.h"
#include "gradients.h"
#include "ops/dense.h"
#include "ops/heads.h"
#include "plain_attention.h"

namespace hone {
namespace {

using namespace testing;

AttentionSpec backward_spec(int64_t heads, int64_t kv_heads, int64_t k_dim, int64_t v_dim,
                            Pattern pattern = Pattern::causal()) {
  return attention_spec(heads, kv_heads, k_dim, v_dim, pattern);
}

// Inputs q, k, v, then the bias and the sinks where `terms` has them.
void expect_attention(const AttentionSpec& s, const std::vector<AttentionSpan>& spans,
                      const AttentionTerms& terms = {}) {
  const int64_t t = spans.back().q_end, keys = spans.back().k_end;
  const bool bias = !terms.bias.empty_handle(), sinks = !terms.sinks.empty_handle();
  std::vector<Tensor> inputs{random_tensor({t, s.heads * s.k_dim}, 1),
                             random_tensor({keys, s.kv_heads * s.k_dim}, 2),
                             random_tensor({keys, s.kv_heads * s.v_dim}, 3)};
  if (bias) inputs.push_back(terms.bias.clone());
  if (sinks) inputs.push_back(terms.sinks.clone());
  expect_gradients(
      [&](const std::vector<Tensor>& x) {
        AttentionTerms now = terms;
        if (bias) now.bias = x[3];
        if (sinks) now.sinks = x.back();
        return attention(s, x[0], x[1], x[2], spans, now);
      },
      [&](const std::vector<Doubles>& x) {
        return plain_attention(s, spans, x[0], x[1], x[2], terms, bias ? x[3] : Doubles{},
                               sinks ? x.back() : Doubles{})
            .o;
      },
      inputs, 1e-5);
}

TEST(AttentionBackward, HeadRatiosAndSizes) {
  for (auto [heads, kv_heads, k, v] :
       {std::tuple(2, 2, 4, 4), {4, 2, 3, 5}, {3, 1, 8, 2}, {1, 1, 17, 20}})
    expect_attention(backward_spec(heads, kv_heads, k, v), {{0, 9, 0, 9}});
}

TEST(AttentionBackward, LengthsAroundATile) {
  for (int64_t n : {1, 64, 65, 100}) expect_attention(backward_spec(2, 1, 2, 2), {{0, n, 0, n}});
}

TEST(AttentionBackward, Patterns) {
  for (const char* text :
       {"all", "causal & window(5)", "causal & !prefix(2)", "causal & (window(9) | prefix(3))",
        "window(7)", "band(3, 2)", "block(16) | global(3)", "strided(9)", "fixed(16, 2)",
        "causal & documents(5, 31, 66)", "block_list(8, 0:0, 3:1, 8:2, 8:8)",
        "bigbird(8, 1, 9, 4)"})
    expect_attention(backward_spec(1, 1, 1, 1, Pattern::parse(text)), {{0, 70, 0, 70}});
}

TEST(AttentionBackward, Softcap) {
  AttentionSpec s = backward_spec(2, 1, 4, 4);
  s.scale = 1.5f;
  s.softcap = 2;
  expect_attention(s, {{0, 20, 0, 20}});
}

// Alone, and beside those of the result.
TEST(AttentionBackward, LogSumsHaveGradients) {
  AttentionSpec s = backward_spec(2, 1, 3, 2);
  s.softcap = 2;
  const std::vector<AttentionSpan> spans{{0, 5, 0, 5}, {5, 12, 5, 75}};
  for (bool both : {false, true})
    expect_gradients(
        [&](const std::vector<Tensor>& x) {
          AttentionTerms terms;
          terms.sinks = x[3];
          Tensor sums;
          const Tensor o = attention(s, x[0], x[1], x[2], spans, terms, &sums);
          return both ? ops::add(ops::head_sums(o, 2), sums) : sums;
        },
        [&](const std::vector<Doubles>& x) {
          PlainAttention y = plain_attention(s, spans, x[0], x[1], x[2], {}, {}, x[3]);
          for (size_t i = 0; both && i < y.o.size(); ++i) y.log_sum[i / 2] += y.o[i];
          return y.log_sum;
        },
        {random_tensor({12, 6}, 1), random_tensor({75, 3}, 2), random_tensor({75, 2}, 3),
         random_tensor({2}, 4)},
        1e-5);
}

TEST(AttentionBackward, AlibiInEveryOrderAndSign) {
  for (bool is_signed : {false, true})
    for (bool before_cap : {false, true})
      for (float softcap : {0.0f, 2.0f}) {
        AttentionSpec s = backward_spec(4, 2, 3, 3, Pattern());
        s.scale = 1.2f;
        s.softcap = softcap;
        s.alibi = {alibi_slopes(4), is_signed, before_cap};
        expect_attention(s, {{0, 7, 0, 7}, {7, 20, 7, 25}});
      }
}

TEST(AttentionBackward, BiasOfEachHeadAndShared) {
  for (int64_t heads : {1, 4})
    for (float softcap : {0.0f, 2.0f}) {
      AttentionSpec s = backward_spec(4, 2, 3, 3);
      s.softcap = softcap;
      AttentionTerms terms;
      terms.bias = random_tensor({heads, 12, 66}, 4);
      expect_attention(s, {{0, 5, 0, 5}, {5, 12, 5, 71}}, terms);
    }
}

TEST(AttentionBackward, ABiasOfMinusInfinityHidesKeys) {
  AttentionSpec s = backward_spec(2, 1, 3, 3, Pattern());
  Tensor bias = random_tensor({2, 5, 68}, 4);
  Tensor q = random_tensor({5, 6}, 1), k = random_tensor({68, 3}, 2), v = random_tensor({68, 3}, 3);
  for (int64_t i = 0; i < bias.numel(); ++i)
    // Row 3 of the second head sees nothing; each row misses the key that follows it.
    if (i / 68 == 8 || i % 68 == i / 68 % 5 + 1) bias.mutable_data<float>()[i] = -INFINITY;
  AttentionTerms terms;
  terms.bias = bias;
  for (Tensor* x : {&q, &k, &v, &terms.bias}) x->require_gradient();
  Tape tape;
  Tensor sums, o = attention(s, q, k, v, {{0, 5, 0, 68}}, terms, &sums);
  const PlainAttention expected = plain_attention(s, {{0, 5, 0, 68}}, doubles_of(q), doubles_of(k),
                                                  doubles_of(v), terms, doubles_of(bias));
  for (int64_t i = 0; i < o.numel(); ++i) ASSERT_NEAR(o.data<float>()[i], expected.o[i], 2e-6) << i;
  EXPECT_EQ(sums.data<float>()[3 * 2 + 1], -INFINITY);
  tape.backward(o, random_tensor({5, 6}, 5));
  for (const Tensor* x : {&q, &k, &v, &terms.bias})
    for (int64_t i = 0; i < x->numel(); ++i)
      ASSERT_TRUE(std::isfinite(x->gradient().data<float>()[i]));
  for (int64_t i = 0; i < bias.numel(); ++i)
    if (bias.data<float>()[i] == -INFINITY) {
      ASSERT_EQ(terms.bias.gradient().data<float>()[i], 0.0f);
    }
}

// Rows that see nothing but the sink, too.
TEST(AttentionBackward, Sinks) {
  for (const char* text : {"causal", "causal & !window(3)"}) {
    AttentionTerms terms;
    terms.sinks = Tensor::from(std::vector<float>{0.5f, -2, 3, 0});
    expect_attention(backward_spec(4, 2, 3, 3, Pattern::parse(text)),
                     {{0, 7, 0, 7}, {7, 12, 7, 75}}, terms);
  }
}

TEST(AttentionBackward, Dropout) {
  AttentionTerms terms;
  terms.dropout = 0.3f;
  terms.dropout_seed = 9;
  expect_attention(backward_spec(4, 2, 3, 3), {{0, 7, 0, 7}, {7, 20, 7, 75}}, terms);
}

TEST(AttentionBackward, EverythingTogether) {
  AttentionSpec s = backward_spec(4, 2, 5, 3, Pattern::parse("causal & (window(20) | prefix(2))"));
  s.softcap = 3;
  s.alibi = {alibi_slopes(4), false, false};
  AttentionTerms terms;
  terms.bias = random_tensor({4, 12, 70}, 4);
  terms.sinks = random_tensor({4}, 5);
  terms.dropout = 0.2f;
  expect_attention(s, {{0, 5, 0, 20}, {5, 12, 20, 90}}, terms);
}

// Packed sequences do not see each other; queries behind keys of their own (a prefix).
TEST(AttentionBackward, SeveralSequences) {
  expect_attention(backward_spec(2, 1, 3, 3), {{0, 7, 0, 7}, {7, 20, 7, 20}, {20, 21, 20, 21}});
  expect_attention(backward_spec(2, 1, 3, 3), {{0, 7, 0, 12}, {7, 20, 12, 30}});
}

// More queries than keys: aligned at the end the first see nothing; aligned at the start the last
// see all. Sequences without queries, or without keys.
TEST(AttentionBackward, BothAlignmentsOfUnequalLengths) {
  for (bool top_left : {false, true}) {
    AttentionSpec s = backward_spec(2, 1, 3, 3);
    s.top_left = top_left;
    expect_attention(s, {{0, 12, 0, 5}, {12, 15, 5, 20}, {15, 15, 20, 23}, {15, 17, 23, 23}});
    s.pattern = Pattern::parse("block(4) | stride(3)");
    expect_attention(s, {{0, 12, 0, 5}, {12, 15, 5, 20}});
  }
}

TEST(AttentionBackward, RowsThatSeeNothingAreZero) {
  const AttentionSpec s = backward_spec(2, 1, 3, 3);
  Tensor q = random_tensor({9, 6}, 1), k = random_tensor({4, 3}, 2), v = random_tensor({4, 3}, 3);
  Tensor sums, o = attention(s, q, k, v, {{0, 7, 0, 4}}, {}, &sums);
  for (int64_t row = 0; row < 9; ++row) {
    const bool sees = row >= 3 && row < 7;  // 7 and 8 are in no span
    for (int64_t i = 0; i < 6; ++i) EXPECT_EQ(o.data<float>()[row * 6 + i] != 0, sees) << row;
    for (int64_t h = 0; h < 2; ++h)
      EXPECT_EQ(std::isfinite(sums.data<float>()[row * 2 + h]), sees) << row;
  }
}

TEST(AttentionBackward, WhatDoesNotFitIsRefused) {
  const Tensor q = random_tensor({3, 6}, 1), k = random_tensor({4, 3}, 2);
  auto refuses = [&](const char* part, AttentionSpec s, const std::vector<AttentionSpan>& spans,
                     const AttentionTerms& terms = {}) {
    try {
      attention(s, q, k, k, spans, terms);
      ADD_FAILURE() << part << ": accepted";
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::invalid_argument);
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
    }
  };
  AttentionSpec good = backward_spec(2, 1, 3, 3);
  const std::vector<AttentionSpan> spans{{0, 3, 0, 4}};
  EXPECT_NO_THROW(attention(good, q, k, k, spans));
  refuses("no multiple", backward_spec(3, 2, 2, 3), spans);
  refuses("expected q [T, 8]", backward_spec(2, 1, 4, 4), spans);
  refuses("there are 3 and 4", good, {{0, 3, 0, 5}});
  refuses("there are 3 and 4", good, {{2, 1, 0, 4}});
  AttentionSpec slopes = good;
  slopes.alibi.slopes = {1, 2, 3};
  refuses("3 ALiBi slopes for 2 heads", slopes, spans);
  AttentionTerms terms;
  terms.bias = random_tensor({2, 3, 3}, 1);
  refuses("expected a bias [2 or 1, 3, 4], got [2, 3, 3]", good, spans, terms);
  terms.bias = random_tensor({3, 4}, 1);
  refuses("got rank 2", good, spans, terms);
  terms = {};
  terms.sinks = random_tensor({3}, 1);
  refuses("expected 2 f32 sinks, got 3", good, spans, terms);
  terms = {};
  terms.dropout = 1;
  refuses("dropout", good, spans, terms);
}

TEST(AttentionBackward, ThreadsChangeNoBit) {
  AttentionSpec s = backward_spec(4, 2, 16, 16);
  s.alibi.slopes = alibi_slopes(4);
  const std::vector<AttentionSpan> spans{{0, 90, 0, 90}, {90, 230, 90, 230}};
  for (int64_t bias_heads : {1, 4}) {
    std::vector<std::vector<float>> first;
    for (int threads : {1, 2}) {
      set_threads(threads);
      Tensor q = random_tensor({230, 64}, 1), k = random_tensor({230, 32}, 2),
             v = random_tensor({230, 32}, 3);
      AttentionTerms terms{random_tensor({bias_heads, 230, 140}, 5), random_tensor({4}, 6), 0.1f,
                           3};
      for (Tensor* t : {&q, &k, &v, &terms.bias, &terms.sinks}) t->require_gradient();
      Tape tape;
      Tensor o = attention(s, q, k, v, spans, terms);
      tape.backward(o, random_tensor({230, 64}, 4));
      std::vector<std::vector<float>> now;
      for (const Tensor* t : {&q, &k, &v, &terms.bias, &terms.sinks})
        now.emplace_back(t->gradient().data<float>(), t->gradient().data<float>() + t->numel());
      if (first.empty()) first = now;
      EXPECT_EQ(now, first);
    }
  }
  set_threads(0);
}

// A share of p, alike for near and far keys, and of rows, heads and sequences each their own.
TEST(AttentionBackward, DropoutIsEvenAndIndependent) {
  AttentionTerms terms;
  terms.dropout = 0.25f;
  terms.dropout_seed = 5;
  const AttentionDropout dropout(terms);
  std::vector<int> of_key(64);
  int64_t kept = 0, alike = 0, n = 0;
  for (int64_t sequence : {0, 1})
    for (int64_t head = 0; head < 4; ++head)
      for (int64_t q = -10; q < 90; ++q)
        for (int64_t k0 : {0, 64, 6400}) {
          const uint64_t bits = dropout.keep(sequence, head, q, k0);
          for (int j = 0; j < 64; ++j) of_key[j] += bits >> j & 1;
          kept += __builtin_popcountll(bits);
          // Neighbours in each direction: 5/8 of the bits agree where nothing ties them.
          for (uint64_t other :
               {dropout.keep(sequence + 1, head, q, k0), dropout.keep(sequence, head + 1, q, k0),
                dropout.keep(sequence, head, q + 1, k0), dropout.keep(sequence, head, q, k0 + 64),
                bits >> 1 | bits << 63})
            alike += 64 - __builtin_popcountll(bits ^ other);
          n += 64;
        }
  EXPECT_NEAR(double(kept) / double(n), 0.75, 0.005);
  EXPECT_NEAR(double(alike) / double(5 * n), 0.625, 0.005);
  for (int x : of_key) EXPECT_NEAR(x / 2400.0, 0.75, 0.05);
  EXPECT_FLOAT_EQ(dropout.factor(), 1 / 0.75f);
  terms.dropout_seed = 6;
  EXPECT_NE(AttentionDropout(terms).keep(0, 0, 0, 0), dropout.keep(0, 0, 0, 0));
}

TEST(AttentionBackward, AlibiSlopesAreThePapers) {
  EXPECT_EQ(alibi_slopes(8), (std::vector<float>{0.5f, 0.25f, 0.125f, 0.0625f, 0.03125f, 0.015625f,
                                                 0.0078125f, 0.00390625f}));
  const std::vector<float> twelve = alibi_slopes(12);
  ASSERT_EQ(twelve.size(), 12u);
  EXPECT_FLOAT_EQ(twelve[0], 0.5f);
  EXPECT_FLOAT_EQ(twelve[8], std::exp2(-0.5f));
  EXPECT_FLOAT_EQ(twelve[11], std::exp2(-3.5f));
}

}  // namespace
}  // namespace hone
