#include "ops/linalg.h"

#include "testing.h"

namespace hone {
namespace {

double worst_distance_from_identity(const Tensor& q) {
  int64_t n = q.dim(0);
  const float* x = q.data<float>();
  double worst = 0;
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = i; j < n; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < n; ++k) sum += double{x[i * n + k]} * x[j * n + k];
      worst = std::max(worst, std::fabs(sum - (i == j)));
    }
  return worst;
}

TEST(RandomOrthogonal, IsOrthogonal) {
  for (int64_t n : {1, 2, 3, 17, 64, 130})
    for (bool keep_mean : {false, true})
      EXPECT_LT(worst_distance_from_identity(ops::random_orthogonal(n, 5, keep_mean)), 1e-6)
          << n << keep_mean;
}

TEST(RandomOrthogonal, KeepMeanMapsOnesToOnes) {
  int64_t n = 45;
  Tensor q = ops::random_orthogonal(n, 1, true);
  for (int64_t i = 0; i < n; ++i) {
    double row = 0, column = 0;
    for (int64_t j = 0; j < n; ++j) {
      row += q.data<float>()[i * n + j];
      column += q.data<float>()[j * n + i];
    }
    EXPECT_NEAR(row, 1, 1e-5);
    EXPECT_NEAR(column, 1, 1e-5);
  }
}

TEST(RandomOrthogonal, MixesEveryChannel) {
  // Of a uniform rotation, n·q² has mean 1 and fourth moments near the normal's.
  int64_t n = 96;
  for (bool keep_mean : {false, true}) {
    Tensor q = ops::random_orthogonal(n, 3, keep_mean);
    double fourth = 0, mean = 0, largest = 0;
    for (int64_t i = 0; i < n * n; ++i) {
      double x = q.data<float>()[i] * std::sqrt(double(n));
      mean += x / double(n * n);
      fourth += x * x * x * x / double(n * n);
      largest = std::max(largest, std::fabs(x));
    }
    EXPECT_NEAR(mean, 0, 0.12);
    EXPECT_NEAR(fourth, 3, 0.3);
    EXPECT_LT(largest, 6);
  }
}

TEST(RandomOrthogonal, DependsOnTheSeedAlone) {
  Tensor a = ops::random_orthogonal(33, 7, false), b = ops::random_orthogonal(33, 7, false);
  Tensor c = ops::random_orthogonal(33, 8, false);
  EXPECT_EQ(testing::relative_distance(a.data<float>(), b.data<float>(), a.numel()), 0);
  EXPECT_GT(testing::relative_distance(a.data<float>(), c.data<float>(), a.numel()), 0.5);
}

}  // namespace
}  // namespace hone
