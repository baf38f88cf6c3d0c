// Directories without a tokenizer.json: each kind of file against its own library, by the goldens
// of tools/golden/make_tokenizer_files.py.
#include "text/tokenizer_directory.h"

#include <algorithm>
#include <map>

#include "golden.h"
#include "text/base64.h"
#include "text/charsmap.h"
#include "text/rwkv_vocabulary.h"

namespace hone {
namespace {

using Ids = std::vector<int32_t>;
using nlohmann::json;
using Files = std::map<std::string, std::string>;

std::unique_ptr<Tokenizer> open(const Files& files) {
  return tokenizer_from_directory(
      [&](const std::string& name) {
        const auto at = files.find(name);
        return at == files.end() ? std::nullopt : std::optional(at->second);
      },
      "dir");
}

std::string file(const std::string& name) { return golden_text("files/" + name); }

void expect_ids(const Tokenizer& t, const std::string& name, bool special = false) {
  const auto texts = golden_texts();
  const json expected = golden_json("files/" + name + ".json")["ids"];
  ASSERT_EQ(expected.size(), texts.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    ASSERT_EQ(t.encode(texts[i], false, special), expected[i].get<Ids>()) << json(texts[i]).dump();
  }
}

TEST(TokenizerDirectory, SentencePiece) {
  for (const char* name : {"spm_bpe", "spm_unigram", "spm_unigram_bytes"}) {
    SCOPED_TRACE(name);
    const auto t = open({{"tokenizer.model", file(std::string(name) + ".model")}});
    ASSERT_NE(t, nullptr);
    expect_ids(*t, name);
    EXPECT_EQ(t->bos(), 1);
    EXPECT_EQ(t->eos(), 2);
    EXPECT_EQ(t->unk(), 0);
    EXPECT_EQ(t->decode(t->encode("The old man", false)), "The old man");
  }
  const std::string config = R"({"tokenizer_class": "LlamaTokenizer", "add_bos_token": true,
    "bos_token": "<s>", "added_tokens_decoder": {"1000": {"content": "<|im_start|>", "special": true}},
    "chat_template": "T"})";
  const auto t =
      open({{"tokenizer.model", file("spm_bpe.model")}, {"tokenizer_config.json", config}});
  EXPECT_EQ(t->vocab_size(), 1001);
  EXPECT_EQ(t->encode("<|im_start|>"), (Ids{1, 1000}));
  EXPECT_EQ(t->chat_template(), "T");
}

TEST(TokenizerDirectory, Ranks) {
  const Files files{{"qwen.tiktoken", file("qwen.tiktoken")},
                    {"tokenizer_config.json", R"({"tokenizer_class": "QWenTokenizer"})"}};
  const auto t = open(files);
  ASSERT_NE(t, nullptr);
  expect_ids(*t, "qwen", true);
  EXPECT_EQ(t->spec().gguf_obstacle, "");
  EXPECT_EQ(t->spec().pre, "qwen2");
  EXPECT_EQ(t->token_text(t->vocab_size() - 1), "<|extra_204|>");
  // A class that is not known says its expression.
  Files other{{"tokenizer.model", files.at("qwen.tiktoken")},
              {"tokenizer_config.json",
               R"({"tokenizer_class": "Other", "pat_str": "\\p{L}+|[^\\p{L}]", "bos_token": "<b>",
                   "added_tokens_decoder": {"5000": {"content": "<b>", "special": true}}})"}};
  const auto o = open(other);
  EXPECT_EQ(o->bos(), 5000);
  EXPECT_EQ(o->decode(o->encode("<b>It's 12")), "<b>It's 12");
  other["tokenizer_config.json"] = R"({"tokenizer_class": "Other"})";
  EXPECT_EQ(error_of([&] { open(other); }).substr(0, 75),
            "unsupported: dir/tokenizer.model: which expression splits a text is not kno");
}

