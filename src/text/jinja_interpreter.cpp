#include "text/jinja_interpreter.h"

#include <algorithm>

#include "text/jinja_native.h"
#include "text/jinja_objects.h"
#include "text/jinja_ops.h"
#include "text/jinja_strings.h"

namespace hone::jinja {
namespace {

/// A macro, or the body of a call block, as a value. It sees the names of the scope it was defined
/// in; once that scope is gone, only those of the template.
class MacroObject : public Object {
 public:
  MacroObject(Runtime& runtime, Interpreter& interpreter, const MacroNode& node,
              std::weak_ptr<Scope> scope)
      : Object(runtime), interpreter_(interpreter), node_(node), scope_(std::move(scope)) {}
  const char* type_name() const override { return "Macro"; }
  std::string repr(Runtime&, int) override {
    return node_.name.empty() ? "<Macro anonymous>"
                              : fmt::format("<Macro {}>", jinja::quoted(node_.name));
  }
  bool callable() const override { return true; }
  std::optional<Value> attribute(Runtime& runtime, const std::string& name) override {
    return name == "name" ? std::optional(runtime.text(node_.name)) : std::nullopt;
  }
  Value call(Runtime&, Arguments arguments) override {
    return interpreter_.call_macro(node_, scope_, std::move(arguments));
  }

 private:
  Interpreter& interpreter_;
  const MacroNode& node_;
  std::weak_ptr<Scope> scope_;
};

/// The variable `self`, which in jinja2 names the template's blocks: there are none.
class Self : public Object {
 public:
  using Object::Object;
  const char* type_name() const override { return "TemplateReference"; }
};

}  // namespace

class Interpreter::Depth {
 public:
  explicit Depth(Interpreter& interpreter) : depth_(interpreter.depth_) {
    if (++depth_ > interpreter.runtime_.limits().max_depth) {
      --depth_;
      unsupported("the template runs nested deeper than {}",
                  interpreter.runtime_.limits().max_depth);
    }
  }
  ~Depth() { --depth_; }

