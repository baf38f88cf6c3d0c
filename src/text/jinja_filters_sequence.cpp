// The filters of sequences and dicts, one row each. What jinja2 yields lazily is an Iterator here:
// true even when empty, without a length, empty once read.
#include <algorithm>
#include <unordered_set>

#include "text/jinja_native.h"
#include "text/jinja_ops.h"
#include "text/jinja_strings.h"

namespace hone::jinja {
namespace {

using R = Runtime&;
using V = const Value&;
using A = const Bound&;

/// "a.b.0": how the attribute arguments of filters reach into an item.
class Path {
 public:
  Path(R r, V attribute) {
    if (attribute.is_none()) return;
    if (!attribute.is_text()) {
      parts_.push_back(attribute);
      return;
    }
    std::string_view left = attribute.str();
    while (true) {
      const size_t dot = left.find('.');
      const std::string part(left.substr(0, dot));
      const bool number =
          !part.empty() && part.size() < 18 && part.find_first_not_of("0123456789") == part.npos;
      parts_.push_back(number ? Value(int64_t{std::stoll(part)}) : r.text(part));
      if (dot == left.npos) return;
      left.remove_prefix(dot + 1);
    }
  }

  /// `fallback` (where not null) stands for what is undefined on the way.
  Value of(R r, Value item, const Value* fallback = nullptr) const {
    for (V part : parts_) {
      item = get_item(r, item, part);
      if (fallback && item.is_undefined()) item = *fallback;
    }
    return item;
  }

 private:
  std::vector<Value> parts_;
};

/// The sort key of a value: strings in lower case unless case counts.
Value folded(R r, Value v, bool case_sensitive) {
  if (case_sensitive || !v.is_text()) return v;
  r.check_room(v.str().size() * 8);
  return r.text(lower(v.str()));
}

Value attribute_argument(A a, size_t i) { return a.has(i) ? a[i] : Value(None{}); }

/// Items in the order of their keys, stable, by Python's <.
void sort_by_keys(R r, std::vector<std::pair<Value, Value>>& keyed, bool reverse) {
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    return compare(r, reverse ? b.first : a.first, reverse ? a.first : b.first, "<") == -1;
  });
}

Value sort(R r, V v, A a) {
  const bool case_sensitive = a.flag(1, false);
  std::vector<Path> paths;
  const Value attribute = attribute_argument(a, 2);
  if (attribute.is_text()) {
    const Value comma = r.text(",");
    Arguments by_comma{{comma}, {}};
    const Value names = find_method(r, attribute, "split")->object().call(r, by_comma);
    for (V name : names.items()) paths.emplace_back(r, name);
  } else {
    paths.emplace_back(r, attribute);
  }
  std::vector<std::pair<Value, Value>> keyed;
  for (V item : to_items(r, v)) {
    std::vector<Value> key;
    for (const Path& path : paths) key.push_back(folded(r, path.of(r, item), case_sensitive));
    keyed.emplace_back(r.list(std::move(key)), item);
  }
  sort_by_keys(r, keyed, a.flag(0, false));
  std::vector<Value> items;
  for (auto& [key, item] : keyed) items.push_back(std::move(item));
  return r.list(std::move(items));
}

Value dict_sort(R r, V v, A a) {
  require_defined(v);
  if (!v.is_dict()) fault("dictsort: expected a mapping, got '{}'", type_name(v));
  const bool case_sensitive = a.flag(0, false);
  const std::string* by = a.str(1);
  if (by && *by != "key" && *by != "value") {
    fault("dictsort: you can only sort by either 'key' or 'value'");
  }
  std::vector<std::pair<Value, Value>> keyed;
  for (const auto& [key, value] : v.dict().entries) {
    const bool by_value = by && *by == "value";
    keyed.emplace_back(folded(r, by_value ? value : key, case_sensitive), r.tuple({key, value}));
  }
  sort_by_keys(r, keyed, a.flag(2, false));
  std::vector<Value> items;
  for (auto& [key, item] : keyed) items.push_back(std::move(item));
  return r.list(std::move(items));
}

Value group_by(R r, V v, A a) {
  const Path path(r, a[0]);
  const Value* fallback = a.has(1) && !a[1].is_none() ? &a[1] : nullptr;
  std::vector<std::pair<Value, Value>> keyed;
  for (V item : to_items(r, v)) {
    keyed.emplace_back(folded(r, path.of(r, item, fallback), a.flag(2, false)), item);
  }
  sort_by_keys(r, keyed, false);
  std::vector<Value> groups;
  for (size_t begin = 0; begin < keyed.size();) {
    std::vector<Value> members;
    size_t end = begin;
    while (end < keyed.size() && equal(r, keyed[begin].first, keyed[end].first)) {
      members.push_back(keyed[end++].second);
    }
    const Value key = path.of(r, members[0], fallback);
    std::vector<Value> pair{key, r.list(std::move(members))};
    auto group = std::make_shared<Sequence>(&r, SequenceKind::tuple, std::move(pair));
    group->is_group = true;
    groups.emplace_back(std::shared_ptr<const Sequence>(std::move(group)));
    begin = end;
  }
  return r.list(std::move(groups));
}

