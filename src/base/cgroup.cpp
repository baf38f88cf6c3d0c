#include "base/cgroup.h"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>

namespace hone {
namespace {

namespace fs = std::filesystem;

bool has_word(std::string_view list, std::string_view word) {
  while (!list.empty()) {
    size_t comma = std::min(list.find(','), list.size());
    if (list.substr(0, comma) == word) return true;
    list.remove_prefix(std::min(comma + 1, list.size()));
  }
  return false;
}

// A mounted tree of control groups: `top`, the group that is seen as its root, and where.
struct Tree {
  bool unified;  // version 2
  std::string options, top, mounted_at;
};

// Lines such as "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu".
std::vector<Tree> mounted_trees(const fs::path& root) {
  std::vector<Tree> trees;
  std::ifstream file(root / "proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string skip, type, source;
    Tree tree;
    words >> skip >> skip >> skip >> tree.top >> tree.mounted_at;
    while (words >> skip && skip != "-") {
    }
    if (!(words >> type >> source >> tree.options)) continue;
    tree.unified = type == "cgroup2";
    if (tree.unified || type == "cgroup") trees.push_back(tree);
  }
  return trees;
}

// The part of `group` below `top`; nothing where it lies elsewhere, as in a container that sees
// only its own part of the tree but is told its host's name for it.
fs::path below(const fs::path& group, const fs::path& top) {
  fs::path rest = group.lexically_relative(top);
  return rest.empty() || rest.begin()->string() == ".." ? fs::path() : rest;
}

}  // namespace

std::vector<fs::path> cgroup_directories(const fs::path& root, std::string_view controller) {
  std::vector<fs::path> found;
  const std::vector<Tree> trees = mounted_trees(root);
  std::ifstream file(root / "proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {  // "4:memory:/group", or "0::/group"
    size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const fs::path group = line.substr(second + 1);
    const bool unified = controllers.empty();
    if (!unified && !has_word(controllers, controller)) continue;
    for (const Tree& tree : trees) {
      if (tree.unified != unified || !(unified || has_word(tree.options, controller))) continue;
      const fs::path top = root / fs::path(tree.mounted_at).relative_path();
      fs::path rest = below(group, tree.top);
      for (; !rest.empty() && rest != "."; rest = rest.parent_path()) found.push_back(top / rest);
      found.push_back(top);
    }
  }
  return found;
}

std::optional<double> read_limit(const fs::path& path) {
  std::ifstream file(path);
  double value = 0;
  if (file >> value) return value;
  return std::nullopt;
}

}  // namespace hone
