// The leaves of a Pattern as functions, and its text: describe() writes what parse() reads.
//
//   pattern:  term { "|" term }        term: factor { "&" factor }
//   factor:   "!" factor | "(" pattern ")" | name [ "(" argument { "," argument } ")" ]
//   argument: number | "inf" | begin ".." end | row ":" column
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>

#include "attention/pattern.h"
#include "attention/pattern_leaf.h"
#include "base/error.h"

namespace hone {
namespace {

using Kind = PatternNode::Kind;
using List = LeafForm::List;

// Blocks are counted in 31 bits and no longer than that, so that no product leaves 62.
constexpr int64_t kMostBlock = int64_t{1} << 31, kMostBlocks = int64_t{1} << 28;

void check_block(const char* what, int64_t size) {
  HONE_CHECK(size >= 1 && size <= kMostBlock, invalid_argument,
             "{}: expected a block of 1 to 2^31 keys, got {}", what, size);
}

}  // namespace

Pattern Pattern::band(int64_t left, int64_t right) {
  auto side = [](int64_t n) { return n < 0 ? kUnlimited : std::min(n, kUnlimited); };
  return Pattern({.kind = Kind::band, .a = side(left), .b = side(right)});
}

Pattern Pattern::block(int64_t size, int64_t before, int64_t behind) {
  check_block("block", size);
  HONE_CHECK(before >= 0 && behind >= 0, invalid_argument,
             "block: expected 0 or more blocks before and behind, got {} and {}", before, behind);
  return Pattern({.kind = Kind::block,
                  .a = size,
                  .b = std::min(before, kMostBlocks),
                  .c = std::min(behind, kMostBlocks)});
}

Pattern Pattern::stride(int64_t step) {
  HONE_CHECK(step >= 1 && step <= kUnlimited, invalid_argument,
             "stride: expected a step of at least 1, got {}", step);
  return Pattern({.kind = Kind::stride, .a = step});
}

Pattern Pattern::summary(int64_t block, int64_t keys) {
  check_block("summary", block);
  HONE_CHECK(keys >= 1 && keys <= block, invalid_argument,
             "summary: expected 1 to {} keys of each block, got {}", block, keys);
  return Pattern({.kind = Kind::summary, .a = block, .b = keys});
}

Pattern Pattern::global(std::vector<KeyRange> tokens) {
  std::sort(tokens.begin(), tokens.end());
  std::vector<int64_t> list;
  for (const KeyRange& r : tokens) {
    HONE_CHECK(0 <= r.begin && r.begin < r.end && r.end <= kUnlimited, invalid_argument,
               "global: expected positions begin < end, got {}..{}", r.begin, r.end);
    if (!list.empty() && r.begin <= list.back()) {
      list.back() = std::max(list.back(), r.end);
      continue;
    }
    list.push_back(r.begin);
    list.push_back(r.end);
  }
  return listed({.kind = Kind::global}, std::move(list));
}

Pattern Pattern::documents(std::vector<int64_t> bounds) {
  for (size_t i = 0; i < bounds.size(); ++i)
    HONE_CHECK(bounds[i] >= 0 && bounds[i] <= kUnlimited && (i == 0 || bounds[i - 1] <= bounds[i]),
               invalid_argument, "documents: expected bounds that ascend from 0, got {}",
               bounds[i]);
  return listed({.kind = Kind::documents}, std::move(bounds));
}

Pattern Pattern::random(int64_t block, int64_t count, int64_t blocks, int64_t seed) {
  check_block("random", block);
  HONE_CHECK(count >= 1 && count <= kMostRandom, invalid_argument,
             "random: expected 1 to {} blocks, got {}", kMostRandom, count);
  HONE_CHECK(blocks >= 0 && blocks <= kMostBlocks, invalid_argument,
             "random: expected to draw among 1 to 2^28 blocks, or 0 for those so far, got {}",
             blocks);
  return Pattern({.kind = Kind::random, .a = block, .b = count, .c = blocks, .d = seed});
}

Pattern Pattern::block_list(int64_t block, const std::vector<std::pair<int64_t, int64_t>>& pairs) {
  check_block("block_list", block);
  std::vector<int64_t> list;
  for (auto [row, column] : pairs) {
    HONE_CHECK(row >= 0 && column >= 0 && row < kMostBlocks && column < kMostBlocks,
               invalid_argument, "block_list: expected blocks from 0 to 2^28, got {}:{}", row,
               column);
    list.push_back(row << 31 | column);
  }
  std::sort(list.begin(), list.end());
  list.erase(std::unique(list.begin(), list.end()), list.end());
  return listed({.kind = Kind::block_list, .a = block}, std::move(list));
}

Pattern Pattern::dilated(int64_t keys, int64_t step) {
  HONE_CHECK(keys >= 1 && keys <= kMostBlock && step >= 1 && step <= kMostBlocks, invalid_argument,
             "dilated: expected 1 or more keys and a step of at least 1, got {} and {}", keys,
             step);
  return window((keys - 1) * step + 1) & stride(step);
}
Pattern Pattern::strided(int64_t l) {
  Pattern every = stride(l);
  return causal() & (band(l, 0) | every);
}
Pattern Pattern::fixed(int64_t l, int64_t keys) { return causal() & (block(l) | summary(l, keys)); }
Pattern Pattern::longformer(int64_t side, int64_t tokens) {
  HONE_CHECK(side >= 0 && tokens >= 0, invalid_argument,
             "longformer: expected 0 or more keys and tokens, got {} and {}", side, tokens);
  return tokens == 0 ? band(side, side) : band(side, side) | global({{0, tokens}});
}
Pattern Pattern::bigbird(int64_t size, int64_t count, int64_t blocks, int64_t seed) {
  check_block("bigbird", size);
  HONE_CHECK(blocks >= 1 && blocks <= kMostBlocks, invalid_argument,
             "bigbird: expected 1 to 2^28 blocks, got {}", blocks);
  return block(size, 1, 1) | global({{0, size}, {(blocks - 1) * size, blocks * size}}) |
         random(size, count, blocks, seed);
}

std::string Pattern::describe() const {
  auto number = [](int64_t n) { return n == kUnlimited ? "inf" : fmt::format("{}", n); };
  auto leaf_text = [&](const PatternNode& n) {
    const LeafForm form = leaf_form(n.kind);
    std::vector<std::string> arguments;
    const int64_t numbers[] = {n.a, n.b, n.c, n.d}, *x = list(n);
    for (int i = 0; i < form.numbers; ++i) arguments.push_back(number(numbers[i]));
    for (int64_t i = 0; i < n.count; ++i)
      if (form.list == List::numbers) {
        arguments.push_back(number(x[i]));
      } else if (form.list == List::pairs) {
        arguments.push_back(fmt::format("{}:{}", x[i] >> 31, x[i] & (kMostBlock - 1)));
      } else if (i % 2 == 0) {
        arguments.push_back(x[i] + 1 == x[i + 1] ? number(x[i])
                                                 : fmt::format("{}..{}", x[i], number(x[i + 1])));
      }
    if (arguments.empty()) return std::string(form.name);
    return fmt::format("{}({})", form.name, fmt::join(arguments, ", "));
  };
  // An operand that binds less than its operator, or as much and stands behind it, gets brackets.
  struct Text {
    std::string text;
    int binds;
    std::string within(int least) const { return binds >= least ? text : "(" + text + ")"; }
  };
  std::vector<Text> stack;
  for (const PatternNode& n : nodes_) {
    if (n.kind == Kind::lnot) {
      stack.back() = {"!" + stack.back().within(3), 3};
    } else if (n.kind == Kind::land || n.kind == Kind::lor) {
      const int binds = n.kind == Kind::land ? 2 : 1;
      const std::string b = stack.back().within(binds + 1);
      stack.pop_back();
      stack.back() = {stack.back().within(binds) + (binds == 2 ? " & " : " | ") + b, binds};
    } else {
      stack.push_back({leaf_text(n), 4});
    }
  }
  return stack.back().text;
}

namespace {

struct Argument {
  List kind;  // numbers, ranges or pairs
  int64_t a, b;
};
using Arguments = std::vector<Argument>;

std::vector<KeyRange> ranges(const Arguments& x) {
  std::vector<KeyRange> out;
  for (const Argument& a : x)
    out.push_back({a.a, a.kind == List::numbers ? std::min(a.a, Pattern::kUnlimited) + 1 : a.b});
  return out;
}
std::vector<std::pair<int64_t, int64_t>> pairs(const Arguments& x) {
  std::vector<std::pair<int64_t, int64_t>> out;
  for (size_t i = 1; i < x.size(); ++i) out.emplace_back(x[i].a, x[i].b);
  return out;
}
std::vector<int64_t> numbers(const Arguments& x) {
  std::vector<int64_t> out;
  for (const Argument& a : x) out.push_back(a.a);
  return out;
}
int64_t or_zero(const Arguments& x, size_t i) { return i < x.size() ? x[i].a : 0; }

struct Function {
  std::string_view name;
  size_t least, most;  // arguments
  size_t plain;        // of which so many are numbers
  List rest;
  std::string_view usage;
  Pattern (*make)(const Arguments&);
};
constexpr size_t kAnyNumber = SIZE_MAX;

// Beside the leaves' own names, those of compositions.
const Function kFunctions[] = {
    {"all", 0, 0, 0, List::none, "all", [](const Arguments&) { return Pattern(); }},
    {"causal", 0, 0, 0, List::none, "causal", [](const Arguments&) { return Pattern::causal(); }},
    {"window", 1, 1, 1, List::none, "window(keys)",
     [](const Arguments& x) { return Pattern::window(x[0].a); }},
    {"band", 2, 2, 2, List::none, "band(left, right)",
     [](const Arguments& x) { return Pattern::band(x[0].a, x[1].a); }},
    {"prefix", 1, 1, 1, List::none, "prefix(keys)",
     [](const Arguments& x) { return Pattern::prefix(x[0].a); }},
    {"sinks", 1, 1, 1, List::none, "sinks(keys)",
     [](const Arguments& x) { return Pattern::prefix(x[0].a); }},
    {"block", 1, 3, 3, List::none, "block(size[, before, behind])",
     [](const Arguments& x) { return Pattern::block(x[0].a, or_zero(x, 1), or_zero(x, 2)); }},
    {"stride", 1, 1, 1, List::none, "stride(step)",
     [](const Arguments& x) { return Pattern::stride(x[0].a); }},
    {"summary", 2, 2, 2, List::none, "summary(block, keys)",
     [](const Arguments& x) { return Pattern::summary(x[0].a, x[1].a); }},
    {"global", 0, kAnyNumber, 0, List::ranges, "global(position, begin..end, ...)",
     [](const Arguments& x) { return Pattern::global(ranges(x)); }},
    {"documents", 0, kAnyNumber, kAnyNumber, List::none, "documents(bound, ...)",
     [](const Arguments& x) { return Pattern::documents(numbers(x)); }},
    {"random", 3, 4, 4, List::none, "random(block, count, blocks[, seed])",
     [](const Arguments& x) { return Pattern::random(x[0].a, x[1].a, x[2].a, or_zero(x, 3)); }},
    {"block_list", 1, kAnyNumber, 1, List::pairs, "block_list(size, row:column, ...)",
     [](const Arguments& x) { return Pattern::block_list(x[0].a, pairs(x)); }},
    {"dilated", 2, 2, 2, List::none, "dilated(keys, step)",
     [](const Arguments& x) { return Pattern::dilated(x[0].a, x[1].a); }},
    {"strided", 1, 1, 1, List::none, "strided(length)",
     [](const Arguments& x) { return Pattern::strided(x[0].a); }},
    {"fixed", 2, 2, 2, List::none, "fixed(length, keys)",
     [](const Arguments& x) { return Pattern::fixed(x[0].a, x[1].a); }},
    {"longformer", 2, 2, 2, List::none, "longformer(side, tokens)",
     [](const Arguments& x) { return Pattern::longformer(x[0].a, x[1].a); }},
    {"bigbird", 3, 4, 4, List::none, "bigbird(block, count, blocks[, seed])",
     [](const Arguments& x) { return Pattern::bigbird(x[0].a, x[1].a, x[2].a, or_zero(x, 3)); }},
};

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Pattern whole() {
    Pattern p = any();
    if (at_ < text_.size()) refuse("& or | or the end");
    return p;
  }

