// Generation with a scripted model, whose greedy continuation is known token by token: stops, ends,
// limits, and the text that is streamed. And chat templates from a model's files to its prompt.
#include "models/generate.h"

#include <nlohmann/json.hpp>

#include "text/chat_template.h"
#include "tiny_models.h"

namespace hone {
namespace {

using namespace testing;

// After script[i] comes script[i+1], and after the last the first; no other token matters. A model
// without blocks: the embedding is the identity, the head a table of successors.
class GenerateTest : public ::testing::Test {
 protected:
  void script(const std::vector<std::string>& tokens, int64_t context = 100,
              const TokenizerSpec& spec = tiny_tokens()) {
    m_.tokenizer = tokenizer_from_spec(spec);
    m_.end_ids = m_.tokenizer->end_of_generation();
    ids_.clear();
    for (const std::string& text : tokens) ids_.push_back(m_.tokenizer->token_id(text).value());
    int64_t v = m_.tokenizer->vocab_size();
    Tensor identity = Tensor::zeros({v, v}, DType::f32), head = identity.clone();
    for (int64_t i = 0; i < v; ++i) identity.mutable_data<float>()[i * v + i] = 1;
    for (size_t i = 0; i < ids_.size(); ++i)
      head.mutable_data<float>()[ids_[(i + 1) % ids_.size()] * v + ids_[i]] = 10;
    m_.model = std::make_unique<Model>();
    m_.model->context = context;
    m_.model->embedding = Embedding("embed", float_weight(identity));
    m_.model->head = Linear("head", float_weight(head), {});
    m_.model->final_norm.weight = Tensor::from(std::vector<float>(static_cast<size_t>(v), 1));
  }

  // The first token of the script is the prompt.
  Generation run(const GenerateOptions& o, size_t prompt = 1) {
    Session session(*m_.model, Activations::f32);
    pieces_.clear();
    Generation g = generate(m_, session, std::span(ids_).first(prompt), o,
                            [&](std::string_view piece) { pieces_.emplace_back(piece); });
    length_ = session.length();
    std::string streamed;
    for (const std::string& piece : pieces_) {
      EXPECT_FALSE(piece.empty());
      streamed += piece;
    }
    EXPECT_EQ(streamed, g.text);
    return g;
  }

  static GenerateOptions greedy(int64_t max_tokens, std::vector<std::string> stop = {}) {
    GenerateOptions o;
    o.max_tokens = max_tokens;
    o.sampler.temperature = 0;
    o.stop = std::move(stop);
    return o;
  }

