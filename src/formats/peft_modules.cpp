#include "formats/peft_modules.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <string_view>
#include <unordered_set>

#include "base/error.h"
#include "formats/printable.h"

namespace hone {
namespace {

constexpr size_t kMaxPattern = 16 << 10;  // bytes
constexpr size_t kMaxPatterns = 4096;
// Backtracking steps for one question about one module, over all expressions.
constexpr size_t kSteps = 2'000'000;
constexpr size_t kLeastSteps = 1000;  // for one expression

struct FreeCode {
  void operator()(pcre2_code* p) const { pcre2_code_free(p); }
};
struct FreeData {
  void operator()(pcre2_match_data* p) const { pcre2_match_data_free(p); }
};
struct FreeContext {
  void operator()(pcre2_match_context* p) const { pcre2_match_context_free(p); }
  void operator()(pcre2_compile_context* p) const { pcre2_compile_context_free(p); }
};

std::string message(int code) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(code, buffer, sizeof buffer);
  return reinterpret_cast<const char*>(buffer);
}

/// Python's re.match of `before` + `pattern` + `after`, or re.fullmatch.
class Pattern {
 public:
  Pattern(std::string_view before, const std::string& pattern, std::string_view after,
          const std::string& source, bool full = false)
      : shown_(printable(pattern)), source_(source) {
    HONE_CHECK(pattern.size() <= kMaxPattern, unsupported,
               "{}: the expression {} has {} bytes, at most {}", source, shown_, pattern.size(),
               kMaxPattern);
    const std::string text = std::string(before) + pattern + std::string(after);
    int error = 0;
    PCRE2_SIZE offset = 0;
    const std::unique_ptr<pcre2_compile_context, FreeContext> context(
        pcre2_compile_context_create(nullptr));
    HONE_CHECK(context, out_of_memory, "no memory for a regular expression");
    pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
    const uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | PCRE2_ANCHORED |
                             (full ? PCRE2_ENDANCHORED : 0);
    code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), options,
                              &error, &offset, context.get()));
    HONE_CHECK(code_, unsupported, "{}: the expression {} does not compile: {}", source, shown_,
               message(error));
  }

  /// What `group` matched ("" where it took no part), or nothing where the whole does not match.
  std::optional<std::string> match(const std::string& text, size_t steps,
                                   const char* group = nullptr) const {
    const std::unique_ptr<pcre2_match_data, FreeData> data(
        pcre2_match_data_create_from_pattern(code_.get(), nullptr));
    const std::unique_ptr<pcre2_match_context, FreeContext> context(
        pcre2_match_context_create(nullptr));
    HONE_CHECK(data && context, out_of_memory, "no memory for a regular expression");
    pcre2_set_match_limit(context.get(), static_cast<uint32_t>(steps));
    pcre2_set_heap_limit(context.get(), 16 << 10);  // KiB
    const int found = pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()),
                                  text.size(), 0, 0, data.get(), context.get());
    if (found == PCRE2_ERROR_NOMATCH) return std::nullopt;
    HONE_CHECK(found > 0, invalid_argument, "{}: the expression {} gives up on the module {}: {}",
               source_, shown_, printable(text), message(found));
    if (group == nullptr) return std::string();
    const int number =
        pcre2_substring_number_from_name(code_.get(), reinterpret_cast<PCRE2_SPTR>(group));
    HONE_ASSERT(number > 0);
    const PCRE2_SIZE* span = pcre2_get_ovector_pointer(data.get()) + 2 * number;
    return span[0] == PCRE2_UNSET ? std::string() : text.substr(span[0], span[1] - span[0]);
  }

 private:
  std::string shown_, source_;
  std::unique_ptr<pcre2_code, FreeCode> code_;
};

bool is_all_linear(std::string text) {
  for (char& c : text) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return text == "all-linear";
}

/// A list of names or an expression, ready to be asked.
struct Modules {
  Modules(const PeftModules& modules, const std::string& source)
      : names(modules.names.begin(), modules.names.end()) {
    if (!modules.pattern.empty()) pattern.emplace("", modules.pattern, "", source, true);
  }
  /// A whole name, or what stands behind one of its dots.
  bool ends_in_name(const std::string& module) const {
    for (size_t dot = module.find('.'); dot != module.npos; dot = module.find('.', dot + 1))
      if (names.contains(module.substr(dot + 1))) return true;
    return false;
  }
  bool match(const std::string& module, size_t steps) const {
    if (pattern) return pattern->match(module, steps).has_value();
    return names.contains(module) || ends_in_name(module);
  }

