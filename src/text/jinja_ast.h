// The syntax tree of a template: one small struct for each kind of expression and statement.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "text/jinja_value.h"

namespace hone::jinja {

struct Expr;
struct Stmt;
using ExprPtr = std::unique_ptr<Expr>;
using Body = std::vector<Stmt>;

// clang-format off

struct Constant { Value value; };
struct Name { std::string name; };
/// '+', '-' or '!' for not.
struct Unary { char op; ExprPtr operand; };
/// + - * / // % **
struct Binary { std::string op; ExprPtr left, right; };
struct Logic { bool is_and; ExprPtr left, right; };
/// a < b <= c: operators "==", "!=", "<", "<=", ">", ">=", "in", "not in".
struct Comparison { ExprPtr first; std::vector<std::pair<std::string, ExprPtr>> rest; };
/// yes if test else no; no is null where it is left out.
struct Conditional { ExprPtr test, yes, no; };
/// a ~ b ~ c
struct Concat { std::vector<ExprPtr> parts; };
struct SequenceLiteral { bool is_tuple; std::vector<ExprPtr> items; };
struct DictLiteral { std::vector<std::pair<ExprPtr, ExprPtr>> entries; };
struct Attribute { ExprPtr object; std::string name; };
struct Item { ExprPtr object, key; };
/// object[start:stop:step], each null where it is left out.
struct Slice { ExprPtr object, start, stop, step; };

/// star and star_star are x of *x and **x, or null.
struct CallArguments {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> named;
  ExprPtr star, star_star;
};
struct Call { ExprPtr callee; CallArguments arguments; };
/// subject is null for the text of a {% filter %} or {% set %} block.
struct Filter { ExprPtr subject; std::string name; CallArguments arguments; };
struct Test { ExprPtr subject; std::string name; CallArguments arguments; };

// clang-format on

struct Expr {
  using Node =
      std::variant<Constant, Name, Unary, Binary, Logic, Comparison, Conditional, Concat,
                   SequenceLiteral, DictLiteral, Attribute, Item, Slice, Call, Filter, Test>;
  Node node;
  int line;
  int depth;  // 1 + the deepest operand's
};

/// What a set or for assigns to: a name, an attribute of a namespace, or a tuple of targets.
struct Target {
  std::string name;
  std::string attribute;         // of the namespace `name`; empty for a name
  std::vector<Target> elements;  // of a tuple; then name is empty
  bool is_tuple = false;
};

/// A macro, or the body of a call block.
struct MacroNode {
  struct Parameter {
    std::string name;
    ExprPtr value;  // the default, or null
  };
  std::string name;
  std::vector<Parameter> parameters;
  Body body;
  // Names the body mentions, which then hold the rest of the arguments.
  bool uses_caller = false, uses_kwargs = false, uses_varargs = false;
};

// clang-format off

struct Data { std::string text; };
struct Output { std::vector<ExprPtr> values; };
struct Branch { ExprPtr test; Body body; };
struct If { std::vector<Branch> branches; Body otherwise; };
/// test is null where there is none.
struct For { Target target; ExprPtr iterable, test; Body body, otherwise; };
struct Set { Target target; ExprPtr value; };
/// filter is null where there is none.
struct SetBlock { Target target; ExprPtr filter; Body body; };
struct FilterBlock { ExprPtr filter; Body body; };
struct With { std::vector<std::pair<Target, ExprPtr>> values; Body body; };
struct Generation { Body body; };
struct Break {};
struct Continue {};
struct Macro { MacroNode macro; };
struct CallBlock { MacroNode macro; ExprPtr call; };

// clang-format on

struct Stmt {
  using Node = std::variant<Data, Output, If, For, Set, SetBlock, FilterBlock, With, Generation,
                            Break, Continue, Macro, CallBlock>;
  Node node;
  int line;
};

}  // namespace hone::jinja
