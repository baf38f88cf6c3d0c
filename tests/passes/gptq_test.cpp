// The GPTQ solver against an independent implementation (tools/golden/make_gptq.py), and its parts
// against what defines them.
#include "passes/gptq_solver.h"

#include "encodings/encoding.h"
#include "encodings/int_grid.h"
#include "formats/safetensors.h"
#include "ops/dense.h"
#include "ops/linalg.h"
#include "passes/pass.h"
#include "passes/recipe.h"
#include "tiny_models.h"

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

TEST(HessianNorm, EqualsTheSumThatDefinesIt) {
  for (auto [n, k] : {std::pair<int64_t, int64_t>{1, 1}, {5, 7}, {30, 130}, {3, 260}}) {
    Tensor x = random_tensor({2 * k, k}, 4), e = random_tensor({n, k}, 5);
    Tensor h = Tensor::zeros({k, k}, DType::f32);
    ops::accumulate_gram(x, h);
    // ‖x·eᵀ‖², whatever H is made of.
    double expected = 0;
    for (int64_t t = 0; t < 2 * k; ++t)
      for (int64_t r = 0; r < n; ++r) {
        double sum = 0;
        for (int64_t i = 0; i < k; ++i)
          sum += double{x.data<float>()[t * k + i]} * e.data<float>()[r * k + i];
        expected += sum * sum;
      }
    EXPECT_NEAR(hessian_norm(e, h), expected, 1e-4 * expected) << n << " " << k;
  }
}

TEST(Gptq, WithoutTrueSequentialEveryStageSeesTheUntouchedBlock) {
  LoadOptions canonical;
  canonical.inference = false;
  auto path = testing::source_file("models/hone-austen-3m");
  LoadedModel m = load_model(path, canonical), original = load_model(path, canonical);
  Calibration calibration;
  for (int32_t i = 0; i < 3; ++i) {
    calibration.samples.emplace_back();
    for (int32_t t = 0; t < 40; ++t)
      calibration.samples.back().push_back((i * 997 + t * 31) % 2048);
  }
  Recipe recipe = parse_recipe(
      "steps: [{pass: gptq, group: 64, true_sequential: false, keep_better: false}]", "test");
  PassContext c{m, ModuleFilter(), &calibration, 0, nullptr, nullptr, -1, nullptr};
  recipe.main.steps[0].made->run(c);

  Block& block = original.model->blocks[0];
  KvCache cache({block.mixer->kv_shape()});
  Batch batch;
  std::vector<KvSequence> sequences(3);
  for (size_t i = 0; i < 3; ++i) {
    batch.append(calibration.samples[i], &sequences[i]);
    cache.reserve(sequences[i], 40);
  }
  BlockState state;
  state.residual = original.model->embed(batch);
  block.enter(state);
  GptqOptions o;
  o.group = 64;
  auto stages = block.stages(), solved = m.model->blocks[0].stages();
  for (int stage = 0; stage < Block::kStages; ++stage) {
    int64_t k = stages[stage][0]->in_features();
    Tensor h = Tensor::zeros({k, k}, DType::f32);
    ops::accumulate_gram(state.x, h);
    GptqFactor factor = gptq_factor(h, o);
    for (size_t i = 0; i < stages[stage].size(); ++i) {
      Tensor ours = decode_weight(solved[stage][i]->weight());
      Tensor theirs =
          decode_weight(gptq_solve(decode_weight(stages[stage][i]->weight()), factor, o));
      EXPECT_LT(testing::relative_distance(ours.data<float>(), theirs.data<float>(), ours.numel()),
                1e-6)
          << stages[stage][i]->name();
    }
    block.advance(state, stage, batch, cache, 0);
  }
}

// A zero Hessian would let the solver set every weight to 0.
TEST(Gptq, ExpertsThatNoTokenReachesAreRoundedToNearest) {
  testing::TemporaryDirectory scratch;
  testing::write_tiny(scratch / "model", testing::tiny_fixture("qwen3_moe"));
  LoadedModel m = testing::load_editable(scratch / "model");
  Calibration one_token;
  one_token.samples = {{5}};
  std::vector<LayerRecord> records;
  PassContext c{m, ModuleFilter(), &one_token, 0, &records, nullptr, -1, nullptr};
  pass_named("gptq").make()->run(c);
  int64_t unseen = 0, experts = 0;
  for (const LayerRecord& r : records) {
    if (r.module.find(".experts.") == std::string::npos) continue;
    ++experts;
    unseen += r.kept == "rtn";
  }
  // Of five experts the token takes two in each of two layers.
  EXPECT_EQ(experts, 2 * 5 * 3);
  EXPECT_EQ(unseen, 2 * 3 * 3);
  for (Linear* l : m.model->linears()) {
    const Tensor w = decode_weight(l->weight());
    EXPECT_NE(std::ranges::count(std::span(w.data<float>(), size_t(w.numel())), 0.0f), w.numel())
        << l->name();
  }
}

}  // namespace
}  // namespace hone