 private:
  int& depth_;
};

Interpreter::Interpreter(Runtime& runtime)
    : runtime_(runtime), scope_(std::make_shared<Scope>()), root_(scope_) {
  define("self", std::shared_ptr<Object>(std::make_shared<Self>(runtime)));
}

std::string Interpreter::run(const Body& body) {
  run_all(body);
  return std::move(output_);
}

Value Interpreter::lookup(const std::string& name) {
  for (const Scope* scope = scope_.get(); scope; scope = scope->parent.get()) {
    const auto at = scope->names.find(name);
    if (at != scope->names.end()) return at->second;
  }
  if (const Native* global = find_global(name)) {
    return std::shared_ptr<Object>(std::make_shared<Function>(runtime_, *global, Value()));
  }
  return runtime_.undefined(fmt::format("{} is undefined", jinja::quoted(name)));
}

Value Interpreter::eval(const Expr& e) {
  try {
    runtime_.step();
    const Depth depth(*this);
    return std::visit([&](const auto& node) { return eval(node); }, e.node);
  } catch (Fault& fault) {
    if (fault.line == 0) fault.line = e.line;
    throw;
  }
}

Value Interpreter::eval(const Unary& n) {
  const Value v = eval(*n.operand);
  return n.op == '!' ? Value(!truth(v)) : n.op == '-' ? negative(v) : positive(v);
}

Value Interpreter::eval(const Binary& n) {
  const Value left = eval(*n.left);
  return binary(runtime_, n.op, left, eval(*n.right));
}

Value Interpreter::eval(const Logic& n) {
  Value left = eval(*n.left);
  return truth(left) == n.is_and ? eval(*n.right) : left;
}

Value Interpreter::eval(const Comparison& n) {
  Value left = eval(*n.first);
  for (const auto& [op, operand] : n.rest) {
    Value right = eval(*operand);
    if (!holds(runtime_, op, left, right)) return false;
    left = std::move(right);
  }
  return true;
}

Value Interpreter::eval(const Conditional& n) {
  if (truth(eval(*n.test))) return eval(*n.yes);
  if (n.no) return eval(*n.no);
  return runtime_.undefined("an inline if-expression was false and has no else");
}

Value Interpreter::eval(const Concat& n) {
  TextBuilder out(runtime_);
  for (const auto& part : n.parts) out << to_str(runtime_, eval(*part));
  return out.value();
}

Value Interpreter::eval(const SequenceLiteral& n) {
  std::vector<Value> items;
  items.reserve(n.items.size());
  for (const auto& item : n.items) items.push_back(eval(*item));
  return n.is_tuple ? runtime_.tuple(std::move(items)) : runtime_.list(std::move(items));
}

Value Interpreter::eval(const DictLiteral& n) {
  std::vector<std::pair<Value, Value>> entries;
  for (const auto& [key, value] : n.entries) {
    Value evaluated = eval(*key);
    entries.emplace_back(std::move(evaluated), eval(*value));
  }
  return runtime_.dict(entries);
}

Value Interpreter::eval(const Attribute& n) {
  return get_attribute(runtime_, eval(*n.object), n.name);
}

Value Interpreter::eval(const Item& n) {
  const Value object = eval(*n.object);
  return get_item(runtime_, object, eval(*n.key));
}

Value Interpreter::eval(const Slice& n) {
  const Value object = eval(*n.object);
  const Value start = eval_or(n.start, None{}), stop = eval_or(n.stop, None{});
  return slice(runtime_, object, start, stop, eval_or(n.step, None{}));
}

Value Interpreter::eval(const Filter& n) {
  const Value subject = n.subject ? eval(*n.subject) : *block_text_;
  return apply_filter(runtime_, n.name, subject, eval(n.arguments));
}

Value Interpreter::eval(const Test& n) {
  const Value subject = eval(*n.subject);
  return apply_test(runtime_, n.name, subject, eval(n.arguments));
}

Arguments Interpreter::eval(const CallArguments& a) {
  Arguments result;
  for (const auto& e : a.positional) result.positional.push_back(eval(*e));
  for (const auto& [name, e] : a.named) result.named.emplace_back(name, eval(*e));
  if (a.star) {
    for (Value& item : to_items(runtime_, eval(*a.star))) {
      result.positional.push_back(std::move(item));
    }
  }
  if (a.star_star) {
    const Value more = eval(*a.star_star);
    if (!more.is_dict()) fault("argument after ** must be a mapping, not {}", type_name(more));
    for (const auto& [key, value] : more.dict().entries) {
      if (!key.is_text()) fault("keywords must be strings");
      result.named.emplace_back(key.str(), value);
    }
  }
  return result;
}

Value Interpreter::call(const Call& n, std::optional<Value> caller) {
  const Value callee = eval(*n.callee);
  Arguments arguments = eval(n.arguments);
  if (caller) arguments.named.emplace_back("caller", std::move(*caller));
  require_defined(callee);
  if (!callee.is(Type::object)) fault("'{}' object is not callable", type_name(callee));
  return callee.object().call(runtime_, std::move(arguments));
}

Value Interpreter::make_macro(const MacroNode& macro) {
  return std::shared_ptr<Object>(std::make_shared<MacroObject>(runtime_, *this, macro, scope_));
}

Value Interpreter::call_macro(const MacroNode& macro, const std::weak_ptr<Scope>& defined_in,
                              Arguments arguments) {
  const auto outer = scope_;
  const auto around = defined_in.lock();
  scope_ = std::make_shared<Scope>(Scope{around ? around : root_, {}});
  auto& names = scope_->names;
  const auto take = [&](const std::string& name) -> std::optional<Value> {
    auto& named = arguments.named;
    const auto at = std::find_if(named.begin(), named.end(),
                                 [&](const auto& entry) { return entry.first == name; });
    if (at == named.end()) return std::nullopt;
    Value value = std::move(at->second);
    named.erase(at);
    return value;
  };
  auto& positional = arguments.positional;
  const size_t placed = std::min(positional.size(), macro.parameters.size());
  for (size_t i = 0; i < macro.parameters.size(); ++i) {
    const auto& parameter = macro.parameters[i];
    std::optional<Value> value = i < placed ? positional[i] : take(parameter.name);
    if (!value && parameter.value) value = eval(*parameter.value);
    names[parameter.name] =
        value ? *value
              : runtime_.undefined(fmt::format("parameter '{}' was not provided", parameter.name));
  }
  if (macro.uses_caller) {
    const auto caller = take("caller");
    names["caller"] = caller ? *caller : runtime_.undefined("No caller defined");
  }
  if (macro.uses_kwargs) {
    std::vector<std::pair<Value, Value>> rest;
    for (auto& [name, value] : arguments.named) rest.emplace_back(runtime_.text(name), value);
    names["kwargs"] = runtime_.dict(rest);
  } else if (!arguments.named.empty()) {
    fault("macro '{}' takes no keyword argument {}", macro.name,
          jinja::quoted(arguments.named[0].first));
  }
  if (macro.uses_varargs) {
    names["varargs"] = runtime_.tuple(
        {positional.begin() + static_cast<std::ptrdiff_t>(placed), positional.end()});
  } else if (positional.size() > placed) {
    fault("macro '{}' takes not more than {} argument(s)", macro.name, macro.parameters.size());
  }
  std::string text;
  captured(macro.body, text);
  scope_ = outer;
  return runtime_.text(std::move(text));
}

Interpreter::Flow Interpreter::run_all(const Body& body) {
  for (const Stmt& s : body) {
    if (const Flow flow = run(s); flow != Flow::normal) return flow;
  }
  return Flow::normal;
}

Interpreter::Flow Interpreter::run(const Stmt& s) {
  try {
    runtime_.step();
    const Depth depth(*this);
    return std::visit([&](const auto& node) { return run(node); }, s.node);
  } catch (Fault& fault) {
    if (fault.line == 0) fault.line = s.line;
    throw;
  }
}

void Interpreter::emit(std::string_view text) {
  written_ += text.size();
  if (written_ > static_cast<size_t>(runtime_.limits().max_output_bytes)) {
    unsupported("the template writes more than {} bytes", runtime_.limits().max_output_bytes);
  }
  runtime_.work(text.size());
  *out_ += text;
}

Interpreter::Flow Interpreter::captured(const Body& body, std::string& text) {
  std::string* outer = std::exchange(out_, &text);
  enter_scope();
  const Flow flow = run_all(body);
  leave_scope();
  out_ = outer;
  written_ -= text.size();
  return flow;
}

Interpreter::Flow Interpreter::run(const Data& n) {
  emit(n.text);
  return Flow::normal;
}

Interpreter::Flow Interpreter::run(const Output& n) {
  for (const auto& e : n.values) {
    const Value v = eval(*e);
    emit(v.is_text() ? v.str() : to_str(runtime_, v));
  }
  return Flow::normal;
}

Interpreter::Flow Interpreter::run(const If& n) {
  for (const auto& branch : n.branches) {
    if (truth(eval(*branch.test))) return run_all(branch.body);
  }
  return run_all(n.otherwise);
}

Interpreter::Flow Interpreter::run(const For& n) {
  const auto outer = scope_;
  Value items = eval(*n.iterable);
  if (!items.is_sequence()) items = runtime_.list(to_items(runtime_, items));
  Loop::Test test;
  if (n.test) {
    test = [&](const Value& item) {
      const auto inner = std::exchange(scope_, std::make_shared<Scope>(Scope{outer, {}}));
      assign(n.target, item);
      const bool kept = truth(eval(*n.test));
      scope_ = inner;
      return kept;
    };
  }
  auto loop = std::make_shared<Loop>(runtime_, std::move(items), std::move(test));
  // As in jinja2, a turn that ends in break or continue does not keep the else branch from running.
  bool completed = false;
  while (auto item = loop->advance()) {
    runtime_.step();
    enter_scope();
    scope_->names["loop"] = std::shared_ptr<Object>(loop);
    assign(n.target, *item);
    const Flow flow = run_all(n.body);
    leave_scope();
    if (flow == Flow::normal) completed = true;
    if (flow == Flow::broke) break;
  }
  loop->finish();
  if (completed || n.otherwise.empty()) return Flow::normal;
  enter_scope();
  const Flow flow = run_all(n.otherwise);
  leave_scope();
  return flow;
}

Interpreter::Flow Interpreter::run(const Set& n) {
  assign(n.target, eval(*n.value));
  return Flow::normal;
}

Value Interpreter::filtered_block(const ExprPtr& filter, std::string text) {
  const Value whole = runtime_.text(std::move(text));
  if (!filter) return whole;
  const Value* outer = std::exchange(block_text_, &whole);
  Value result = eval(*filter);
  block_text_ = outer;
  return result;
}

Interpreter::Flow Interpreter::run(const SetBlock& n) {
  std::string text;
  const Flow flow = captured(n.body, text);
  if (flow == Flow::normal) assign(n.target, filtered_block(n.filter, std::move(text)));
  return flow;
}

Interpreter::Flow Interpreter::run(const FilterBlock& n) {
  std::string text;
  const Flow flow = captured(n.body, text);
  if (flow != Flow::normal) return flow;
  const Value result = filtered_block(n.filter, std::move(text));
  if (!result.is_text()) fault("a filter block made no text but '{}'", type_name(result));
  emit(result.str());
  return Flow::normal;
}

Interpreter::Flow Interpreter::run(const With& n) {
  std::vector<Value> values;
  for (const auto& [target, e] : n.values) values.push_back(eval(*e));
  enter_scope();
  for (size_t i = 0; i < values.size(); ++i) assign(n.values[i].first, values[i]);
  const Flow flow = run_all(n.body);
  leave_scope();
  return flow;
}

Interpreter::Flow Interpreter::run(const Generation& n) {
  std::string text;
  captured(n.body, text);
  const size_t begin = output_.size();
  emit(text);
  if (out_ == &output_) generated_.push_back({begin, output_.size()});
  return Flow::normal;
}

Interpreter::Flow Interpreter::run(const Macro& n) {
  scope_->names[n.macro.name] = make_macro(n.macro);
  return Flow::normal;
}

Interpreter::Flow Interpreter::run(const CallBlock& n) {
  const Value result = call(std::get<Call>(n.call->node), make_macro(n.macro));
  emit(to_str(runtime_, result));
  return Flow::normal;
}

void Interpreter::assign(const Target& target, const Value& value) {
  if (target.is_tuple) {
    if (!iterable(value)) fault("cannot unpack non-iterable {} object", type_name(value));
    const auto items = to_items(runtime_, value);
    if (items.size() != target.elements.size()) {
      fault("expected {} values to unpack, got {}", target.elements.size(), items.size());
    }
    for (size_t i = 0; i < items.size(); ++i) assign(target.elements[i], items[i]);
  } else if (target.attribute.empty()) {
    scope_->names[target.name] = value;
  } else {
    auto* space = lookup(target.name).as<Namespace>();
    if (!space) fault("cannot assign attribute on non-namespace object");
    space->set(target.attribute, value);
  }
}

}  // namespace hone::jinja