Value unique(R r, V v, A a) {
  const Path path(r, attribute_argument(a, 1));
  std::unordered_set<Value, KeyHash, KeyEqual> seen(0, KeyHash{}, KeyEqual{&r});
  std::vector<Value> items;
  for (V item : to_items(r, v)) {
    const Value key = folded(r, path.of(r, item), a.flag(0, false));
    if (!hashable(key)) fault("unhashable type: '{}'", type_name(key));
    if (seen.insert(key).second) items.push_back(item);
  }
  return make_iterator(r, std::move(items));
}

template <bool want_max>
Value extreme(R r, V v, A a) {
  const Path path(r, attribute_argument(a, 1));
  const Value* best = nullptr;
  Value best_key;
  const auto items = to_items(r, v);
  for (V item : items) {
    Value key = folded(r, path.of(r, item), a.flag(0, false));
    if (best && compare(r, key, best_key, want_max ? ">" : "<") != (want_max ? 1 : -1)) continue;
    best = &item;
    best_key = std::move(key);
  }
  return best ? *best : r.undefined("No aggregated item, sequence was empty.");
}

Value sum(R r, V v, A a) {
  const Path path(r, attribute_argument(a, 0));
  Value total = a.has(1) ? a[1] : Value(int64_t{0});
  if (total.is_text()) fault("sum() can't sum strings");
  for (V item : to_items(r, v)) total = binary(r, "+", total, path.of(r, item));
  return total;
}

Value join(R r, V v, A a) {
  const Path path(r, attribute_argument(a, 1));
  const std::string separator = a.has(0) ? to_str(r, a[0]) : "";
  TextBuilder out(r);
  bool first = true;
  for (V item : to_items(r, v)) {
    if (!first) out << separator;
    first = false;
    out << to_str(r, path.of(r, item));
  }
  return out.value();
}

Value first(R r, V v, A) {
  if (auto* iterator = v.as<Iterator>()) {
    if (auto item = iterator->take()) return *item;
  } else if (v.is_text() && !v.str().empty()) {
    return r.text(v.str().substr(0, v.text().offset(1)));
  } else if (const auto items = to_items(r, v); !items.empty()) {
    return items[0];
  }
  return r.undefined("No first item, sequence was empty.");
}

Value last(R r, V v, A) {
  if (v.is(Type::object)) fault("'{}' object is not reversible", type_name(v));
  if (v.is_text() && !v.str().empty()) return get_item(r, v, int64_t{-1});
  const auto items = to_items(r, v);
  return items.empty() ? r.undefined("No last item, sequence was empty.") : items.back();
}

Value reverse(R r, V v, A) {
  if (v.is_text()) return slice(r, v, None{}, None{}, int64_t{-1});
  auto items = to_items(r, v);
  std::reverse(items.begin(), items.end());
  return v.is(Type::object) ? r.list(std::move(items)) : make_iterator(r, std::move(items));
}

Value length_filter(R r, V v, A) {
  if (const auto size = length(v)) return *size;
  if (v.is(Type::object)) {
    if (auto size = v.object().attribute(r, "__len__")) return *size;
  }
  fault("object of type '{}' has no len()", type_name(v));
}

/// The first of the free arguments as a name, and the others as what to call it with.
std::string split_name(A a, size_t skip, Arguments& rest) {
  const auto& all = a.rest.positional;
  if (!all[skip].is_text()) fault("expected the name of a filter or test");
  rest.positional.assign(all.begin() + static_cast<std::ptrdiff_t>(skip) + 1, all.end());
  rest.named = a.rest.named;
  return all[skip].str();
}

Value map_by_attribute(R r, V v, A a) {
  const Value *attribute = nullptr, *fallback = nullptr;
  for (const auto& [name, value] : a.rest.named) {
    if (name == "attribute") {
      attribute = &value;
    } else if (name == "default") {
      fallback = value.is_none() ? nullptr : &value;
    } else {
      fault("map: unexpected keyword argument {}", jinja::quoted(name));
    }
  }
  if (!attribute) fault("map requires a filter argument");
  const Path path(r, *attribute);
  std::vector<Value> items;
  for (V item : to_items(r, v)) items.push_back(path.of(r, item, fallback));
  return make_iterator(r, std::move(items));
}

Value map(R r, V v, A a) {
  if (!truth(v)) return make_iterator(r, {});
  if (a.rest.positional.empty()) return map_by_attribute(r, v, a);
  Arguments rest;
  const std::string name = split_name(a, 0, rest);
  std::vector<Value> items;
  for (V item : to_items(r, v)) items.push_back(apply_filter(r, name, item, rest));
  return make_iterator(r, std::move(items));
}

