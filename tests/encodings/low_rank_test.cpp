// Products of low rank, and sums of squares of rows, against plain loops in double.
#include "encodings/low_rank.h"

#include <array>

#include "encodings/encodings_testing.h"
#include "gradients.h"
#include "kernels/select.h"
#include "ops/dense.h"
#include "ops/tape.h"
#include "tables.h"

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
          return add_product(y, in[1], DenseMatrix(in[2]), Activations::f32);
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

// Of u, W and dy only what bf16 holds counts, and of the gradients; sums are f32.
TEST(LowRank, Bf16RoundsWhatItMultiplies) {
  struct Size {
    int64_t t, n, r;
  };
  auto rounded = [](const Tensor& x) { return x.to(DType::bf16).to(DType::f32); };
  // a [m, k] and b [k, n], either turned by its strides.
  auto product = [](const Tensor& a, std::array<int64_t, 2> sa, const Tensor& b,
                    std::array<int64_t, 2> sb, int64_t m, int64_t k, int64_t n) {
    Tensor y = Tensor::empty({m, n}, DType::f32);
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0;
        for (int64_t c = 0; c < k; ++c)
          sum += double{a.data<float>()[i * sa[0] + c * sa[1]]} *
                 double{b.data<float>()[c * sb[0] + j * sb[1]]};
        y.mutable_data<float>()[i * n + j] = static_cast<float>(sum);
      }
    return y;
  };
  for (const auto* table : testing::tested_tables())
    for (Size s : {Size{50, 70, 4}, Size{100, 33, 16}, Size{7, 96, 8}}) {
      SCOPED_TRACE(fmt::format("{} {} {} {}", table->isa, s.t, s.n, s.r));
      kernels::set_table(*table);
      kernels::prefer_bf16_dots(true);
      const bool dots = kernels::uses_bf16_dots();
      Tensor u = random_tensor({s.t, s.r}, 2), y = Tensor::zeros({s.t, s.n}, DType::f32);
      DenseMatrix w(random_tensor({s.n, s.r}, 3));
      const Tensor dy = random_tensor({s.t, s.n}, 4);
      u.require_gradient();
      w.values().require_gradient();
      Tape tape;
      const Tensor sum = add_product(y, u, w, Activations::bf16);
      tape.backward(sum, dy.clone());
      kernels::prefer_bf16_dots(false);
      // Without dots W stays what it is, as in every product of f32 panels.
      const Tensor ru = rounded(u), rw = dots ? rounded(w.values()) : w.values(), rdy = rounded(dy);
      const auto [t, n, r] = s;
      const Tensor expected = product(ru, {r, 1}, rw, {1, r}, t, r, n);
      EXPECT_LT(relative_distance(sum.data<float>(), expected.data<float>(), t * n), 1e-6);
      const Tensor dw = rounded(product(rdy, {1, n}, ru, {r, 1}, n, t, r));
      EXPECT_LT(relative_distance(gradient_of(w.values()).data<float>(), dw.data<float>(), n * r),
                1e-3);
      // Dots take pairs: where there are odd ones, what flows back is a product of f32 panels.
      const Tensor& back = t % 2 == 0 && n % 2 == 0 ? rw : w.values();
      const Tensor du = rounded(product(rdy, {n, 1}, back, {r, 1}, t, n, r));
      EXPECT_LT(relative_distance(gradient_of(u).data<float>(), du.data<float>(), t * r), 1e-3);
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
