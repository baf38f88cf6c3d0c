#include "text/jinja_expression_parser.h"

#include "text/jinja_strings.h"

namespace hone::jinja {
namespace {

constexpr std::string_view kComparisons[] = {"==", "!=", "<", "<=", ">", ">="};

bool is_comparison(const Token& token) {
  return token.kind == TokenKind::op && std::find(std::begin(kComparisons), std::end(kComparisons),
                                                  token.text) != std::end(kComparisons);
}

std::string described(const Token& token) {
  switch (token.kind) {
    case TokenKind::data:
      return "text";
    case TokenKind::end:
      return "the end of the template";
    case TokenKind::block_begin:
      return "'{%'";
    case TokenKind::variable_begin:
      return "'{{'";
    case TokenKind::string:
      return "a string";
    default:
      return jinja::quoted(token.text.substr(0, 60));
  }
}

/// The deepest of a node's operands.
struct Deepest {
  int depth = 0;
  void operator()(const ExprPtr& e) {
    if (e) depth = std::max(depth, e->depth);
  }
  void operator()(const std::vector<ExprPtr>& list) {
    for (const auto& e : list) (*this)(e);
  }
  void operator()(const CallArguments& a) {
    (*this)(a.positional);
    for (const auto& [name, e] : a.named) (*this)(e);
    (*this)(a.star);
    (*this)(a.star_star);
  }
  void operator()(const Constant&) {}
  void operator()(const Name&) {}
  void operator()(const Unary& n) { (*this)(n.operand); }
  void operator()(const Binary& n) { (*this)(n.left), (*this)(n.right); }
  void operator()(const Logic& n) { (*this)(n.left), (*this)(n.right); }
  void operator()(const Comparison& n) {
    (*this)(n.first);
    for (const auto& [op, e] : n.rest) (*this)(e);
  }
  void operator()(const Conditional& n) { (*this)(n.test), (*this)(n.yes), (*this)(n.no); }
  void operator()(const Concat& n) { (*this)(n.parts); }
  void operator()(const SequenceLiteral& n) { (*this)(n.items); }
  void operator()(const DictLiteral& n) {
    for (const auto& [key, value] : n.entries) (*this)(key), (*this)(value);
  }
  void operator()(const Attribute& n) { (*this)(n.object); }
  void operator()(const Item& n) { (*this)(n.object), (*this)(n.key); }
  void operator()(const Slice& n) {
    (*this)(n.object), (*this)(n.start), (*this)(n.stop), (*this)(n.step);
  }
  void operator()(const Call& n) { (*this)(n.callee), (*this)(n.arguments); }
  void operator()(const Filter& n) { (*this)(n.subject), (*this)(n.arguments); }
  void operator()(const Test& n) { (*this)(n.subject), (*this)(n.arguments); }
};

}  // namespace

ExpressionParser::Level::Level(ExpressionParser& parser) : parser_(parser) {
  if (++parser_.depth_ > kMaxNesting) {
    --parser_.depth_;
    throw Fault{ErrorKind::unsupported, fmt::format("syntax nested deeper than {}", kMaxNesting),
                parser.current().line};
  }
}

ExprPtr ExpressionParser::make(int line, Expr::Node node) const {
  Deepest deepest;
  std::visit(deepest, node);
  if (deepest.depth >= kMaxNesting) {
    throw Fault{ErrorKind::unsupported, fmt::format("syntax nested deeper than {}", kMaxNesting),
                line};
  }
  return std::make_unique<Expr>(Expr{std::move(node), line, deepest.depth + 1});
}

void ExpressionParser::error(int line, std::string message) const {
  throw Fault{ErrorKind::corrupt, std::move(message), line};
}

void ExpressionParser::unexpected(std::string_view wanted) const {
  error(current().line, fmt::format("expected {}, got {}", wanted, described(current())));
}

bool ExpressionParser::skip_op(std::string_view op) {
  if (!current().is_op(op)) return false;
  next();
  return true;
}

bool ExpressionParser::skip_name(std::string_view name) {
  if (!current().is_name(name)) return false;
  next();
  return true;
}

void ExpressionParser::expect_op(std::string_view op) {
  if (!skip_op(op)) unexpected(fmt::format("'{}'", op));
}

std::string ExpressionParser::expect_name() {
  if (current().kind != TokenKind::name) unexpected("a name");
  return next().text;
}

bool ExpressionParser::at_tuple_end(bool parenthesised) const {
  return current().kind == TokenKind::variable_end || current().kind == TokenKind::block_end ||
         (parenthesised && current().is_op(")"));
}

ExprPtr ExpressionParser::tuple(bool conditional, bool parenthesised) {
  const int line = current().line;
  SequenceLiteral result{true, {}};
  bool comma = false;
  while (!at_tuple_end(parenthesised)) {
    result.items.push_back(expression(conditional));
    if (!skip_op(",")) {
      if (!comma) return std::move(result.items[0]);
      break;
    }
    comma = true;
  }
  if (result.items.empty() && !parenthesised) unexpected("an expression");
  return make(line, std::move(result));
}

ExprPtr ExpressionParser::condition() {
  const Level level(*this);
  ExprPtr result = disjunction();
  while (current().is_name("if")) {
    const int line = next().line;
    ExprPtr test = disjunction();
    ExprPtr otherwise = skip_name("else") ? condition() : nullptr;
    result = make(line, Conditional{std::move(test), std::move(result), std::move(otherwise)});
  }
  return result;
}

ExprPtr ExpressionParser::disjunction() {
  ExprPtr left = conjunction();
  while (current().is_name("or")) {
    const int line = next().line;
    left = make(line, Logic{false, std::move(left), conjunction()});
  }
  return left;
}

ExprPtr ExpressionParser::conjunction() {
  ExprPtr left = negation();
  while (current().is_name("and")) {
    const int line = next().line;
    left = make(line, Logic{true, std::move(left), negation()});
  }
  return left;
}

ExprPtr ExpressionParser::negation() {
  if (!current().is_name("not")) return comparison();
  const Level level(*this);
  const int line = next().line;
  return make(line, Unary{'!', negation()});
}

ExprPtr ExpressionParser::comparison() {
  const int line = current().line;
  Comparison result{sum(), {}};
  while (true) {
    if (is_comparison(current())) {
      std::string op = next().text;
      result.rest.emplace_back(std::move(op), sum());
    } else if (skip_name("in")) {
      result.rest.emplace_back("in", sum());
    } else if (current().is_name("not") && look(1).is_name("in")) {
      next(), next();
      result.rest.emplace_back("not in", sum());
    } else {
      break;
    }
  }
  if (result.rest.empty()) return std::move(result.first);
  return make(line, std::move(result));
}

ExprPtr ExpressionParser::sum() {
  ExprPtr left = concatenation();
  while (current().is_op("+") || current().is_op("-")) {
    Token op = next();
    left = make(op.line, Binary{std::move(op.text), std::move(left), concatenation()});
  }
  return left;
}

ExprPtr ExpressionParser::concatenation() {
  const int line = current().line;
  Concat result;
  do {
    result.parts.push_back(product());
  } while (skip_op("~"));
  if (result.parts.size() == 1) return std::move(result.parts[0]);
  return make(line, std::move(result));
}

ExprPtr ExpressionParser::product() {
  ExprPtr left = power();
  while (current().is_op("*") || current().is_op("/") || current().is_op("//") ||
         current().is_op("%")) {
    Token op = next();
    left = make(op.line, Binary{std::move(op.text), std::move(left), power()});
  }
  return left;
}

ExprPtr ExpressionParser::power() {
  ExprPtr left = unary(true);
  while (current().is_op("**")) {  // to the left, unlike Python's
    Token op = next();
    left = make(op.line, Binary{std::move(op.text), std::move(left), unary(true)});
  }
  return left;
}

ExprPtr ExpressionParser::unary(bool with_filters) {
  const Level level(*this);
  ExprPtr node;
  if (current().is_op("-") || current().is_op("+")) {
    const Token op = next();
    node = make(op.line, Unary{op.text[0], unary(false)});
  } else {
    node = primary();
  }
  node = postfix(std::move(node));
  return with_filters ? filters_and_tests(std::move(node)) : std::move(node);
}

ExprPtr ExpressionParser::primary() {
  const int line = current().line;
  switch (current().kind) {
    case TokenKind::name:
      return name_or_constant();
    case TokenKind::integer:
      return make(line, Constant{next().integer});
    case TokenKind::real:
      return make(line, Constant{next().real});
    case TokenKind::string: {
      std::string text;
      while (current().kind == TokenKind::string) text += next().text;
      return make(line, Constant{std::shared_ptr<const Text>(
                            std::make_shared<Text>(nullptr, std::move(text), false))});
    }
    default:
      break;
  }
  if (skip_op("(")) {
    ExprPtr node = tuple(true, true);
    expect_op(")");
    return node;
  }
  if (current().is_op("[")) return list();
  if (current().is_op("{")) return dict();
  unexpected("an expression");
}

ExprPtr ExpressionParser::name_or_constant() {
  Token token = next();
  const std::string& name = token.text;
  if (name == "true" || name == "True") return make(token.line, Constant{true});
  if (name == "false" || name == "False") return make(token.line, Constant{false});
  if (name == "none" || name == "None") return make(token.line, Constant{None{}});
  for (Mentions& m : macros_) {
    m.caller = m.caller || name == "caller";
    m.kwargs = m.kwargs || name == "kwargs";
    m.varargs = m.varargs || name == "varargs";
  }
  return make(token.line, Name{std::move(token.text)});
}

ExprPtr ExpressionParser::list() {
  const int line = next().line;
  SequenceLiteral result{false, {}};
  while (!current().is_op("]")) {
    result.items.push_back(expression());
    if (!skip_op(",")) break;
  }
  expect_op("]");
  return make(line, std::move(result));
}

ExprPtr ExpressionParser::dict() {
  const int line = next().line;
  DictLiteral result;
  while (!current().is_op("}")) {
    ExprPtr key = expression();
    expect_op(":");
    result.entries.emplace_back(std::move(key), expression());
    if (!skip_op(",")) break;
  }
  expect_op("}");
  return make(line, std::move(result));
}

ExprPtr ExpressionParser::postfix(ExprPtr node) {
  while (true) {
    if (current().is_op(".")) {
      node = attribute(std::move(node));
    } else if (current().is_op("[")) {
      node = subscript(std::move(node));
    } else if (current().is_op("(")) {
      node = call(std::move(node));
    } else {
      return node;
    }
  }
}

ExprPtr ExpressionParser::filters_and_tests(ExprPtr node) {
  while (true) {
    if (skip_op("|")) {
      node = filter(std::move(node));
    } else if (skip_name("is")) {
      node = test(std::move(node));
    } else if (current().is_op("(")) {
      node = call(std::move(node));
    } else {
      return node;
    }
  }
}

ExprPtr ExpressionParser::filters(ExprPtr subject) {
  ExprPtr node = filter(std::move(subject));
  while (skip_op("|")) node = filter(std::move(node));
  return node;
}

ExprPtr ExpressionParser::filter(ExprPtr subject) {
  const int line = current().line;
  Filter result{std::move(subject), expect_name(), {}};
  while (skip_op(".")) result.name += "." + expect_name();
  if (current().is_op("(")) result.arguments = arguments();
  return make(line, std::move(result));
}

ExprPtr ExpressionParser::test(ExprPtr subject) {
  const int line = current().line;
  const bool negated = skip_name("not");
  Test result{std::move(subject), expect_name(), {}};
  while (skip_op(".")) result.name += "." + expect_name();
  const Token& t = current();
  const bool starts_operand =
      t.kind == TokenKind::string || t.kind == TokenKind::integer || t.kind == TokenKind::real ||
      t.is_op("[") || t.is_op("{") ||
      (t.kind == TokenKind::name && t.text != "else" && t.text != "or" && t.text != "and");
  if (t.is_op("(")) {
    result.arguments = arguments();
  } else if (t.is_name("is")) {
    error(line, "tests cannot be chained with 'is'");
  } else if (starts_operand) {
    result.arguments.positional.push_back(postfix(primary()));
  }
  ExprPtr node = make(line, std::move(result));
  return negated ? make(line, Unary{'!', std::move(node)}) : std::move(node);
}

ExprPtr ExpressionParser::attribute(ExprPtr object) {
  const int line = next().line;
  if (current().kind == TokenKind::integer) {
    ExprPtr key = make(line, Constant{next().integer});
    return make(line, Item{std::move(object), std::move(key)});
  }
  return make(line, Attribute{std::move(object), expect_name()});
}

ExprPtr ExpressionParser::subscript(ExprPtr object) {
  const int line = next().line;
  std::vector<ExprPtr> keys;
  const auto at_end = [&] { return current().is_op(":") || current().is_op("]"); };
  ExprPtr first = at_end() ? nullptr : expression();
  if (skip_op(":")) {
    Slice slice{std::move(object), std::move(first), nullptr, nullptr};
    if (!at_end()) slice.stop = expression();
    if (skip_op(":") && !at_end()) slice.step = expression();
    expect_op("]");
    return make(line, std::move(slice));
  }
  if (!first) unexpected("an expression");
  keys.push_back(std::move(first));
  while (skip_op(",")) keys.push_back(expression());
  expect_op("]");
  ExprPtr key =
      keys.size() == 1 ? std::move(keys[0]) : make(line, SequenceLiteral{true, std::move(keys)});
  return make(line, Item{std::move(object), std::move(key)});
}

CallArguments ExpressionParser::arguments() {
  const int line = current().line;
  expect_op("(");
  CallArguments result;
  const auto ensure = [&](bool in_order) {
    if (!in_order) error(line, "arguments of a call in the wrong order");
  };
  while (!current().is_op(")")) {
    if (skip_op("*")) {
      ensure(!result.star && !result.star_star);
      result.star = expression();
    } else if (skip_op("**")) {
      ensure(!result.star_star);
      result.star_star = expression();
    } else if (current().kind == TokenKind::name && look(1).is_op("=")) {
      ensure(!result.star_star);
      std::string name = next().text;
      next();
      result.named.emplace_back(std::move(name), expression());
    } else {
      ensure(!result.star && !result.star_star && result.named.empty());
      result.positional.push_back(expression());
    }
    if (!skip_op(",")) break;
  }
  expect_op(")");
  return result;
}

ExprPtr ExpressionParser::call(ExprPtr callee) {
  const int line = current().line;
  return make(line, Call{std::move(callee), arguments()});
}

}  // namespace hone::jinja
