#include "text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "text/unicode.h"

namespace hone {
namespace {

constexpr size_t kMaxPattern = 64 << 10;
constexpr size_t kJitStack = 8 << 20;

// White_Space, without the U+180E that PCRE2's \s adds; for inside a class.
constexpr std::string_view kSpaceClass = R"(\x09-\x0d\x20\x{85}\p{Z})";
// What \w means to Oniguruma: six Latin-1 numbers more than to others, and to its own [:word:].
constexpr std::string_view kWordClass =
    R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{b2}\x{b3}\x{b9}\x{bc}-\x{be})";

// The members of "[:name:]" as Oniguruma has them; of the names that are not here the two libraries
// differ in too much.
struct PosixClass {
  std::string_view name, members;
};
constexpr PosixClass kPosixClasses[] = {
    {"alpha", R"(\p{Alphabetic})"}, {"alnum", R"(\p{Alphabetic}\p{Nd})"},
    {"ascii", R"(\x00-\x7f)"},      {"cntrl", R"(\p{Cc})"},
    {"digit", R"(\p{Nd})"},         {"lower", R"(\p{Lowercase})"},
    {"punct", R"(\p{P}\p{S})"},     {"space", kSpaceClass},
    {"upper", R"(\p{Uppercase})"},  {"word", R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})"},
    {"xdigit", "0-9a-fA-F"},
};

// What a thread matches with.
struct Matcher {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(32 << 10, kJitStack, nullptr);

  Matcher() {
    HONE_CHECK(data && context && stack, out_of_memory, "no memory for a regular expression");
    pcre2_set_match_limit(context, kRegexMatchLimit);
    pcre2_set_heap_limit(context, 256 << 10);  // KiB
    pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~Matcher() {
    pcre2_jit_stack_free(stack);
    pcre2_match_context_free(context);
    pcre2_match_data_free(data);
  }
};

std::string message(int code) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(code, buffer, sizeof buffer);
  return reinterpret_cast<const char*>(buffer);
}

// Rewrites a pattern atom by atom; an atom is what a quantifier applies to.
class PatternWriter {
 public:
  PatternWriter(std::string_view pattern, const std::string& source)
      : pattern_(pattern), source_(source) {}

  std::string write() {
    while (at_ < pattern_.size()) step();
    return std::move(out_);
  }

 private:
  char peek(size_t ahead = 0) const {
    return at_ + ahead < pattern_.size() ? pattern_[at_ + ahead] : '\0';
  }
  [[noreturn]] void refuse(const char* what) const {
    fail(ErrorKind::unsupported, "{}: the regular expression {} has {} at byte {}", source_,
         printed(pattern_), what, at_);
  }

  void step() {
    const char c = peek();
    if (c == '(') {
      if (peek(1) == '*') refuse("a verb '(*'");
      groups_.push_back(out_.size());
    } else if (c == ')') {
      if (!groups_.empty()) {
        atom_ = groups_.back();
        groups_.pop_back();
      }
    } else if (c == '{' && interval_size() > 0) {
      const size_t size = interval_size();
      out_ += pattern_.substr(at_, size);
      at_ += size;
      if (peek() == '+') {
        // Possessive in PCRE2; here it repeats the interval.
        out_.insert(atom_, "(?:").append(")+");
        ++at_;
      }
      return;
    } else if (c == '\\' || c == '[') {
      atom_ = out_.size();
      return c == '[' ? write_class() : write_escape(false);
    } else if (c != '*' && c != '+' && c != '?') {
      atom_ = out_.size();
    }
    out_ += c;
    ++at_;
  }

  // Length of the "{n,m}" at at_, 0 where there is none.
  size_t interval_size() const {
    size_t n = 1;
    while (peek(n) == ',' || (peek(n) >= '0' && peek(n) <= '9')) ++n;
    return n > 1 && peek(n) == '}' ? n + 1 : 0;
  }

  // What stands for the escape at pattern_[at_], in a class or outside.
  void write_escape(bool in_class) {
    const char c = peek(1);
    const auto set = [&](bool negated, std::string_view members) {
      if (in_class && negated) refuse("a negated set inside a class");
      out_ += in_class ? std::string(members) : fmt::format("[{}{}]", negated ? "^" : "", members);
    };
    switch (c) {
      case 's':
      case 'S':
        set(c == 'S', kSpaceClass);
        break;
      case 'w':
      case 'W':
        set(c == 'W', kWordClass);
        break;
      case 'h':
      case 'H':
        set(c == 'H', "0-9a-fA-F");
        break;
      case 'g':
      case 'k':
        refuse("a reference by name");
      case 'u':
        if (pattern_.size() < at_ + 6) refuse("an unfinished escape");
        out_ += fmt::format("\\x{{{}}}", pattern_.substr(at_ + 2, 4));
        at_ += 4;
        break;
      case '\0':
        refuse("an unfinished escape");
      case 'p':
      case 'P':
      case 'x': {
        const size_t end = peek(2) == '{' ? pattern_.find('}', at_) : at_ + 1;
        if (end == pattern_.npos) refuse("an unfinished escape");
        out_ += pattern_.substr(at_, end + 1 - at_);
        at_ = end + 1;
        return;
      }
      default:
        out_ += {'\\', c};
    }
    at_ += 2;
  }

