// A random order of 0 ... n−1 that takes no memory: the image of each index is computed when asked
// for, as a function of (n, key). A Feistel network (Luby & Rackoff 1988) permutes the next power
// of four; an image that is n or more is permuted again until it is below (cycle walking, Black &
// Rogaway 2002), less than four times on average but for tiny n.
#pragma once

#include <array>
#include <cstdint>

#include "base/error.h"
#include "base/random.h"

namespace hone {

class Permutation {
 public:
  /// 0 ≤ n < 2⁶².
  Permutation(int64_t n, uint64_t key) : n_(static_cast<uint64_t>(n)) {
    HONE_ASSERT(n >= 0 && n < int64_t{1} << 62);
    // Halves of a bit or two would leave most orders out.
    while (uint64_t{1} << (2 * half_) < n_) ++half_;
    for (size_t r = 0; r < keys_.size(); ++r) keys_[r] = mix64(mix64(key) ^ r);
  }

  int64_t size() const { return static_cast<int64_t>(n_); }

  /// Where index i goes; 0 ≤ i < size().
  int64_t operator()(int64_t i) const {
    HONE_ASSERT(i >= 0 && static_cast<uint64_t>(i) < n_);
    const uint64_t mask = (uint64_t{1} << half_) - 1;
    auto x = static_cast<uint64_t>(i);
    do {
      uint64_t left = x >> half_, right = x & mask;
      for (uint64_t key : keys_) {
        const uint64_t next = left ^ (mix64(key ^ right) & mask);
        left = right;
        right = next;
      }
      x = left << half_ | right;
    } while (x >= n_);
    return static_cast<int64_t>(x);
  }

 private:
  uint64_t n_;
  int half_ = 4;
  std::array<uint64_t, 6> keys_{};
};

}  // namespace hone
