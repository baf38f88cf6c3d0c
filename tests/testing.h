// What tests share: deterministic random values, comparison by norm, and where data lies.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace hone::testing {

inline std::vector<float> random_values(size_t n, uint32_t seed, float scale = 1) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> v(n);
  for (float& x : v) x = normal(engine);
  return v;
}

inline Tensor random_tensor(Shape shape, uint32_t seed, float scale = 1) {
  int64_t n = 1;
  for (int64_t d : shape) n *= d;
  return Tensor::from(random_values(static_cast<size_t>(n), seed, scale), shape);
}

/// ‖a−b‖/‖b‖ over n values.
inline double relative_distance(const float* a, const float* b, int64_t n) {
  double d = 0, s = 0;
  for (int64_t i = 0; i < n; ++i) {
    d += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    s += double{b[i]} * b[i];
  }
  return s > 0 ? std::sqrt(d / s) : std::sqrt(d);
}

inline std::filesystem::path golden(const std::string& name) {
  return std::filesystem::path(HONE_SOURCE_DIR) / "tests/golden" / name;
}
inline std::filesystem::path source_file(const std::string& name) {
  return std::filesystem::path(HONE_SOURCE_DIR) / name;
}
inline std::filesystem::path shared_file(const std::string& name) {
  return std::filesystem::path(HONE_SHARED_DIR) / name;
}

inline void put_file(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

/// A directory of its own for a test, removed at the end.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "hone-test-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("no temporary directory");
    path_ = pattern;
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace hone::testing

// Skips where the shared data is absent: the tests themselves never need the network.
#define HONE_NEED_SHARED(path)                                      \
  if (!std::filesystem::exists(::hone::testing::shared_file(path))) \
  GTEST_SKIP() << "needs " << (path) << " of the shared data, which is not here"
