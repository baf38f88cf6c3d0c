#include "text/regex.h"

#include <algorithm>

#include "golden.h"
#include "text/pretokenizer.h"
#include "text/pretokenizer_names.h"

namespace hone {
namespace {

std::vector<int> piece_sizes(const PreTokenizer& steps, const std::string& text) {
  std::vector<int> sizes;
  steps.split(text, true,
              [&](std::string_view piece) { sizes.push_back(static_cast<int>(piece.size())); });
  return sizes;
}

// Oniguruma's matches, as Hugging Face uses them, on texts in many scripts.
TEST(Regex, SplitsAsOnigurumaDoes) {
  const auto texts = golden_texts();
  for (const auto& golden : golden_json("splits.json")) {
    const auto name = golden["name"].get<std::string>();
    PreTokenizer steps;
    for (const auto& pattern : golden["patterns"]) {
      steps.add(split_by_regex(std::make_shared<Regex>(pattern.get<std::string>(), name),
                               SplitBehavior::isolated, false));
    }
    for (size_t i = 0; i < golden["splits"].size(); ++i) {
      ASSERT_EQ(piece_sizes(steps, texts[i]), golden["splits"][i].get<std::vector<int>>())
          << name << ": " << nlohmann::json(texts[i]).dump();
    }
  }
}

// The table of GGUF names has the expressions that the models publish.
TEST(Regex, NamesStandForThePublishedExpressions) {
  int known = 0;
  for (const auto& golden : golden_json("splits.json")) {
    const auto name = golden["name"].get<std::string>();
    if (name.find(' ') != name.npos || name == "lookbehind" || name == "classes" ||
        name == "empty") {
      continue;
    }
    ++known;
    const PreTokenizerFamily& family = pretokenizer_family(name, "test");
    const std::vector<std::string> patterns(family.patterns.begin(), family.patterns.end());
    const auto published = golden["patterns"].get<std::vector<std::string>>();
    ASSERT_EQ(patterns.size(), published.size());
    for (size_t i = 0; i < patterns.size(); ++i) {
      EXPECT_EQ(patterns[i], without_line_ends(published[i])) << name;
    }
    EXPECT_EQ(pretokenizer_name(published, family.ignore_merges, family.nfc), family.names.front());
  }
  EXPECT_EQ(known, 11);
}

TEST(Regex, SearchBeginsAtTheGivenByte) {
  const Regex regex("b+", "test");
  EXPECT_EQ(regex.search("abbab", 0), std::pair(size_t{1}, size_t{3}));
  EXPECT_EQ(regex.search("abbab", 3), std::pair(size_t{4}, size_t{5}));
  EXPECT_EQ(regex.search("abba", 3), std::nullopt);
}

TEST(Regex, EscapedTextMatchesItself) {
  const std::string text = "a.b*c(d)[e]{2,3}^$|\\?+-#&~ é";
  const auto match = Regex(regex_escape(text), "test").search("__" + text + "__", 0);
  EXPECT_EQ(match, std::pair(size_t{2}, text.size() + 2));
}

TEST(Regex, RefusesWhatItCannotRead) {
  for (const char* pattern :
       {"(", "[a", "a\\", "(*LIMIT_MATCH=1)a", "\\g<1>", "\\k<n>", "[a&&b]", "[a[^b]]", "[\\S]",
        "[[:graph:]]", "[[:^alpha:]]", "[[:alpha", "\\p{Nonsense}", "\\p{L", "\\u00", "(?<=a*)b",
        "\\C", "((((a{1,9999}){1,9999}){1,9999}))"}) {
    EXPECT_EQ(error_of([&] { Regex(pattern, "file.json"); }).substr(0, 24),
              "unsupported: file.json: ")
        << pattern;
  }
  EXPECT_THROW(Regex(std::string(100'000, 'a'), "test"), Error);
  EXPECT_THROW(Regex(std::string(1000, '('), "test"), Error);
  EXPECT_THROW(Regex("\xFF", "test"), Error);
}

// Catastrophic backtracking ends in an error, deep recursion in a match.
TEST(Regex, BacktrackingIsLimited) {
  const Regex bad("(a+)+b|(a|aa)+$", "file.json");
  EXPECT_EQ(error_of([&] { bad.search(std::string(5000, 'a') + "c", 0); }).substr(0, 29),
            "invalid_argument: file.json: ");
  const Regex deep("(?:a|b)*c", "test");
  std::string text;
  for (int i = 0; i < 300'000; ++i) text += i % 3 ? 'a' : 'b';
  EXPECT_EQ(deep.search(text + "c", 0), std::pair(size_t{0}, text.size() + 1));
}

}  // namespace
}  // namespace hone
