// Linear and cross-entropy in chunks against the plain formula in double.
#include "encodings/linear_loss.h"

#include <cstring>

#include "gradients.h"
#include "ops/dense.h"

namespace hone {
namespace {

using namespace testing;

// Of 700 tokens and 50,000 words there are several chunks; of a few, one.
struct LossShape {
  int64_t tokens, width, vocabulary;
  float softcap;
};

Doubles plain_loss(const std::vector<Doubles>& in, const LossShape& s,
                   const std::vector<int32_t>& targets) {
  double sum = 0;
  for (int64_t t = 0; t < s.tokens; ++t) {
    Doubles logits(static_cast<size_t>(s.vocabulary));
    for (int64_t n = 0; n < s.vocabulary; ++n) {
      double y = 0;
      for (int64_t k = 0; k < s.width; ++k)
        y += in[0][size_t(t * s.width + k)] * in[1][size_t(n * s.width + k)];
      logits[size_t(n)] = s.softcap > 0 ? s.softcap * std::tanh(y / s.softcap) : y;
    }
    double all = 0;
    for (double y : logits) all += std::exp(y);
    sum += std::log(all) - logits[size_t(targets[size_t(t)])];
  }
  return {sum};
}

TEST(LinearLossTest, GradientsAreThoseOfDifferences) {
  for (LossShape s : {LossShape{5, 32, 40, 0}, LossShape{3, 48, 17, 2}}) {
    std::vector<int32_t> targets;
    for (int64_t t = 0; t < s.tokens; ++t)
      targets.push_back(static_cast<int32_t>((t * 13 + 5) % s.vocabulary));
    Tensor x = random_tensor({s.tokens, s.width}, 1), w = random_tensor({s.vocabulary, s.width}, 2);
    expect_gradients(
        [&](const std::vector<Tensor>& in) {
          PackedWeight packed = pack_weight(float_weight(in[1]));
          const Tensor bias;
          const Product head{&packed, &bias, &in[1]};
          CrossEntropy loss(targets);
          return linear_loss(in[0], head, s.softcap, loss, 1, Activations::f32).root;
        },
        [&](const std::vector<Doubles>& in) { return plain_loss(in, s, targets); }, {x, w}, 1e-4);
  }
}

// A capped logit is needed again when its gradient flows back.
TEST(LinearLossTest, LogitsThatAreKeptHaveTheSameGradients) {
  const LossShape s{3, 48, 17, 2};
  const std::vector<int32_t> targets{4, 0, 16};
  expect_gradients(
      [&](const std::vector<Tensor>& in) {
        PackedWeight packed = pack_weight(float_weight(in[1]));
        const Tensor bias;
        const Product head{&packed, &bias, &in[1]};
        Tensor y = multiply_all(LinearInput(in[0]), {&head, 1}, Activations::f32)[0];
        ops::softcap_in_place(y, s.softcap);
        CrossEntropy loss(targets);
        return loss_of_logits(y, loss, 1, true).root;
      },
      [&](const std::vector<Doubles>& in) { return plain_loss(in, s, targets); },
      {random_tensor({s.tokens, s.width}, 1), random_tensor({s.vocabulary, s.width}, 2)}, 1e-4);
}

TEST(LinearLossTest, ChunksGiveTheSumOfTheirRows) {
  const LossShape s{250, 16, 120000, 0};  // chunks of 96
  Tensor x = random_tensor({s.tokens, s.width}, 3), w = random_tensor({s.vocabulary, s.width}, 4);
  PackedWeight packed = pack_weight(float_weight(w));
  const Tensor bias;
  std::vector<int32_t> targets;
  for (int64_t t = 0; t < s.tokens; ++t) targets.push_back(static_cast<int32_t>(t * 401));
  auto run = [&](int64_t from, int64_t to, Tensor& dx, Tensor& dw) {
    Tensor part = x.rows(from, to).clone(), values = w;
    part.require_gradient();
    values.require_gradient();
    Tape tape;
    CrossEntropy loss({targets.data() + from, static_cast<size_t>(to - from)});
    LinearLoss l = linear_loss(part, {&packed, &bias, &values}, 0, loss, 0.5f, Activations::f32);
    tape.backward(l.root, Tensor::from(std::vector<float>{1}));
    dx = part.gradient();
    dw = values.gradient();
    return l.sum;
  };
  Tensor dx, dw, dx1, dw1, dx2, dw2;
  const double whole = run(0, s.tokens, dx, dw);
  const double parts = run(0, 100, dx1, dw1) + run(100, s.tokens, dx2, dw2);
  EXPECT_NEAR(whole / parts, 1, 1e-12);
  for (int64_t i = 0; i < dx.numel(); ++i) {
    const float part = i < dx1.numel() ? dx1.data<float>()[i] : dx2.data<float>()[i - dx1.numel()];
    ASSERT_EQ(dx.data<float>()[i], part) << i;
  }
  for (int64_t i = 0; i < dw.numel(); i += 97)
    ASSERT_NEAR(dw.data<float>()[i], dw1.data<float>()[i] + dw2.data<float>()[i], 1e-5);
}

// Rounded once, whatever the number of chunks: as the product of all rows is.
TEST(LinearLossTest, TheHeadsGradientIsRoundedAsAWhole) {
  const LossShape s{200, 64, 120000, 0};  // chunks of 96
  const Tensor x = random_tensor({s.tokens, s.width}, 3);
  const Tensor bias;
  std::vector<int32_t> targets;
  for (int64_t t = 0; t < s.tokens; ++t) targets.push_back(static_cast<int32_t>(t % 7));
  for (Activations a : {Activations::bf16, Activations::f16}) {
    SCOPED_TRACE(a == Activations::f16);
    Tensor w = random_tensor({s.vocabulary, s.width}, 4).clone();
    const DType type = a == Activations::bf16 ? DType::bf16 : DType::f16;
    PackedWeight packed = pack_weight(float_weight(w.to(type)));
    auto gradient = [&](bool chunks) {
      Tensor values = w.clone();
      values.require_gradient();
      Tape tape;
      CrossEntropy loss(targets);
      const Product head{&packed, &bias, &values};
      if (chunks) {
        linear_loss(x, head, 0, loss, 64, a);
      } else {
        Tensor y = multiply_all(LinearInput(x), {&head, 1}, a)[0];
        const LinearLoss l = loss_of_logits(y, loss, 64);
        tape.backward(l.root, Tensor::from(std::vector<float>{1}));
      }
      return values.gradient().clone();
    };
    const Tensor parts = gradient(true), whole = gradient(false);
    const auto bytes = static_cast<size_t>(parts.byte_size());
    EXPECT_EQ(std::memcmp(parts.raw(), parts.to(type).to(DType::f32).raw(), bytes), 0);
    EXPECT_EQ(std::memcmp(parts.raw(), whole.raw(), bytes), 0);
  }
}

}  // namespace
}  // namespace hone
