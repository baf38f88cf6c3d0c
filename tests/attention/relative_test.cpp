// Transformer-XL's position term against the paper's sum in double, and its gradients.
#include "attention/relative.h"

#include "gradients.h"

namespace hone {
namespace {

using namespace testing;

TEST(RelativeBias, IsTheProductWithTheDistancesRow) {
  constexpr size_t kHeads = 2, kSize = 3, kRows = 6, kKeys = 7;
  // Three new tokens behind four rows of memory, and a sequence that begins.
  const std::vector<AttentionSpan> spans = {{0, 3, 0, 7}, {3, 6, 7, 10}};
  expect_gradients(
      [&](const std::vector<Tensor>& x) { return relative_bias(x[0], x[1], kHeads, 0.7f, spans); },
      [&](const std::vector<Doubles>& x) {
        Doubles y(kHeads * kRows * kKeys);
        for (size_t h = 0; h < kHeads; ++h)
          for (size_t t = 0; t < kRows; ++t) {
            const size_t own = t < 3 ? 4 + t : t - 3;
            for (size_t j = 0; j <= own; ++j)
              for (size_t c = 0; c < kSize; ++c)
                y[(h * kRows + t) * kKeys + j] += double{0.7f} *
                                                  x[0][t * kHeads * kSize + h * kSize + c] *
                                                  x[1][(own - j) * kHeads * kSize + h * kSize + c];
          }
        return y;
      },
      {random_tensor({kRows, kHeads * kSize}, 1), random_tensor({8, kHeads * kSize}, 2)});
}

TEST(RelativeBias, SinusoidsAreThePapers) {
  const Tensor t = sinusoids(5, 4);
  for (int64_t d = 0; d < 5; ++d)
    for (int64_t i = 0; i < 2; ++i) {
      const double angle = double(d) * (i == 0 ? 1.0 : 0.01);
      EXPECT_NEAR(t.data<float>()[d * 4 + i], std::sin(angle), 1e-6);
      EXPECT_NEAR(t.data<float>()[d * 4 + 2 + i], std::cos(angle), 1e-6);
    }
}

}  // namespace
}  // namespace hone
