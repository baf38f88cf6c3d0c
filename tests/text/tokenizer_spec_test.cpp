#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <sstream>

#include "base/error.h"
#include "formats/gguf.h"
#include "golden.h"

namespace hone {
namespace {

using Ids = std::vector<int32_t>;
using nlohmann::json;

const fs::path kVocabularies = fs::path(HONE_SHARED_DIR) / "tokenizers/gguf-vocab";

TokenizerSpec spec_of(const fs::path& path) {
  const GgufFile file = GgufFile::open(path);
  const std::string p = "tokenizer.ggml.";
  const auto id = [&](const char* key) -> std::optional<int32_t> {
    const auto value = file.find_u64(p + key);
    return value ? std::optional(static_cast<int32_t>(*value)) : std::nullopt;
  };
  TokenizerSpec s;
  s.source = path.string();
  s.model = file.get_string(p + "model");
  s.pre = file.find_string(p + "pre").value_or("");
  s.tokens = file.get_strings(p + "tokens");
  if (const auto* scores = file.find_floats(p + "scores")) s.scores = *scores;
  if (const auto types = file.find_ints(p + "token_type")) {
    s.token_types.assign(types->begin(), types->end());
  }
  if (const auto* merges = file.find_strings(p + "merges")) s.merges = *merges;
  s.bos = id("bos_token_id");
  s.eos = id("eos_token_id");
  s.unk = id("unknown_token_id");
  s.sep = id("seperator_token_id");
  s.add_bos = file.find_bool(p + "add_bos_token");
  s.add_space_prefix = file.find_bool(p + "add_space_prefix");
  return s;
}

// llama.cpp's own vectors: texts, and the ids that the models' first tokenizers gave.
void check_vectors(const std::string& name) {
  const fs::path path = kVocabularies / ("ggml-vocab-" + name + ".gguf");
  if (!fs::exists(path)) GTEST_SKIP() << "no shared data: " << path;
  const auto tokenizer = tokenizer_from_spec(spec_of(path));
  const std::string texts = read_text_file(path.string() + ".inp");
  std::istringstream expected(read_text_file(path.string() + ".out"));
  const std::string separator = "\n__ggml_vocab_test__\n";
  int checked = 0;
  for (size_t begin = 0; begin != texts.npos; ++checked) {
    const size_t end = texts.find(separator, begin);
    const std::string text = texts.substr(begin, end - begin);
    begin = end == texts.npos ? end : end + separator.size();
    std::string line;
    ASSERT_TRUE(std::getline(expected, line) || text.empty());
    std::istringstream numbers(line);
    Ids ids;
    for (int32_t id; numbers >> id;) ids.push_back(id);
    EXPECT_EQ(tokenizer->encode(text, false), ids) << json(text).dump();
  }
  EXPECT_GT(checked, 40);
}
TEST(TokenizerSpec, VectorsOfGpt2) { check_vectors("gpt-2"); }
TEST(TokenizerSpec, VectorsOfLlama) { check_vectors("llama-spm"); }
// More of llama.cpp's vocabularies, where they lie beside the others.
TEST(TokenizerSpec, VectorsOfBert) { check_vectors("bert-bge"); }
TEST(TokenizerSpec, VectorsOfDeepSeekCoder) { check_vectors("deepseek-coder"); }
TEST(TokenizerSpec, VectorsOfDeepSeekLlm) { check_vectors("deepseek-llm"); }
TEST(TokenizerSpec, VectorsOfFalcon) { check_vectors("falcon"); }
TEST(TokenizerSpec, VectorsOfMpt) { check_vectors("mpt"); }
TEST(TokenizerSpec, VectorsOfPhi3) { check_vectors("phi-3"); }
TEST(TokenizerSpec, VectorsOfRefact) { check_vectors("refact"); }
TEST(TokenizerSpec, VectorsOfStarCoder) { check_vectors("starcoder"); }

TEST(TokenizerSpec, Stories260K) {
  const fs::path path = fs::path(HONE_SHARED_DIR) / "models/stories260K/stories260K-F32.gguf";
  if (!fs::exists(path)) GTEST_SKIP() << "no shared data: " << path;
  const auto t = tokenizer_from_spec(spec_of(path));
  const Ids ids = {1, 403, 407, 261, 378, 410, 485};  // as llama.cpp has them
  EXPECT_EQ(t->encode("Once upon a time é"), ids);
  EXPECT_EQ(t->decode(ids, true), "Once upon a time é");
  EXPECT_EQ(t->end_of_generation(), (Ids{2}));
  EXPECT_EQ(t->token_bytes(403), " Once");
  EXPECT_EQ(t->token_bytes(403, true), "Once");
}

// tokenizer.json -> GGUF metadata -> tokenizer -> tokenizer.json -> tokenizer: the same ids.
class TokenizerConversion : public ::testing::TestWithParam<std::string> {};
TEST_P(TokenizerConversion, KeepsTheIds) {
  const auto original = golden_tokenizer(GetParam());
  TokenizerSpec spec = original->spec();
  ASSERT_EQ(spec.gguf_obstacle, "");
  EXPECT_EQ(tokenizer_json_from_spec(spec), golden_text(GetParam() + ".tokenizer.json"));
  spec.tokenizer_json.clear();
  spec.tokenizer_config_json.clear();
  const auto converted = tokenizer_from_spec(spec);
  const auto back = tokenizer_from_json(tokenizer_json_from_spec(spec),
                                        tokenizer_config_json_from_spec(spec), "back");
  // GGUF knows no prefix for the first piece alone: a piece after a special token gets one too.
  const bool only_first = GetParam() == "llama2_metaspace" || GetParam() == "metaspace_split";
  int compared = 0;
  for (const std::string& text : golden_texts()) {
    const bool special =
        text.find('<') != text.npos || text.starts_with(' ') || text.starts_with("▁");
    if (only_first && special) continue;
    ++compared;
    const Ids ids = original->encode(text);
    ASSERT_EQ(converted->encode(text), ids) << json(text).dump();
    ASSERT_EQ(back->encode(text), ids) << json(text).dump();
    if (GetParam() == "metaspace_split") continue;  // its decoder leaves "<0x00>" as it is
    ASSERT_EQ(converted->decode(ids, true), original->decode(ids, true));
    ASSERT_EQ(back->decode(ids, true), original->decode(ids, true));
  }
  EXPECT_GT(compared, 150);
}
INSTANTIATE_TEST_SUITE_P(All, TokenizerConversion,
                         ::testing::Values("gpt2", "llama3", "qwen2", "smollm", "gpt4o", "llama2",
                                           "llama2_metaspace", "metaspace_split", "gemma", "bloom",
                                           "olmo2"),
                         [](const auto& info) { return info.param; });

TEST(TokenizerSpec, SaysWhatGgufCannotExpress) {
  for (const char* name : {"roberta", "falcon", "mixed", "bert", "t5", "unigram_bytes"}) {
    EXPECT_NE(golden_tokenizer(name)->spec().gguf_obstacle, "") << name;
  }
}

TokenizerSpec small_gpt2() {
  TokenizerSpec s;
  s.model = "gpt2";
  s.pre = "gpt-2";
  s.source = "m.gguf";
  s.tokens = {"a", "b", "ab", "Ġ", "Ġab", "<|eot|>", "two words", "<|im_end|>"};
  s.token_types = {1, 1, 1, 1, 1, 3, 4, 3};
  s.merges = {"a b", "Ġ ab"};
  s.bos = 5;
  s.eos = 5;
  return s;
}
TokenizerSpec small_llama() {
  TokenizerSpec s;
  s.model = "llama";
  s.source = "m.gguf";
  s.tokens = {"<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "▁", "a", "b", "▁a", "ab"};
  s.token_types = {2, 3, 3, 6, 6, 1, 1, 1, 1, 1};
  s.scores = {0, 0, 0, 0, 0, -4, -3, -2, -1, -5};
  return s;
}

TEST(TokenizerSpec, ByteLevel) {
  const auto t = tokenizer_from_spec(small_gpt2());
  EXPECT_EQ(t->encode(" abtwo words<|eot|>a"), (Ids{4, 6, 5, 0}));
  EXPECT_EQ(t->encode("a<|eot|>", true, false), (Ids{0}));  // letters without a token drop
  EXPECT_EQ(t->decode(Ids{4, 6, 5}), " abtwo words<|eot|>");
  EXPECT_EQ(t->end_of_generation(), (Ids{5, 7}));
  TokenizerSpec s = small_gpt2();
  s.add_bos = true;
  s.add_eos = true;
  EXPECT_EQ(tokenizer_from_spec(s)->encode("ab"), (Ids{5, 2, 5}));
  s.add_bos.reset();
  s.pre = "llama-bpe";  // where bos is the default
  EXPECT_EQ(tokenizer_from_spec(s)->encode("ab"), (Ids{5, 2, 5}));
}

TEST(TokenizerSpec, SentencePiece) {
  const auto t = tokenizer_from_spec(small_llama());
  EXPECT_EQ(t->bos(), 1);  // by default, where the types agree
  EXPECT_EQ(t->encode("ab aé"), (Ids{1, 8, 7, 8, 3, 4}));
  EXPECT_EQ(t->encode("aü", false), (Ids{8, 0}));
  EXPECT_EQ(t->decode(Ids{1, 8, 7, 8, 3, 4}, true), "ab aé");
  EXPECT_EQ(t->decode(Ids{8, 3}), "a\uFFFD");
  TokenizerSpec s = small_llama();
  s.add_space_prefix = false;
  s.add_bos = false;
  EXPECT_EQ(tokenizer_from_spec(s)->encode("ab a"), (Ids{9, 8}));
  EXPECT_EQ(tokenizer_from_spec(s)->decode(Ids{8}), " a");
}

TEST(TokenizerSpec, BrokenMetadataIsRefused) {
  const auto refused = [](TokenizerSpec s, const std::string& expected) {
    const std::string error = error_of([&] { tokenizer_from_spec(std::move(s)); });
    EXPECT_EQ(error.substr(0, expected.size()), expected);
    EXPECT_EQ(error.find('\n'), error.npos);
  };
  TokenizerSpec s = small_gpt2();
  s.model = "t6";
  refused(s, "unsupported: m.gguf: tokenizer.ggml.model 't6'");
  s = small_gpt2();
  s.pre = "no-such\n";
  refused(s, "unsupported: m.gguf: tokenizer.ggml.pre 'no-such\\x0a'");
  s = small_gpt2();
  s.tokens.clear();
  refused(s, "corrupt: m.gguf: tokenizer.ggml.tokens has 0");
  s = small_gpt2();
  s.token_types.pop_back();
  refused(s, "corrupt: m.gguf: tokenizer.ggml.token_type has 7");
  s = small_gpt2();
  s.eos = 8;
  refused(s, "corrupt: m.gguf: tokenizer.ggml.eos_token_id is 8");
  s = small_gpt2();
  s.bos = -1;
  refused(s, "corrupt: m.gguf: tokenizer.ggml.bos_token_id is -1");
  for (const char* merge : {"ab", "", " ", "a ", " b", "a x", "b a", "two words"}) {
    s = small_gpt2();
    s.merges.push_back(merge);
    refused(s, "corrupt: m.gguf: merge 2");
  }
  s = small_gpt2();
  s.add_bos = true;
  s.bos.reset();
  refused(s, "corrupt: m.gguf: add_bos_token without");
  s = small_gpt2();
  s.tokens.set(5, std::string(10'000, 'x'));
  refused(s, "corrupt: m.gguf: the added token 5");
  s = small_llama();
  s.scores.clear();
  refused(s, "corrupt: m.gguf: tokenizer.ggml.scores is missing");
  s = small_llama();
  s.scores.pop_back();
  refused(s, "corrupt: m.gguf: tokenizer.ggml.scores has 9");
  s = small_llama();
  s.scores[3] = std::nanf("");
  refused(s, "corrupt: m.gguf: the score of token 3");
}

TEST(TokenizerSpec, OddVocabulariesAreRead) {
  TokenizerSpec s = small_llama();
  s.tokens.set(9, "\xFF\xFE");  // not UTF-8
  s.tokens.set(8, "");
  s.tokens.set(7, "a");  // twice
  s.token_types[6] = 99;
  const auto t = tokenizer_from_spec(s);
  EXPECT_EQ(t->encode("a\xFF", false), (Ids{5, 0}));
  EXPECT_EQ(t->decode(Ids{9, 6}), "\uFFFD\uFFFDa");
  EXPECT_EQ(error_of([&] { tokenizer_json_from_spec(s); }).substr(0, 11), "unsupported");
}

}  // namespace
}  // namespace hone
