#include "text/jinja_lexer.h"

#include <algorithm>
#include <charconv>
#include <limits>

#include "text/jinja_strings.h"
#include "text/jinja_value.h"
#include "text/unicode.h"

namespace hone::jinja {
namespace {

[[noreturn]] void syntax_error(int line, std::string message) {
  throw Fault{ErrorKind::corrupt, std::move(message), line};
}

bool digit(char c) { return c >= '0' && c <= '9'; }

int hex_value(char c) {
  if (digit(c)) return c - '0';
  c |= 0x20;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/// "\r\n" and "\r" become "\n"; one newline at the end goes.
std::string with_unix_newlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

/// The code point of `digits` hexadecimal digits at body[at + 1]; moves `at` to the last of them.
char32_t hex_escape(std::string_view body, size_t& at, int digits, int line) {
  char32_t code = 0;
  for (int i = 0; i < digits; ++i) {
    const int value = at + 1 < body.size() ? hex_value(body[at + 1]) : -1;
    if (value < 0) syntax_error(line, "truncated escape in a string");
    code = code << 4 | static_cast<char32_t>(value);
    ++at;
  }
  if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) {
    syntax_error(line, "escape in a string that is no Unicode character");
  }
  return code;
}

/// Python's escapes in a string literal, without the quotes.
std::string unescaped(std::string_view body, int line) {
  constexpr std::string_view kLetters = "\\'\"abfnrtv";
  constexpr std::string_view kMeanings = "\\'\"\a\b\f\n\r\t\v";
  std::string out;
  for (size_t i = 0; i < body.size(); ++i) {
    if (body[i] != '\\') {
      out += body[i];
      continue;
    }
    const char c = body[++i];
    if (const size_t at = kLetters.find(c); at != kLetters.npos) {
      out += kMeanings[at];
    } else if (c == 'x' || c == 'u' || c == 'U') {
      append_utf8(out, hex_escape(body, i, c == 'x' ? 2 : c == 'u' ? 4 : 8, line));
    } else if (c >= '0' && c <= '7') {
      char32_t code = 0;
      size_t end = i;
      while (end < body.size() && end < i + 3 && body[end] >= '0' && body[end] <= '7') {
        code = code * 8 + static_cast<char32_t>(body[end++] - '0');
      }
      append_utf8(out, code);
      i = end - 1;
    } else if (c == 'N') {
      syntax_error(line, "character names (\\N{...}) in strings are not supported");
    } else if (c != '\n') {  // a backslash before a newline joins the lines; others stay
      out += '\\';
      out += c;
    }
  }
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(with_unix_newlines(source)) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) next_piece();
    add(TokenKind::end, "");
    return std::move(tokens_);
  }

 private:
  char peek(size_t ahead = 0) const {
    return at_ + ahead < source_.size() ? source_[at_ + ahead] : '\0';
  }
  std::string_view rest() const { return std::string_view(source_).substr(at_); }
  void add(TokenKind kind, std::string text) { tokens_.push_back({kind, line_, std::move(text)}); }

  /// Moves on by `size` bytes, counting lines.
  void advance(size_t size) {
    line_ +=
        static_cast<int>(std::count(source_.begin() + at_, source_.begin() + at_ + size, '\n'));
    at_ += size;
    if (size > 0) line_starting_ = source_[at_ - 1] == '\n';
  }

  size_t space_at(size_t at) const {
    const size_t begin = at;
    while (at < source_.size()) {
      const Utf8Char c = utf8_at(source_, at);
      if (!py_space(c.code)) break;
      at += c.size;
    }
    return at - begin;
  }

  /// The text up to the next tag, without what the tag's sign or lstrip_blocks strips.
  void add_data(std::string_view text, char sign, bool is_variable) {
    if (sign == '-') {
      text = rstrip(text);
    } else if (sign != '+' && !is_variable) {
      const size_t newline = text.rfind('\n');
      const size_t line = newline == text.npos ? 0 : newline + 1;
      if ((line > 0 || line_starting_) && strip(text.substr(line), nullptr, Side::left).empty()) {
        text = text.substr(0, line);
      }
    }
    if (!text.empty()) add(TokenKind::data, std::string(text));
  }

