// Rows to experts and back, against plain loops in double.
#include "ops/experts.h"

#include <algorithm>
#include <numeric>

#include "gradients.h"

namespace hone {
namespace {

using namespace testing;

// The weights of each token's `used` experts in ops::route's order: expert after expert.
Doubles plain_weights(const Doubles& logits, size_t experts, size_t used, bool normalised) {
  const size_t tokens = logits.size() / experts;
  std::vector<Doubles> of(experts);
  for (size_t t = 0; t < tokens; ++t) {
    Doubles p(logits.begin() + std::ptrdiff_t(t * experts),
              logits.begin() + std::ptrdiff_t((t + 1) * experts));
    double all = 0;
    for (double& x : p) all += x = std::exp(x);
    Doubles sorted = p;
    std::sort(sorted.rbegin(), sorted.rend());
    const double sum =
        normalised ? std::accumulate(sorted.begin(), sorted.begin() + std::ptrdiff_t(used), 0.0)
                   : all;
    for (size_t e = 0; e < experts; ++e)
      if (p[e] >= sorted[used - 1]) of[e].push_back(p[e] / sum);
  }
  Doubles y;
  for (const Doubles& o : of) y.insert(y.end(), o.begin(), o.end());
  return y;
}

TEST(Experts, WeightsAreTheSoftmaxOfTheLargest) {
  for (bool normalised : {false, true})
    expect_gradients(
        [&](const std::vector<Tensor>& x) { return ops::route(x[0], 2, normalised).weights; },
        [&](const std::vector<Doubles>& x) { return plain_weights(x[0], 5, 2, normalised); },
        {random_tensor({7, 5}, 3, 2.0f)});
}

TEST(Experts, EachTokenGoesToItsLargestOnceAndToTheFirstOfEqualOnes) {
  const Tensor logits = Tensor::from(std::vector<float>{1, 3, 2, 0, 5, 5, 5, 5}, {2, 4});
  const ops::Routes r = ops::route(logits, 2, true);
  EXPECT_EQ(r.first, (std::vector<int64_t>{0, 1, 3, 4, 4}));
  EXPECT_EQ(r.tokens, (std::vector<int64_t>{1, 0, 1, 0}));
  EXPECT_FLOAT_EQ(r.weights.data<float>()[0], 0.5f);
}

TEST(Experts, RowsTakenJoinedAndAdded) {
  expect_gradients(
      [](const std::vector<Tensor>& x) {
        return ops::take_rows(x[0], {2, 0, 2});
      },
      [](const std::vector<Doubles>& x) {
        Doubles y;
        for (size_t r : {2, 0, 2})
          y.insert(y.end(), x[0].begin() + std::ptrdiff_t(r * 5),
                   x[0].begin() + std::ptrdiff_t(r * 5 + 5));
        return y;
      },
      {random_tensor({3, 5}, 1)});
  expect_gradients(
      [](const std::vector<Tensor>& x) {
        return ops::join_rows({x[0], Tensor(), x[1]});
      },
      [](const std::vector<Doubles>& x) {
        Doubles y = x[0];
        y.insert(y.end(), x[1].begin(), x[1].end());
        return y;
      },
      {random_tensor({3, 5}, 1), random_tensor({1, 5}, 2)});
  expect_gradients(
      [](const std::vector<Tensor>& x) {
        return ops::add_rows(x[0], x[1], {3, 0, 3, 1}, 5);
      },
      [](const std::vector<Doubles>& x) {
        const size_t rows[] = {3, 0, 3, 1};
        Doubles y(5 * 6);
        for (size_t i = 0; i < 4; ++i)
          for (size_t c = 0; c < 6; ++c) y[rows[i] * 6 + c] += x[1][i] * x[0][i * 6 + c];
        return y;
      },
      {random_tensor({4, 6}, 1), random_tensor({4}, 2)});
}

}  // namespace
}  // namespace hone
