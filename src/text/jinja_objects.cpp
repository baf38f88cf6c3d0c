#include "text/jinja_objects.h"

#include <algorithm>
#include <chrono>

#include "text/jinja_native.h"
#include "text/jinja_ops.h"
#include "text/jinja_strings.h"

namespace hone::jinja {

std::string Namespace::repr(Runtime& runtime, int depth) {
  if (printing_) return "<Namespace {...}>";
  printing_ = true;
  TextBuilder out(runtime);
  out << "<Namespace {";
  const char* comma = "";
  for (const auto& [name, value] : entries_) {
    out << comma << jinja::quoted(name) << ": " << to_repr(runtime, value, depth + 1);
    comma = ", ";
  }
  out << "}>";
  printing_ = false;
  return out.take();
}

std::optional<Value> Namespace::attribute(Runtime&, const std::string& name) {
  const auto at = index_.find(name);
  return at == index_.end() ? std::nullopt : std::optional(entries_[at->second].second);
}

void Namespace::set(const std::string& name, Value value) {
  if (name.starts_with('_')) {
    fault("a namespace cannot hold the attribute {}: it begins with an underscore",
          jinja::quoted(name));
  }
  const auto [at, fresh] = index_.emplace(name, entries_.size());
  if (fresh) {
    entries_.emplace_back(name, std::move(value));
  } else {
    entries_[at->second].second = std::move(value);
  }
}

std::optional<Value> Loop::pull() {
  while (taken_ < items_.items().size()) {
    Value item = items_.items()[taken_++];
    if (!test_ || test_(item)) return item;
  }
  return std::nullopt;
}

const std::optional<Value>& Loop::peek() {
  if (!after_) after_ = pull();
  return after_;
}

std::optional<Value> Loop::advance() {
  std::optional<Value> item = after_ ? std::move(after_) : pull();
  after_.reset();
  if (!item) return std::nullopt;
  ++index0_;
  before_ = std::move(current_);
  current_ = item;
  return item;
}

int64_t Loop::length(Runtime& runtime) {
  if (length_) return *length_;
  if (!test_) {
    length_ = static_cast<int64_t>(items_.items().size());
  } else {
    std::vector<Value> rest;
    while (auto item = pull()) rest.push_back(std::move(*item));
    length_ = static_cast<int64_t>(rest.size()) + index0_ + 1 + (after_ ? 1 : 0);
    items_ = runtime.list(std::move(rest));
    taken_ = 0;
    test_ = nullptr;
  }
  return *length_;
}

std::string Loop::repr(Runtime& runtime, int) {
  return fmt::format("<LoopContext {}/{}>", index0_ + 1, length(runtime));
}

Value Loop::cycle(const Arguments& arguments) const {
  const auto& values = arguments.positional;
  if (values.empty()) fault("no items for cycling given");
  return values[static_cast<size_t>(index0_) % values.size()];
}

bool Loop::changed(Runtime& runtime, Arguments arguments) {
  auto& values = arguments.positional;
  const bool same =
      last_seen_ && last_seen_->size() == values.size() &&
      std::equal(values.begin(), values.end(), last_seen_->begin(),
                 [&](const Value& a, const Value& b) { return equal(runtime, a, b); });
  if (!last_seen_) runtime.track(shared_from_this());
  last_seen_ = std::move(values);
  return !same;
}

namespace {

using R = Runtime&;
using V = const Value&;
using A = const Bound&;

const std::vector<Native>& loop_methods() {
  static const auto& table = *new std::vector<Native>{
      {"cycle",
       {},
       0,
       [](R, V self, A a) -> Value { return self.as<Loop>()->cycle(a.rest); },
       true},
      {"changed",
       {},
       0,
       [](R r, V self, A a) -> Value { return self.as<Loop>()->changed(r, a.rest); },
       true},
  };
  return table;
}

}  // namespace

std::optional<Value> Loop::attribute(Runtime& runtime, const std::string& name) {
  if (name == "index") return Value(index0_ + 1);
  if (name == "index0") return Value(index0_);
  if (name == "first") return Value(index0_ == 0);
  if (name == "last") return Value(!peek());
  if (name == "length" || name == "__len__") return Value(length(runtime));
  if (name == "revindex") return Value(length(runtime) - index0_);
  if (name == "revindex0") return Value(length(runtime) - index0_ - 1);
  if (name == "depth") return Value(int64_t{1});
  if (name == "depth0") return Value(int64_t{0});
  if (name == "previtem") {
    return before_ ? *before_ : runtime.undefined("there is no previous item");
  }
  if (name == "nextitem") return peek() ? *peek() : runtime.undefined("there is no next item");
  for (const Native& method : loop_methods()) {
    if (method.name != name) continue;
    return Value(std::shared_ptr<Object>(
        std::make_shared<Function>(runtime, method, Value(shared_from_this()))));
  }
  return std::nullopt;
}

namespace {

/// cycler("a", "b"): next() yields them in turn.
class Cycler : public Object {
 public:
  Cycler(Runtime& runtime, std::vector<Value> items)
      : Object(runtime, nest(items)), items_(runtime.list(std::move(items))) {}
  const char* type_name() const override { return "Cycler"; }
  std::optional<Value> attribute(Runtime& runtime, const std::string& name) override;
  const Value& current() const { return items_.items()[at_]; }
  void move_to(size_t at) { at_ = at % items_.items().size(); }
  size_t at() const { return at_; }

