// The median of measurements.
#pragma once

#include <algorithm>
#include <vector>

namespace hone {

/// Of an even number of values the upper of the two in the middle; `v` must not be empty.
inline double median(std::vector<double> v) {
  auto middle = v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2);
  std::nth_element(v.begin(), middle, v.end());
  return *middle;
}

}  // namespace hone