  void write_class() {
    out_ += pattern_[at_++];
    if (peek() == '^') out_ += pattern_[at_++];
    if (peek() == ']') out_ += pattern_[at_++];  // first in a class it is itself
    int depth = 1;
    while (depth > 0) {
      const char c = peek();
      if (at_ >= pattern_.size()) refuse("an unfinished class");
      if (c == '\\') {
        write_escape(true);
        continue;
      }
      if (c == '[' && peek(1) == ':') {
        const size_t end = pattern_.find(":]", at_);
        const std::string_view name = pattern_.substr(at_ + 2, end - at_ - 2);
        const auto* known = std::find_if(std::begin(kPosixClasses), std::end(kPosixClasses),
                                         [&](const PosixClass& p) { return p.name == name; });
        if (end == pattern_.npos || known == std::end(kPosixClasses))
          refuse("an unknown [:class:]");
        out_ += known->members;
        at_ = end + 2;
        continue;
      }
      if (c == '&' && peek(1) == '&') refuse("an intersection of classes");
      if (c == '[' && peek(1) == '^') refuse("a negated class inside a class");
      // A class inside a class adds its members.
      depth += c == '[' ? 1 : c == ']' ? -1 : 0;
      if (c != '[' && (c != ']' || depth == 0)) out_ += c;
      ++at_;
    }
  }

  std::string_view pattern_;
  const std::string& source_;
  size_t at_ = 0;
  std::string out_;
  size_t atom_ = 0;             // where in out_ the last atom begins
  std::vector<size_t> groups_;  // where in out_ the open groups begin
};

}  // namespace

std::string pcre2_pattern(std::string_view pattern, const std::string& source) {
  return PatternWriter(pattern, source).write();
}

Regex::Regex(std::string_view pattern, const std::string& source)
    : pattern_(pattern), source_(source) {
  HONE_CHECK(pattern.size() <= kMaxPattern && is_valid_utf8(pattern), unsupported,
             "{}: a regular expression of {} bytes; expected at most {} of UTF-8", source,
             pattern.size(), kMaxPattern);
  const std::string text = pcre2_pattern(pattern, source);
  const std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> context(
      pcre2_compile_context_create(nullptr), pcre2_compile_context_free);
  HONE_CHECK(context, out_of_memory, "no memory for a regular expression");
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(
      reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C | PCRE2_NO_AUTO_CAPTURE,
      &error, &offset, context.get());
  HONE_CHECK(code, unsupported, "{}: the regular expression {} does not compile: {}", source,
             printed(pattern), message(error));
  code_ = std::shared_ptr<const void>(
      code, [](const void* c) { pcre2_code_free(static_cast<pcre2_code*>(const_cast<void*>(c))); });
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // without a JIT the interpreter matches
}

std::optional<std::pair<size_t, size_t>> Regex::search(std::string_view text, size_t from) const {
  thread_local const Matcher matcher;
  const auto* code = static_cast<const pcre2_code*>(code_.get());
  const auto match = [&](uint32_t options) {
    return pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from, options,
                       matcher.data, matcher.context);
  };
  int found = match(PCRE2_NO_UTF_CHECK);
  // The interpreter keeps its frames on the heap, up to a limit of its own.
  if (found == PCRE2_ERROR_JIT_STACKLIMIT) found = match(PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT);
  if (found == PCRE2_ERROR_NOMATCH) return std::nullopt;
  HONE_CHECK(found > 0, invalid_argument,
             "{}: the regular expression {} gives up on a text of {} bytes: {}", source_,
             printed(pattern_), text.size(), message(found));
  const PCRE2_SIZE* span = pcre2_get_ovector_pointer(matcher.data);
  return std::pair<size_t, size_t>{span[0], span[1]};
}

std::string regex_escape(std::string_view text) {
  std::string out;
  for (char c : text) {
    if (std::string_view("\\^$.|?*+()[]{}-#&~").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

}  // namespace hone
