// The tape, and the backward of every dense operation against central differences in double.
#include "ops/tape.h"

#include "gradients.h"
#include "ops/dense.h"

namespace hone {
namespace {

using namespace testing;
using Inputs = std::vector<Doubles>;
using Tensors = std::vector<Tensor>;

Tensor values(Shape shape, uint32_t seed, float spread = 1) {
  int64_t n = 1;
  for (int64_t d : shape) n *= d;
  return Tensor::from(random_values(static_cast<size_t>(n), seed, spread), std::move(shape));
}

double silu(double x) { return x / (1 + std::exp(-x)); }
double gelu(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

Doubles plain_rms(const Doubles& x, const Doubles& w, double offset, double eps) {
  Doubles y(x.size());
  for (size_t r = 0; r < x.size(); r += w.size()) {
    double squares = 0;
    for (size_t i = 0; i < w.size(); ++i) squares += x[r + i] * x[r + i];
    const double inverse = 1 / std::sqrt(squares / double(w.size()) + eps);
    for (size_t i = 0; i < w.size(); ++i) y[r + i] = x[r + i] * inverse * (w[i] + offset);
  }
  return y;
}

Doubles plain_layer(const Doubles& x, const Doubles& w, const Doubles& b, double eps) {
  Doubles y(x.size());
  const double d = double(w.size());
  for (size_t r = 0; r < x.size(); r += w.size()) {
    double mean = 0, squares = 0;
    for (size_t i = 0; i < w.size(); ++i) mean += x[r + i] / d;
    for (size_t i = 0; i < w.size(); ++i) squares += (x[r + i] - mean) * (x[r + i] - mean);
    const double inverse = 1 / std::sqrt(squares / d + eps);
    for (size_t i = 0; i < w.size(); ++i) y[r + i] = (x[r + i] - mean) * inverse * w[i] + b[i];
  }
  return y;
}

TEST(Backward, RmsNorm) {
  for (int64_t d : {5, 16, 37, 64})
    for (float offset : {0.0f, 1.0f})
      for (int64_t rows : {1, 3, 70})
        expect_gradients([&](const Tensors& t) { return ops::rms_norm(t[0], t[1], offset, 1e-3f); },
                         [&](const Inputs& v) { return plain_rms(v[0], v[1], offset, 1e-3f); },
                         {values({rows, d}, 1), values({d}, 2)});
}

TEST(Backward, LayerNorm) {
  for (int64_t d : {5, 16, 37})
    for (int64_t rows : {1, 70})
      expect_gradients([](const Tensors& t) { return ops::layer_norm(t[0], t[1], t[2], 1e-3f); },
                       [](const Inputs& v) { return plain_layer(v[0], v[1], v[2], 1e-3f); },
                       {values({rows, d}, 1, 2), values({d}, 2), values({d}, 3)});
}

TEST(Backward, NormsWithFrozenParametersGiveOnlyTheInputs) {
  expect_gradients([](const Tensors& t) { return ops::rms_norm(t[0], t[1], 0, 1e-3f); },
                   [](const Inputs& v) { return plain_rms(v[0], v[1], 0, 1e-3f); },
                   {values({3, 20}, 1), values({20}, 2)}, 2e-5, {true, false});
  expect_gradients([](const Tensors& t) { return ops::layer_norm(t[0], t[1], t[2], 1e-3f); },
                   [](const Inputs& v) { return plain_layer(v[0], v[1], v[2], 1e-3f); },
                   {values({3, 20}, 1), values({20}, 2), values({20}, 3)}, 2e-5,
                   {false, false, true});
}

// Both results are used: the sum goes on as the residual.
TEST(Backward, SumsAndNorms) {
  auto plain = [](const Inputs& v, const auto& norm) {
    Doubles sum(v[0].size()), y = sum;
    for (size_t i = 0; i < sum.size(); ++i) sum[i] = v[0][i] + v[1][i];
    y = norm(sum);
    for (size_t i = 0; i < sum.size(); ++i) y[i] += sum[i];
    return y;
  };
  expect_gradients(
      [](const Tensors& t) {
        ops::SumAndNorm both = ops::add_rms_norm(t[0], t[1], t[2], 0, 1e-3f);
        return ops::add(both.sum, both.norm);
      },
      [&](const Inputs& v) {
        return plain(v, [&](const Doubles& s) { return plain_rms(s, v[2], 0, 1e-3f); });
      },
      {values({4, 20}, 1), values({4, 20}, 2), values({20}, 3)});
  expect_gradients(
      [](const Tensors& t) {
        ops::SumAndNorm both = ops::add_layer_norm(t[0], t[1], t[2], t[3], 1e-3f);
        return ops::add(both.sum, both.norm);
      },
      [&](const Inputs& v) {
        return plain(v, [&](const Doubles& s) { return plain_layer(s, v[2], v[3], 1e-3f); });
      },
      {values({4, 20}, 1), values({4, 20}, 2), values({20}, 3), values({20}, 4)});
}

TEST(Backward, Elements) {
  auto each = [](auto f) {
    return [f](const Inputs& v) {
      Doubles y(v[0].size());
      for (size_t i = 0; i < y.size(); ++i) y[i] = f(v, i);
      return y;
    };
  };
  const Tensor a = values({3, 23}, 1, 3), b = values({3, 23}, 2, 3);
  expect_gradients([](const Tensors& t) { return ops::add(t[0], t[1]); },
                   each([](const Inputs& v, size_t i) { return v[0][i] + v[1][i]; }), {a, b});
  expect_gradients([](const Tensors& t) { return ops::add(t[0], t[0]); },
                   each([](const Inputs& v, size_t i) { return 2 * v[0][i]; }), {a});
  expect_gradients([](const Tensors& t) { return ops::gelu_tanh(t[0]); },
                   each([](const Inputs& v, size_t i) { return gelu(v[0][i]); }), {a});
  expect_gradients([](const Tensors& t) { return ops::silu_mul(t[0], t[1]); },
                   each([](const Inputs& v, size_t i) { return silu(v[0][i]) * v[1][i]; }), {a, b});
  expect_gradients([](const Tensors& t) { return ops::gelu_tanh_mul(t[0], t[1]); },
                   each([](const Inputs& v, size_t i) { return gelu(v[0][i]) * v[1][i]; }), {a, b});
  expect_gradients([](const Tensors& t) { return ops::scale(t[0], -1.7f); },
                   each([](const Inputs& v, size_t i) { return -1.7f * v[0][i]; }), {a});
  expect_gradients(
      [](const Tensors& t) {
        Tensor y = ops::scale(t[0], 1);
        ops::softcap_in_place(y, 2.5f);
        return y;
      },
      each([](const Inputs& v, size_t i) { return 2.5 * std::tanh(v[0][i] / 2.5); }), {a});
}

TEST(Tape, GradientsAddUpOverUsesAndRuns) {
  Tensor x = Tensor::from(std::vector<float>{1, -2});
  x.require_gradient();
  for (int run = 1; run <= 2; ++run) {
    Tape tape;
    Tensor y = ops::add(ops::scale(x, 3), ops::scale(x, 4));
    tape.backward(y, Tensor::from(std::vector<float>{1, 10}));
    EXPECT_EQ(x.gradient().data<float>()[0], 7 * run);
    EXPECT_EQ(x.gradient().data<float>()[1], 70 * run);
  }
}

TEST(Tape, RecordsOnlyWhatLeadsToAGradient) {
  Tensor x = values({4}, 1), c = values({4}, 2);
  x.require_gradient();
  ops::add(x, c);  // no tape
  Tape tape;
  EXPECT_FALSE(ops::add(c, c).requires_gradient());
  EXPECT_EQ(tape.size(), 0u);
  {
    TapePause pause;
    EXPECT_FALSE(ops::add(x, c).requires_gradient());
  }
  Tensor y = ops::add(x, c);
  ops::scale(x, 2);  // nothing of y depends on it
  EXPECT_EQ(tape.size(), 2u);
  tape.backward(y, Tensor::from(std::vector<float>(4, 1)));
  EXPECT_EQ(x.gradient().data<float>()[2], 1);
}

TEST(Tape, CheckpointsChangeNoBit) {
  Tensor gain = values({32}, 3);
  auto layer = [&](const Tensor& x) {
    return ops::silu_mul(ops::rms_norm(x, gain, 0, 1e-5f), ops::gelu_tanh(x));
  };
  std::vector<std::vector<float>> gradients;
  for (bool saved : {true, false}) {
    Tensor x = values({9, 32}, 1);
    x.require_gradient();
    gain.require_gradient();
    Tape tape;
    Tensor y = saved ? layer(layer(x)) : checkpoint(layer, checkpoint(layer, x));
    EXPECT_EQ(tape.size(), saved ? 6u : 2u);
    tape.backward(y, values({9, 32}, 2));
    for (const Tensor* t : {&x, &gain})
      gradients.emplace_back(t->gradient().data<float>(), t->gradient().data<float>() + t->numel());
  }
  EXPECT_EQ(gradients[0], gradients[2]);
  EXPECT_EQ(gradients[1], gradients[3]);
}

}  // namespace
}  // namespace hone
