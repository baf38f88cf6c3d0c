#include "text/stream_decoder.h"

#include <gtest/gtest.h>

#include <random>

#include "base/error.h"
#include "golden.h"
#include "text/unicode.h"

namespace hone {
namespace {

using Ids = std::vector<int32_t>;

// Pushes all ids; every piece has to be whole characters.
std::string streamed(const Tokenizer& tokenizer, const Ids& ids, bool skip, bool continues) {
  StreamDecoder decoder(tokenizer, skip, continues);
  std::string text;
  for (int32_t id : ids) {
    const std::string piece = decoder.push(id);
    EXPECT_TRUE(is_valid_utf8(piece));
    text += piece;
  }
  return text + decoder.finish();
}

class StreamGolden : public ::testing::TestWithParam<std::string> {};

TEST_P(StreamGolden, PiecesMakeUpTheDecodedText) {
  const auto tokenizer = golden_tokenizer(GetParam());
  for (const std::string& text : golden_texts()) {
    const Ids ids = tokenizer->encode(text);
    for (bool skip : {false, true}) {
      ASSERT_EQ(streamed(*tokenizer, ids, skip, false), tokenizer->decode(ids, skip));
    }
  }
}

TEST_P(StreamGolden, RandomIdsToo) {
  const auto tokenizer = golden_tokenizer(GetParam());
  std::mt19937 rng(1);
  for (int i = 0; i < 300; ++i) {
    Ids ids(rng() % 40);
    for (int32_t& id : ids) id = static_cast<int32_t>(rng() % tokenizer->vocab_size());
    ASSERT_EQ(streamed(*tokenizer, ids, true, false), tokenizer->decode(ids, true));
    // A continuation is the text after the prompt's, but for a character that the cut splits.
    const size_t cut = ids.empty() ? 0 : rng() % ids.size();
    const Ids prompt(ids.begin(), ids.begin() + static_cast<long>(cut));
    const Ids rest(ids.begin() + static_cast<long>(cut), ids.end());
    std::string bytes;
    for (int32_t id : prompt) {
      if (!tokenizer->is_special(id)) bytes += tokenizer->token_bytes(id, bytes.empty());
    }
    if (bytes.empty() || !is_valid_utf8(bytes)) continue;
    ASSERT_EQ(tokenizer->decode(prompt, true) + streamed(*tokenizer, rest, true, true),
              tokenizer->decode(ids, true));
  }
}

INSTANTIATE_TEST_SUITE_P(All, StreamGolden, ::testing::ValuesIn(golden_names()),
                         [](const auto& info) { return info.param; });

TEST(StreamDecoder, HoldsUnfinishedCharactersBack) {
  const auto tokenizer = golden_tokenizer("llama2");
  const auto byte = [&](int b) {
    return *tokenizer->token_id(byte_token_text(static_cast<unsigned char>(b)));
  };
  StreamDecoder decoder(*tokenizer);
  EXPECT_EQ(decoder.push(byte(0xF0)), "");
  EXPECT_EQ(decoder.push(byte(0x9F)), "");
  EXPECT_EQ(decoder.push(byte(0x91)), "");
  EXPECT_EQ(decoder.push(byte(0x8D)), "👍");
  EXPECT_EQ(decoder.push(byte(0xE4)), "");
  EXPECT_EQ(decoder.push(byte('a')), "\uFFFDa");  // it will not be finished any more
  EXPECT_EQ(decoder.push(byte(0xFF)), "\uFFFD");
  EXPECT_EQ(decoder.push(byte(0xE4)), "");
  EXPECT_EQ(decoder.finish(), "\uFFFD");
  EXPECT_EQ(decoder.finish(), "");
  EXPECT_THROW(decoder.push(-1), Error);
}

TEST(StreamDecoder, KeepsTheSpaceOfAContinuation) {
  const auto tokenizer = golden_tokenizer("llama2");
  const int32_t the = *tokenizer->token_id("▁the");
  EXPECT_EQ(streamed(*tokenizer, {the, the}, true, true), " the the");
  EXPECT_EQ(streamed(*tokenizer, {the, the}, true, false), "the the");
  StreamDecoder decoder(*tokenizer, true, false);
  EXPECT_EQ(decoder.push(*tokenizer->token_id("<s>")), "");  // does not count as the first
  EXPECT_EQ(decoder.push(the), "the");
  decoder.finish();
  EXPECT_EQ(decoder.push(the), "the");
}

}  // namespace
}  // namespace hone
