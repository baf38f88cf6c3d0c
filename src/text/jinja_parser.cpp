#include "text/jinja_parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>

#include "text/jinja_expression_parser.h"
#include "text/jinja_strings.h"

namespace hone::jinja {
namespace {

using Ends = std::initializer_list<std::string_view>;

class Parser : private ExpressionParser {
 public:
  explicit Parser(std::string_view source) : ExpressionParser(tokenize(source)) {}

  Body run() {
    Body body = statements({});
    if (current().kind != TokenKind::end) unexpected("the end of the template");
    return body;
  }

 private:
  /// Up to a tag whose name is in `ends`; leaves that name as the current token.
  Body statements(Ends ends) {
    const Level level(*this);
    Body body;
    while (true) {
      const int line = current().line;
      switch (current().kind) {
        case TokenKind::data:
          body.push_back({Data{next().text}, line});
          break;
        case TokenKind::variable_begin: {
          next();
          Output output;
          output.values.push_back(tuple(true));
          if (current().kind != TokenKind::variable_end) unexpected("'}}'");
          next();
          body.push_back({std::move(output), line});
          break;
        }
        case TokenKind::block_begin:
          next();
          if (current().kind == TokenKind::name &&
              std::find(ends.begin(), ends.end(), current().text) != ends.end()) {
            return body;
          }
          body.push_back(statement());
          expect_block_end();
          break;
        default:
          if (current().kind != TokenKind::end) unexpected("text or a tag");
          if (ends.size() == 0) return body;
          unexpected(fmt::format("'{}'", fmt::join(ends, "' or '")));
      }
    }
  }

  void expect_block_end() {
    if (current().kind != TokenKind::block_end) unexpected("'%}'");
    next();
  }

  /// The body of a block tag, to its end tag (consumed up to its "%}").
  Body block(Ends ends) {
    skip_op(":");
    expect_block_end();
    return statements(ends);
  }
  Body closed_block(std::string_view end) {
    Body body = block({end});
    next();
    return body;
  }

  Stmt statement() {
    if (current().kind != TokenKind::name) unexpected("the name of a tag");
    const Token tag = next();
    const std::string& name = tag.text;
    if (name == "if") return {if_(), tag.line};
    if (name == "for") return {for_(), tag.line};
    if (name == "set") return set(tag.line);
    if (name == "macro") return {Macro{macro()}, tag.line};
    if (name == "call") return {call_block(), tag.line};
    if (name == "filter") {
      ExprPtr chain = filters(nullptr);
      return {FilterBlock{std::move(chain), closed_block("endfilter")}, tag.line};
    }
    if (name == "with") return {with(), tag.line};
    if (name == "generation") return {Generation{function_body("endgeneration")}, tag.line};
    if (name == "print") return {print(), tag.line};
    if (name == "break" || name == "continue") {
      if (loops_ == 0) error(tag.line, fmt::format("'{}' outside a loop", name));
      if (name == "break") return {Break{}, tag.line};
      return {Continue{}, tag.line};
    }
    for (std::string_view lacking :
         {"block", "extends", "include", "import", "from", "autoescape"}) {
      if (name == lacking) {
        throw Fault{ErrorKind::unsupported, fmt::format("the tag '{}' is not supported", name),
                    tag.line};
      }
    }
    error(tag.line, fmt::format("unknown tag {}", jinja::quoted(name.substr(0, 60))));
  }

  If if_() {
    If node;
    while (true) {
      ExprPtr test = tuple(false);
      node.branches.push_back({std::move(test), block({"elif", "else", "endif"})});
      const std::string end = next().text;
      if (end == "elif") continue;
      if (end == "else") node.otherwise = closed_block("endif");
      return node;
    }
  }

  For for_() {
    For node;
    ++loops_;  // "loop" is not a target
    node.target = target(false);
    --loops_;
    if (!skip_name("in")) unexpected("'in'");
    node.iterable = tuple(false);
    if (skip_name("if")) node.test = expression();
    if (current().is_name("recursive")) {
      throw Fault{ErrorKind::unsupported, "recursive loops are not supported", current().line};
    }
    ++loops_;
    node.body = block({"endfor", "else"});
    --loops_;
    if (next().text == "else") node.otherwise = closed_block("endfor");
    return node;
  }