TEST(TokenizerDirectory, MergesAndVocabulary) {
  const json golden = json::parse(golden_text("gpt2.tokenizer.json"));
  std::string merges = "#version: 0.2\n";
  for (const json& m : golden["model"]["merges"])
    merges += m[0].get<std::string>() + " " + m[1].get<std::string>() + "\n";
  const auto t = open({{"vocab.json", golden["model"]["vocab"].dump()}, {"merges.txt", merges}});
  ASSERT_NE(t, nullptr);
  const auto expected = golden_json("gpt2.expected.json")["ids"];
  const auto texts = golden_texts();
  for (size_t i = 0; i < texts.size(); ++i)
    ASSERT_EQ(t->encode(texts[i]), expected[i].get<Ids>()) << json(texts[i]).dump();

  const json roberta = json::parse(golden_text("roberta.tokenizer.json"));
  merges = "#version: 0.2\n";
  for (const json& m : roberta["model"]["merges"])
    merges += m[0].get<std::string>() + " " + m[1].get<std::string>() + "\n";
  const std::string config = R"({"tokenizer_class": "RobertaTokenizer", "add_prefix_space": true,
    "bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "cls_token": "<s>",
    "unk_token": "<unk>", "pad_token": "<pad>"})";
  // The text of a special token inside of another, and an escape in the vocabulary.
  const auto small = open({{"vocab.json", R"({"\u0041": 0, "x\"A": 7})"},
                           {"merges.txt", ""},
                           {"tokenizer_config.json", R"({"bos_token": "A", "eos_token": "A",
                                     "add_prefix_space": null, "tokenizer_class": null})"}});
  EXPECT_EQ(small->bos(), 0);
  EXPECT_EQ(small->encode("A"), (Ids{0}));

  const auto r = open({{"vocab.json", roberta["model"]["vocab"].dump()},
                       {"merges.txt", merges},
                       {"tokenizer_config.json", config}});
  const auto expected_roberta = golden_json("roberta.expected.json")["ids"];
  for (size_t i = 0; i < texts.size(); ++i) {
    if (texts[i].find("<mask>") != texts[i].npos) continue;  // its lstrip is not in these files
    ASSERT_EQ(r->encode(texts[i]), expected_roberta[i].get<Ids>()) << json(texts[i]).dump();
  }
}

