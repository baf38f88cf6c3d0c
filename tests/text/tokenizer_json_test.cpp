#include <gtest/gtest.h>

#include <map>
#include <thread>

#include "base/error.h"
#include "golden.h"

namespace hone {
namespace {

using Ids = std::vector<int32_t>;
using nlohmann::json;

class TokenizerGolden : public ::testing::TestWithParam<std::string> {};

TEST_P(TokenizerGolden, GivesTheIdsOfHuggingFace) {
  const auto tokenizer = golden_tokenizer(GetParam());
  const auto texts = golden_texts();
  const json expected = golden_json(GetParam() + ".expected.json");
  for (size_t i = 0; i < texts.size(); ++i) {
    ASSERT_EQ(tokenizer->encode(texts[i]), expected["ids"][i].get<Ids>()) << json(texts[i]).dump();
  }
  for (size_t i = 0; i < expected["plain"].size(); ++i) {
    ASSERT_EQ(tokenizer->encode(texts[i], false, false), expected["plain"][i].get<Ids>())
        << json(texts[i]).dump();
    ASSERT_EQ(tokenizer->decode(expected["ids"][i].get<Ids>(), true),
              expected["decoded"][i].get<std::string>());
  }
}

TEST_P(TokenizerGolden, NamesItsTokens) {
  const auto tokenizer = golden_tokenizer(GetParam());
  const json document = json::parse(golden_text(GetParam() + ".tokenizer.json"));
  std::map<std::string, int32_t> tokens;
  const json& vocabulary = document["model"]["vocab"];
  for (size_t i = 0; vocabulary.is_array() && i < vocabulary.size(); ++i)
    tokens[vocabulary[i][0].get<std::string>()] = static_cast<int32_t>(i);
  if (vocabulary.is_object()) tokens = vocabulary.get<std::map<std::string, int32_t>>();
  ASSERT_GT(tokens.size(), 500u);
  for (const auto& [text, id] : tokens) {
    ASSERT_EQ(tokenizer->token_text(id), text);
    ASSERT_EQ(tokenizer->token_id(text), id);
  }
  for (const auto& token : document["added_tokens"]) {
    ASSERT_EQ(tokenizer->token_id(token["content"].get<std::string>()), token["id"].get<int32_t>());
    ASSERT_EQ(tokenizer->is_special(token["id"]), token["special"].get<bool>());
  }
  EXPECT_EQ(tokenizer->token_id("no such token"), std::nullopt);
  EXPECT_THROW(tokenizer->token_text(tokenizer->vocab_size()), Error);
  EXPECT_THROW(tokenizer->token_bytes(-1), Error);
  EXPECT_THROW(tokenizer->decode(Ids{1 << 30}), Error);
}

INSTANTIATE_TEST_SUITE_P(All, TokenizerGolden, ::testing::ValuesIn(golden_names()),
                         [](const auto& info) { return info.param; });

TEST(TokenizerJson, ThreadsAgree) {
  const auto tokenizer = golden_tokenizer("llama3");
  const auto other = golden_tokenizer("gemma");
  const auto texts = golden_texts();
  const json expected = golden_json("llama3.expected.json");
  const json expected_other = golden_json("gemma.expected.json");
  std::vector<int> wrong(3);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      for (size_t i = 0; i < texts.size(); ++i) {
        wrong[t] += tokenizer->encode(texts[i]) != expected["ids"][i].get<Ids>();
        wrong[t] += other->encode(texts[i]) != expected_other["ids"][i].get<Ids>();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(3));
}

TEST(TokenizerJson, IllFormedTextIsReadAsReplacementCharacters) {
  for (const std::string& name : golden_names()) {
    const auto tokenizer = golden_tokenizer(name);
    EXPECT_EQ(tokenizer->encode("a\xFF\xE4\xBD b\xF0\x9F"),
              tokenizer->encode("a\uFFFD\uFFFD b\uFFFD"))
        << name;
  }
}

// A tokenizer of a few tokens, to change and break.
json small() {
  return json::parse(R"({
    "added_tokens": [
      {"id": 0, "content": "<s>", "special": true},
      {"id": 1, "content": "</s>", "special": true},
      {"id": 7, "content": "<|im_end|>", "special": true},
      {"id": 9, "content": "<tool>", "special": false, "normalized": false}],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
    "post_processor": null,
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "unk_token": null,
      "vocab": {"<s>": 0, "</s>": 1, "a": 2, "b": 3, "Ġ": 4, "ab": 5, "Ġab": 6},
      "merges": ["a b", ["Ġ", "ab"]]}})");
}
std::unique_ptr<Tokenizer> load(const json& document, const json& config = nullptr) {
  return tokenizer_from_json(document.dump(), config.is_null() ? "" : config.dump(), "t.json");
}

