// Products of low rank, and sums of squares of rows, against plain loops in double.
#include "encodings/low_rank.h"

#include "encodings/encodings_testing.h"
#include "gradients.h"
#include "ops/dense.h"

namespace hone {
namespace {

using namespace testing;

TEST(LowRank, AddProductHasTheGradientsOfItsFormula) {
  struct Size {
    int64_t t, n, r;
  };
  for (Size s : {Size{1, 5, 2}, Size{50, 70, 4}, Size{100, 33, 16}}) {
    expect_gradients(
        [&](const std::vector<Tensor>& in) {
          // What is added to must come from a function that does not need its result.
          const Tensor y = ops::scale(in[0], 1);
          return add_product(y, in[1], DenseMatrix(in[2]));
        },
        [&](const std::vector<Doubles>& v) {
          Doubles y = v[0];
          for (int64_t t = 0; t < s.t; ++t)
            for (int64_t n = 0; n < s.n; ++n)
              for (int64_t k = 0; k < s.r; ++k)
                y[size_t(t * s.n + n)] += v[1][size_t(t * s.r + k)] * v[2][size_t(n * s.r + k)];
          return y;
        },
        {random_tensor({s.t, s.n}, 1), random_tensor({s.t, s.r}, 2), random_tensor({s.n, s.r}, 3)},
        2e-5);
  }
}

TEST(LowRank, RowSquaresAreThoseOfTheDecodedWeight) {
  const int64_t n = 37, k = 256;
  const Tensor values = random_tensor({n, k}, 5);
  for (const char* name : {"f32", "bf16", "q4_0", "q4_k", "nf4"}) {
    SCOPED_TRACE(name);
    Weight w = float_weight(values.to(std::string(name) == "bf16" ? DType::bf16 : DType::f32));
    if (w.encoding != name) w = encoding(name).encode(values.data<float>(), n, k, {});
    const Tensor decoded = decode_weight(w), sums = row_squares(pack_weight(w));
    for (int64_t r = 0; r < n; ++r) {
      double sum = 0;
      for (int64_t c = 0; c < k; ++c) {
        const double v = decoded.data<float>()[r * k + c];
        sum += v * v;
      }
      ASSERT_NEAR(sums.data<float>()[r] / sum, 1, 1e-5) << r;
    }
  }
}

}  // namespace
}  // namespace hone
