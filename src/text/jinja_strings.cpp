#include "text/jinja_strings.h"

#include <utf8proc.h>

#include <algorithm>

#include "base/error.h"
#include "text/unicode.h"

namespace hone::jinja {
namespace {

utf8proc_category_t category_of(char32_t code) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(code));
}

bool printable(char32_t code) {
  if (code < 0x80) return code >= ' ' && code < 0x7F;
  switch (category_of(code)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    default:
      return true;
  }
}

bool decimal(char32_t code) {
  return code < 0x80 ? code >= '0' && code <= '9' : category_of(code) == UTF8PROC_CATEGORY_ND;
}

/// Decimal digits and the superscripts, subscripts and circled digits of category No.
bool python_digit(char32_t c) {
  return decimal(c) || c == 0xB2 || c == 0xB3 || c == 0xB9 || c == 0x2070 ||
         (c >= 0x2074 && c <= 0x2079) || (c >= 0x2080 && c <= 0x2089) ||
         (c >= 0x2460 && c <= 0x2468) || (c >= 0x2474 && c <= 0x247C) ||
         (c >= 0x2488 && c <= 0x2490) || c == 0x24EA || (c >= 0x2776 && c <= 0x277E);
}

bool identifier(const std::vector<char32_t>& codes) {
  for (size_t i = 0; i < codes.size(); ++i) {
    const char32_t c = codes[i];
    const bool start = c == '_' || is_letter(c) || category_of(c) == UTF8PROC_CATEGORY_NL;
    if (!start && (i == 0 || !is_word(c))) return false;
  }
  return !codes.empty();
}

/// No cased character outside `wanted`, and at least one in it.
bool all_cased(const std::vector<char32_t>& codes, utf8proc_category_t wanted) {
  bool any = false;
  for (char32_t c : codes) {
    const auto k = category_of(c);
    if (k == wanted) {
      any = true;
    } else if (k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LL ||
               k == UTF8PROC_CATEGORY_LT) {
      return false;
    }
  }
  return any;
}

bool titled(const std::vector<char32_t>& codes) {
  bool any = false, in_word = false;
  for (char32_t c : codes) {
    const auto k = category_of(c);
    const bool begins = k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LT;
    const bool continues = k == UTF8PROC_CATEGORY_LL;
    if ((begins && in_word) || (continues && !in_word)) return false;
    in_word = begins || continues;
    any = any || in_word;
  }
  return any;
}

bool line_end(char32_t c) {
  return (c >= '\n' && c <= '\r') || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 ||
         c == 0x2029;
}

}  // namespace

int64_t code_points(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

size_t byte_offset(std::string_view text, int64_t index) {
  size_t at = 0;
  while (index > 0 && at < text.size()) {
    at += utf8_length(static_cast<unsigned char>(text[at]));
    --index;
  }
  return std::min(at, text.size());
}

std::vector<char32_t> decode(std::string_view text) {
  std::vector<char32_t> codes;
  codes.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = utf8_at(text, i);
    codes.push_back(c.code);
    i += c.size;
  }
  return codes;
}

std::string encode(const std::vector<char32_t>& codes) {
  std::string out;
  for (char32_t c : codes) append_utf8(out, c);
  return out;
}

bool py_space(char32_t code) { return is_space(code) || (code >= 0x1C && code <= 0x1F); }

std::string_view strip(std::string_view text, const std::string* chars, Side side) {
  const auto set = chars ? decode(*chars) : std::vector<char32_t>{};
  const auto drop = [&](char32_t c) {
    return chars ? std::find(set.begin(), set.end(), c) != set.end() : py_space(c);
  };
  size_t begin = 0, end = text.size();
  while (side != Side::right && begin < end) {
    const Utf8Char c = utf8_at(text, begin);
    if (!drop(c.code)) break;
    begin += c.size;
  }
  while (side != Side::left && begin < end) {
    size_t last = end - 1;
    while (last > begin && (text[last] & 0xC0) == 0x80) --last;
    if (!drop(utf8_at(text, last).code)) break;
    end = last;
  }
  return text.substr(begin, end - begin);
}

