#include "text/byte_trie.h"

#include <algorithm>

#include "base/error.h"

namespace hone {

ByteTrie::ByteTrie(std::vector<Key> keys) {
  std::stable_sort(keys.begin(), keys.end(),
                   [](const Key& a, const Key& b) { return a.first < b.first; });
  size_t kept = 0;
  for (const Key& key : keys) {
    if (key.first.empty()) continue;
    if (kept > 0 && keys[kept - 1].first == key.first) --kept;
    keys[kept++] = key;
  }
  keys.resize(kept);

  // A node stands for the keys [begin, end), which agree in their first `depth` bytes.
  struct Range {
    uint32_t begin, end, depth;
  };
  std::vector<Range> ranges{{0, static_cast<uint32_t>(keys.size()), 0}};
  nodes_.emplace_back();
  labels_.push_back(0);
  for (size_t at = 0; at < ranges.size(); ++at) {
    Range r = ranges[at];
    nodes_[at].first = static_cast<uint32_t>(nodes_.size());
    if (r.begin < r.end && keys[r.begin].first.size() == r.depth)
      nodes_[at].value = keys[r.begin++].second;
    const size_t first = nodes_.size();
    while (r.begin < r.end) {
      const char byte = keys[r.begin].first[r.depth];
      uint32_t end = r.begin + 1;
      while (end < r.end && keys[end].first[r.depth] == byte) ++end;
      ranges.push_back({r.begin, end, r.depth + 1});
      nodes_.emplace_back();
      labels_.push_back(static_cast<uint8_t>(byte));
      r.begin = end;
    }
    const size_t children = nodes_.size() - first;
    HONE_CHECK(nodes_.size() < INT32_MAX, corrupt, "tokenizer: the tokens' texts are too long");
    if (children < kWide) continue;
    nodes_[at].table = static_cast<int32_t>(tables_.size() / 256);
    tables_.resize(tables_.size() + 256);
    uint8_t* table = &tables_[tables_.size() - 256];
    for (size_t i = 0; i < children; ++i) table[labels_[first + i]] = static_cast<uint8_t>(i);
  }
  nodes_.push_back({.first = static_cast<uint32_t>(nodes_.size())});
}

}  // namespace hone