  void next_piece() {
    size_t tag = at_;
    const auto opens = [&](size_t i) {
      return source_[i] == '{' &&
             (source_[i + 1] == '%' || source_[i + 1] == '{' || source_[i + 1] == '#');
    };
    while (tag + 1 < source_.size() && !opens(tag)) ++tag;
    if (tag + 1 >= source_.size()) {
      add(TokenKind::data, std::string(rest()));
      advance(rest().size());
      return;
    }
    const char kind = source_[tag + 1];
    const char next = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    const char sign = next == '-' || next == '+' ? next : '\0';
    add_data(rest().substr(0, tag - at_), sign, kind == '{');
    advance(tag - at_);
    const size_t opening = sign ? 3 : 2;
    if (kind == '%') {
      if (const size_t size = raw_tag_at(at_, "raw", true)) {
        advance(size);
        raw_block();
        return;
      }
    }
    advance(opening);
    if (kind == '#') {
      comment();
    } else {
      inside_tag(kind == '{');
    }
  }

  /// The size of the tag {% name %} at `at`, or 0. Of "raw" the end tag keeps the newline after it.
  size_t raw_tag_at(size_t at, std::string_view name, bool begins) const {
    const std::string_view all = source_;
    size_t i = at + 2;
    if (i < all.size() && (all[i] == '-' || all[i] == '+')) ++i;
    i += space_at(i);
    if (all.substr(std::min(i, all.size()), name.size()) != name) return 0;
    i += name.size();
    i += space_at(i);
    const std::string_view tail = all.substr(i);
    if (tail.starts_with("-%}")) return i + 3 + space_at(i + 3) - at;
    if (!begins && tail.starts_with("+%}")) return i + 3 - at;
    if (!tail.starts_with("%}")) return 0;
    const bool trims = !begins && tail.size() > 2 && tail[2] == '\n';
    return i + 2 + (trims ? 1 : 0) - at;
  }

  void raw_block() {
    for (size_t end = source_.find("{%", at_); end != source_.npos;
         end = source_.find("{%", end + 1)) {
      const size_t size = raw_tag_at(end, "endraw", false);
      if (size == 0) continue;
      const char next = end + 2 < source_.size() ? source_[end + 2] : '\0';
      add_data(rest().substr(0, end - at_), next == '-' || next == '+' ? next : '\0', false);
      advance(end - at_);
      advance(size);
      return;
    }
    syntax_error(line_, "missing end of raw block");
  }

  void comment() {
    const size_t end = source_.find("#}", at_);
    if (end == source_.npos) syntax_error(line_, "missing end of comment");
    const char sign = end > at_ ? source_[end - 1] : '\0';
    advance(end - at_);
    advance(2);
    trim_after_tag(sign);
  }

  void trim_after_tag(char sign) {
    if (sign == '-') {
      advance(space_at(at_));
    } else if (sign != '+' && peek() == '\n') {
      advance(1);
    }
  }

  /// True where the tag ends here; consumes its end.
  bool ends_tag(bool is_variable) {
    if (!brackets_.empty()) return false;
    const std::string_view closing = is_variable ? "}}" : "%}";
    const char sign = peek() == '-' || (peek() == '+' && !is_variable) ? peek() : '\0';
    if (rest().substr(sign ? 1 : 0, 2) != closing) return false;
    add(is_variable ? TokenKind::variable_end : TokenKind::block_end, std::string(closing));
    advance(sign ? 3 : 2);
    if (is_variable && sign == '\0') return true;
    trim_after_tag(sign);
    return true;
  }

  void inside_tag(bool is_variable) {
    const int begin = line_;
    add(is_variable ? TokenKind::variable_begin : TokenKind::block_begin, "");
    while (!ends_tag(is_variable)) {
      if (at_ >= source_.size()) {
        syntax_error(line_, fmt::format("the tag that begins on line {} does not end", begin));
      }
      if (const size_t space = space_at(at_)) {
        advance(space);
      } else if (digit(peek())) {
        number();
      } else if (peek() == '"' || peek() == '\'') {
        string();
      } else if (!name()) {
        op();
      }
    }
  }

  /// The end of digits with single underscores between them.
  size_t digits_end(size_t i, int base = 10) const {
    const auto is_digit = [&](size_t k) {
      const int value = k < source_.size() ? hex_value(source_[k]) : -1;
      return value >= 0 && value < base;
    };
    while (is_digit(i) || (i < source_.size() && source_[i] == '_' && is_digit(i + 1))) ++i;
    return i;
  }

