// The GPTQ solver against an independent implementation (tools/golden/make_gptq.py), and its parts
// against what defines them.
#include "passes/gptq_solver.h"

#include "encodings/encoding.h"
#include "encodings/int_grid.h"
#include "formats/safetensors.h"
#include "ops/dense.h"
#include "ops/linalg.h"
#include "testing.h"

namespace hone {
namespace {

using testing::golden;
using testing::random_tensor;

TEST(Linalg, InverseCholeskyTimesMatrixIsIdentity) {
  for (int64_t k : {1, 5, 64, 65, 200}) {
    Tensor x = random_tensor({3 * k, k}, 1), h = Tensor::zeros({k, k}, DType::f32);
    ops::accumulate_gram(x, h);
    Tensor u = ops::inverse_cholesky_upper(h);
    ASSERT_FALSE(u.empty_handle()) << k;
    const float *a = h.data<float>(), *b = u.data<float>();
    double worst = 0;
    for (int64_t i = 0; i < k; ++i)
      for (int64_t j = 0; j < k; ++j) {
        // (UᵀU·H)[i, j]
        double sum = 0;
        for (int64_t c = 0; c < k; ++c) {
          double inverse = 0;
          for (int64_t r = 0; r <= std::min(i, c); ++r)
            inverse += double{b[r * k + i]} * b[r * k + c];
          sum += inverse * a[std::min(c, j) * k + std::max(c, j)];
        }
        worst = std::max(worst, std::fabs(sum - (i == j)));
      }
    EXPECT_LT(worst, 2e-3) << k;
  }
}

TEST(Linalg, RefusesAMatrixThatIsNotPositiveDefinite) {
  Tensor h = Tensor::from(std::vector<float>{1, 2, 0, 1}, {2, 2});
  EXPECT_TRUE(ops::inverse_cholesky_upper(h).empty_handle());
}

TEST(GptqFactor, DampingRaisesItselfUntilTheHessianIsPositiveDefinite) {
  // Rank 1: without damping no factor exists.
  Tensor x = random_tensor({1, 40}, 2), h = Tensor::zeros({40, 40}, DType::f32);
  ops::accumulate_gram(x, h);
  // A negative direction that 1 % of the mean diagonal does not cover.
  for (int64_t i = 0; i < 40; ++i) h.mutable_data<float>()[i * 40 + i] *= 0.93f;
  GptqOptions o;
  GptqFactor f = gptq_factor(h, o);
  EXPECT_GT(f.damp, o.damp);
  EXPECT_FALSE(f.upper.empty_handle());
}

TEST(GptqFactor, RefusesInfiniteInputs) {
  Tensor h = Tensor::zeros({4, 4}, DType::f32);
  h.mutable_data<float>()[0] = INFINITY;
  EXPECT_THROW(gptq_factor(h, {}), Error);
}

class GptqGolden : public ::testing::TestWithParam<const char*> {};

TEST_P(GptqGolden, CodesScalesAndZerosEqualTheReference) {
  auto file = SafetensorsFile::open(golden(GetParam()));
  Tensor w = file.tensor("w");
  int64_t n = w.dim(0), k = w.dim(1);
  Tensor perm = file.tensor("perm");
  GptqFactor factor;
  factor.upper = file.tensor("u");
  factor.order.assign(perm.data<int32_t>(), perm.data<int32_t>() + k);
  factor.dead.assign(static_cast<size_t>(k), false);
  factor.dead[77] = true;  // see make_gptq.py
  int cases = 0;
  for (const auto& entry : file.entries()) {
    size_t dot = entry.name.find(".options");
    if (dot == std::string::npos) continue;
    std::string name = entry.name.substr(0, dot);
    const int32_t* v = nullptr;
    Tensor options = file.tensor(entry.name);
    v = options.data<int32_t>();
    GptqOptions o;
    o.bits = v[0];
    o.symmetric = v[1] != 0;
    o.group = v[2] < 0 ? 0 : v[2];
    o.act_order = v[3] != 0;
    o.static_groups = v[4] != 0;
    o.mse = v[5] != 0;
    o.scale_type = v[6] ? DType::f16 : DType::f32;
    Weight got = gptq_solve(w, factor, o);
    encoding("int_group").validate(got);
    Tensor expected = file.tensor(name + ".codes"), scales = file.tensor(name + ".scales");
    Tensor zeros = file.tensor(name + ".zeros"), index = file.tensor(name + ".g_idx");
    std::vector<uint8_t> row(static_cast<size_t>(k));
    int64_t same = 0;
    for (int64_t r = 0; r < n; ++r) {
      const Tensor& codes = got.plane("codes");
      unpack_codes(codes.data<uint8_t>() + r * codes.dim(1), k, got.params.bits, row.data());
      for (int64_t i = 0; i < k; ++i) same += row[i] == expected.data<uint8_t>()[r * k + i];
    }
    EXPECT_GE(double(same), 0.999 * double(n * k)) << name;
    Tensor ours = got.plane("scales").to(DType::f32);
    for (int64_t i = 0; i < scales.numel(); ++i)
      ASSERT_NEAR(ours.data<float>()[i], scales.data<float>()[i], 1e-5f * scales.data<float>()[i])
          << name;
    for (int64_t i = 0; !o.symmetric && i < zeros.numel(); ++i)
      ASSERT_EQ(got.plane("zeros").data<uint8_t>()[i], zeros.data<uint8_t>()[i]) << name;
    for (int64_t i = 0; got.params.act_order && i < k; ++i)
      ASSERT_EQ(got.plane("g_idx").data<int32_t>()[i], index.data<int32_t>()[i]) << name;
    ++cases;
  }
  EXPECT_GE(cases, 8);
}

INSTANTIATE_TEST_SUITE_P(Files, GptqGolden,
                         ::testing::Values("gptq_natural.safetensors", "gptq_actorder.safetensors"),
                         [](const auto& info) {
                           return std::string(info.param).find("act") != std::string::npos
                                      ? "actorder"
                                      : "natural";
                         });

}  // namespace
}  // namespace hone
