// The tests of "x is test", one row each.
#include <cmath>

#include "text/jinja_native.h"
#include "text/jinja_ops.h"
#include "text/jinja_strings.h"

namespace hone::jinja {
namespace {

using R = Runtime&;
using V = const Value&;
using A = const Bound&;

/// x % divisor == remainder, by the template's own % and ==.
bool leaves(Runtime& runtime, V x, V divisor, int64_t remainder) {
  return equal(runtime, binary(runtime, "%", x, divisor), Value(remainder));
}

bool cased(Runtime& runtime, V x, std::string_view property) {
  return has_property(to_str(runtime, x), property);
}

/// jinja2's Undefined has a __call__, so that calling it can say what is missing.
bool is_callable(V x) { return x.is_undefined() || (x.is(Type::object) && x.object().callable()); }

bool is_sequence(V x) {
  return x.is_undefined() || x.is_text() || x.is_dict() ||
         (x.is_sequence() && x.sequence().indexable());
}

template <const Native* (*find)(std::string_view)>
Value named(R, V x, A) {
  if (!hashable(x)) fault("unhashable type: '{}'", type_name(x));
  return x.is_text() && find(x.str()) != nullptr;
}

template <char const* op>
Value compares(R r, V x, A a) {
  return holds(r, op, x, a[0]);
}
constexpr char kEq[] = "==", kNe[] = "!=", kLt[] = "<", kLe[] = "<=", kGt[] = ">",
               kGe[] = ">=", kIn[] = "in";

const std::vector<Native>& tests() {
  static const auto& table = *new std::vector<Native>{
      {"defined", {}, 0, [](R, V x, A) -> Value { return !x.is_undefined(); }},
      {"undefined", {}, 0, [](R, V x, A) -> Value { return x.is_undefined(); }},
      {"none", {}, 0, [](R, V x, A) -> Value { return x.is_none(); }},
      {"boolean", {}, 0, [](R, V x, A) -> Value { return x.is(Type::boolean); }},
      {"true", {}, 0, [](R, V x, A) -> Value { return x.is(Type::boolean) && x.boolean(); }},
      {"false", {}, 0, [](R, V x, A) -> Value { return x.is(Type::boolean) && !x.boolean(); }},
      {"integer", {}, 0, [](R, V x, A) -> Value { return x.is(Type::integer); }},
      {"float", {}, 0, [](R, V x, A) -> Value { return x.is(Type::real); }},
      {"number", {}, 0, [](R, V x, A) -> Value { return x.is_number(); }},
      {"string", {}, 0, [](R, V x, A) -> Value { return x.is_text(); }},
      {"mapping", {}, 0, [](R, V x, A) -> Value { return x.is_dict(); }},
      {"sequence", {}, 0, [](R, V x, A) -> Value { return is_sequence(x); }},
      {"iterable", {}, 0, [](R, V x, A) -> Value { return iterable(x); }},
      {"callable", {}, 0, [](R, V x, A) -> Value { return is_callable(x); }},
      {"escaped", {}, 0, [](R, V x, A) -> Value { return x.is_text() && x.text().markup; }},
      {"lower", {}, 0, [](R r, V x, A) -> Value { return cased(r, x, "islower"); }},
      {"upper", {}, 0, [](R r, V x, A) -> Value { return cased(r, x, "isupper"); }},
      {"odd", {}, 0, [](R r, V x, A) -> Value { return leaves(r, x, int64_t{2}, 1); }},
      {"even", {}, 0, [](R r, V x, A) -> Value { return leaves(r, x, int64_t{2}, 0); }},
      {"divisibleby", {"num"}, 1, [](R r, V x, A a) -> Value { return leaves(r, x, a[0], 0); }},
      {"sameas", {"other"}, 1, [](R, V x, A a) -> Value { return x.same_as(a[0]); }},
      {"filter", {}, 0, named<find_filter>},
      {"test", {}, 0, named<find_test>},
      {"in", {"seq"}, 1, compares<kIn>},
      {"==", {"other"}, 1, compares<kEq>},
      {"eq", {"other"}, 1, compares<kEq>},
      {"equalto", {"other"}, 1, compares<kEq>},
      {"!=", {"other"}, 1, compares<kNe>},
      {"ne", {"other"}, 1, compares<kNe>},
      {"<", {"other"}, 1, compares<kLt>},
      {"lt", {"other"}, 1, compares<kLt>},
      {"lessthan", {"other"}, 1, compares<kLt>},
      {"<=", {"other"}, 1, compares<kLe>},
      {"le", {"other"}, 1, compares<kLe>},
      {">", {"other"}, 1, compares<kGt>},
      {"gt", {"other"}, 1, compares<kGt>},
      {"greaterthan", {"other"}, 1, compares<kGt>},
      {">=", {"other"}, 1, compares<kGe>},
      {"ge", {"other"}, 1, compares<kGe>},
  };
  return table;
}

}  // namespace

const Native* find_test(std::string_view name) {
  for (const Native& test : tests()) {
    if (test.name == name) return &test;
  }
  return nullptr;
}

}  // namespace hone::jinja