  std::unordered_set<std::string> names;
  std::optional<Pattern> pattern;
};

}  // namespace

struct PeftMatcher::Rules {
  Rules(const PeftConfig& c, const std::string& from)
      : config(c),
        source(from),
        all_linear(is_all_linear(c.target_modules.pattern)),
        target(all_linear ? PeftModules() : c.target_modules, from),
        exclude(c.exclude_modules, from),
        feedforward(c.feedforward_modules, from) {
    const size_t patterns = config.rank_pattern.size() + config.alpha_pattern.size() +
                            config.modules_to_save.size() + config.layers_pattern.size() + 3;
    HONE_CHECK(patterns <= kMaxPatterns, unsupported, "{}: {} expressions, at most {}", source,
               patterns, kMaxPatterns);
    steps = std::max(kSteps / patterns, kLeastSteps);
    for (const auto& [key, r] : config.rank_pattern)
      ranks.emplace_back("(.*\\.)?(", key, ")$", from);
    for (const auto& [key, a] : config.alpha_pattern)
      alphas.emplace_back("(.*\\.)?(", key, ")$", from);
    for (const std::string& name : config.modules_to_save)
      saved.emplace_back("(^|.*\\.)", name, "($|\\..*)", from);
    if (config.layers_to_transform.empty()) return;
    if (config.layers_pattern.empty())
      layers.emplace_back("", ".*?\\.[^.]*\\.(?P<idx>\\d+)\\.", "", from);
    for (const std::string& name : config.layers_pattern)
      layers.emplace_back("(?:^|.*?\\.)", name, "\\.(?P<idx>\\d+)\\.", from);
  }

  bool left_out(const std::string& module) const {
    if (exclude.match(module, steps)) return true;
    return std::any_of(saved.begin(), saved.end(),
                       [&](const Pattern& p) { return p.match(module, steps).has_value(); });
  }
  bool in_layers(const std::string& module) const {
    if (layers.empty()) return true;
    for (const Pattern& p : layers) {
      const auto digits = p.match(module, steps, "idx");
      if (!digits) continue;
      int64_t index = 0;
      const char* end = digits->data() + digits->size();
      const auto& wanted = config.layers_to_transform;
      return std::from_chars(digits->data(), end, index).ec == std::errc() &&
             std::find(wanted.begin(), wanted.end(), index) != wanted.end();
    }
    return false;
  }
  template <typename T>
  T first(const std::vector<Pattern>& patterns,
          const std::vector<std::pair<std::string, T>>& values, T otherwise,
          const std::string& module) const {
    for (size_t i = 0; i < patterns.size(); ++i)
      if (patterns[i].match(module, steps)) return values[i].second;
    return otherwise;
  }

  PeftConfig config;
  std::string source;
  bool all_linear;
  Modules target, exclude, feedforward;
  std::vector<Pattern> ranks, alphas, saved, layers;
  size_t steps = kSteps;
};

PeftMatcher::PeftMatcher(const PeftConfig& config, const std::string& source)
    : rules_(std::make_shared<const Rules>(config, source)) {}

bool PeftMatcher::adapts(const std::string& module, bool linear, bool head) const {
  const Rules& r = *rules_;
  HONE_CHECK(!r.config.target_modules.empty(), unsupported,
             "{}: \"target_modules\" is missing; expected a list of names or an expression",
             r.source);
  if (r.left_out(module)) return false;
  if (r.all_linear) return linear && !head;
  if (r.target.pattern) return r.target.match(module, r.steps);
  if (r.target.names.contains(module)) return true;
  return r.target.ends_in_name(module) && r.in_layers(module);
}

int64_t PeftMatcher::rank(const std::string& module) const {
  return rules_->first(rules_->ranks, rules_->config.rank_pattern, rules_->config.r, module);
}

double PeftMatcher::alpha(const std::string& module) const {
  return rules_->first(rules_->alphas, rules_->config.alpha_pattern, rules_->config.lora_alpha,
                       module);
}

double PeftMatcher::scale(const std::string& module) const {
  const auto r = static_cast<double>(rank(module));
  return alpha(module) / (rules_->config.use_rslora ? std::sqrt(r) : r);
}

bool PeftMatcher::feedforward(const std::string& module) const {
  const Modules& modules = rules_->feedforward;
  if (modules.pattern) return modules.match(module, rules_->steps);
  return std::any_of(modules.names.begin(), modules.names.end(),
                     [&](const std::string& name) { return module.ends_with(name); });
}

}  // namespace hone
