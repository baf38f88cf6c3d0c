// Fake quantisation: what it rounds to, computed plainly, and the straight-through gradients beside
// differences of a function in which every rounding is held at what it was.
#include "encodings/fake_quantize.h"

#include "base/threads.h"
#include "encodings/int_grid.h"
#include "gradients.h"

namespace hone {
namespace {

using testing::Doubles;
using testing::random_tensor;

struct FakeCase {
  int bits;
  int64_t group;
  bool symmetric;
  DType scale_type;
};

class FakeQuantize : public ::testing::TestWithParam<FakeCase> {
 protected:
  WeightParams params() const {
    const FakeCase& c = GetParam();
    return integer_params(c.bits, c.group, c.symmetric, c.scale_type);
  }
  static constexpr int64_t kN = 5, kK = 70;
  static int64_t groups(const WeightParams& p) {
    return p.group == 0 ? 1 : (kK + p.group - 1) / p.group;
  }
};

// Steps a third smaller than the best ones: every row has weights outside.
LearnedGrids narrow(const Tensor& values, const WeightParams& p) {
  LearnedGrids g = first_grids(values, p);
  for (int64_t i = 0; i < g.steps.numel(); ++i) {
    float& s = g.steps.mutable_data<float>()[i];
    s = round_scale(0.6f * s, p.scale_type);
    if (!p.symmetric) g.lows.mutable_data<float>()[i] *= 0.55f;
  }
  return g;
}

// The definition, with divisions in f32 as the grid has them.
TEST_P(FakeQuantize, RoundsToTheGrid) {
  const WeightParams p = params();
  const Tensor values = random_tensor({kN, kK}, 1);
  const LearnedGrids g = narrow(values, p);
  const Weight w = quantize_on(values, g, p);
  encoding("int_group").validate(w);
  const Tensor got = decode_weight(w);
  const int top = (1 << p.bits) - 1;
  int outside = 0;
  for (int64_t r = 0; r < kN; ++r)
    for (int64_t c = 0; c < kK; ++c) {
      const int64_t i = r * groups(p) + (p.group == 0 ? 0 : c / p.group);
      const float s = g.steps.data<float>()[i];
      const float zero =
          p.symmetric ? float(1 << (p.bits - 1))
                      : std::clamp(std::nearbyint(-g.lows.data<float>()[i] / s), 0.0f, float(top));
      const float code = std::nearbyint(values.data<float>()[r * kK + c] / s) + zero;
      outside += code < 0 || code > float(top);
      EXPECT_EQ(got.data<float>()[r * kK + c], s * (std::clamp(code, 0.0f, float(top)) - zero));
    }
  EXPECT_GT(outside, 0);
}

TEST_P(FakeQuantize, GradientsGoStraightThrough) {
  const WeightParams p = params();
  const Tensor values = random_tensor({kN, kK}, 1);
  const LearnedGrids g = narrow(values, p);
  const int64_t per_row = groups(p), count = kN * per_row;
  const double top = (1 << p.bits) - 1;
  const Tensor w0 = values.clone();
  // ŵ as a function of w, s and b where roundings and sides are those of the first values; what a
  // grid's gradient is scaled by is taken out again.
  auto plain = [&](const std::vector<Doubles>& in) {
    Doubles y(size_t(kN * kK));
    for (int64_t j = 0; j < kN * kK; ++j) {
      const int64_t first = p.group == 0 ? 0 : j % kK / p.group * p.group;
      const int64_t n = p.group == 0 ? kK : std::min(p.group, kK - first);
      const int64_t i = j / kK * per_row + (p.group == 0 ? 0 : j % kK / p.group);
      const double s0 = g.steps.data<float>()[i];
      const double qmax = p.symmetric ? double(1 << (p.bits - 1)) - 1 : top;
      const double factor = 1 / std::sqrt(double(n) * qmax);
      const double s = s0 + factor * (in[1][size_t(i)] - s0);
      const double b0 = p.symmetric ? 0 : double{g.lows.data<float>()[i]};
      const double b = p.symmetric ? 0 : b0 + factor * (in[2][size_t(i)] - b0);
      const double zero =
          p.symmetric ? double(1 << (p.bits - 1)) : std::clamp(std::nearbyint(-b0 / s0), 0.0, top);
      const double v0 = double{w0.data<float>()[j]} / s0;
      double& out = y[size_t(j)];
      if (v0 > -zero && v0 < top - zero)
        out = in[0][size_t(j)] + (std::nearbyint(v0) - v0) * s;
      else if (p.symmetric)
        out = s * (v0 < 0 ? -zero : top - zero);
      else
        // b is zero steps below 0, but for rounding.
        out = s0 * -zero + (b - b0) + (v0 < 0 ? 0 : top * s);
    }
    return y;
  };
  auto tested = [&](const std::vector<Tensor>& in) {
    const LearnedGrids grids{in[1], p.symmetric ? Tensor() : in[2]};
    Tensor y = decode_weight(quantize_on(in[0], grids, p));
    record(y, [=](const Tensor& dy) { quantize_backward(dy, in[0], grids, p); });
    return y;
  };
  std::vector<Tensor> inputs = {values, g.steps};
  if (!p.symmetric) inputs.push_back(g.lows);
  ASSERT_EQ(g.steps.numel(), count);
  testing::expect_gradients(tested, plain, inputs, 1e-4);
}

TEST_P(FakeQuantize, BeginsNoWorseThanRoundToNearest) {
  const WeightParams p = params();
  const Tensor values = random_tensor({kN, kK}, 1);
  auto error_of = [&](const Weight& w) {
    const Tensor got = decode_weight(w);
    return testing::relative_distance(got.data<float>(), values.data<float>(), values.numel());
  };
  const double rtn =
      error_of(encoding("int_group").encode(values.data<float>(), kN, kK, {.params = p}));
  EXPECT_LE(error_of(quantize_on(values, first_grids(values, p), p)), 1.02 * rtn);
}

INSTANTIATE_TEST_SUITE_P(
    All, FakeQuantize,
    ::testing::Values(FakeCase{2, 0, true, DType::f16}, FakeCase{2, 32, false, DType::f16},
                      FakeCase{3, 16, true, DType::f32}, FakeCase{4, 32, true, DType::f16},
                      FakeCase{4, 0, false, DType::bf16}, FakeCase{8, 32, true, DType::f32},
                      FakeCase{8, 0, false, DType::f16}));

TEST(FakeQuantizeOptions, AreChecked) {
  for (int64_t bits : {1, 9, -3}) EXPECT_THROW(integer_params(bits, 0, true, DType::f16), Error);
  EXPECT_THROW(integer_params(4, -1, true, DType::f16), Error);
  EXPECT_THROW(integer_params(4, 0, true, DType::i32), Error);
  Tensor values = random_tensor({2, 8}, 1);
  const WeightParams p = integer_params(4, 0, true, DType::f16);
  const LearnedGrids g = first_grids(values, p);
  values.mutable_data<float>()[9] = std::nanf("");
  EXPECT_THROW(quantize_on(values, g, p), Error);
}

// x̂ of a row, or of all with one step, where roundings and sides are those of `at`.
Doubles plain_activations(const Doubles& x, const Doubles& at, double s, double s0) {
  Doubles y;
  for (size_t i = 0; i < x.size(); ++i) {
    const double v = at[i] / s0;
    if (v > -128 && v < 127)
      y.push_back(x[i] + (std::nearbyint(v) - v) * s);
    else
      y.push_back(s * (v > 0 ? 127 : -128));
  }
  return y;
}

TEST(FakeQuantizeActivations, OneStepForAll) {
  const Tensor x = random_tensor({7, 33}, 2);
  // Small enough that some are outside.
  const Tensor step = Tensor::from(std::vector<float>{0.01f});
  const Doubles at = testing::doubles_of(x);
  const double s0 = step.data<float>()[0], factor = 1 / std::sqrt(33.0 * 127);
  int outside = 0;
  for (double v : at) outside += v / s0 > 127.5 || v / s0 < -128.5;
  EXPECT_GT(outside, 0);
  testing::expect_gradients(
      [](const std::vector<Tensor>& in) { return quantize_all(in[0], in[1]); },
      [&](const std::vector<Doubles>& in) {
        return plain_activations(in[0], at, s0 + factor * (in[1][0] - s0), s0);
      },
      {x, step}, 1e-4);
  const float first = first_step(x);
  double mean = 0;
  for (double v : at) mean += std::fabs(v) / double(at.size());
  EXPECT_NEAR(first, 2 * mean / std::sqrt(127.0), 1e-6);
  EXPECT_EQ(first_step(Tensor::zeros({2, 3}, DType::f32)), 1);
}

TEST(FakeQuantizeActivations, AStepForEachToken) {
  const Tensor x = random_tensor({4, 50}, 3);
  std::fill_n(x.clone().mutable_data<float>(), 50, 0.0f);
  Tensor in = x.clone();
  for (int i = 0; i < 50; ++i) in.mutable_data<float>()[i] *= 1000;
  std::fill_n(in.mutable_data<float>() + 50, 50, 0.0f);
  const Tensor y = quantize_rows(in);
  for (int64_t r = 0; r < 4; ++r) {
    float largest = 0;
    for (int64_t i = 0; i < 50; ++i)
      largest = std::max(largest, std::fabs(in.data<float>()[r * 50 + i]));
    const float s = largest / 127.5f;
    for (int64_t i = r * 50; i < (r + 1) * 50; ++i)
      EXPECT_EQ(y.data<float>()[i],
                largest == 0
                    ? 0
                    : s * std::clamp(std::nearbyint(in.data<float>()[i] / s), -128.0f, 127.0f));
  }
  Tensor through = in.clone();
  through.require_gradient();
  Tape tape;
  Tensor out = quantize_rows(through);
  const Tensor seed = random_tensor({4, 50}, 5);
  tape.backward(out, seed.clone());
  EXPECT_EQ(testing::doubles_of(through.gradient()), testing::doubles_of(seed));
}

TEST(FakeQuantizeGradients, DoNotDependOnThreads) {
  const WeightParams p = integer_params(3, 32, false, DType::f16);
  const Tensor values = random_tensor({300, 512}, 1), dw = random_tensor({300, 512}, 2);
  const Tensor x = random_tensor({200, 512}, 3), dx = random_tensor({200, 512}, 4);
  std::vector<std::vector<Doubles>> results;
  for (int threads : {1, 0}) {
    set_threads(threads);
    Tensor w = values.clone(), in = x.clone(), step = Tensor::from(std::vector<float>{0.01f});
    LearnedGrids g = first_grids(w, p);
    for (Tensor* t : {&w, &g.steps, &g.lows, &in, &step}) t->require_gradient();
    quantize_backward(dw, w, g, p);
    Tape tape;
    Tensor y = quantize_all(in, step);
    tape.backward(y, dx.clone());
    std::vector<Doubles> all;
    for (Tensor* t : {&w, &g.steps, &g.lows, &in, &step})
      all.push_back(testing::doubles_of(t->gradient()));
    results.push_back(all);
  }
  EXPECT_EQ(results[0], results[1]);
}

}  // namespace
}  // namespace hone