TEST(TokenizerJson, ReadsTheConfiguration) {
  const json config = json::parse(R"({
    "bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": "<|no such|>",
    "add_bos_token": true, "chat_template": [{"name": "tool_use", "template": "T"},
                                             {"name": "default", "template": "D"}],
    "added_tokens_decoder": {"8": {"content": "<late>", "special": true},
                             "9": {"content": "<tool>", "special": false}}})");
  const auto t = load(small(), config);
  EXPECT_EQ(t->bos(), 0);
  EXPECT_EQ(t->eos(), 1);
  EXPECT_EQ(t->pad(), std::nullopt);
  EXPECT_EQ(t->chat_template(), "D");
  EXPECT_EQ(t->vocab_size(), 10);
  EXPECT_EQ(t->encode(" ab<late><tool>b"), (Ids{0, 6, 8, 9, 3}));
  EXPECT_EQ(t->encode(" ab<late><tool>b", false, false), (Ids{6, 2, 9, 3}));  // "<", "l" … drop
  EXPECT_EQ(t->end_of_generation(), (Ids{1, 7}));
  EXPECT_EQ(t->decode(Ids{0, 6, 9, 3, 1}), "<s> ab<tool>b</s>");
  EXPECT_EQ(t->decode(Ids{0, 6, 9, 3, 1}, true), " ab<tool>b");
}

TEST(TokenizerJson, TheConfigurationOverrulesTheTemplate) {
  json document = small();
  document["post_processor"] = json::parse(R"({"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "S", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
               {"SpecialToken": {"id": "E", "type_id": 0}}],
    "special_tokens": {"S": {"id": "S", "ids": [0]}, "E": {"id": "E", "ids": [1]}}})");
  const json names = {{"bos_token", "<s>"}, {"eos_token", "</s>"}};
  EXPECT_EQ(load(document)->encode("ab"), (Ids{0, 5, 1}));
  EXPECT_EQ(load(document)->bos(), 0);  // what the template begins with
  json config = names;
  config["add_bos_token"] = false;
  EXPECT_EQ(load(document, config)->encode("ab"), (Ids{5, 1}));
  config["add_eos_token"] = false;
  EXPECT_EQ(load(document, config)->encode("ab"), (Ids{5}));
  EXPECT_EQ(load(document, config)->encode("ab", false), (Ids{5}));
}

TEST(TokenizerJson, HolesAreTokensWithoutText) {
  const auto t = load(small());
  EXPECT_EQ(t->token_text(8), "");
  EXPECT_EQ(t->token_bytes(8), "");
  EXPECT_EQ(t->decode(Ids{5, 8, 5}), "abab");
}

