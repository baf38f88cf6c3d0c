// A set of byte strings with values, searched for the keys that a text begins with. The nodes lie
// in the order of their depth, children of one node side by side, so that a node is four numbers;
// nodes with many children have a table from byte to child.
#pragma once

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace hone {

class ByteTrie {
 public:
  using Key = std::pair<std::string_view, int32_t>;  // a text and its value, at least 0

  ByteTrie() : ByteTrie(std::vector<Key>{}) {}
  /// Of equal keys the last counts; empty keys are left out. The texts may go afterwards. Memory is
  /// at most some 20 bytes for each byte of the keys.
  explicit ByteTrie(std::vector<Key> keys);

  /// Calls found(size, value) for each key that `text` begins with, shortest first.
  template <typename Found>
  void prefixes(std::string_view text, Found&& found) const {
    uint32_t node = 0;
    for (size_t i = 0; i < text.size(); ++i) {
      node = child(node, static_cast<uint8_t>(text[i]));
      if (node == 0) return;
      if (nodes_[node].value >= 0) found(i + 1, nodes_[node].value);
    }
  }

  struct Match {
    size_t size = 0;  // 0: no key
    int32_t value = -1;
  };
  /// The longest key that `text` begins with.
  Match longest(std::string_view text) const {
    Match best;
    prefixes(text, [&](size_t size, int32_t value) { best = {size, value}; });
    return best;
  }

 private:
  struct Node {
    uint32_t first = 0;  // its children are [first, first of the next node)
    int32_t value = -1;
    int32_t table = -1;  // index in tables_ / 256
  };
  static constexpr uint32_t kWide = 12;  // children from which a node has a table

  // 0 (the root, which is nobody's child) where there is none.
  uint32_t child(uint32_t node, uint8_t byte) const {
    const Node& n = nodes_[node];
    const uint32_t end = nodes_[node + 1].first;
    if (n.table >= 0) {
      const uint32_t at = n.first + tables_[size_t(n.table) * 256 + byte];
      return at < end && labels_[at] == byte ? at : 0;
    }
    for (uint32_t at = n.first; at < end; ++at) {
      if (labels_[at] == byte) return at;
    }
    return 0;
  }

  std::vector<Node> nodes_;      // and one more, for the last one's end
  std::vector<uint8_t> labels_;  // of each node: the byte that leads to it
  std::vector<uint8_t> tables_;  // which of the children; of a byte that has none, any
};

}  // namespace hone
