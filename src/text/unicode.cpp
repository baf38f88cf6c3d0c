#include "text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <iterator>

#include "base/error.h"

namespace hone {
namespace {

constexpr char32_t kReplacement = 0xFFFD;

utf8proc_category_t category(char32_t code) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(code));
}

struct ByteAlphabet {
  std::array<char32_t, 256> letter;
  std::array<int16_t, 324> byte;  // the largest letter is U+0143

  ByteAlphabet() {
    byte.fill(-1);
    char32_t next = 0x100;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b > 0x20 && b < 0x7F) || (b > 0xA0 && b != 0xAD);
      letter[b] = printable ? static_cast<char32_t>(b) : next++;
      byte[letter[b]] = static_cast<int16_t>(b);
    }
  }
};
const ByteAlphabet kAlphabet;

struct CodeRange {
  char32_t first, last;
};
// What Unicode 10 to 15 added of characters that combine, compose or decompose. Hugging Face
// tokenizers has the tables of Unicode 9, to which these are characters like any other.
constexpr CodeRange kNormalizedSinceUnicode10[] = {
    {0x7FD, 0x7FD},     {0x898, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},
    {0xC3C, 0xC3C},     {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x1715, 0x1715},
    {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},   {0x32FF, 0x32FF},   {0xA7F2, 0xA7F4},
    {0xA82C, 0xA82C},   {0xAB69, 0xAB69},   {0x10781, 0x10785}, {0x10787, 0x107B0},
    {0x107B2, 0x107BA}, {0x10D24, 0x10D27}, {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF},
    {0x10F46, 0x10F50}, {0x10F82, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B},
    {0x1145E, 0x1145E}, {0x11839, 0x1183A}, {0x11930, 0x11930}, {0x11938, 0x11938},
    {0x1193D, 0x1193E}, {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34},
    {0x11A47, 0x11A47}, {0x11A99, 0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45},
    {0x11D97, 0x11D97}, {0x11F41, 0x11F42}, {0x16FF0, 0x16FF1}, {0x1E030, 0x1E06D},
    {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF},
    {0x1E4EC, 0x1E4EF}, {0x1F16C, 0x1F16C}, {0x1FBF0, 0x1FBF9},
};

bool normalized_since_unicode_10(char32_t code) {
  const CodeRange* r =
      std::lower_bound(std::begin(kNormalizedSinceUnicode10), std::end(kNormalizedSinceUnicode10),
                       code, [](const CodeRange& range, char32_t c) { return range.last < c; });
  return r != std::end(kNormalizedSinceUnicode10) && code >= r->first;
}

void append_normalized(std::string& out, std::string_view text, int options) {
  utf8proc_uint8_t* mapped = nullptr;
  const auto size = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                 static_cast<utf8proc_ssize_t>(text.size()), &mapped,
                                 static_cast<utf8proc_option_t>(options));
  HONE_CHECK(size >= 0, invalid_argument, "Unicode normalisation of {} bytes failed: {}",
             text.size(), utf8proc_errmsg(size));
  out.append(reinterpret_cast<const char*>(mapped), static_cast<size_t>(size));
  std::free(mapped);
}

}  // namespace

int utf8_length(unsigned char lead) {
  if (lead < 0xC2) return 1;
  return lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 1;
}

Utf8Char utf8_at(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[at + i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {lead, 1, true};
  const int length = utf8_length(lead);
  if (length == 1) return {kReplacement, 1, false};
  // The first continuation byte also excludes overlong forms, surrogates and code points too large.
  const unsigned low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  char32_t code = lead & (0x7F >> length);
  for (int i = 1; i < length; ++i) {
    if (at + i >= text.size()) return {kReplacement, i, false};
    const unsigned b = byte(i);
    if (b < (i == 1 ? low : 0x80) || b > (i == 1 ? high : 0xBF)) return {kReplacement, i, false};
    code = code << 6 | (b & 0x3F);
  }
  return {code, length, true};
}

void append_utf8(std::string& out, char32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xC0 | code >> 6);
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    out += static_cast<char>(0xE0 | code >> 12);
    out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | code >> 18);
    out += static_cast<char>(0x80 | (code >> 12 & 0x3F));
    out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  }
}