 private:
  static constexpr int kMostNesting = 64;

  [[noreturn]] void refuse(std::string_view expected) const {
    const std::string_view rest = text_.substr(at_, 20);
    fail(ErrorKind::invalid_argument, "pattern \"{}\": expected {} at character {}, got {}", text_,
         expected, at_ + 1, rest.empty() ? "the end" : fmt::format("\"{}\"", rest));
  }

  bool take(std::string_view token) {
    while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_]))) ++at_;
    if (!text_.substr(at_).starts_with(token)) return false;
    at_ += token.size();
    return true;
  }
  void skip_space() { take(""); }

  Pattern any() {
    Pattern p = term();
    while (take("|")) p = p | term();
    return p;
  }
  Pattern term() {
    Pattern p = factor();
    while (take("&")) p = p & factor();
    return p;
  }
  Pattern factor() {
    if (++nesting_ > kMostNesting) refuse("less nesting");
    Pattern p;
    if (take("!")) {
      p = !factor();
    } else if (take("(")) {
      p = any();
      if (!take(")")) refuse(")");
    } else {
      p = function();
    }
    skip_space();
    --nesting_;
    return p;
  }

  Pattern function() {
    skip_space();
    size_t end = at_;
    while (end < text_.size() &&
           (std::islower(static_cast<unsigned char>(text_[end])) || text_[end] == '_'))
      ++end;
    const std::string_view name = text_.substr(at_, end - at_);
    const Function* f = std::find_if(std::begin(kFunctions), std::end(kFunctions),
                                     [&](const Function& x) { return x.name == name; });
    if (f == std::end(kFunctions)) {
      std::vector<std::string_view> names;
      for (const Function& x : kFunctions) names.push_back(x.name);
      refuse(fmt::format("one of {}", fmt::join(names, ", ")));
    }
    const size_t start = at_;
    at_ = end;
    Arguments arguments;
    if (take("(")) {
      do arguments.push_back(argument(*f, arguments.size()));
      while (take(","));
      if (!take(")")) refuse(", or )");
    }
    if (arguments.size() < f->least || arguments.size() > f->most) {
      at_ = start;
      refuse(f->usage);
    }
    return f->make(arguments);
  }

  Argument argument(const Function& f, size_t index) {
    const size_t start = at_;
    Argument a{List::numbers, number(), 0};
    if (take(".."))
      a = {List::ranges, a.a, number()};
    else if (take(":"))
      a = {List::pairs, a.a, number()};
    const bool plain = a.kind == List::numbers;
    const bool fits =
        index < f.plain ? plain : a.kind == f.rest || (plain && f.rest == List::ranges);
    if (!fits) {
      at_ = start;
      refuse(f.usage);
    }
    return a;
  }

  int64_t number() {
    skip_space();
    if (take("inf")) return Pattern::kUnlimited;
    int64_t n = 0;
    auto [end, error] = std::from_chars(text_.data() + at_, text_.data() + text_.size(), n);
    if (error != std::errc()) refuse("a number or inf");
    at_ = static_cast<size_t>(end - text_.data());
    return n;
  }

  std::string_view text_;
  size_t at_ = 0;
  int nesting_ = 0;
};

}  // namespace

Pattern Pattern::parse(std::string_view text) { return Parser(text).whole(); }

}  // namespace hone
