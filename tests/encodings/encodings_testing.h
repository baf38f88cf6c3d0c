// What the tests of this folder share: goldens, random matrices, errors of a decoded weight.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "encodings/encoding.h"
#include "formats/safetensors.h"

namespace hone {

/// tests/golden/encodings_<name>.safetensors, written by tools/golden/make_encodings.py.
inline SafetensorsFile golden(const std::string& name) {
  return SafetensorsFile::open(fs::path(HONE_SOURCE_DIR) / "tests" / "golden" /
                               ("encodings_" + name + ".safetensors"));
}

template <typename T>
std::vector<T> elements(const Tensor& t) {
  const T* data = t.data<T>();
  return {data, data + t.numel()};
}

/// Bit for bit, so that −0 differs from 0.
inline ::testing::AssertionResult same_bytes(const Tensor& expected, const Tensor& got) {
  if (expected.dtype() != got.dtype() || expected.numel() != got.numel())
    return ::testing::AssertionFailure()
           << dtype_name(expected.dtype()) << " " << shape_string(expected.shape()) << " expected, "
           << dtype_name(got.dtype()) << " " << shape_string(got.shape()) << " got";
  int64_t size = dtype_size(got.dtype()), different = 0, first = -1;
  for (int64_t i = 0; i < got.numel(); ++i)
    if (std::memcmp(expected.raw() + i * size, got.raw() + i * size, static_cast<size_t>(size))) {
      if (first < 0) first = i;
      ++different;
    }
  if (different == 0) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure()
         << different << " of " << got.numel() << " elements differ, the first at " << first;
}

inline std::vector<float> random_values(int64_t n, uint32_t seed, float scale = 1) {
  std::mt19937 bits(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> x(static_cast<size_t>(n));
  for (float& v : x) v = normal(bits);
  return x;
}

inline EncodeOptions with(const WeightParams& params, std::span<const float> importance = {}) {
  EncodeOptions options;
  options.params = params;
  options.importance = importance;
  return options;
}

/// Root of the mean of importance·(x − decoded)²; no importances count 1.
inline double rms_error(const Weight& w, const std::vector<float>& x,
                        const std::vector<float>& importance = {}) {
  Tensor y = decode_weight(w);
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    double miss = double{y.data<float>()[i]} - double{x[i]};
    sum += miss * miss * (importance.empty() ? 1.0 : importance[i % importance.size()]);
  }
  return std::sqrt(sum / static_cast<double>(x.size()));
}

inline double mean_abs_error(const Weight& w, const std::vector<float>& x) {
  Tensor y = decode_weight(w);
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += std::fabs(double{y.data<float>()[i]} - double{x[i]});
  return sum / static_cast<double>(x.size());
}

}  // namespace hone
