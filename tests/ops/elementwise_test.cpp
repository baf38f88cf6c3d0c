// Backward of what fine-tuning adds against central differences in double; dropout's statistics.
#include "ops/elementwise.h"

#include "gradients.h"

namespace hone {
namespace {

using namespace testing;
using Inputs = std::vector<Doubles>;
using Tensors = std::vector<Tensor>;

TEST(Backward, ScaleColumnsAndAddRow) {
  for (int64_t rows : {1, 70})
    for (int64_t n : {3, 130}) {
      auto by_column = [n](auto f) {
        return [n, f](const Inputs& v) {
          Doubles y = v[0];
          for (size_t i = 0; i < y.size(); ++i) y[i] = f(y[i], v[1][i % size_t(n)]);
          return y;
        };
      };
      const Tensors in{random_tensor({rows, n}, 1), random_tensor({n}, 2)};
      expect_gradients([](const Tensors& t) { return ops::scale_columns(t[0], t[1]); },
                       by_column([](double a, double b) { return a * b; }), in);
      expect_gradients([](const Tensors& t) { return ops::add_row(t[0], t[1], -1); },
                       by_column([](double a, double b) { return a - b; }), in);
      expect_gradients([](const Tensors& t) { return ops::scale_columns(t[0], t[1]); },
                       by_column([](double a, double b) { return a * b; }), in, 2e-5,
                       {true, false});
    }
}

TEST(Backward, RowsAndColumnsThatArePicked) {
  const Tensors in{random_tensor({7, 5}, 3)};
  const std::vector<int64_t> order{6, 0, 3};
  expect_gradients([&](const Tensors& t) { return ops::gather_rows(t[0], order); },
                   [&](const Inputs& v) {
                     Doubles y;
                     for (int64_t r : order)
                       y.insert(y.end(), v[0].begin() + r * 5, v[0].begin() + (r + 1) * 5);
                     return y;
                   },
                   in);
  expect_gradients([&](const Tensors& t) { return ops::slice_rows(t[0], 2, 5); },
                   [&](const Inputs& v) { return Doubles(v[0].begin() + 10, v[0].begin() + 25); },
                   in);
  expect_gradients([&](const Tensors& t) { return ops::concat_rows(t); },
                   [&](const Inputs& v) {
                     Doubles y = v[0];
                     y.insert(y.end(), v[1].begin(), v[1].end());
                     return y;
                   },
                   {in[0], random_tensor({2, 5}, 4)});
  expect_gradients([&](const Tensors& t) { return ops::slice_columns(t[0], 1, 4); },
                   [&](const Inputs& v) {
                     Doubles y;
                     for (size_t r = 0; r < 7; ++r)
                       for (size_t c = 1; c < 4; ++c) y.push_back(v[0][r * 5 + c]);
                     return y;
                   },
                   in);
}

TEST(Backward, Nonlinearities) {
  const std::pair<const char*, double (*)(double)> all[] = {
      {"relu", [](double x) { return x > 0 ? x : 0; }},
      {"silu", [](double x) { return x / (1 + std::exp(-x)); }},
      {"gelu", [](double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); }},
      {"tanh", [](double x) { return std::tanh(x); }}};
  for (const auto& [name, f] : all)
    expect_gradients(
        [&, n = name](const Tensors& t) {
          return ops::apply(ops::nonlinearity_from_name(n), t[0]);
        },
        [&, f = f](const Inputs& v) {
          Doubles y;
          for (double x : v[0]) y.push_back(f(x));
          return y;
        },
        {random_tensor({9, 13}, 4, 2)});
  EXPECT_THROW(ops::nonlinearity_from_name("softsign"), Error);
}

TEST(Dropout, KeepsTheMeanAndDropsTheSameAgain) {
  const Tensor x = Tensor::from(std::vector<float>(20000, 1.0f), {200, 100});
  EXPECT_EQ(ops::dropout(x, 0.3, 1).raw(), x.raw()) << "outside of training nothing is dropped";
  TrainingStep step(5);
  const Tensor a = ops::dropout(x, 0.3, 1), b = ops::dropout(x, 0.3, 1),
               c = ops::dropout(x, 0.3, 2);
  EXPECT_EQ(0, std::memcmp(a.raw(), b.raw(), size_t(a.byte_size())));
  EXPECT_NE(0, std::memcmp(a.raw(), c.raw(), size_t(a.byte_size())));
  double sum = 0;
  for (int64_t i = 0; i < a.numel(); ++i) {
    const float v = a.data<float>()[i];
    ASSERT_TRUE(v == 0 || std::fabs(v - 1 / 0.7f) < 1e-6f);
    sum += double{v};
  }
  EXPECT_NEAR(sum / 20000, 1, 0.02);
  TrainingStep other(6);
  const Tensor d = ops::dropout(x, 0.3, 1);
  EXPECT_NE(0, std::memcmp(a.raw(), d.raw(), size_t(a.byte_size())));
}

TEST(Dropout, LetsGradientsThroughWhereItLetValuesThrough) {
  TrainingStep step(5);
  Tensor x = random_tensor({40, 10}, 1);
  x.require_gradient();
  Tape tape;
  Tensor y = ops::dropout(x, 0.5, 3);
  tape.backward(y, Tensor::from(std::vector<float>(400, 1.0f), {40, 10}));
  for (int64_t i = 0; i < 400; ++i)
    ASSERT_FLOAT_EQ(x.gradient().data<float>()[i] * x.data<float>()[i], y.data<float>()[i]);
}

}  // namespace
}  // namespace hone
