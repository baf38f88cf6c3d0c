#include "models/attention_patterns.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"

namespace hone {
namespace {

constexpr const char* kKey = "hone_attention_patterns";
// Of a pattern's text in a file.
constexpr int64_t kLongestText = 1 << 12;
// Positions at which a pattern is tried.
constexpr int64_t kTried = 1 << 16;

// n of causal & window(n).
std::optional<int64_t> window_of(const Pattern& p) {
  for (const PatternNode& n : p.nodes())
    if (n.kind == PatternNode::Kind::window && (p == (Pattern::causal() & Pattern::window(n.a)) ||
                                                p == (Pattern::window(n.a) & Pattern::causal())))
      return n.a;
  return std::nullopt;
}

// What a family's own keys can say: windows of one size, in the layers that have the rotation of
// windowed ones, where these have one of their own.
struct Windows {
  std::vector<bool> windowed;
  int64_t size = 0;
};
std::optional<Windows> as_windows(const ModelConfig& m) {
  Windows w;
  for (int64_t i = 0; i < m.layers; ++i) {
    const Pattern p = m.pattern(i);
    const std::optional<int64_t> size = window_of(p);
    if (!size && !(p == Pattern::causal())) return std::nullopt;
    w.windowed.push_back(size.has_value());
    if (!size) continue;
    if (w.size != 0 && w.size != *size) return std::nullopt;
    w.size = *size;
  }
  const bool none = std::ranges::find(w.windowed, true) == w.windowed.end();
  const bool same = m.windowed.empty() ? none : w.windowed == m.windowed;
  if (m.local_rope_theta > 0 && !same) return std::nullopt;
  return w;
}

}  // namespace

void read_patterns(const Json& c, ModelConfig& m) {
  if (!c.contains(kKey)) return;
  const Json& list = c[kKey];
  HONE_CHECK(list.is_array() && std::ssize(list) == m.layers, corrupt,
             "config.json: {}: expected a pattern for each of {} layers", kKey, m.layers);
  HONE_CHECK(m.windowed.empty() || std::ssize(m.windowed) == m.layers, corrupt,
             "config.json: {} attention types for {} layers", m.windowed.size(), m.layers);
  for (int64_t i = 0; i < m.layers; ++i) {
    const Json& entry = list[static_cast<size_t>(i)];
    const std::string where = fmt::format("config.json: {} of layer {}", kKey, i);
    if (entry.is_null()) {
      m.patterns.push_back(m.family_pattern(i));
      continue;
    }
    HONE_CHECK(entry.is_string(), corrupt, "{}: expected a text, got {}", where,
               entry.dump().substr(0, 60));
    const std::string text = entry.get<std::string>();
    HONE_CHECK(std::ssize(text) <= kLongestText, corrupt, "{}: {} characters, expected at most {}",
               where, text.size(), kLongestText);
    try {
      m.patterns.push_back(Pattern::parse(text));
      check_pattern(m.patterns.back(), m.context, "it");
    } catch (const Error& e) {
      fail(ErrorKind::corrupt, "{}: {}", where, e.what());
    }
  }
}

bool hides_patterns(const ModelConfig& m, const Family& family) {
  return !m.patterns.empty() && !(family.has_layer_types && as_windows(m));
}

void write_patterns(const ModelConfig& m, const Family& family, Json& c) {
  c.erase(kKey);
  if (m.patterns.empty()) return;
  if (hides_patterns(m, family)) {
    for (int64_t i = 0; i < m.layers; ++i)
      c[kKey].push_back(m.is_recurrent(i) ? Json() : Json(m.patterns[i].describe()));
    return;
  }
  const Windows w = *as_windows(m);
  c["layer_types"] = Json::array();
  for (bool local : w.windowed)
    c["layer_types"].push_back(local ? "sliding_attention" : "full_attention");
  if (w.size > 0) c["sliding_window"] = w.size;
  c.erase("sliding_window_pattern");
}

void check_pattern(const Pattern& p, int64_t context, const std::string& what) {
  HONE_CHECK(p.is_causal(), invalid_argument,
             "{} is '{}', which shows later keys; a language model needs 'causal & (…)'", what,
             p.describe());
  for (int64_t q = 0; q < std::min(context, kTried); ++q)
    HONE_CHECK(p.sees(q, q), invalid_argument,
               "{} is '{}', by which position {} does not see its own key", what, p.describe(), q);
}

std::vector<LayerGroup> layer_groups(const Model& model) {
  std::vector<LayerGroup> groups;
  for (int64_t i = 0; i < std::ssize(model.blocks); ++i) {
    const std::string mixing = model.blocks[i].mixer->describe();
    auto same = [&](const LayerGroup& g) { return g.mixing == mixing; };
    auto at = std::ranges::find_if(groups, same);
    if (at == groups.end()) at = groups.insert(at, {mixing, {}});
    at->layers.push_back(i);
  }
  return groups;
}

std::string layers_text(const std::vector<int64_t>& layers, int64_t of) {
  if (std::ssize(layers) == of) return fmt::format("all {}", of);
  std::vector<std::string> runs;
  for (size_t i = 0; i < layers.size();) {
    size_t end = i + 1;
    while (end < layers.size() && layers[end] == layers[end - 1] + 1) ++end;
    runs.push_back(end == i + 1 ? fmt::format("{}", layers[i])
                                : fmt::format("{}–{}", layers[i], layers[end - 1]));
    i = end;
  }
  return fmt::format("{}", fmt::join(runs, ", "));
}

}  // namespace hone
