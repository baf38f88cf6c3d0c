// Regular expressions over UTF-8 text, by PCRE2 with its JIT, reading patterns as the expressions
// in tokenizer.json are written: for Oniguruma in its Ruby syntax. Where the two libraries give a
// construct different meanings, the pattern is rewritten; where that is not possible, refused.
// \s, \w, \d, \h, \p{..} and case folding agree on every code point of PCRE2's Unicode version (14
// in 10.42); with_older_characters() makes a text of characters assigned later one of these.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace hone {

/// An immutable compiled expression; search() may be called from several threads at once.
class Regex {
 public:
  /// `source` names the file in errors. Raises unsupported where the pattern does not compile.
  Regex(std::string_view pattern, const std::string& source);

  /// The first match in text[from …), as byte offsets [begin, end). Matching looks behind `from`
  /// for lookbehind and anchors. `text` must be well-formed UTF-8. Raises invalid_argument where
  /// the match takes more steps than kRegexMatchLimit.
  std::optional<std::pair<size_t, size_t>> search(std::string_view text, size_t from) const;

 private:
  std::shared_ptr<const void> code_;  // pcre2_code
  std::string pattern_;               // as given
  std::string source_;
};

/// Backtracking steps that one match may take.
inline constexpr unsigned kRegexMatchLimit = 10'000'000;

/// `text` with the characters that are special in a pattern escaped.
std::string regex_escape(std::string_view text);

/// `pattern` (Oniguruma, Ruby syntax) as PCRE2 has to spell it. For tests.
std::string pcre2_pattern(std::string_view pattern, const std::string& source);

}  // namespace hone