TEST(TokenizerDirectory, WordPieces) {
  const json golden = json::parse(golden_text("bert.tokenizer.json"));
  std::map<int32_t, std::string> tokens;
  for (const auto& [text, id] : golden["model"]["vocab"].items()) tokens[id.get<int32_t>()] = text;
  std::string list;
  // A list has a token a line: of white space it has none, which the normalizer takes away as well.
  for (int32_t id = 0; id <= tokens.rbegin()->first; ++id)
    list += (tokens.contains(id) && tokens[id] > " " ? tokens[id]
                                                     : "[unused" + std::to_string(id) + "]") +
            "\n";
  const auto t = open({{"vocab.txt", list}});
  ASSERT_NE(t, nullptr);
  const auto expected = golden_json("bert.expected.json")["ids"];
  const auto texts = golden_texts();
  for (size_t i = 0; i < texts.size(); ++i)
    ASSERT_EQ(t->encode(texts[i]), expected[i].get<Ids>()) << json(texts[i]).dump();
  EXPECT_EQ(open({{"vocab.txt", "a\nb\n"}}), nullptr);
  EXPECT_EQ(open({{"vocab.txt", list}, {"tokenizer_config.json", R"({"tokenizer_class": "X"})"}}),
            nullptr);
  // Names and flags of the configuration; null is as good as absent.
  const auto named =
      open({{"vocab.txt", "[UNK]\n<s>\n</s>\na\n"},
            {"tokenizer_config.json", R"({"tokenizer_class": null, "do_lower_case": null,
         "cls_token": "<s>", "sep_token": {"content": "</s>"}})"}});
  EXPECT_EQ(named->encode("A"), (Ids{1, 3, 2}));
}

TEST(TokenizerDirectory, RwkvWorld) {
  const auto t = open({{kRwkvVocabularyFile, file("rwkv.txt")}});
  ASSERT_NE(t, nullptr);
  expect_ids(*t, "rwkv");
  EXPECT_EQ(t->eos(), 0);
  EXPECT_EQ(t->token_bytes(256), "\xFF");
  // What hone writes gives the same.
  const auto files = tokenizer_files_from_spec(t->spec());
  ASSERT_EQ(files[0].first, kRwkvVocabularyFile);
  const auto again = open({{files[0].first, files[0].second}, {files[1].first, files[1].second}});
  EXPECT_EQ(again->spec().tokens, t->spec().tokens);
  expect_ids(*again, "rwkv");
  for (const std::string& text : golden_texts())
    ASSERT_EQ(t->decode(t->encode(text)), text) << json(text).dump();

  const fs::path world = fs::path(HONE_SHARED_DIR) / "tokenizers/rwkv-world" / kRwkvVocabularyFile;
  if (!fs::exists(world)) GTEST_SKIP() << "no shared data: " << world;
  const auto w = open({{kRwkvVocabularyFile, read_text_file(world)}});
  expect_ids(*w, "world");
  EXPECT_EQ(w->vocab_size(), 65530);
}

TEST(TokenizerDirectory, TokenizerJsonComesFirst) {
  const auto t = open({{"tokenizer.json", golden_text("llama3.tokenizer.json")},
                       {"vocab.txt", "[UNK]\n"},
                       {"tokenizer.model", "x"}});
  EXPECT_EQ(t->encode("", true), (Ids{0}));
  EXPECT_EQ(open({}), nullptr);
  EXPECT_EQ(open({{"tokenizer_config.json", "{}"}}), nullptr);
}

TEST(TokenizerDirectory, BrokenFilesAreRefused) {
  const auto refused = [](const Files& files, const std::string& expected) {
    const std::string error = error_of([&] { open(files); });
    EXPECT_EQ(error.substr(0, expected.size()), expected);
    EXPECT_EQ(error.find('\n'), error.npos);
  };
  const std::string model = file("spm_unigram.model");
  for (size_t n = 1; n < model.size(); n += 61) {
    // Cut anywhere it may still be a list of pieces, but then without the description behind them.
    EXPECT_NE(error_of([&] { open({{"tokenizer.model", model.substr(0, n)}}); }), "") << n;
  }
  refused({{"tokenizer.model", "\x0F"}}, "corrupt: dir/tokenizer.model: not a SentencePiece model");
  refused({{"tokenizer.model", "\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01"}},
          "corrupt: dir/tokenizer.model: not a SentencePiece model: a field of");
  refused({{"tokenizer.model", std::string("\x12\x02\x18\x03", 4)}},
          "unsupported: dir/tokenizer.model: a SentencePiece model of kind 3");
  for (const std::string name : {"XLMRoberta", "Nllb", "Pegasus", "Albert", "XLNet"}) {
    refused({{"tokenizer.model", model},
             {"tokenizer_config.json", "{\"tokenizer_class\": \"" + name + "Tokenizer\"}"}},
            "unsupported: dir/tokenizer.model: the class '" + name + "Tokenizer'");
  }
  refused({{"vocab.txt", "[UNK]\n"},
           {"tokenizer_config.json", R"({"tokenizer_class": "BertJapaneseTokenizer"})"}},
          "unsupported: dir/vocab.txt: the class 'BertJapaneseTokenizer'");
  refused({{"tokenizer.model", model}, {"tokenizer_config.json", "[]"}},
          "corrupt: dir/tokenizer_config.json: expected an object");
  refused({{"tokenizer.model", model},
           {"tokenizer_config.json", R"({"added_tokens_decoder": {"9999999": {"content": "x"}}})"}},
          "corrupt: dir/tokenizer.model: the added token '9999999'");
  refused({{"tokenizer.model", model}, {"tokenizer_config.json", R"({"bos_token": 5})"}},
          "corrupt: dir: not a tokenizer");
  for (const char* line : {"5 'a'", "a 'b' 1", "5 'a' 2", "5 b'a 1", "5 '\\q' 1", "5 '\\ud800' 3",
                           "0 'a' 1", "99999999 'a' 1", "5 '' 0", "5 'a'b' 3"}) {
    refused({{kRwkvVocabularyFile, std::string(line) + "\n"}},
            std::string("corrupt: dir/") + kRwkvVocabularyFile + ": line 1 is");
  }
  refused({{kRwkvVocabularyFile, "1 'a' 1\n1 'b' 1\n"}},
          std::string("corrupt: dir/") + kRwkvVocabularyFile + ": line 2 gives id 1 a second");
  refused({{kRwkvVocabularyFile, "1 'a' 1\n"}},
          std::string("corrupt: dir/") + kRwkvVocabularyFile + ": the vocabulary has no token");
  for (const char* line : {"YQ==", "YQ== x", "Y 1", "YQ== -1", "YQ== 99999999", "YQ=a 1"}) {
    refused({{"qwen.tiktoken", std::string(line) + "\n"}}, "corrupt: dir/qwen.tiktoken: line 1 is");
  }
  refused({{"qwen.tiktoken", "YQ== 0\nYg== 0\n"}}, "corrupt: dir/qwen.tiktoken: line 2 gives rank");
  refused({{"qwen.tiktoken", "YQ== 0\n"}}, "corrupt: dir/qwen.tiktoken: it has no rank");
  std::string nested;  // every cut of every token is a merge
  for (int byte = 0; byte < 256; ++byte)
    nested += base64_encode(std::string(1, static_cast<char>(byte))) + fmt::format(" {}\n", byte);
  for (size_t size = 2; size < 800; ++size)
    nested += base64_encode(std::string(size, 'a')) + fmt::format(" {}\n", 254 + size);
  refused({{"qwen.tiktoken", nested}}, "corrupt: dir/qwen.tiktoken: its tokens come of more than");
  refused({{"vocab.json", "{}, \"merges\": {}"}, {"merges.txt", ""}}, "corrupt: dir/vocab.json");
  refused({{"vocab.json", "{\"a\": 0}"}, {"merges.txt", "a b\n"}},
          "corrupt: dir/vocab.json: merge 0");
  refused({{"vocab.json", "{\"a\": 0}"}, {"merges.txt", "\xFF a\n"}},
          "corrupt: dir/vocab.json: a merge that is not UTF-8");
}

TEST(Charsmap, LimitsWhatATextBecomes) {
  // U+0301, in UTF-8 CC 81, becomes many letters.
  std::vector<uint32_t> trie(512);
  trie[0xCC] = 0xCC | 0x100 << 10;
  trie[0xCC ^ 0x100 ^ 0x81] = 0x81 | 1 << 8 | 0x80 << 10;  // its value, 0, is at the offset 0x80
  const auto map_to = [&](size_t letters) {
    std::string bytes("\0\x08\0\0", 4);
    bytes.append(reinterpret_cast<const char*>(trie.data()), 2048);
    return Charsmap(bytes + std::string(letters, 'x') + '\0', "t");
  };
  const std::string key = "\u0301";
  EXPECT_EQ(map_to(4096).rewrite("a" + key), "a" + std::string(4096, 'x'));
  EXPECT_EQ(map_to(4096).rewrite_graphemes(key), std::string(4096, 'x'));
  EXPECT_EQ(error_of([&] { map_to(4097).rewrite(key); }).substr(0, 7), "corrupt");
  std::string grapheme = "a";
  for (int i = 0; i < 100; ++i) grapheme += key;
  EXPECT_EQ(error_of([&] { map_to(4096).rewrite_graphemes(grapheme); }).substr(0, 7), "corrupt");
}

TEST(Base64, ReadsWhatItWrites) {
  std::string bytes;
  for (int i = 0; i < 300; ++i) {
    EXPECT_EQ(base64_decode(base64_encode(bytes)), bytes);
    bytes += static_cast<char>(i * 7);
  }
  EXPECT_EQ(base64_encode("ab"), "YWI=");
  EXPECT_EQ(base64_decode(""), "");
  for (const char* wrong : {"A", "AB", "ABC", "AB=C", "====", "A===", "AB==AB==", "AB C", "AB-_"}) {
    EXPECT_EQ(base64_decode(wrong), std::nullopt) << wrong;
  }
}

}  // namespace
}  // namespace hone