std::string_view rstrip(std::string_view text) { return strip(text, nullptr, Side::right); }

bool has_property(std::string_view text, std::string_view property) {
  const auto codes = decode(text);
  const auto all = [&](auto test) {
    return !codes.empty() && std::all_of(codes.begin(), codes.end(), test);
  };
  if (property == "isalpha") return all(is_letter);
  if (property == "isdecimal") return all(decimal);
  if (property == "isdigit") return all(python_digit);
  if (property == "isnumeric")
    return all([](char32_t c) { return is_number(c) || python_digit(c); });
  if (property == "isalnum") return all([](char32_t c) { return is_letter(c) || is_number(c); });
  if (property == "isspace") return all(py_space);
  if (property == "isascii") return codes.empty() || all([](char32_t c) { return c < 0x80; });
  if (property == "isprintable") return codes.empty() || all(printable);
  if (property == "isidentifier") return identifier(codes);
  if (property == "islower") return all_cased(codes, UTF8PROC_CATEGORY_LL);
  if (property == "isupper") return all_cased(codes, UTF8PROC_CATEGORY_LU);
  HONE_ASSERT(property == "istitle");
  return titled(codes);
}

std::string quoted(std::string_view text) {
  const bool single = text.find('\'') != text.npos;
  const char quote = single && text.find('"') == text.npos ? '"' : '\'';
  std::string out(1, quote);
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = utf8_at(text, i);
    i += c.size;
    if (c.code == static_cast<char32_t>(quote) || c.code == '\\') {
      out += '\\';
      out += static_cast<char>(c.code);
    } else if (c.code == '\n' || c.code == '\r' || c.code == '\t') {
      out += c.code == '\n' ? "\\n" : c.code == '\r' ? "\\r" : "\\t";
    } else if (printable(c.code)) {
      append_utf8(out, c.code);
    } else {
      const auto code = static_cast<uint32_t>(c.code);
      out += code < 0x100     ? fmt::format("\\x{:02x}", code)
             : code < 0x10000 ? fmt::format("\\u{:04x}", code)
                              : fmt::format("\\U{:08x}", code);
    }
  }
  return out += quote;
}

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> lines;
  size_t begin = 0;
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = utf8_at(text, i);
    size_t next = i + c.size;
    if (line_end(c.code)) {
      if (c.code == '\r' && next < text.size() && text[next] == '\n') ++next;
      lines.push_back(text.substr(begin, (keep_ends ? next : i) - begin));
      begin = next;
    }
    i = next;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return lines;
}

std::vector<std::string_view> split_words(std::string_view text, int64_t limit, bool from_right) {
  std::vector<std::string_view> words;
  const Side outer = from_right ? Side::right : Side::left;
  while (true) {
    text = strip(text, nullptr, outer);
    if (text.empty()) break;
    if (limit >= 0 && static_cast<int64_t>(words.size()) == limit) {
      words.push_back(text);
      break;
    }
    if (from_right) {
      size_t begin = text.size();
      while (begin > 0) {
        size_t last = begin - 1;
        while (last > 0 && (text[last] & 0xC0) == 0x80) --last;
        if (py_space(utf8_at(text, last).code)) break;
        begin = last;
      }
      words.push_back(text.substr(begin));
      text = text.substr(0, begin);
    } else {
      size_t end = 0;
      while (end < text.size()) {
        const Utf8Char c = utf8_at(text, end);
        if (py_space(c.code)) break;
        end += c.size;
      }
      words.push_back(text.substr(0, end));
      text = text.substr(end);
    }
  }
  if (from_right) std::reverse(words.begin(), words.end());
  return words;
}

std::string html_escaped(std::string_view text) {
  std::string out;
  for (char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&#34;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

}  // namespace hone::jinja
