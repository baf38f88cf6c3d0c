// Runs a syntax tree: one evaluation of one template with one set of variables.
//
// Names are looked up as the program runs. jinja2 decides at compile time instead, which differs in
// one corner: a chat's variable that the template reads only inside a loop or macro, and later sets
// without condition outside of it, is undefined to jinja2 where it is read, and the chat's here.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "text/jinja_ast.h"

namespace hone::jinja {

/// The names of one block; those not found here are looked up in the blocks around it.
struct Scope {
  std::shared_ptr<Scope> parent;
  std::unordered_map<std::string, Value> names;
};

class Interpreter {
 public:
  /// The runtime must outlive the interpreter, and the body its run.
  explicit Interpreter(Runtime& runtime);
  void define(const std::string& name, Value value) { scope_->names[name] = std::move(value); }
  /// The rendered text. Raises Fault with the line.
  std::string run(const Body& body);
  /// What {% generation %} blocks wrote.
  const std::vector<Span>& generated() const { return generated_; }

  Value call_macro(const MacroNode& macro, const std::weak_ptr<Scope>& defined_in,
                   Arguments arguments);

 private:
  enum class Flow { normal, broke, continued };
  class Depth;

  Value eval(const Expr& e);
  Value eval_or(const ExprPtr& e, Value fallback) { return e ? eval(*e) : std::move(fallback); }
  Value eval(const Constant& n) { return n.value; }
  Value eval(const Name& n) { return lookup(n.name); }
  Value eval(const Unary& n);
  Value eval(const Binary& n);
  Value eval(const Logic& n);
  Value eval(const Comparison& n);
  Value eval(const Conditional& n);
  Value eval(const Concat& n);
  Value eval(const SequenceLiteral& n);
  Value eval(const DictLiteral& n);
  Value eval(const Attribute& n);
  Value eval(const Item& n);
  Value eval(const Slice& n);
  Value eval(const Call& n) { return call(n, std::nullopt); }
  Value eval(const Filter& n);
  Value eval(const Test& n);
  Arguments eval(const CallArguments& a);
  Value call(const Call& n, std::optional<Value> caller);
  Value lookup(const std::string& name);

  Flow run_all(const Body& body);
  Flow run(const Stmt& s);
  Flow run(const Data& n);
  Flow run(const Output& n);
  Flow run(const If& n);
  Flow run(const For& n);
  Flow run(const Set& n);
  Flow run(const SetBlock& n);
  Flow run(const FilterBlock& n);
  Flow run(const With& n);
  Flow run(const Generation& n);
  Flow run(const Break&) { return Flow::broke; }
  Flow run(const Continue&) { return Flow::continued; }
  Flow run(const Macro& n);
  Flow run(const CallBlock& n);

  void emit(std::string_view text);
  /// Runs `body` in a scope of its own, into `text` instead of the output.
  Flow captured(const Body& body, std::string& text);
  void assign(const Target& target, const Value& value);
  void enter_scope() { scope_ = std::make_shared<Scope>(Scope{scope_, {}}); }
  void leave_scope() { scope_ = scope_->parent; }
  Value make_macro(const MacroNode& macro);
  Value filtered_block(const ExprPtr& filter, std::string text);

  Runtime& runtime_;
  std::shared_ptr<Scope> scope_;
  std::shared_ptr<Scope> root_;
  std::string output_;
  std::string* out_ = &output_;  // output_, or the text a block captures
  size_t written_ = 0;           // bytes in output_ and in all captures
  int depth_ = 0;
  const Value* block_text_ = nullptr;  // what a filter without a subject filters
  std::vector<Span> generated_;
};

}  // namespace hone::jinja
