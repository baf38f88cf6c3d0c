#include "train/gradients.h"

#include "base/threads.h"
#include "ops/tape.h"
#include "train/train_testing.h"

namespace hone {
namespace {

using testing::random_tensor;

std::vector<Parameter> with_gradients() {
  std::vector<Parameter> parameters;
  for (int64_t n : {1, 100, 70000, 200001}) {
    Parameter p{std::to_string(n), random_tensor({n}, 1)};
    p.value.require_gradient();
    add_gradient(p.value, random_tensor({n}, static_cast<uint32_t>(n), 2));
    parameters.push_back(p);
  }
  Parameter none{"none", random_tensor({4}, 2)};
  none.value.require_gradient();
  parameters.push_back(none);
  return parameters;
}

TEST(GradientsTest, NormsAreThoseOfPlainSums) {
  auto parameters = with_gradients();
  const auto norms = gradient_norms(parameters);
  double all = 0;
  for (size_t i = 0; i + 1 < parameters.size(); ++i) {
    const Tensor& g = parameters[i].value.gradient();
    double sum = 0;
    for (int64_t j = 0; j < g.numel(); ++j) sum += double{g.data<float>()[j]} * g.data<float>()[j];
    EXPECT_NEAR(norms[i], std::sqrt(sum), 1e-12 * std::sqrt(sum));
    all += sum;
  }
  EXPECT_EQ(norms.back(), 0);
  EXPECT_NEAR(total_norm(norms), std::sqrt(all), 1e-12 * std::sqrt(all));
  set_threads(1);
  EXPECT_EQ(gradient_norms(parameters), norms);
  set_threads(0);
}

TEST(GradientsTest, TellWhichGradientIsNotFinite) {
  for (float bad : {INFINITY, -INFINITY, NAN}) {
    auto parameters = with_gradients();
    Tensor g = parameters[2].value.gradient();
    g.mutable_data<float>()[69999] = bad;
    const auto norms = gradient_norms(parameters);
    for (size_t i = 0; i < norms.size(); ++i) EXPECT_EQ(std::isfinite(norms[i]), i != 2);
    EXPECT_FALSE(std::isfinite(total_norm(norms)));
    EXPECT_EQ(clip_factor(total_norm(norms), 1), 1);
  }
  // Squares that f32 cannot hold are none of that.
  auto parameters = with_gradients();
  Tensor g = parameters[0].value.gradient();
  g.mutable_data<float>()[0] = 3e38f;
  EXPECT_NEAR(total_norm(gradient_norms(parameters)), 3e38, 1e32);
}

TEST(GradientsTest, SumsOfSquaresOfAllFloats) {
  Tensor x = random_tensor({70001}, 3);
  for (DType t : {DType::f32, DType::bf16, DType::f16}) {
    Tensor half = x.to(t), wide = half.to(DType::f64);
    double sum = 0;
    for (int64_t i = 0; i < x.numel(); ++i) sum += wide.data<double>()[i] * wide.data<double>()[i];
    EXPECT_NEAR(sum_of_squares(half), sum, 1e-12 * sum);
  }
}

TEST(GradientsTest, ClipsAsPyTorch) {
  EXPECT_EQ(clip_factor(0.5, 1), 1);
  EXPECT_EQ(clip_factor(4, 1), 1 / (4 + 1e-6));
  EXPECT_EQ(clip_factor(4, 0), 1);
  EXPECT_EQ(clip_factor(0, 1), 1);
}

TEST(GradientsTest, ClearedGradientsAreNone) {
  auto parameters = with_gradients();
  clear_gradients(parameters);
  for (Parameter& p : parameters) {
    EXPECT_TRUE(p.value.gradient().empty_handle());
    EXPECT_TRUE(p.value.requires_gradient());
  }
  EXPECT_EQ(total_norm(gradient_norms(parameters)), 0);
}

}  // namespace
}  // namespace hone