  Stmt set(int line) {
    Target to = target(true);
    if (skip_op("=")) {
      ExprPtr value = tuple(true);
      return {Set{std::move(to), std::move(value)}, line};
    }
    ExprPtr chain = skip_op("|") ? filters(nullptr) : nullptr;
    return {SetBlock{std::move(to), std::move(chain), closed_block("endset")}, line};
  }

  With with() {
    With node;
    while (current().kind != TokenKind::block_end) {
      if (!node.values.empty()) expect_op(",");
      Target to = target(false);
      expect_op("=");
      node.values.emplace_back(std::move(to), expression());
    }
    node.body = closed_block("endwith");
    return node;
  }

  Output print() {
    Output node;
    while (current().kind != TokenKind::block_end) {
      if (!node.values.empty()) expect_op(",");
      node.values.push_back(expression());
    }
    return node;
  }

  /// A body that is a function of its own in jinja2: loops around it do not reach into it.
  Body function_body(std::string_view end) {
    const int loops = std::exchange(loops_, 0);
    Body body = closed_block(end);
    loops_ = loops;
    return body;
  }

  MacroNode macro() {
    MacroNode node;
    node.name = target_name();
    node.parameters = parameters();
    macro_body(node, "endmacro");
    return node;
  }

  CallBlock call_block() {
    const int line = current().line;
    CallBlock node;
    if (current().is_op("(")) node.macro.parameters = parameters();
    node.call = expression();
    if (!std::holds_alternative<Call>(node.call->node)) error(line, "expected a call");
    macro_body(node.macro, "endcall");
    return node;
  }

  void macro_body(MacroNode& node, std::string_view end) {
    macros_.emplace_back();
    node.body = function_body(end);
    const Mentions mentions = macros_.back();
    macros_.pop_back();
    const auto is_parameter = [&](std::string_view wanted) {
      return std::any_of(node.parameters.begin(), node.parameters.end(),
                         [&](const auto& p) { return p.name == wanted; });
    };
    node.uses_caller = mentions.caller && !is_parameter("caller");
    node.uses_kwargs = mentions.kwargs && !is_parameter("kwargs");
    node.uses_varargs = mentions.varargs && !is_parameter("varargs");
  }

  std::vector<MacroNode::Parameter> parameters() {
    std::vector<MacroNode::Parameter> result;
    expect_op("(");
    while (!current().is_op(")")) {
      if (!result.empty()) expect_op(",");
      const int line = current().line;
      std::string name = target_name();
      ExprPtr value = skip_op("=") ? expression() : nullptr;
      if (!value && !result.empty() && result.back().value) {
        error(line, "a parameter without a default follows one with a default");
      }
      result.push_back({std::move(name), std::move(value)});
    }
    expect_op(")");
    return result;
  }

  std::string target_name() {
    const int line = current().line;
    std::string name = expect_name();
    for (std::string_view reserved : {"true", "false", "none", "True", "False", "None"}) {
      if (name == reserved) error(line, fmt::format("cannot assign to '{}'", name));
    }
    if (name == "loop" && loops_ > 0) error(line, "cannot assign to the special variable 'loop'");
    return name;
  }

  /// `attributes`: also namespace.attribute. Ends before "in", "=", "|" or the tag's end.
  Target target(bool attributes) {
    const Level level(*this);
    Target tuple;
    tuple.is_tuple = true;
    while (true) {
      if (skip_op("(")) {
        tuple.elements.push_back(target(false));
        expect_op(")");
      } else {
        Target one;
        one.name = target_name();
        if (attributes && skip_op(".")) one.attribute = expect_name();
        tuple.elements.push_back(std::move(one));
      }
      const bool comma = skip_op(",");
      if (!comma && tuple.elements.size() == 1) {
        Target only = std::move(tuple.elements[0]);
        return only;
      }
      if (!comma || current().is_op(")")) return tuple;
    }
  }

  int loops_ = 0;  // around the current place, within the current function
};

}  // namespace

Body parse(std::string_view source) { return Parser(source).run(); }

}  // namespace hone::jinja
