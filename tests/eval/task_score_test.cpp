// Scores of many requests at once against each request alone: a Session over all its tokens, and
// plain log-softmax.
#include "eval/task_score.h"

#include <algorithm>

#include "base/error.h"
#include "eval/task_result.h"
#include "models/session.h"
#include "tiny_models.h"

namespace hone {
namespace {

using namespace testing;

TaskScore alone(LoadedModel& m, const TokenRequest& r, const TaskRunOptions& o) {
  Session session(*m.model, o.activations, o.kv);
  const Tensor logits =
      session.logits(session.hidden(std::span(r.tokens).first(r.tokens.size() - 1)));
  const int64_t v = logits.dim(1);
  TaskScore score;
  for (size_t i = static_cast<size_t>(r.scored_from); i < r.tokens.size(); ++i) {
    const float* row = logits.data<float>() + (static_cast<int64_t>(i) - 1) * v;
    const float top = *std::max_element(row, row + v);
    double sum = 0;
    for (int64_t j = 0; j < v; ++j) sum += std::exp(double(row[j]) - top);
    score.log_likelihood += row[r.tokens[i]] - top - std::log(sum);
    score.greedy = score.greedy && std::max_element(row, row + v) - row == r.tokens[i];
    ++score.tokens;
  }
  return score;
}

class TaskScoreTest : public ::testing::Test {
 protected:
  LoadedModel& load(const std::string& fixture) {
    write_tiny(scratch_ / fixture, tiny_fixture(fixture), 1);
    m_ = load_model(scratch_ / fixture);
    return m_;
  }
  // Groups of 1 to 4 requests that begin alike for a while, of up to `most` tokens in all.
  std::vector<std::vector<TokenRequest>> groups(int count, int most, uint32_t seed) {
    std::mt19937 random(seed);
    auto tokens = [&](size_t n) {
      std::vector<int32_t> t(n);
      for (int32_t& x : t) x = static_cast<int32_t>(random() % 250);
      return t;
    };
    std::vector<std::vector<TokenRequest>> all(static_cast<size_t>(count));
    for (auto& group : all) {
      const std::vector<int32_t> common = tokens(random() % static_cast<size_t>(most - 22) + 1);
      const size_t choices = 1 + random() % 4;
      for (size_t c = 0; c < choices; ++c) {
        TokenRequest r{common, 0, false};
        const auto rest = tokens(1 + random() % 20);
        r.tokens.insert(r.tokens.end(), rest.begin(), rest.end());
        // Some are scored within what they share, some behind it.
        r.scored_from =
            std::max<int64_t>(1, std::min<int64_t>(std::ssize(common) + int64_t(random() % 5) - 2,
                                                   std::ssize(r.tokens) - 1));
        group.push_back(r);
      }
      if (choices == 4) group[1] = group[0];  // the same twice
    }
    return all;
  }
  void expect_alone(const std::vector<std::vector<TokenRequest>>& groups,
                    const TaskRunOptions& options) {
    TaskTokens tokens;
    std::vector<size_t> order;
    const auto scores =
        score_groups(m_, groups, options, tokens,
                     [&](size_t i, const std::vector<TaskScore>&) { order.push_back(i); });
    ASSERT_EQ(scores.size(), groups.size());
    int64_t asked = 0;
    for (size_t i = 0; i < groups.size(); ++i)
      for (size_t r = 0; r < groups[i].size(); ++r) {
        const TaskScore want = alone(m_, groups[i][r], options);
        EXPECT_NEAR(scores[i][r].log_likelihood, want.log_likelihood, 2e-5) << i << " " << r;
        EXPECT_EQ(scores[i][r].greedy, want.greedy);
        EXPECT_EQ(scores[i][r].tokens, want.tokens);
        asked += std::ssize(groups[i][r].tokens) - 1;
      }
    EXPECT_EQ(tokens.asked, asked);
    EXPECT_LT(tokens.run, asked) << "nothing was shared";
    std::ranges::sort(order);
    for (size_t i = 0; i < order.size(); ++i) EXPECT_EQ(order[i], i);
  }
  TemporaryDirectory scratch_;
  LoadedModel m_;
};

TEST_F(TaskScoreTest, ManyEqualEachAloneInEveryFamily) {
  for (const TinyFixture& f : tiny_fixtures()) {
    SCOPED_TRACE(f.name);
    load(f.name);
    expect_alone(groups(12, 100, 3), {Activations::f32, KvType::f32});
  }
}

// Several waves, and stretches longer than a forward.
TEST_F(TaskScoreTest, ManyWavesAndLongContexts) {
  load("llama");
  expect_alone(groups(40, 250, 4), {Activations::int8, KvType::f32});
}

TEST_F(TaskScoreTest, CachesOfEveryType) {
  load("llama");
  for (KvType type : kv_types()) {
    SCOPED_TRACE(kv_type_name(type));
    expect_alone(groups(12, 200, 5), {Activations::f32, type});
  }
}

TEST_F(TaskScoreTest, AFigureHasTheSameBitsInAnyCompany) {
  load("llama");
  const auto all = groups(10, 90, 6);
  TaskTokens tokens;
  const auto together = score_groups(m_, all, {}, tokens);
  for (size_t i = 0; i < all.size(); ++i) {
    const auto one = score_groups(m_, std::span(all).subspan(i, 1), {}, tokens);
    for (size_t r = 0; r < all[i].size(); ++r)
      EXPECT_EQ(one[0][r].log_likelihood, together[i][r].log_likelihood);
  }
}

TEST_F(TaskScoreTest, TokensAreSplitAsTheHarnessSplitsThem) {
  load("llama");
  auto ids = [&](const std::string& text, bool special) { return m_.encode(text, special); };
  // bos in front; what both have behind the context's own tokens is scored.
  TokenRequest r = tokenize_request(m_, {"ab", " c"}, 100);
  EXPECT_EQ(r.tokens, ids("ab c", true));
  EXPECT_EQ(r.scored_from, std::ssize(ids("ab", true)));
  // White space at the context's end is the continuation's, a no-break space too.
  EXPECT_EQ(tokenize_request(m_, {"ab \n\xC2\xA0", "c"}, 100).scored_from, r.scored_from);
  EXPECT_EQ(tokenize_request(m_, {"ab ", "c"}, 100).tokens, r.tokens);
  // Nothing in front: bos is the context.
  r = tokenize_request(m_, {"", "abc"}, 100);
  std::vector<int32_t> want = ids("abc", false);
  want.insert(want.begin(), *m_.tokenizer->bos());
  EXPECT_EQ(r.tokens, want);
  EXPECT_EQ(r.scored_from, 1);
  // A text that spells bos has no second one.
  const std::string bos = m_.tokenizer->decode(std::vector<int32_t>{*m_.tokenizer->bos()});
  r = tokenize_request(m_, {bos + "ab", " c"}, 100);
  EXPECT_EQ(std::count(r.tokens.begin(), r.tokens.end(), *m_.tokenizer->bos()), 1);
}

TEST_F(TaskScoreTest, WhatDoesNotFitLosesItsBeginning) {
  load("llama");
  const std::string x(40, 'x');
  const TokenRequest whole = tokenize_request(m_, {x, " yz"}, 1000);
  const int64_t length = std::ssize(whole.tokens), scored = length - whole.scored_from;
  // The last token is never run.
  EXPECT_FALSE(tokenize_request(m_, {x, " yz"}, length - 1).cut);
  const TokenRequest cut = tokenize_request(m_, {x, " yz"}, length - 4);
  EXPECT_TRUE(cut.cut);
  EXPECT_EQ(cut.tokens, std::vector<int32_t>(whole.tokens.begin() + 3, whole.tokens.end()));
  EXPECT_EQ(std::ssize(cut.tokens) - cut.scored_from, scored);
  EXPECT_NO_THROW(tokenize_request(m_, {x, " yz"}, scored));
  EXPECT_THROW(tokenize_request(m_, {x, " yz"}, scored - 1), Error);
  EXPECT_THROW(tokenize_request(m_, {"ab", ""}, 100), Error);
}

TEST_F(TaskScoreTest, AnItemThatCannotBeAskedIsNamed) {
  load("llama");
  put_file(scratch_ / "t.jsonl",
           "{\"query\": \"a\", \"choices\": [\"b\"], \"gold\": 0}\n"
           "{\"query\": \"a\", \"choices\": [\"" +
               std::string(400, 'b') + "\"], \"gold\": 0}\n");
  try {
    measure_task(m_, read_task(scratch_ / "t.jsonl"), {});
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("t.jsonl:2: "), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace hone
