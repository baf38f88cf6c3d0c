#include "text/bert_text.h"

#include <algorithm>
#include <iterator>

#include "text/unicode.h"

namespace hone {
namespace {

struct Range {
  char32_t first, last;
};

template <size_t n>
bool within(const Range (&ranges)[n], char32_t code) {
  const Range* r = std::upper_bound(std::begin(ranges), std::end(ranges), code,
                                    [](char32_t c, const Range& range) { return c < range.first; });
  return r != std::begin(ranges) && code <= (r - 1)->last;
}

// Of categories P, Mn and Cf, but later than Unicode 8.
bool is_later(char32_t code) {
  static constexpr Range kLater[] = {
#include "text/older_categories.inc"
  };
  return within(kLater, code);
}

bool is_ideograph(char32_t code) {
  // The gap between 2B820 and 2B920 is theirs.
  static constexpr Range kIdeographs[] = {
      {0x3400, 0x4DBF},   {0x4E00, 0x9FFF},   {0xF900, 0xFAFF},   {0x20000, 0x2A6DF},
      {0x2A700, 0x2B73F}, {0x2B740, 0x2B81F}, {0x2B920, 0x2CEAF}, {0x2F800, 0x2FA1F}};
  return code >= 0x3400 && within(kIdeographs, code);
}

bool is_mark(char32_t code) {
  // Nonspacing in Unicode 8, and not since 14.
  return code == 0x1734 || (is_nonspacing(code) && !is_later(code));
}

// Writes the text anew, character by character.
template <typename Rewrite>
std::string rewrite(std::string_view text, Rewrite&& put) {
  std::string out;
  out.reserve(text.size() + text.size() / 8);
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = utf8_at(text, i);
    put(out, c.code, text.substr(i, static_cast<size_t>(c.size)));
    i += static_cast<size_t>(c.size);
  }
  return out;
}

void clean(std::string& text) {
  text = rewrite(text, [](std::string& out, char32_t c, std::string_view bytes) {
    if (is_space(c) && c != '\v' && c != '\f' && c != 0x85) {
      out += ' ';
    } else if (c != 0xFFFD && (!is_control(c) || is_later(c))) {
      out += bytes;
    }
  });
}

}  // namespace

bool is_bert_punctuation(char32_t c) {
  if (c < 0x80) return is_punctuation(c);
  // Punctuation in Unicode 8, and later not.
  return c == 0x166D || c == 0x111C9 || (is_punctuation(c) && !is_later(c));
}

std::string bert_normalize(std::string_view given, const BertNormalizerOptions& options) {
  std::string text(given);
  if (options.clean_text) clean(text);
  if (options.space_ideographs) {
    text = rewrite(text, [](std::string& out, char32_t c, std::string_view bytes) {
      const bool spaced = is_ideograph(c);
      if (spaced) out += ' ';
      out += bytes;
      if (spaced) out += ' ';
    });
  }
  if (options.strip_accents) {
    text = rewrite(normalize(text, NormalForm::nfd),
                   [](std::string& out, char32_t c, std::string_view bytes) {
                     if (!is_mark(c)) out += bytes;
                   });
  }
  return options.lowercase ? lowercase(text) : text;
}

PreTokenizer::Step split_as_bert() {
  return [](std::string_view piece, bool, const EmitPiece& emit) {
    size_t begin = 0;
    const auto flush = [&](size_t end) {
      if (end > begin) emit(piece.substr(begin, end - begin));
    };
    for (size_t i = 0; i < piece.size();) {
      const Utf8Char c = utf8_at(piece, i);
      const size_t end = i + static_cast<size_t>(c.size);
      const bool space = is_space(c.code);
      if (space || is_bert_punctuation(c.code)) {
        flush(i);
        if (!space) emit(piece.substr(i, end - i));
        begin = end;
      }
      i = end;
    }
    flush(piece.size());
  };
}

std::string nmt_normalize(std::string_view text) {
  static constexpr Range kRemoved[] = {{0x01, 0x08}, {0x0B, 0x0B}, {0x0E, 0x1F},
                                       {0x7F, 0x7F}, {0x8F, 0x8F}, {0x9F, 0x9F}};
  static constexpr Range kSpaces[] = {{0x09, 0x0A},     {0x0C, 0x0D},     {0x1680, 0x1680},
                                      {0x200B, 0x200F}, {0x2028, 0x2029}, {0x2581, 0x2581},
                                      {0xFEFF, 0xFEFF}, {0xFFFD, 0xFFFD}};
  return rewrite(text, [](std::string& out, char32_t c, std::string_view bytes) {
    if (within(kSpaces, c)) {
      out += ' ';
    } else if (!within(kRemoved, c)) {
      out += bytes;
    }
  });
}

}  // namespace hone