bool is_valid_utf8(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    uint64_t eight;
    if (i + sizeof eight <= text.size()) {
      std::memcpy(&eight, text.data() + i, sizeof eight);
      if (!(eight & 0x8080808080808080u)) {
        i += sizeof eight;
        continue;
      }
    }
    const Utf8Char c = utf8_at(text, i);
    if (!c.valid) return false;
    i += c.size;
  }
  return true;
}

std::string replace_ill_formed(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = utf8_at(text, i);
    if (c.valid) {
      out.append(text, i, c.size);
    } else {
      append_utf8(out, kReplacement);
    }
    i += c.size;
  }
  return out;
}

size_t unfinished_tail(std::string_view text) {
  for (size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    const size_t at = text.size() - back;
    const unsigned char b = static_cast<unsigned char>(text[at]);
    if (b < 0x80) return 0;
    if (b < 0xC0) continue;
    // Unfinished: ill-formed only because the text ends.
    const Utf8Char c = utf8_at(text, at);
    return !c.valid && at + c.size == text.size() && utf8_length(b) > c.size ? back : 0;
  }
  return 0;
}

bool is_space(char32_t c) {
  if (c < 0x80) return c == ' ' || (c >= '\t' && c <= '\r');
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
         c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_number(char32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  const auto k = category(c);
  return k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO;
}

bool is_letter(char32_t c) {
  if (c < 0x80) return (c | 0x20) >= 'a' && (c | 0x20) <= 'z';
  const auto k = category(c);
  return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
}

bool is_punctuation(char32_t c) {
  if (c < 0x80) return c > ' ' && c < 0x7F && !is_letter(c) && !is_number(c);
  const auto k = category(c);
  return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

bool is_control(char32_t c) {
  if (c < 0x80) return c < 0x20 || c == 0x7F;
  const auto k = category(c);
  return k == UTF8PROC_CATEGORY_CC || k == UTF8PROC_CATEGORY_CF || k == UTF8PROC_CATEGORY_CO;
}

bool is_nonspacing(char32_t c) { return c >= 0x300 && category(c) == UTF8PROC_CATEGORY_MN; }

bool is_word(char32_t c) {
  if (c < 0x80) return is_letter(c) || is_number(c) || c == '_';
  const auto k = category(c);
  return is_letter(c) || (k >= UTF8PROC_CATEGORY_MN && k <= UTF8PROC_CATEGORY_NL) ||
         k == UTF8PROC_CATEGORY_PC || c == 0x200C || c == 0x200D ||
         // letters in circles and squares, which are alphabetic
         (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
         (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
}

std::string normalize(std::string_view text, NormalForm form) {
  const bool compose = form == NormalForm::nfc || form == NormalForm::nfkc;
  const bool compatible = form == NormalForm::nfkc || form == NormalForm::nfkd;
  const int options = UTF8PROC_STABLE | (compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) |
                      (compatible ? UTF8PROC_COMPAT : 0);
  std::string out;
  size_t begin = 0;
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = utf8_at(text, i);
    if (normalized_since_unicode_10(c.code)) {
      append_normalized(out, text.substr(begin, i - begin), options);
      out += text.substr(i, c.size);
      begin = i + c.size;
    }
    i += c.size;
  }
  append_normalized(out, text.substr(begin), options);
  return out;
}

std::string lowercase(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = utf8_at(text, i);
    i += c.size;
    if (c.code == 0x130) {  // the one character whose lower case is two
      out += "i\xCC\x87";
    } else {
      append_utf8(out,
                  static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c.code))));
    }
  }
  return out;
}

std::string strip_accents(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = utf8_at(text, i);
    const auto k = category(c.code);
    if (k < UTF8PROC_CATEGORY_MN || k > UTF8PROC_CATEGORY_ME) out.append(text, i, c.size);
    i += c.size;
  }
  return out;
}

