// Token caches: round trips, identity, and files that were cut, spoiled or forged.
#include "text/token_cache.h"

#include <cstring>
#include <set>

#include "golden.h"
#include "testing.h"
#include "text/tokenized_data.h"

namespace hone {
namespace {

struct Example {
  std::vector<int32_t> tokens;
  std::vector<uint8_t> learned;
};

std::vector<Example> some_examples(int32_t vocab_size, int n) {
  std::vector<Example> examples;
  for (int i = 0; i < n; ++i) {
    Example e;
    for (int t = 0; t < 1 + i * 7 % 23; ++t) {
      e.tokens.push_back((i * 31 + t * 977) % vocab_size);
      e.learned.push_back(t > 0 && (t + i) % 3 != 0);
    }
    examples.push_back(std::move(e));
  }
  return examples;
}

void write(const fs::path& path, int32_t vocab_size, const std::vector<Example>& examples,
           const Json& identity = "test") {
  TokenCacheWriter writer(path, vocab_size);
  for (const Example& e : examples) {
    // In two parts, as a long text comes.
    const size_t half = e.tokens.size() / 2;
    writer.append(std::span(e.tokens).first(half), std::span(e.learned).first(half));
    writer.append(std::span(e.tokens).subspan(half), std::span(e.learned).subspan(half));
    writer.end_example();
    writer.end_example();  // nothing
  }
  writer.finish(identity);
}

TEST(TokenCache, RoundTrip) {
  testing::TemporaryDirectory scratch;
  for (int32_t vocab_size : {300, 65536, 65537, 200'000}) {
    for (int n : {0, 1, 40, 100'000}) {
      const auto examples = some_examples(vocab_size, n);
      write(scratch / "c", vocab_size, examples, {{"a", 1}});
      const auto cache = TokenCache::open(scratch / "c");
      ASSERT_EQ(cache->examples(), n);
      EXPECT_EQ(cache->vocab_size(), vocab_size);
      EXPECT_EQ(cache->identity(), Json({{"a", 1}}));
      int64_t at = 0, learned = 0;
      for (int i = 0; i < n; ++i) {
        const Example& e = examples[i];
        ASSERT_EQ(cache->begin(i), at);
        const int64_t before = learned;
        for (size_t t = 0; t < e.tokens.size(); ++t, ++at) {
          ASSERT_EQ(cache->token(at), e.tokens[t]);
          ASSERT_EQ(cache->is_learned(at), e.learned[t] != 0);
          learned += e.learned[t];
        }
        ASSERT_EQ(cache->end(i), at);
        ASSERT_EQ(cache->count_learned(cache->begin(i), at), learned - before);
      }
      EXPECT_EQ(cache->tokens(), at);
      EXPECT_EQ(cache->learned(), learned);
      EXPECT_EQ(cache->count_learned(0, at), learned);
    }
  }
}

/// What opening these bytes raises, or "".
std::string problem(const fs::path& path, const std::string& bytes) {
  testing::put_file(path, bytes);
  try {
    TokenCache::open(path);
    return "";
  } catch (const Error& e) {
    return std::string(error_kind_name(e.kind())) + ": " + e.what();
  }
}

std::string a_cache(const fs::path& path) {
  write(path, 300, some_examples(300, 7));
  return read_text_file(path);
}

/// With the checksum that the bytes now have.
std::string forged(std::string bytes) {
  const uint64_t sum = frame_checksum(std::string_view(bytes).substr(0, bytes.size() - 16));
  std::memcpy(bytes.data() + bytes.size() - 16, &sum, 8);
  return bytes;
}

TEST(TokenCache, EveryByteAndTheLengthCount) {
  testing::TemporaryDirectory scratch;
  const std::string good = a_cache(scratch / "c");
  ASSERT_EQ(problem(scratch / "d", good), "");
  ASSERT_EQ(forged(good), good);
  for (size_t n = 0; n < good.size(); ++n)
    ASSERT_TRUE(problem(scratch / "d", good.substr(0, n)).starts_with("corrupt: ")) << n;
  EXPECT_TRUE(problem(scratch / "d", good + "x").starts_with("corrupt: "));
  for (size_t at = 0; at < good.size(); ++at)
    for (char flip : {'\x01', '\x80', '\xFF'}) {
      std::string spoiled = good;
      spoiled[at] ^= flip;
      ASSERT_TRUE(problem(scratch / "d", spoiled).starts_with("corrupt: ")) << at;
    }
}

TEST(TokenCache, ForgedFilesAreRefusedOrWhole) {
  // With a right checksum it is the checks that must hold: whatever opens can be read to the end.
  testing::TemporaryDirectory scratch;
  const std::string good = a_cache(scratch / "c");
  int opened = 0;
  for (size_t at = 0; at < good.size(); ++at)
    for (int value : {0, 1, 0x7F, 0xFF, 0x39}) {
      std::string spoiled = good;
      spoiled[at] = static_cast<char>(value);
      const std::string error = problem(scratch / "d", forged(spoiled));
      ASSERT_TRUE(error.empty() || error.starts_with("corrupt: ")) << error;
      if (!error.empty()) continue;
      ++opened;
      const auto cache = TokenCache::open(scratch / "d");
      int64_t learned = 0;
      for (int64_t i = 0; i < cache->examples(); ++i) {
        ASSERT_LT(cache->begin(i), cache->end(i));
        ASSERT_FALSE(cache->is_learned(cache->begin(i)));
        for (int64_t t = cache->begin(i); t < cache->end(i); ++t) {
          ASSERT_TRUE(cache->token(t) >= 0 && cache->token(t) < cache->vocab_size());
          learned += cache->is_learned(t);
        }
      }
      ASSERT_EQ(learned, cache->learned());
    }
  EXPECT_GT(opened, 0);
}

TEST(TokenCache, SaysWhatIsWrong) {
  testing::TemporaryDirectory scratch;
  const std::string good = a_cache(scratch / "c");
  const fs::path path = scratch / "d";
  auto changed = [&](const std::string& from, const std::string& to) {
    std::string bytes = good;
    const size_t at = bytes.rfind(from);
    bytes.replace(at, from.size(), to);
    uint64_t length;
    std::memcpy(&length, bytes.data() + bytes.size() - 24, 8);
    length += to.size() - from.size();
    std::memcpy(bytes.data() + bytes.size() - 24, &length, 8);
    return problem(path, forged(bytes));
  };
  EXPECT_EQ(problem(path, "hello"), "corrupt: " + path.string() + ": not a token cache");
  EXPECT_NE(problem(path, good.substr(0, 100)).find("is cut off"), std::string::npos);
  EXPECT_NE(changed("\"tokens\":", "\"tokems\":").find("the description lacks tokens"),
            std::string::npos);
  EXPECT_NE(changed("\"examples\":7", "\"examples\":6").find("6 examples end at byte"),
            std::string::npos);
  EXPECT_NE(changed("\"examples\":7", "\"examples\":9000000000000000000").find("expected 0 to"),
            std::string::npos);
  EXPECT_NE(changed("\"vocab_size\":300", "\"vocab_size\":70000").find("tokens of 2 bytes"),
            std::string::npos);
  EXPECT_NE(changed("\"vocab_size\":300", "\"vocab_size\":9").find("of a vocabulary of 9"),
            std::string::npos);
  EXPECT_NE(changed("\"identity\"", "\"identitx\"").find("lacks identity"), std::string::npos);
  std::string learned = good;
  const int64_t bits = (16 + 2 * TokenCache::open(scratch / "c")->tokens() + 7) / 8 * 8;
  learned[static_cast<size_t>(bits)] |= 1;
  EXPECT_NE(problem(path, forged(learned)).find("example 0: its first token is learned"),
            std::string::npos);
}

TEST(TokenCache, TokenizersAreToldApart) {
  TokenizerSpec plain;
  plain.model = "llama";
  plain.tokens = {"<unk>", "<s>", "</s>", "a", "b", "ab"};
  plain.scores = {0, 0, 0, -2, -3, -1};
  plain.token_types = {2, 3, 3, 1, 1, 1};
  plain.bos = 1;
  plain.eos = 2;
  plain.unk = 0;
  std::vector<TokenizerSpec> specs(8, plain);
  specs[1].tokens.set(4, "c");
  specs[2].scores[3] = -4;
  specs[3].token_types[5] = 4;
  specs[4].eos = 1;
  specs[5].add_bos = false;
  specs[6].add_eos = true;
  specs[7].add_space_prefix = false;
  std::set<uint64_t> seen;
  for (size_t i = 0; i < specs.size(); ++i) {
    const auto tokenizer = tokenizer_from_spec(specs[i]);
    EXPECT_TRUE(seen.insert(tokenizer_fingerprint(*tokenizer)).second) << i;
    EXPECT_FALSE(seen.insert(tokenizer_fingerprint(*tokenizer_from_spec(specs[i]))).second) << i;
  }
}

TEST(TokenCache, IsMadeAnewWhereAnythingDiffers) {
  testing::TemporaryDirectory scratch;
  const auto smollm = golden_tokenizer("smollm"), gpt2 = golden_tokenizer("gpt2");
  const fs::path cache = scratch / "c", data = scratch / "d.jsonl", other = scratch / "e.jsonl";
  testing::put_file(data, R"({"question": "a b", "answer": "c d"})");
  testing::put_file(other, R"({"question": "a b", "answer": "c d e"})");
  struct Setup {
    std::vector<fs::path> files;
    const Tokenizer* tokenizer;
    std::string chat_template;
    DataOptions options;
  };
  auto open = [&](const Setup& s) {
    return open_tokenized(s.files, *s.tokenizer, s.chat_template, s.options, cache);
  };
  const Setup first{{data}, smollm.get(), "", {}};
  open(first);
  const auto written = fs::last_write_time(cache);
  const std::string bytes = read_text_file(cache);
  open(first);
  EXPECT_EQ(fs::last_write_time(cache), written);
  // The same bytes under another name are the same data.
  fs::copy_file(data, scratch / "f.jsonl");
  open({{scratch / "f.jsonl"}, smollm.get(), "", {}});
  EXPECT_EQ(fs::last_write_time(cache), written);
  for (const Setup& s : std::vector<Setup>{
           {{other}, smollm.get(), "", {}},
           {{data, data}, smollm.get(), "", {}},
           {{data}, gpt2.get(), "", {}},
           {{data}, smollm.get(), "{% for m in messages %}{{ m.content }}{% endfor %}", {}},
           {{data}, smollm.get(), "", {.learn_prompt = true}}}) {
    const auto made = open(s);
    EXPECT_NE(read_text_file(cache), bytes);
    EXPECT_EQ(made->examples(), static_cast<int64_t>(s.files.size()));
    open(first);
    EXPECT_EQ(read_text_file(cache), bytes);
  }
}

TEST(TokenCache, SpoiledOnesAreMadeAnewAndOtherFilesLeftAlone) {
  testing::TemporaryDirectory scratch;
  const auto smollm = golden_tokenizer("smollm");
  const fs::path cache = scratch / "c";
  const std::vector<fs::path> data = {scratch / "d.txt"};
  testing::put_file(data[0], "a text");
  open_tokenized(data, *smollm, "", {}, cache);
  const std::string bytes = read_text_file(cache);
  std::string spoiled = bytes;
  spoiled[17] ^= 1;
  testing::put_file(cache, spoiled);
  open_tokenized(data, *smollm, "", {}, cache);
  EXPECT_EQ(read_text_file(cache), bytes);
  testing::put_file(cache, "my poems");
  EXPECT_NE(error_of([&] { open_tokenized(data, *smollm, "", {}, cache); }).find("and is none"),
            std::string::npos);
  EXPECT_EQ(read_text_file(cache), "my poems");
  // What fails half way leaves nothing.
  fs::remove(cache);
  const std::vector<fs::path> bad = {data[0], scratch / "e.jsonl"};
  testing::put_file(bad[1], "{");
  EXPECT_THROW(open_tokenized(bad, *smollm, "", {}, cache), Error);
  EXPECT_FALSE(fs::exists(cache));
}

}  // namespace
}  // namespace hone
