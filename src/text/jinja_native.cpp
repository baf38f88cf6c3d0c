#include "text/jinja_native.h"

#include <algorithm>

#include "text/jinja_ops.h"
#include "text/jinja_strings.h"

namespace hone::jinja {

int64_t Bound::integer(size_t i, int64_t fallback) const {
  if (!has(i)) return fallback;
  require_defined(values[i]);
  if (!values[i].is_integral()) {
    fault("'{}' object cannot be interpreted as an integer", type_name(values[i]));
  }
  return values[i].integer();
}

const std::string* Bound::str(size_t i) const {
  if (!has(i) || values[i].is_none()) return nullptr;
  if (!values[i].is_text()) fault("expected a string, got '{}'", type_name(values[i]));
  return &values[i].str();
}

Value invoke(Runtime& runtime, const Native& native, const Value& self, Arguments arguments) {
  runtime.step();
  // Many look at each character, which takes longer than to copy it.
  constexpr size_t kLooking = 16;
  if (self.is_text()) runtime.work(kLooking * self.str().size());
  Bound bound;
  const size_t count = native.parameters.size();
  bound.values.resize(count);
  bound.given.resize(count);
  const size_t placed = std::min(count, arguments.positional.size());
  std::move(arguments.positional.begin(), arguments.positional.begin() + placed,
            bound.values.begin());
  std::fill_n(bound.given.begin(), placed, true);
  arguments.positional.erase(arguments.positional.begin(), arguments.positional.begin() + placed);
  if (!arguments.positional.empty() && !native.variadic) {
    fault("{}() takes at most {} arguments", native.name, count);
  }
  for (auto& [name, value] : arguments.named) {
    const auto at = std::find(native.parameters.begin(), native.parameters.end(), name);
    const size_t i = at - native.parameters.begin();
    if (i == count) {
      if (!native.variadic) fault("{}() has no parameter {}", native.name, jinja::quoted(name));
      bound.rest.named.emplace_back(name, std::move(value));
      continue;
    }
    if (bound.given[i]) fault("{}() got two values for '{}'", native.name, name);
    bound.values[i] = std::move(value);
    bound.given[i] = true;
  }
  bound.rest.positional = std::move(arguments.positional);
  for (size_t i = 0; i < native.required; ++i) {
    if (!bound.given[i]) fault("{}() needs the argument '{}'", native.name, native.parameters[i]);
  }
  return native.run(runtime, self, bound);
}

std::string Function::repr(Runtime&, int) {
  if (self_.is_undefined()) return fmt::format("<function {}>", native_.name);
  return fmt::format("<built-in method {} of {} object>", native_.name, jinja::type_name(self_));
}

std::vector<Value> Iterator::drain(Runtime& runtime) {
  const auto& items = items_.items();
  std::vector<Value> left(items.begin() + static_cast<std::ptrdiff_t>(taken_), items.end());
  runtime.step(static_cast<int64_t>(left.size() / 16));
  taken_ = items.size();
  return left;
}

std::optional<Value> Iterator::take() {
  if (taken_ == items_.items().size()) return std::nullopt;
  return items_.items()[taken_++];
}

Value make_iterator(Runtime& runtime, std::vector<Value> items) {
  return std::shared_ptr<Object>(std::make_shared<Iterator>(runtime, std::move(items)));
}

const Native* find_filter(std::string_view name) {
  static const auto* table = [] {
    auto* all = new std::unordered_map<std::string_view, const Native*>;
    for (const auto* part : {&text_filters(), &sequence_filters()}) {
      for (const Native& filter : *part) all->emplace(filter.name, &filter);
    }
    return all;
  }();
  const auto at = table->find(name);
  return at == table->end() ? nullptr : at->second;
}

Value apply_filter(Runtime& runtime, const std::string& name, const Value& subject,
                   Arguments args) {
  const Native* filter = find_filter(name);
  if (!filter) unsupported("no filter named {}", jinja::quoted(name.substr(0, 100)));
  return invoke(runtime, *filter, subject, std::move(args));
}

bool apply_test(Runtime& runtime, const std::string& name, const Value& subject, Arguments args) {
  const Native* test = find_test(name);
  if (!test) unsupported("no test named {}", jinja::quoted(name.substr(0, 100)));
  return truth(invoke(runtime, *test, subject, std::move(args)));
}

}  // namespace hone::jinja
