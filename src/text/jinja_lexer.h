// Tokens of a Jinja template under Hugging Face's settings: trim_blocks (the newline after a block
// tag goes) and lstrip_blocks (the blanks before one on its line go); "-" strips white space on its
// side, "+" keeps it. Comments and raw blocks are resolved here.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace hone::jinja {

enum class TokenKind {
  data,  // text between tags
  block_begin,
  block_end,
  variable_begin,
  variable_end,
  name,
  string,
  integer,
  real,
  op,
  end
};

struct Token {
  TokenKind kind;
  int line;
  std::string text;  // data, string: the decoded text; name and op: as written
  int64_t integer = 0;
  double real = 0;

  bool is(TokenKind k, std::string_view t) const { return kind == k && text == t; }
  bool is_op(std::string_view t) const { return is(TokenKind::op, t); }
  bool is_name(std::string_view t) const { return is(TokenKind::name, t); }
};

/// Ends with a token of kind `end`. `source` must be UTF-8. Raises Fault with its line.
std::vector<Token> tokenize(std::string_view source);

}  // namespace hone::jinja
