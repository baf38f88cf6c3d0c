// Operations on heads, and the activations that gates and feature maps are, against plain ones in
// double.
#include "ops/heads.h"

#include "gradients.h"
#include "ops/elementwise.h"

namespace hone {
namespace {

using namespace testing;

TEST(Heads, Products) {
  expect_gradients([](const std::vector<Tensor>& x) { return ops::mul(x[0], x[1]); },
                   [](const std::vector<Doubles>& x) {
                     Doubles y = x[0];
                     for (size_t i = 0; i < y.size(); ++i) y[i] *= x[1][i];
                     return y;
                   },
                   {random_tensor({3, 10}, 1), random_tensor({3, 10}, 2)});
  expect_gradients([](const std::vector<Tensor>& x) { return ops::scale_heads(x[0], x[1]); },
                   [](const std::vector<Doubles>& x) {
                     Doubles y = x[0];
                     for (size_t i = 0; i < y.size(); ++i) y[i] *= x[1][i / 5];
                     return y;
                   },
                   {random_tensor({4, 15}, 1), random_tensor({4, 3}, 2)});
}

TEST(Heads, Repeated) {
  expect_gradients([](const std::vector<Tensor>& x) { return ops::repeat_heads(x[0], 3, 2); },
                   [](const std::vector<Doubles>& x) {
                     Doubles y;
                     for (size_t i = 0; i < 4 * 6; ++i)
                       y.insert(y.end(), x[0].begin() + std::ptrdiff_t(i / 2 * 5),
                                x[0].begin() + std::ptrdiff_t(i / 2 * 5 + 5));
                     return y;
                   },
                   {random_tensor({4, 15}, 1)});
}

// Each run of `n` less its mean (if asked), over the root of its mean square or its sum of squares.
Doubles normed(const Doubles& x, size_t n, bool centred, bool sum, double eps) {
  Doubles y = x;
  for (size_t r = 0; r < x.size(); r += n) {
    double mean = 0, squares = 0;
    for (size_t i = r; i < r + n; ++i) mean += centred ? x[i] / double(n) : 0;
    for (size_t i = r; i < r + n; ++i) squares += (x[i] - mean) * (x[i] - mean);
    for (size_t i = r; i < r + n; ++i)
      y[i] = (x[i] - mean) / std::sqrt(squares / (sum ? 1 : double(n)) + eps);
  }
  return y;
}

TEST(Heads, Norms) {
  expect_gradients(
      [](const std::vector<Tensor>& x) { return ops::l2_norm(x[0], 7, 0.01f); },
      [](const std::vector<Doubles>& x) { return normed(x[0], 7, false, true, 0.01f); },
      {random_tensor({5, 21}, 1)});
  auto scaled = [](Doubles y, const Doubles& w, const Doubles& b) {
    for (size_t i = 0; i < y.size(); ++i)
      y[i] = y[i] * w[i % w.size()] + (b.empty() ? 0 : b[i % b.size()]);
    return y;
  };
  expect_gradients(
      [](const std::vector<Tensor>& x) { return ops::group_rms_norm(x[0], x[1], 3, 0.02f); },
      [&](const std::vector<Doubles>& x) {
        return scaled(normed(x[0], 6, false, false, 0.02f), x[1], {});
      },
      {random_tensor({5, 18}, 1), random_tensor({18}, 2)});
  expect_gradients(
      [](const std::vector<Tensor>& x) { return ops::group_norm(x[0], x[1], x[2], 2, 0.02f); },
      [&](const std::vector<Doubles>& x) {
        return scaled(normed(x[0], 9, true, false, 0.02f), x[1], x[2]);
      },
      {random_tensor({5, 18}, 1), random_tensor({18}, 2), random_tensor({18}, 3)});
  expect_gradients(
      [](const std::vector<Tensor>& x) { return ops::group_norm(x[0], {}, {}, 2, 0.02f); },
      [](const std::vector<Doubles>& x) { return normed(x[0], 9, true, false, 0.02f); },
      {random_tensor({5, 18}, 1)});
}

TEST(Heads, SoftmaxPairs) {
  const int64_t rows = 4, heads = 2, d = 5, f = 3;
  for (float size : {1.0f, 30.0f})
    expect_gradients([](const std::vector<Tensor>& x) { return ops::softmax_pairs(x[0], x[1]); },
                     [&](const std::vector<Doubles>& x) {
                       Doubles y;
                       for (int64_t r = 0; r < rows * heads; ++r)
                         for (double sign : {1.0, -1.0}) {
                           Doubles p(f);
                           double top = -1e300, total = 0;
                           for (int64_t j = 0; j < f; ++j) {
                             for (int64_t i = 0; i < d; ++i)
                               p[j] += sign * x[0][r * d + i] * x[1][(r % heads * d + i) * f + j];
                             top = std::max(top, p[j]);
                           }
                           for (double& e : p) total += e = std::exp(e - top);
                           for (double e : p) y.push_back(e / total);
                         }
                       return y;
                     },
                     {random_tensor({rows, heads * d}, 1, size), random_tensor({heads, d, f}, 2)},
                     size > 1 ? 2e-4 : 2e-5);
}

TEST(Heads, ActivationsOfGatesAndFeatureMaps) {
  struct {
    ops::Nonlinearity f;
    double (*plain)(double);
  } const all[] = {
      {ops::Nonlinearity::sigmoid, [](double x) { return 1 / (1 + std::exp(-x)); }},
      {ops::Nonlinearity::log_sigmoid, [](double x) { return -std::log1p(std::exp(-x)); }},
      {ops::Nonlinearity::softplus, [](double x) { return std::log1p(std::exp(x)); }},
      {ops::Nonlinearity::exp, [](double x) { return std::exp(x); }},
      {ops::Nonlinearity::squared_relu, [](double x) { return x > 0 ? x * x : 0; }},
      {ops::Nonlinearity::elu_plus_one, [](double x) { return x > 0 ? x + 1 : std::exp(x); }}};
  for (const auto& a : all)
    expect_gradients([&](const std::vector<Tensor>& x) { return ops::apply(a.f, x[0]); },
                     [&](const std::vector<Doubles>& x) {
                       Doubles y = x[0];
                       for (double& e : y) e = a.plain(e);
                       return y;
                     },
                     {random_tensor({4, 9}, 1, 2)});
  // Where e^x leaves the range of a float.
  Tensor x = Tensor::from(std::vector<float>{-200, 200});
  EXPECT_EQ(ops::apply(ops::Nonlinearity::softplus, x).data<float>()[1], 200);
  EXPECT_EQ(ops::apply(ops::Nonlinearity::log_sigmoid, x).data<float>()[0], -200);
  EXPECT_EQ(ops::apply(ops::Nonlinearity::elu_plus_one, x).data<float>()[1], 201);
}

}  // namespace
}  // namespace hone