template <bool keep, bool by_attribute>
Value select(R r, V v, A a) {
  if (!truth(v)) return make_iterator(r, {});
  const auto& given = a.rest.positional;
  if (by_attribute && given.empty()) fault("missing parameter for attribute name");
  const Path path(r, by_attribute ? given[0] : Value(None{}));
  constexpr size_t kSkip = by_attribute ? 1 : 0;
  Arguments rest;
  const bool has_test = given.size() > kSkip;
  const std::string name = has_test ? split_name(a, kSkip, rest) : "";
  std::vector<Value> items;
  for (V item : to_items(r, v)) {
    const Value tested = path.of(r, item);
    if ((has_test ? apply_test(r, name, tested, rest) : truth(tested)) == keep) {
      items.push_back(item);
    }
  }
  return make_iterator(r, std::move(items));
}

Value items_filter(R r, V v, A) {
  if (v.is_undefined()) return make_iterator(r, {});
  if (!v.is_dict()) fault("can only get item pairs from a mapping");
  std::vector<Value> items;
  for (const auto& [key, value] : v.dict().entries) items.push_back(r.tuple({key, value}));
  return make_iterator(r, std::move(items));
}

Value batch(R r, V v, A a) {
  const int64_t count = a.integer(0, 1);
  const bool fill = a.has(1) && !a[1].is_none();
  std::vector<Value> batches, current;
  const auto flush = [&] {
    batches.push_back(r.list(std::move(current)));
    current.clear();
  };
  for (V item : to_items(r, v)) {
    if (static_cast<int64_t>(current.size()) == count) flush();
    current.push_back(item);
  }
  if (!current.empty()) {
    if (fill && count > static_cast<int64_t>(current.size())) {
      r.check_room(static_cast<size_t>(std::min<int64_t>(count, INT32_MAX)) * sizeof(Value));
      current.resize(static_cast<size_t>(count), a[1]);
    }
    flush();
  }
  return make_iterator(r, std::move(batches));
}

Value slice_filter(R r, V v, A a) {
  const int64_t slices = a.integer(0, 1);
  if (slices == 0) fault("integer division or modulo by zero");
  const auto all = to_items(r, v);
  const int64_t size = static_cast<int64_t>(all.size());
  std::vector<Value> result;
  for (int64_t i = 0, begin = 0; i < slices; ++i) {
    r.step();
    const bool extra = i < size % slices;
    const int64_t end = begin + size / slices + extra;
    std::vector<Value> part(all.begin() + begin, all.begin() + end);
    if (a.has(1) && !a[1].is_none() && !extra) part.push_back(a[1]);
    result.push_back(r.list(std::move(part)));
    begin = end;
  }
  return make_iterator(r, std::move(result));
}

Value attr(R r, V v, A a) {
  require_defined(v);
  const std::string* name = a.str(0);
  if (!name) fault("attr: expected the name of an attribute");
  const auto found = v.is(Type::object) ? v.object().attribute(r, *name) : find_method(r, v, *name);
  return found ? *found
               : r.undefined(fmt::format("'{}' has no attribute {}", described_type(v),
                                         jinja::quoted(name->substr(0, 200))));
}

Value default_filter(R r, V v, A a) {
  if (!v.is_undefined() && !(a.flag(1, false) && !truth(v))) return v;
  return a.has(0) ? a[0] : r.text("");
}

}  // namespace

const std::vector<Native>& sequence_filters() {
  static const auto& table = *new std::vector<Native>{
      {"default", {"default_value", "boolean"}, 0, default_filter},
      {"d", {"default_value", "boolean"}, 0, default_filter},
      {"length", {}, 0, length_filter},
      {"count", {}, 0, length_filter},
      {"first", {}, 0, first},
      {"last", {}, 0, last},
      {"list", {}, 0, [](R r, V v, A) -> Value { return r.list(to_items(r, v)); }},
      {"join", {"d", "attribute"}, 0, join},
      {"reverse", {}, 0, reverse},
      {"sort", {"reverse", "case_sensitive", "attribute"}, 0, sort},
      {"dictsort", {"case_sensitive", "by", "reverse"}, 0, dict_sort},
      {"groupby", {"attribute", "default", "case_sensitive"}, 1, group_by},
      {"unique", {"case_sensitive", "attribute"}, 0, unique},
      {"min", {"case_sensitive", "attribute"}, 0, extreme<false>},
      {"max", {"case_sensitive", "attribute"}, 0, extreme<true>},
      {"sum", {"attribute", "start"}, 0, sum},
      {"map", {}, 0, map, true},
      {"select", {}, 0, select<true, false>, true},
      {"reject", {}, 0, select<false, false>, true},
      {"selectattr", {}, 0, select<true, true>, true},
      {"rejectattr", {}, 0, select<false, true>, true},
      {"items", {}, 0, items_filter},
      {"batch", {"linecount", "fill_with"}, 1, batch},
      {"slice", {"slices", "fill_with"}, 1, slice_filter},
      {"attr", {"name"}, 1, attr},
  };
  return table;
}

}  // namespace hone::jinja