// A file that is broken in one place: the kind of error and a part of its message.
struct Broken {
  const char* name;
  void (*damage)(json&);
  const char* error;
};
const Broken kBroken[] = {
    {"no_model", [](json& j) { j.erase("model"); }, "corrupt: t.json: not a tokenizer"},
    {"model_is_text", [](json& j) { j["model"] = "BPE"; }, "corrupt: t.json: not a tokenizer"},
    {"other_model", [](json& j) { j["model"]["type"] = "WordLevel"; },
     "unsupported: t.json: the tokenizer model 'WordLevel'"},
    {"unigram_without_scores", [](json& j) { j["model"]["type"] = "Unigram"; },
     "corrupt: t.json: the vocabulary of a Unigram model has no scores"},
    {"word_pieces_with_scores",
     [](json& j) {
       j["model"] = {{"type", "WordPiece"}, {"vocab", json::array({{"a", 0.5}})}};
     },
     "corrupt: t.json: the vocabulary of a WordPiece model has scores"},
    {"score_is_text",
     [](json& j) {
       j["model"] = {{"type", "Unigram"}, {"vocab", json::array({{"a", "0"}})}};
     },
     "corrupt: t.json: the entry of token 0"},
    {"score_is_missing",
     [](json& j) {
       j["model"] = {{"type", "Unigram"}, {"vocab", json::array({json::array({"a"})})}};
     },
     "corrupt: t.json: the entry of token 0"},
    {"unk_id_outside",
     [](json& j) {
       j["added_tokens"] = json::array();
       j["model"] = {{"type", "Unigram"}, {"unk_id", 1}, {"vocab", json::array({{"a", -1}})}};
     },
     "corrupt: t.json: unk_id is 1; the model has 1"},
    {"no_vocabulary", [](json& j) { j["model"].erase("vocab"); },
     "corrupt: t.json: the model has no vocabulary"},
    {"vocabulary_is_a_list", [](json& j) { j["model"]["vocab"] = json::array({"a"}); }, "corrupt"},
    {"id_is_text", [](json& j) { j["model"]["vocab"]["a"] = "2"; },
     "corrupt: t.json: the vocabulary"},
    {"id_is_negative", [](json& j) { j["model"]["vocab"]["a"] = -1; },
     "corrupt: t.json: token 'a' has id -1"},
    {"id_is_huge", [](json& j) { j["model"]["vocab"]["a"] = 1'000'000'000; },
     "corrupt: t.json: token 'a' has id"},
    {"id_overflows", [](json& j) { j["model"]["vocab"]["a"] = UINT64_MAX; },
     "corrupt: t.json: a token id of"},
    {"two_tokens_with_one_id", [](json& j) { j["model"]["vocab"]["b"] = 2; },
     "corrupt: t.json: the tokens"},
    {"merge_of_no_token", [](json& j) { j["model"]["merges"].push_back("a x"); },
     "corrupt: t.json: merge 2 ('a' and 'x')"},
    {"merge_makes_no_token", [](json& j) { j["model"]["merges"].push_back("b a"); },
     "corrupt: t.json: merge 2"},
    {"merge_of_one", [](json& j) { j["model"]["merges"].push_back("ab"); },
     "corrupt: t.json: merge 2 is 'ab'"},
    {"merge_of_three",
     [](json& j) {
       j["model"]["merges"].push_back({"a", "b", "a"});
     },
     "corrupt: t.json: merge 3 has more"},
    {"merge_of_numbers",
     [](json& j) {
       j["model"]["merges"].push_back({1, 2});
     },
     "corrupt: t.json: the vocabulary or the merges"},
    {"merge_in_merge",
     [](json& j) {
       j["model"]["merges"].push_back({{"a", "b"}, "b"});
     },
     "corrupt"},
    {"unknown_unk", [](json& j) { j["model"]["unk_token"] = "<none>"; },
     "corrupt: t.json: unk_token '<none>'"},
    {"dropout", [](json& j) { j["model"]["dropout"] = 0.1; }, "unsupported"},
    {"prefix", [](json& j) { j["model"]["end_of_word_suffix"] = "</w>"; }, "unsupported"},
    {"added_id_taken", [](json& j) { j["added_tokens"][0]["id"] = 3; },
     "corrupt: t.json: the added token '<s>' has id 3"},
    {"added_id_huge", [](json& j) { j["added_tokens"][3]["id"] = 1LL << 40; },
     "corrupt: t.json: token '<tool>'"},
    {"added_id_missing", [](json& j) { j["added_tokens"][3].erase("id"); },
     "corrupt: t.json: not a tokenizer"},
    {"added_is_a_number", [](json& j) { j["added_tokens"][3] = 5; },
     "corrupt: t.json: not a tokenizer"},
    {"added_too_long", [](json& j) { j["added_tokens"][3]["content"] = std::string(5000, 'x'); },
     "corrupt: t.json: the added token"},
    {"unknown_normalizer",
     [](json& j) {
       j["normalizer"] = {{"type", "Odd\x1b[2J"}};
     },
     "unsupported: t.json: the normalizer 'Odd\\x1b[2J'"},
    {"unknown_pre_tokenizer", [](json& j) { j["pre_tokenizer"]["type"] = "UnicodeScripts"; },
     "unsupported: t.json: the pre_tokenizer"},
    {"unknown_decoder", [](json& j) { j["decoder"]["type"] = "CTC"; },
     "unsupported: t.json: the decoder"},
    {"component_without_type", [](json& j) { j["decoder"].erase("type"); },
     "corrupt: t.json: not a tokenizer"},
    {"charsmap_is_no_base64",
     [](json& j) {
       j["normalizer"] = {{"type", "Precompiled"}, {"precompiled_charsmap", "A"}};
     },
     "corrupt: t.json: the precompiled_charsmap is not base64"},
    {"charsmap_is_cut",
     [](json& j) {
       j["normalizer"] = {{"type", "Precompiled"}, {"precompiled_charsmap", "////fwAA"}};
     },
     "corrupt: t.json: a precompiled_charsmap of 6 bytes"},
    {"bad_expression",
     [](json& j) {
       j["pre_tokenizer"] = {
           {"type", "Split"}, {"pattern", {{"Regex", "(a"}}}, {"behavior", "Isolated"}};
     },
     "unsupported: t.json: the regular expression '(a'"},
    {"bad_behavior",
     [](json& j) {
       j["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"String", "a"}}}, {"behavior", "X"}};
     },
     "unsupported: t.json: split behavior 'X'"},
    {"many_components",
     [](json& j) {
       j["normalizer"] = {{"type", "Sequence"},
                          {"normalizers", std::vector<json>(5000, {{"type", "NFC"}})}};
     },
     "unsupported: t.json: more than"},
    {"template_id",
     [](json& j) {
       j["post_processor"] = {{"type", "BertProcessing"}, {"cls", {"x", 99}}, {"sep", {"x", 1}}};
     },
     "corrupt: t.json: the post_processor has token id 99"},
    {"empty_template",
     [](json& j) {
       j["post_processor"] = {{"type", "TemplateProcessing"}, {"single", json::array()}};
     },
     "unsupported"},
};

class TokenizerBroken : public ::testing::TestWithParam<Broken> {};
TEST_P(TokenizerBroken, IsRefused) {
  json document = small();
  GetParam().damage(document);
  const std::string error = error_of([&] { load(document); });
  EXPECT_EQ(error.substr(0, std::string(GetParam().error).size()), GetParam().error) << error;
  EXPECT_EQ(error.find('\n'), error.npos);
  EXPECT_LT(error.size(), 500u);
}
INSTANTIATE_TEST_SUITE_P(All, TokenizerBroken, ::testing::ValuesIn(kBroken),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(TokenizerJson, BrokenTextIsRefused) {
  const std::string good = small().dump();
  for (size_t n = 0; n < good.size(); n += 7) {
    EXPECT_THROW(tokenizer_from_json(good.substr(0, n), "", "t.json"), Error) << n;
  }
  const std::string twice = R"({"model": {"vocab": {"a": 0, "a": 1}, "merges": []}})";
  EXPECT_EQ(error_of([&] { tokenizer_from_json(twice, "", "t.json"); }),
            "corrupt: t.json: the token 'a' appears twice");
  EXPECT_THROW(tokenizer_from_json(R"({"model": 1, "model": 2})", "", "t"), Error);
  EXPECT_THROW(tokenizer_from_json(std::string(1'000'000, '['), "", "t"), Error);
  EXPECT_THROW(tokenizer_from_json("{\"a\": \"\xFF\"}", "", "t"), Error);
  EXPECT_THROW(tokenizer_from_json(good, "[1", "t"), Error);
  EXPECT_THROW(tokenizer_from_json("[]", "", "t"), Error);
  EXPECT_NO_THROW(tokenizer_from_json(good, "", "t"));
}

// Rewrites that multiply: memory stays bounded, the error is clear.
TEST(TokenizerJson, ExplodingRewritesAreRefused) {
  json document = small();
  json step = {
      {"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", std::string(60, 'a')}};
  document["normalizer"] = {{"type", "Sequence"}, {"normalizers", std::vector<json>(50, step)}};
  const auto encoder = load(document);
  EXPECT_EQ(encoder->encode("b"), (Ids{3}));
  EXPECT_EQ(error_of([&] { encoder->encode(std::string(2000, 'a')); }).substr(0, 7), "corrupt");

  document = small();
  document["decoder"] = {{"type", "Sequence"}, {"decoders", std::vector<json>(50, step)}};
  const auto decoder = load(document);
  EXPECT_EQ(error_of([&] { decoder->decode(Ids{5}); }).substr(0, 7), "corrupt");
}

TEST(TokenizerJson, CatastrophicExpressionsEndInAnError) {
  json document = small();
  document["pre_tokenizer"] = {
      {"type", "Split"}, {"pattern", {{"Regex", "(a+)+c|(a|aa)+$"}}}, {"behavior", "Isolated"}};
  const auto t = load(document);
  EXPECT_EQ(error_of([&] { t->encode(std::string(3000, 'a') + "b"); }).substr(0, 24),
            "invalid_argument: t.json");
}

}  // namespace
}  // namespace hone