void for_each_grapheme(std::string_view text, const std::function<void(std::string_view)>& f) {
  size_t begin = 0;
  utf8proc_int32_t state = 0;
  char32_t last = 0;
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = utf8_at(text, i);
    // Between ASCII characters only CR LF is no boundary.
    const bool simple = last < 0x80 && c.code < 0x80 && !(last == '\r' && c.code == '\n');
    if (i > 0 && (simple || utf8proc_grapheme_break_stateful(static_cast<utf8proc_int32_t>(last),
                                                             static_cast<utf8proc_int32_t>(c.code),
                                                             &state))) {
      f(text.substr(begin, i - begin));
      begin = i;
      if (simple) state = 0;
    }
    last = c.code;
    i += c.size;
  }
  if (begin < text.size()) f(text.substr(begin));
}

char32_t byte_to_letter(unsigned char byte) { return kAlphabet.letter[byte]; }

int letter_to_byte(char32_t code) {
  return code < kAlphabet.byte.size() ? kAlphabet.byte[code] : -1;
}

std::string bytes_to_letters(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size() * 2);
  for (char b : bytes) append_utf8(out, byte_to_letter(static_cast<unsigned char>(b)));
  return out;
}

bool letters_to_bytes(std::string_view letters, std::string& bytes) {
  bytes.clear();
  for (size_t i = 0; i < letters.size(); ++i) {
    // Letters are one or two bytes long.
    char32_t code = static_cast<unsigned char>(letters[i]);
    if (code >= 0xC2 && code < 0xE0 && i + 1 < letters.size() && (letters[i + 1] & 0xC0) == 0x80)
      code = (code & 0x1F) << 6 | (letters[++i] & 0x3F);
    else if (code >= 0x80)
      return false;
    const int byte = letter_to_byte(code);
    if (byte < 0) return false;
    bytes += static_cast<char>(byte);
  }
  return true;
}

namespace {

int hex_digit(char c) {
  const int lower = c | 0x20;
  return c >= '0' && c <= '9' ? c - '0' : lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

}  // namespace

std::string unescape_bytes(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\' || i + 1 == text.size()) {
      out += text[i];
      continue;
    }
    const char c = text[++i];
    const int high = c == 'x' && i + 2 < text.size() ? hex_digit(text[i + 1]) : -1;
    const int low = high >= 0 ? hex_digit(text[i + 2]) : -1;
    if (low >= 0) {
      out += static_cast<char>(high * 16 + low);
      i += 2;
    } else {
      out += c == 'n' ? '\n' : c == 't' ? '\t' : c == 'r' ? '\r' : c;
    }
  }
  return out;
}

std::string escape_bytes(std::string_view bytes) {
  std::string out;
  for (char b : bytes) {
    if (b == '\n' || b == '\t' || b == '\r') {
      out += {'\\', b == '\n' ? 'n' : b == '\t' ? 't' : 'r'};
    } else if (b == '\\') {
      out += "\\\\";
    } else if (b >= ' ' && b <= '~') {
      out += b;
    } else {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(b));
    }
  }
  return out;
}

int byte_token_value(std::string_view token) {
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return -1;
  const int high = hex_digit(token[3]), low = hex_digit(token[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

std::string byte_token_text(unsigned char byte) { return fmt::format("<0x{:02X}>", byte); }

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  out.reserve(text.size() + text.size() / 4);
  size_t begin = 0;
  for (size_t at; (at = text.find(from, begin)) != text.npos; begin = at + from.size()) {
    out.append(text, begin, at - begin).append(to);
    HONE_CHECK(!grew_too_much(text.size(), out.size()), corrupt,
               "tokenizer: replacing {} by {} makes a text more than {} times as long",
               printed(from), printed(to), kMaxGrowth);
  }
  return out.append(text, begin);
}

std::string printed(std::string_view text) {
  constexpr size_t kLimit = 80;
  std::string out = "'";
  for (char c : text.substr(0, kLimit)) {
    const bool plain = c >= ' ' && c <= '~';
    out += plain ? std::string(1, c) : fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  }
  return out + (text.size() > kLimit ? "...'" : "'");
}

}  // namespace hone