  /// The end of a float literal, or at_ where there is none.
  size_t real_end() const {
    if (at_ > 0 && source_[at_ - 1] == '.') return at_;
    const auto at = [&](size_t i) { return i < source_.size() ? source_[i] : '\0'; };
    const size_t whole = digits_end(at_);
    size_t end = whole;
    if (at(end) == '.' && digit(at(end + 1))) end = digits_end(end + 1);
    if ((at(end) | 0x20) == 'e') {
      size_t exponent = end + 1;
      if (at(exponent) == '+' || at(exponent) == '-') ++exponent;
      if (digit(at(exponent))) end = digits_end(exponent);
    }
    return end == whole ? at_ : end;
  }

  void number() {
    size_t end = real_end();
    const bool is_real = end > at_;
    int base = 10;
    size_t begin = at_;
    if (!is_real) {
      const char letter = static_cast<char>(peek(1) | 0x20);
      const int prefixed = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 0;
      if (peek() == '0' && prefixed && digits_end(at_ + 2, prefixed) > at_ + 2) {
        base = prefixed;
        begin += 2;
      }
      // Python has no integers like 007: zeros are a number of their own.
      end = digits_end(begin, peek() == '0' && base == 10 ? 1 : base);
    }
    std::string text = source_.substr(begin, end - begin);
    std::erase(text, '_');
    Token token{is_real ? TokenKind::real : TokenKind::integer, line_, text};
    const char* last = text.data() + text.size();
    if (is_real) {
      if (std::from_chars(text.data(), last, token.real).ec == std::errc::result_out_of_range) {
        const bool tiny = text.find("e-") != text.npos || text.find("E-") != text.npos;
        token.real = tiny ? 0.0 : std::numeric_limits<double>::infinity();
      }
    } else if (std::from_chars(text.data(), last, token.integer, base).ec != std::errc()) {
      syntax_error(line_,
                   fmt::format("the integer {} needs more than 64 bits", text.substr(0, 40)));
    }
    tokens_.push_back(std::move(token));
    advance(end - at_);
  }

  void string() {
    const char quote = peek();
    size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) syntax_error(line_, "a string does not end");
    const auto body = std::string_view(source_).substr(at_ + 1, end - at_ - 1);
    add(TokenKind::string, unescaped(body, line_));
    advance(end + 1 - at_);
  }

  bool name() {
    size_t end = at_;
    while (end < source_.size()) {
      const Utf8Char c = utf8_at(source_, end);
      if (!is_word(c.code)) break;
      end += c.size;
    }
    if (end == at_) return false;
    std::string text = source_.substr(at_, end - at_);
    if (!has_property(text, "isidentifier")) {
      syntax_error(line_, fmt::format("{} is no name", jinja::quoted(text)));
    }
    add(TokenKind::name, std::move(text));
    advance(end - at_);
    return true;
  }

  void op() {
    constexpr std::string_view kPairs[] = {"//", "**", "==", "!=", ">=", "<="};
    constexpr std::string_view kSingles = "+-/*%~[](){}><=.:|,;";
    std::string text(rest().substr(0, 2));
    if (std::find(std::begin(kPairs), std::end(kPairs), text) == std::end(kPairs)) text.resize(1);
    if (text.size() == 1 && kSingles.find(text[0]) == kSingles.npos) {
      const Utf8Char c = utf8_at(source_, at_);
      syntax_error(line_, fmt::format("unexpected {}", jinja::quoted(rest().substr(0, c.size))));
    }
    balance(text[0]);
    add(TokenKind::op, text);
    advance(text.size());
  }

  void balance(char c) {
    constexpr std::string_view kOpen = "([{", kClose = ")]}";
    if (const size_t open = kOpen.find(c); open != kOpen.npos) {
      brackets_.push_back(kClose[open]);
    } else if (kClose.find(c) != kClose.npos) {
      if (brackets_.empty()) syntax_error(line_, fmt::format("unexpected '{}'", c));
      if (brackets_.back() != c) {
        syntax_error(line_, fmt::format("unexpected '{}', expected '{}'", c, brackets_.back()));
      }
      brackets_.pop_back();
    }
  }

  std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;  // the last thing read ended with a newline
  std::vector<char> brackets_;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) { return Lexer(source).run(); }

}  // namespace hone::jinja