 private:
  Value items_;
  size_t at_ = 0;
};

const std::vector<Native>& cycler_methods() {
  static const auto& table = *new std::vector<Native>{
      {"next",
       {},
       0,
       [](R, V self, A) -> Value {
         auto* cycler = self.as<Cycler>();
         const Value item = cycler->current();
         cycler->move_to(cycler->at() + 1);
         return item;
       }},
      {"reset",
       {},
       0,
       [](R, V self, A) -> Value {
         self.as<Cycler>()->move_to(0);
         return None{};
       }},
  };
  return table;
}

std::optional<Value> Cycler::attribute(Runtime& runtime, const std::string& name) {
  if (name == "current") return current();
  for (const Native& method : cycler_methods()) {
    if (method.name != name) continue;
    return Value(std::shared_ptr<Object>(
        std::make_shared<Function>(runtime, method, Value(shared_from_this()))));
  }
  return std::nullopt;
}

/// joiner(", "): nothing at the first call, then the separator.
class Joiner : public Object {
 public:
  Joiner(Runtime& runtime, Value separator)
      : Object(runtime, nest({separator})), separator_(std::move(separator)) {}
  const char* type_name() const override { return "Joiner"; }
  bool callable() const override { return true; }
  Value call(Runtime& runtime, Arguments) override {
    return std::exchange(used_, true) ? separator_ : runtime.text("");
  }

 private:
  Value separator_;
  bool used_ = false;
};

/// The entries dict(*args, **kwargs) makes.
std::vector<std::pair<Value, Value>> dict_entries(R r, const Arguments& arguments) {
  std::vector<std::pair<Value, Value>> entries;
  if (arguments.positional.size() > 1) fault("dict() takes at most 1 positional argument");
  if (!arguments.positional.empty()) {
    V from = arguments.positional[0];
    if (from.is_dict()) {
      entries = from.dict().entries;
    } else {
      require_defined(from);
      for (V pair : to_items(r, from)) {
        auto items = to_items(r, pair);
        if (items.size() != 2) fault("dict(): each item must be a pair");
        entries.emplace_back(std::move(items[0]), std::move(items[1]));
      }
    }
  }
  for (const auto& [name, value] : arguments.named) entries.emplace_back(r.text(name), value);
  return entries;
}

Value make_namespace(R r, V, A a) {
  auto made = std::make_shared<Namespace>(r);
  r.track(made);
  for (const auto& [name, value] : dict_entries(r, a.rest)) {
    if (!name.is_text()) fault("namespace(): attribute names must be strings");
    made->set(name.str(), value);
  }
  return std::shared_ptr<Object>(std::move(made));
}

Value make_range(R r, V, A a) {
  if (!a.has(1)) return r.range({0, a.integer(0, 0), 1});
  return r.range({a.integer(0, 0), a.integer(1, 0), a.integer(2, 1)});
}

Value make_cycler(R r, V, A a) {
  if (a.rest.positional.empty()) fault("at least one item has to be provided");
  return std::shared_ptr<Object>(std::make_shared<Cycler>(r, a.rest.positional));
}

Value make_joiner(R r, V, A a) {
  Value separator = a.has(0) ? a[0] : r.text(", ");
  return std::shared_ptr<Object>(std::make_shared<Joiner>(r, std::move(separator)));
}

Value strftime_now(R r, V, A a) {
  const std::string* format = a.str(0);
  if (!format) fault("strftime_now: expected a format");
  constexpr size_t kMaxFormat = 1000, kMaxText = 10000;
  if (format->size() > kMaxFormat) unsupported("strftime_now: a format past 1000 bytes");
  // Python's naive times have no zone; %f is Python's own.
  std::string pattern;
  for (size_t i = 0; i < format->size(); ++i) {
    const char next = i + 1 < format->size() ? (*format)[i + 1] : '\0';
    if ((*format)[i] != '%' || next == '\0') {
      pattern += (*format)[i];
    } else {
      ++i;
      if (next == 'f') pattern += "000000";
      if (next != 'f' && next != 'z' && next != 'Z') pattern += {'%', next};
    }
  }
  std::tm now;
  if (r.now) {
    now = *r.now;
  } else {
    const std::time_t seconds =
        std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
    localtime_r(&seconds, &now);
  }
  std::string text(kMaxText, '\0');
  text.resize(std::strftime(text.data(), text.size(), pattern.c_str(), &now));
  return r.text(std::move(text));
}

const std::vector<Native>& globals() {
  static const auto& table = *new std::vector<Native>{
      {"range", {"start", "stop", "step"}, 1, make_range},
      {"dict", {}, 0, [](R r, V, A a) -> Value { return r.dict(dict_entries(r, a.rest)); }, true},
      {"namespace", {}, 0, make_namespace, true},
      {"cycler", {}, 0, make_cycler, true},
      {"joiner", {"sep"}, 0, make_joiner},
      {"raise_exception",
       {"message"},
       1,
       [](R r, V, A a) -> Value { fault("{}", to_str(r, a[0])); }},
      {"strftime_now", {"format"}, 1, strftime_now},
  };
  return table;
}

}  // namespace

const Native* find_global(std::string_view name) {
  for (const Native& global : globals()) {
    if (global.name == name) return &global;
  }
  return nullptr;
}

}  // namespace hone::jinja
