#include "text/rwkv_vocabulary.h"

#include <charconv>

#include "base/error.h"
#include "text/pipeline.h"
#include "text/unicode.h"

namespace hone {
namespace {

constexpr const char* kEndOfText = "<|rwkv_tokenizer_end_of_text|>";

template <typename T>
bool read_number(std::string_view text, T& value, int base = 10) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  return error == std::errc() && end == text.data() + text.size() && !text.empty();
}

// Reads the escape at text[at], a backslash; moves behind it. False: not one of Python's.
bool read_escape(std::string_view text, size_t& at, bool bytes, std::string& out) {
  static constexpr std::string_view kNames = "ntrabfv0'\"\\", kValues("\n\t\r\a\b\f\v\0'\"\\", 11);
  const char c = at + 1 < text.size() ? text[at + 1] : ' ';
  if (const size_t known = kNames.find(c); known != kNames.npos) {
    out += kValues[known];
    at += 2;
    return true;
  }
  const size_t digits = c == 'x' ? 2 : bytes ? 0 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
  uint32_t code = 0;
  if (digits == 0 || at + 2 + digits > text.size()) return false;
  if (!read_number(text.substr(at + 2, digits), code, 16)) return false;
  if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) return false;
  if (bytes) {
    out += static_cast<char>(code);
  } else {
    append_utf8(out, code);
  }
  at += 2 + digits;
  return true;
}

// The bytes of a Python literal; false where it is none.
bool read_literal(std::string_view text, std::string& out) {
  out.clear();
  const bool bytes = text.starts_with('b');
  if (bytes) text.remove_prefix(1);
  if (text.size() < 2 || (text[0] != '\'' && text[0] != '"') || text.back() != text[0])
    return false;
  const char quote = text[0];
  text = text.substr(1, text.size() - 2);
  for (size_t i = 0; i < text.size();) {
    if (text[i] == quote) return false;
    if (text[i] != '\\') {
      out += text[i++];
    } else if (!read_escape(text, i, bytes, out)) {
      return false;
    }
  }
  return true;
}

}  // namespace

TokenizerSpec rwkv_spec_from_vocabulary(std::string_view text, const std::string& source) {
  TokenizerSpec spec;
  spec.source = source;
  spec.model = "rwkv";
  spec.tokens.push_back(kEndOfText);
  spec.token_types = {static_cast<int32_t>(TokenType::control)};
  spec.eos = 0;
  std::string bytes;
  for (int64_t line = 1; !text.empty(); ++line) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view row = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (row.ends_with('\r')) row.remove_suffix(1);
    if (row.empty()) continue;
    const size_t first = row.find(' '), last = row.rfind(' ');
    int64_t id = -1, size = -1;
    const bool good = first != row.npos && last > first && read_number(row.substr(0, first), id) &&
                      read_number(row.substr(last + 1), size) &&
                      read_literal(row.substr(first + 1, last - first - 1), bytes);
    HONE_CHECK(good && id > 0 && id < kMaxVocabulary && size == std::ssize(bytes) && size > 0,
               corrupt, "{}: line {} is {}; expected an id, a literal and its size in bytes",
               source, line, printed(row));
    while (std::ssize(spec.tokens) <= id) {
      spec.tokens.push_back("");
      spec.token_types.push_back(static_cast<int32_t>(TokenType::unused));
    }
    int32_t& type = spec.token_types[static_cast<size_t>(id)];
    HONE_CHECK(type == static_cast<int32_t>(TokenType::unused), corrupt,
               "{}: line {} gives id {} a second time", source, line, id);
    type = static_cast<int32_t>(TokenType::normal);
    spec.tokens.set(static_cast<size_t>(id), escape_bytes(bytes));
  }
  return spec;
}

std::string rwkv_vocabulary_text(const TokenizerSpec& spec) {
  std::string out;
  for (size_t id = 1; id < spec.tokens.size(); ++id) {
    if (!spec.token_types.empty() &&
        spec.token_types[id] != static_cast<int32_t>(TokenType::normal))
      continue;
    const std::string bytes = unescape_bytes(spec.tokens[id]);
    out += fmt::format("{} b'{}' {}\n", id, replace_all(escape_bytes(bytes), "'", "\\'"),
                       bytes.size());
  }
  return out;
}

}  // namespace hone
