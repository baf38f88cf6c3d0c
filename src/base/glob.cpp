#include "base/glob.h"

#include <cstddef>

namespace hone {
namespace {

bool one_matches(std::string_view glob, std::string_view text) {
  size_t g = 0, t = 0, star = std::string_view::npos, mark = 0;
  while (t < text.size()) {
    if (g < glob.size() && (glob[g] == '?' || glob[g] == text[t])) {
      ++g;
      ++t;
    } else if (g < glob.size() && glob[g] == '*') {
      star = g++;
      mark = t;
    } else if (star != std::string_view::npos) {
      g = star + 1;
      t = ++mark;
    } else {
      return false;
    }
  }
  while (g < glob.size() && glob[g] == '*') ++g;
  return g == glob.size();
}

}  // namespace

bool glob_matches(std::string_view glob, std::string_view text) {
  while (true) {
    const size_t bar = glob.find('|');
    if (one_matches(glob.substr(0, bar), text)) return true;
    if (bar == std::string_view::npos) return false;
    glob.remove_prefix(bar + 1);
  }
}

}  // namespace hone
