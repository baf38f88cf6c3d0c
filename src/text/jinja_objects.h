// The objects a template makes: namespaces, loops, cyclers and joiners.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "text/jinja_value.h"

namespace hone::jinja {

/// namespace(a=1): attributes that inner scopes may set.
class Namespace : public Object {
 public:
  using Object::Object;
  const char* type_name() const override { return "Namespace"; }
  std::string repr(Runtime& runtime, int depth) override;
  std::optional<Value> attribute(Runtime&, const std::string& name) override;
  /// Raises for a name that begins with an underscore, as Hugging Face's namespaces do.
  void set(const std::string& name, Value value);
  void clear() override { entries_.clear(), index_.clear(); }

 private:
  std::vector<std::pair<std::string, Value>> entries_;
  std::unordered_map<std::string, size_t> index_;
  bool printing_ = false;
};

/// The variable `loop`, which also yields the loop's items. As in jinja2 the items are taken and
/// tested one by one, unless the template asks for what lies ahead (last, length, nextitem).
class Loop : public Object {
 public:
  using Test = std::function<bool(const Value&)>;
  /// `items`: a sequence. `test`: may be empty; finish() drops it.
  Loop(Runtime& runtime, Value items, Test test)
      : Object(runtime, nest({items})), items_(std::move(items)), test_(std::move(test)) {}
  const char* type_name() const override { return "LoopContext"; }
  std::string repr(Runtime& runtime, int depth) override;
  std::optional<Value> attribute(Runtime& runtime, const std::string& name) override;
  /// The next item, or nullopt at the end.
  std::optional<Value> advance();
  void finish() { test_ = nullptr; }
  void clear() override { changed_.clear(); }

  Value cycle(const Arguments& arguments) const;
  bool changed(Runtime& runtime, Arguments arguments);

 private:
  std::optional<Value> pull();
  const std::optional<Value>& peek();
  int64_t length(Runtime& runtime);

  Value items_;
  size_t taken_ = 0;
  Test test_;
  int64_t index0_ = -1;
  std::optional<int64_t> length_;
  std::optional<Value> before_, current_, after_;
  std::optional<std::vector<Value>> last_seen_;
  std::vector<Value> changed_;
};

}  // namespace hone::jinja
