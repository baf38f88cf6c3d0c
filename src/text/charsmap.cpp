#include "text/charsmap.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "text/unicode.h"

namespace hone {
namespace {

constexpr size_t kMaxReplacement = 4096;

}  // namespace

Charsmap::Charsmap(std::string_view bytes, const std::string& source) {
  if (bytes.empty()) return;
  uint32_t size = 0;
  if (bytes.size() >= sizeof size) std::memcpy(&size, bytes.data(), sizeof size);
  HONE_CHECK(bytes.size() >= sizeof size && size <= bytes.size() - sizeof size && size % 4 == 0,
             corrupt, "{}: a precompiled_charsmap of {} bytes says that its trie has {}", source,
             bytes.size(), size);
  units_.resize(size / 4);
  if (size > 0) std::memcpy(units_.data(), bytes.data() + sizeof size, size);
  replacements_ = bytes.substr(sizeof size + size);
}

// found(size, begin) for each key that `text` begins with, the shortest first; `begin` is where its
// replacement is.
template <typename Found>
void Charsmap::prefixes(std::string_view text, Found&& found) const {
  const auto offset = [](uint32_t unit) { return (unit >> 10) << ((unit & 1u << 9) >> 6); };
  if (units_.empty()) return;
  size_t node = offset(units_[0]);
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<uint8_t>(text[i]);
    node ^= byte;
    if (byte == 0 || node >= units_.size()) return;
    const uint32_t unit = units_[node];
    if ((unit & (1u << 31 | 0xFF)) != byte) return;
    node ^= offset(unit);
    if (!(unit >> 8 & 1)) continue;
    if (node >= units_.size()) return;
    const size_t begin = units_[node] & ~(1u << 31);
    if (begin >= replacements_.size()) return;
    found(i + 1, begin);
  }
}

std::string_view Charsmap::replacement(size_t begin) const {
  const auto rest = std::string_view(replacements_).substr(begin, kMaxReplacement + 1);
  const size_t size = std::min(rest.find('\0'), rest.size());
  HONE_CHECK(size <= kMaxReplacement, corrupt,
             "tokenizer: the precompiled_charsmap replaces a text by more than {} bytes",
             kMaxReplacement);
  return rest.substr(0, size);
}

std::optional<Charsmap::Match> Charsmap::longest(std::string_view text) const {
  size_t longest = 0, at = 0;
  prefixes(text, [&](size_t size, size_t begin) {
    longest = size;
    at = begin;
  });
  return longest > 0 ? std::optional(Match{longest, replacement(at)}) : std::nullopt;
}

std::optional<std::string_view> Charsmap::shortest(std::string_view text) const {
  std::optional<size_t> first;
  prefixes(text, [&](size_t, size_t begin) {
    if (!first) first = begin;
  });
  return first ? std::optional(replacement(*first)) : std::nullopt;
}

namespace {

void check_growth(std::string_view text, const std::string& out) {
  HONE_CHECK(!grew_too_much(text.size(), out.size()), corrupt,
             "tokenizer: the precompiled_charsmap makes a text more than {} times as long",
             kMaxGrowth);
}

}  // namespace

std::string Charsmap::rewrite(std::string_view text) const {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    check_growth(text, out);
    if (const auto match = longest(text.substr(i))) {
      out += match->value;
      i += match->size;
      continue;
    }
    const auto size = static_cast<size_t>(utf8_at(text, i).size);
    out += text.substr(i, size);
    i += size;
  }
  // A table may cut a character in two.
  return is_valid_utf8(out) ? out : replace_ill_formed(out);
}

std::string Charsmap::rewrite_graphemes(std::string_view text) const {
  std::string out;
  for_each_grapheme(text, [&](std::string_view grapheme) {
    check_growth(text, out);
    if (grapheme.size() < 6) {
      if (const auto value = shortest(grapheme)) {
        out += *value;
        return;
      }
    }
    for (size_t i = 0; i < grapheme.size();) {
      check_growth(text, out);
      const auto size = static_cast<size_t>(utf8_at(grapheme, i).size);
      const std::string_view character = grapheme.substr(i, size);
      out += shortest(character).value_or(character);
      i += size;
    }
  });
  return is_valid_utf8(out) ? out : replace_ill_formed(out);
}

}  // namespace hone
