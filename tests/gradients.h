// Gradients against central differences of a plain forward function in double.
#pragma once

#include <functional>

#include "ops/tape.h"
#include "testing.h"

namespace hone::testing {

using Doubles = std::vector<double>;
/// The function under test, written plainly on the same inputs.
using Plain = std::function<Doubles(const std::vector<Doubles>& inputs)>;
using Tested = std::function<Tensor(const std::vector<Tensor>& inputs)>;

inline Doubles doubles_of(const Tensor& t) {
  return {t.data<float>(), t.data<float>() + t.numel()};
}

/// Values and the gradients of Σ seed·y with respect to every input, seed random, 1 of a scalar; an
/// input that `tracked` leaves out requires no gradient and must get none. Errors are relative to
/// the norm, or to 0.01 where that is more.
inline void expect_gradients(const Tested& tested, const Plain& plain, std::vector<Tensor> inputs,
                             double tolerance = 2e-5, std::vector<bool> tracked = {}) {
  tracked.resize(inputs.size(), true);
  std::vector<Doubles> values;
  for (size_t i = 0; i < inputs.size(); ++i) {
    values.push_back(doubles_of(inputs[i]));
    if (tracked[i]) inputs[i].require_gradient();
  }
  const Doubles y0 = plain(values);
  Tensor seed = Tensor::from(y0.size() == 1 ? std::vector<float>{1} : random_values(y0.size(), 77));
  {
    Tape tape;
    Tensor y = tested(inputs);
    ASSERT_EQ(y.numel(), std::ssize(y0));
    Doubles got = doubles_of(y);
    double miss = 0, all = 1e-4;
    for (size_t i = 0; i < y0.size(); ++i) {
      miss += (got[i] - y0[i]) * (got[i] - y0[i]);
      all += y0[i] * y0[i];
    }
    EXPECT_LT(std::sqrt(miss / all), tolerance) << "the result";
    tape.backward(y, seed.clone());
    EXPECT_EQ(tape.size(), 0u);
  }
  const Doubles s = doubles_of(seed);
  auto loss = [&] {
    Doubles y = plain(values);
    double sum = 0;
    for (size_t i = 0; i < y.size(); ++i) sum += s[i] * y[i];
    return sum;
  };
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!tracked[i]) {
      EXPECT_FALSE(inputs[i].requires_gradient());
      continue;
    }
    ASSERT_FALSE(inputs[i].gradient().empty_handle()) << "input " << i << " got no gradient";
    Doubles got = doubles_of(inputs[i].gradient());
    double miss = 0, all = 1e-4;
    for (size_t j = 0; j < values[i].size(); ++j) {
      const double x = values[i][j], step = 1e-5 * std::max(1.0, std::fabs(x));
      values[i][j] = x + step;
      double up = loss();
      values[i][j] = x - step;
      double slope = (up - loss()) / (2 * step);
      values[i][j] = x;
      miss += (got[j] - slope) * (got[j] - slope);
      all += slope * slope;
    }
    EXPECT_LT(std::sqrt(miss / all), tolerance) << "the gradient of input " << i;
  }
}

}  // namespace hone::testing