  LoadedModel m_;
  std::vector<int32_t> ids_;
  std::vector<std::string> pieces_;
  int64_t length_ = 0;
};

TEST_F(GenerateTest, FollowsTheModelToMaxTokens) {
  script({"a", "b", "cd", "▁ab", "e"});
  for (int64_t n : {0, 1, 2, 4}) {
    Generation g = run(greedy(n));
    EXPECT_EQ(g.tokens, std::vector<int32_t>(ids_.begin() + 1, ids_.begin() + 1 + n));
    EXPECT_EQ(g.text, std::string("bcd abe").substr(0, n == 0 ? 0 : n == 1 ? 1 : n == 2 ? 3 : 7));
    EXPECT_EQ(g.finish_reason, "length");
    EXPECT_EQ(g.prompt_tokens, 1);
    EXPECT_EQ(g.decode_steps, std::max<int64_t>(0, n - 1)) << "the prompt gives the first";
    // Prompt and output, but for the last token sampled.
    EXPECT_EQ(length_, 1 + std::max<int64_t>(0, n - 1));
  }
  EXPECT_THROW(run(greedy(-1)), Error);
}

TEST_F(GenerateTest, AStopTextMaySpanTokens) {
  script({"e", "ab", "cd", "é", "a"});
  Generation g = run(greedy(50, {"bc"}));
  EXPECT_EQ(g.text, "a");
  EXPECT_EQ(g.finish_reason, "stop");
  EXPECT_EQ(g.tokens, std::vector<int32_t>(ids_.begin() + 1, ids_.begin() + 3));
  g = run(greedy(50, {"dé"}));
  EXPECT_EQ(g.text, "abc");
  g = run(greedy(50, {"aeabcdéae"}));
  EXPECT_EQ(g.text, "abcdé");
}

TEST_F(GenerateTest, TheBeginningOfAStopTextIsHeldBackAndReleased) {
  script({"e", "ab", "cd", "é", "a"});
  Generation g = run(greedy(4, {"abX", "dX"}));
  EXPECT_EQ(g.text, "abcdéa");
  EXPECT_EQ(g.finish_reason, "length");
  // "ab" may begin "abX", so it came with "c", and "d" not before "é".
  EXPECT_EQ(pieces_, (std::vector<std::string>{"abc", "dé", "a"}));
}

TEST_F(GenerateTest, TheEarliestOfSeveralStopTextsCounts) {
  script({"e", "abc", "de"});
  EXPECT_EQ(run(greedy(9, {"c", "ab"})).text, "");
  EXPECT_EQ(run(greedy(9, {"ab", "c"})).text, "");
  EXPECT_EQ(run(greedy(9, {"cd", "b"})).text, "a");
  EXPECT_EQ(run(greedy(9, {"de", "cde"})).text, "ab");
  EXPECT_EQ(run(greedy(9, {"cde", "de"})).text, "ab");
  EXPECT_EQ(run(greedy(9, {"", "d"})).text, "abc");
  Generation g = run(greedy(1, {"abc"}));
  EXPECT_EQ(g.finish_reason, "stop") << "complete with the last token allowed";
  EXPECT_EQ(g.text, "");
}

// A byte-level token may hold a stop text and the first byte of a character.
TEST_F(GenerateTest, NothingComesBehindAStopText) {
  TokenizerSpec s;
  s.model = "gpt2";
  s.pre = "gpt-2";
  s.source = "bytes";
  for (char c = 'a'; c <= 'e'; ++c) s.tokens.push_back(std::string(1, c));
  s.tokens.push_back("bÃ");  // the bytes 62 C3
  s.token_types.assign(s.tokens.size(), static_cast<int32_t>(TokenType::normal));
  script({"a", "c", "bÃ", "d"}, 100, s);
  Generation g = run(greedy(9, {"b"}));
  EXPECT_EQ(g.text, "c");
  EXPECT_EQ(g.finish_reason, "stop");
  EXPECT_EQ(run(greedy(2)).text, "cb\uFFFD") << "without a stop text it is shown";
}

TEST_F(GenerateTest, AnEndTokenEndsUnlessIgnored) {
  script({"a", "b", "</s>", "c"});
  Generation g = run(greedy(50));
  EXPECT_EQ(g.text, "b");
  EXPECT_EQ(g.tokens.size(), 1u);
  EXPECT_EQ(g.finish_reason, "stop");
  GenerateOptions o = greedy(5);
  o.ignore_end = true;
  g = run(o);
  EXPECT_EQ(g.text, "bcab") << "special tokens are never printed";
  EXPECT_EQ(g.tokens.size(), 5u);
  EXPECT_EQ(g.finish_reason, "length");
}

TEST_F(GenerateTest, StopsAtTheContextsEnd) {
  script({"a", "b", "c", "d", "e"}, 4);
  for (size_t prompt : {1, 3, 4}) {
    Generation g = run(greedy(50), prompt);
    // The token behind the last position is predicted, though it finds no room.
    EXPECT_EQ(g.tokens.size(), 4 - prompt + 1);
    EXPECT_EQ(g.finish_reason, "length");
    EXPECT_EQ(length_, 4);
  }
  EXPECT_THROW(run(greedy(1), 5), Error);
  EXPECT_THROW(run(greedy(1), 0), Error);
}

TEST_F(GenerateTest, PiecesAreWholeCharacters) {
  script({"a", "<0xC3>", "<0xA9>", "b", "<0xE2>", "<0x82>"});
  EXPECT_EQ(run(greedy(3)).text, "éb");
  EXPECT_EQ(pieces_, (std::vector<std::string>{"é", "b"}));
  Generation g = run(greedy(5));
  EXPECT_EQ(g.text, "éb\uFFFD") << "a character that was never finished";
}

TEST_F(GenerateTest, ThePenaltySeesThePrompt) {
  script({"a", "b", "c", "d"});
  // "d" is nearly as likely as "b" behind "a".
  int64_t v = m_.tokenizer->vocab_size();
  Tensor head = decode_weight(m_.model->head.weight()).clone();
  head.mutable_data<float>()[ids_[3] * v + ids_[0]] = 9;
  m_.model->head.set_weight(float_weight(head));
  GenerateOptions o = greedy(1);
  o.sampler.repetition_penalty = 1.5f;
  EXPECT_EQ(run(o).text, "b");
  std::swap(ids_[0], ids_[1]);  // the prompt is now "b", "a"
  EXPECT_EQ(run(o, 2).text, "d");
}

TEST_F(GenerateTest, SeedsDecideTheSample) {
  script({"a", "b", "c", "d"});
  auto sample = [&](uint64_t seed) {
    GenerateOptions o;
    o.max_tokens = 30;
    o.ignore_end = true;
    o.sampler.temperature = 50;
    o.sampler.seed = seed;
    return run(o).tokens;
  };
  EXPECT_EQ(sample(1), sample(1));
  EXPECT_NE(sample(1), sample(2));
}

TEST_F(GenerateTest, NeedsATokenizer) {
  script({"a", "b"});
  m_.tokenizer = nullptr;
  EXPECT_THROW(run(greedy(1)), Error);
}

// ---- Chat -----------------------------------------------------------------------------------

constexpr const char* kTemplate =
    "{{ bos_token }}{% for m in messages %}{{ m.role[0] }}:{{ m.content }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}a:{% endif %}";

std::vector<int32_t> chat_ids(const LoadedModel& m, const Json& messages) {
  ChatTemplate t(m.chat_template, m.path);
  ChatOptions o;
  o.add_generation_prompt = true;
  o.bos_token = m.tokenizer->token_text(*m.tokenizer->bos());
  o.eos_token = m.tokenizer->token_text(*m.tokenizer->eos());
  return m.tokenizer->encode(t.render(messages, o), false, true);
}

TEST(Chat, TemplatesOfFilesBecomeTokens) {
  TemporaryDirectory scratch;
  write_tiny(scratch / "model", tiny_fixture("llama"));
  EXPECT_TRUE(load_model(scratch / "model").chat_template.empty());
  put_file(scratch / "model/tokenizer_config.json",
           Json{{"bos_token", "<s>"}, {"eos_token", "</s>"}, {"chat_template", kTemplate}}.dump());
  LoadedModel m = load_model(scratch / "model");
  ASSERT_EQ(m.chat_template, kTemplate);
  auto id = [&](const char* text) { return m.tokenizer->token_id(text).value(); };
  std::vector<int32_t> expected = {id("<s>"),  id("<0x75>"), id("<0x3A>"), id("ab"),
                                   id("</s>"), id("a"),      id("<0x3A>"), id("cd"),
                                   id("</s>"), id("a"),      id("<0x3A>")};
  Json messages = {{{"role", "user"}, {"content", "ab"}},
                   {{"role", "assistant"}, {"content", "cd"}}};
  EXPECT_EQ(chat_ids(m, messages), expected);
  // The file of its own wins over the tokenizer's config.
  put_file(scratch / "model/chat_template.jinja", "{{ messages[0].content }}");
  EXPECT_EQ(chat_ids(load_model(scratch / "model"), messages), (std::vector<int32_t>{id("ab")}));
}

}  // namespace
}  // namespace hone
