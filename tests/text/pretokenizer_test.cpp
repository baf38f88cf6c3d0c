#include "text/pretokenizer.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "text/added_tokens.h"
#include "text/pipeline.h"
#include "text/pretokenizer_names.h"
#include "text/unicode.h"

namespace hone {
namespace {

using Pieces = std::vector<std::string>;

Pieces pieces(std::initializer_list<PreTokenizer::Step> steps, std::string_view text,
              bool at_start = true) {
  PreTokenizer pre;
  for (const auto& step : steps) pre.add(step);
  Pieces out;
  pre.split(text, at_start, [&](std::string_view piece) { out.emplace_back(piece); });
  return out;
}

PreTokenizer::Step dashes(SplitBehavior behavior, bool invert = false) {
  return split_by_regex(std::make_shared<Regex>("-", "test"), behavior, invert);
}

// The example of Hugging Face's documentation.
TEST(PreTokenizer, Behaviors) {
  const std::string text = "the-final--countdown";
  EXPECT_EQ(pieces({dashes(SplitBehavior::removed)}, text), (Pieces{"the", "final", "countdown"}));
  EXPECT_EQ(pieces({dashes(SplitBehavior::isolated)}, text),
            (Pieces{"the", "-", "final", "-", "-", "countdown"}));
  EXPECT_EQ(pieces({dashes(SplitBehavior::merged_with_previous)}, text),
            (Pieces{"the-", "final-", "-", "countdown"}));
  EXPECT_EQ(pieces({dashes(SplitBehavior::merged_with_next)}, text),
            (Pieces{"the", "-final", "-", "-countdown"}));
  EXPECT_EQ(pieces({dashes(SplitBehavior::contiguous)}, text),
            (Pieces{"the", "-", "final", "--", "countdown"}));
  EXPECT_EQ(pieces({dashes(SplitBehavior::removed, true)}, text), (Pieces{"-", "-", "-"}));
  for (auto behavior : {SplitBehavior::merged_with_previous, SplitBehavior::merged_with_next}) {
    EXPECT_EQ(pieces({dashes(behavior)}, "-"), (Pieces{"-"}));
    EXPECT_EQ(pieces({dashes(behavior)}, ""), (Pieces{}));
  }
}

// U+11F03 and U+1E5FA, U+10D50 came with Unicode 15 and 16, after PCRE2's tables.
TEST(PreTokenizer, ExpressionsKnowNewerCharacters) {
  const auto split = [](const char* pattern, std::string_view text) {
    return pieces(
        {split_by_regex(std::make_shared<Regex>(pattern, "test"), SplitBehavior::isolated, false)},
        text);
  };
  EXPECT_EQ(split("\\p{N}", " \n\U0001E5FA"), (Pieces{" \n", "\U0001E5FA"}));
  EXPECT_EQ(split("\\p{Lu}", "a\U00010D50b"), (Pieces{"a", "\U00010D50", "b"}));
  EXPECT_EQ(split("\\p{Han}+", "a\U00031350\u4E00\U0002EBF0b"),
            (Pieces{"a", "\U00031350\u4E00\U0002EBF0", "b"}));
  EXPECT_EQ(split("\\p{M}", "\U00011F03\u0897x"), (Pieces{"\U00011F03", "\u0897", "x"}));
}

TEST(PreTokenizer, Classes) {
  EXPECT_EQ(pieces({split_by_class(is_number, SplitBehavior::isolated)}, "ab12½"),
            (Pieces{"ab", "1", "2", "½"}));
  EXPECT_EQ(pieces({split_by_class(is_number, SplitBehavior::contiguous)}, "ab12½c"),
            (Pieces{"ab", "12½", "c"}));
  EXPECT_EQ(pieces({split_by_class(is_space, SplitBehavior::removed)}, " a\u3000 b "),
            (Pieces{"a", "b"}));
}

TEST(PreTokenizer, Metaspace) {
  EXPECT_EQ(pieces({metaspace("▁", PrependScheme::always, true)}, "a  b"),
            (Pieces{"▁a", "▁", "▁b"}));
  EXPECT_EQ(pieces({metaspace("▁", PrependScheme::always, false)}, " a b"), (Pieces{"▁a▁b"}));
  EXPECT_EQ(pieces({metaspace("▁", PrependScheme::first, false)}, "a", true), (Pieces{"▁a"}));
  EXPECT_EQ(pieces({metaspace("▁", PrependScheme::first, false)}, "a", false), (Pieces{"a"}));
  EXPECT_EQ(pieces({metaspace("▁", PrependScheme::never, true)}, "a b"), (Pieces{"a", "▁b"}));
  // Only the piece at the very beginning of the text is first.
  const auto spaces = split_by_class(is_space, SplitBehavior::removed);
  EXPECT_EQ(pieces({spaces, metaspace("▁", PrependScheme::first, false)}, "a b"),
            (Pieces{"▁a", "b"}));
  EXPECT_EQ(pieces({spaces, metaspace("▁", PrependScheme::first, false)}, " a b"),
            (Pieces{"a", "b"}));
}

TEST(PreTokenizer, StepsThatRewrite) {
  EXPECT_EQ(pieces({add_prefix_space(), spell_bytes()}, "é"), (Pieces{"ĠÃ©"}));
  EXPECT_EQ(pieces({add_prefix_space()}, " a"), (Pieces{" a"}));
}

TEST(PreTokenizer, CutsOnlyWhereNoTokenSpans) {
  Vocabulary v(4);
  v.add("▁", 0);
  v.add("▁▁a", 1);
  v.add(".▁b", 2);
  v.add("a", 3);
  EXPECT_EQ(pieces({cut_at_metaspace(v)}, "x▁▁a▁b.▁b▁"), (Pieces{"x", "▁▁a", "▁b.▁b", "▁"}));
  Vocabulary without(1);  // the space itself is unknown: unknown characters may be fused
  without.add("a", 0);
  EXPECT_EQ(pieces({cut_at_metaspace(without)}, "x▁a"), (Pieces{"x▁a"}));
}

TEST(PreTokenizer, UnknownNamesAreRefused) {
  EXPECT_STREQ(pretokenizer_family("", "f").names.front(), "gpt-2");
  EXPECT_STREQ(pretokenizer_family("llama3", "f").names.front(), "llama-bpe");
  EXPECT_THROW(pretokenizer_family("no-such", "f"), Error);
  EXPECT_EQ(pretokenizer_name({"x"}, false, false), std::nullopt);
}

// Text in quotes, tokens as #id.
std::string matched(const AddedTokenMatcher& matcher, std::string_view text, bool special = true) {
  std::string out;
  matcher.split(
      text, special, [&](std::string_view part) { out += "'" + std::string(part) + "'"; },
      [&](int32_t id) { out += "#" + std::to_string(id); });
  return out;
}

TEST(AddedTokens, LeftmostLongest) {
  AddedTokenMatcher m;
  m.add({.id = 1, .content = "ab"}, "test");
  m.add({.id = 2, .content = "abcd"}, "test");
  m.add({.id = 3, .content = "bcdefg"}, "test");
  m.add({.id = 4, .content = "<s>", .special = true}, "test");
  m.add({.id = 5, .content = "ab"}, "test");  // the first stays
  EXPECT_EQ(matched(m, "abcdefg abc"), "#2'efg '#1'c'");
  EXPECT_EQ(matched(m, "x<s>ab"), "'x'#4#1");
  EXPECT_EQ(matched(m, "x<s>ab", false), "'x<s>'#1");
  EXPECT_EQ(matched(m, ""), "");
}

TEST(AddedTokens, WordsAndWhitespace) {
  AddedTokenMatcher m;
  m.add({.id = 1, .content = "cat", .single_word = true}, "test");
  m.add({.id = 2, .content = "<l>", .lstrip = true}, "test");
  m.add({.id = 3, .content = "<r>", .rstrip = true}, "test");
  EXPECT_EQ(matched(m, "cat concat cats, cat"), "#1' concat cats, '#1");
  EXPECT_EQ(matched(m, "écat cat\u0301"), "'écat cat\u0301'");
  EXPECT_EQ(matched(m, "a \n\u3000<l> b"), "'a'#2' b'");
  EXPECT_EQ(matched(m, "a <r> \n\u3000b"), "'a '#3'b'");
  EXPECT_EQ(matched(m, "<r>  <l>"), "#3#2");
}

TEST(AddedTokens, ContentsAreBounded) {
  AddedTokenMatcher m;
  EXPECT_THROW(m.add({.content = ""}, "test"), Error);
  EXPECT_THROW(m.add({.content = std::string(kMaxAddedToken + 1, 'a')}, "test"), Error);
}

}  // namespace
}  // namespace hone
