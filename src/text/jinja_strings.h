// Python's str on UTF-8: positions count code points, case mappings are Unicode's full ones.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace hone::jinja {

int64_t code_points(std::string_view text);
/// The byte at which code point `index` begins; text.size() past the end.
size_t byte_offset(std::string_view text, int64_t index);
std::vector<char32_t> decode(std::string_view text);
std::string encode(const std::vector<char32_t>& codes);

/// str.isspace of one character: White_Space and the separators U+001C..U+001F.
bool py_space(char32_t code);
/// Without leading or trailing characters of `chars` (white space where null).
enum class Side { left, right, both };
std::string_view strip(std::string_view text, const std::string* chars, Side side);
std::string_view rstrip(std::string_view text);

std::string upper(std::string_view text);
std::string lower(std::string_view text);
std::string swapcase(std::string_view text);
std::string casefold(std::string_view text);
/// str.title: the first cased character of each word in title case, the others in lower case.
std::string title(std::string_view text);
std::string capitalize(std::string_view text);

/// str.isalpha, str.isdigit, ... by name ("isalpha"); all are false on "" except isascii and
/// isprintable.
bool has_property(std::string_view text, std::string_view property);

/// repr(str): the quotes Python would choose, escapes for what is not printable.
std::string quoted(std::string_view text);
std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends);
/// text.split(None, limit), limit < 0: no limit.
std::vector<std::string_view> split_words(std::string_view text, int64_t limit, bool from_right);
std::string html_escaped(std::string_view text);

}  // namespace hone::jinja
