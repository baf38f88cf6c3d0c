// The expression half of the parser: a recursive descent in the order of jinja2's precedence.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "text/jinja_ast.h"
#include "text/jinja_lexer.h"

namespace hone::jinja {

class ExpressionParser {
 public:
  explicit ExpressionParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

 protected:
  const Token& current() const { return tokens_[at_]; }
  const Token& look(size_t ahead) const {
    return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
  }
  Token next() { return at_ + 1 < tokens_.size() ? tokens_[at_++] : tokens_[at_]; }
  bool skip_op(std::string_view op);
  bool skip_name(std::string_view name);
  void expect_op(std::string_view op);
  std::string expect_name();
  [[noreturn]] void error(int line, std::string message) const;
  [[noreturn]] void unexpected(std::string_view wanted) const;

  /// With commas a tuple. `conditional`: may hold "x if y else z" (not in a for or if tag).
  ExprPtr tuple(bool conditional, bool parenthesised = false);
  ExprPtr expression(bool conditional = true) { return conditional ? condition() : disjunction(); }
  /// One or more "name(arguments)" joined by "|", applied to `subject` (null: a block's text).
  ExprPtr filters(ExprPtr subject);
  ExprPtr make(int line, Expr::Node node) const;

  /// One level of nesting, refused past kMaxNesting.
  class Level {
   public:
    explicit Level(ExpressionParser& parser);
    ~Level() { --parser_.depth_; }

   private:
    ExpressionParser& parser_;
  };

  /// What the macros around the current place mention, the innermost last.
  struct Mentions {
    bool caller = false, kwargs = false, varargs = false;
  };
  std::vector<Mentions> macros_;

 private:
  ExprPtr condition();
  ExprPtr disjunction();
  ExprPtr conjunction();
  ExprPtr negation();
  ExprPtr comparison();
  ExprPtr sum();
  ExprPtr concatenation();
  ExprPtr product();
  ExprPtr power();
  ExprPtr unary(bool with_filters);
  ExprPtr primary();
  ExprPtr name_or_constant();
  ExprPtr list();
  ExprPtr dict();
  ExprPtr postfix(ExprPtr node);
  ExprPtr filters_and_tests(ExprPtr node);
  ExprPtr filter(ExprPtr subject);
  ExprPtr test(ExprPtr subject);
  ExprPtr attribute(ExprPtr object);
  ExprPtr subscript(ExprPtr object);
  CallArguments arguments();
  ExprPtr call(ExprPtr callee);
  bool at_tuple_end(bool parenthesised) const;

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace hone::jinja
