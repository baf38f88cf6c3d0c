// SmoothQuant: its scales by what defines them, and what they are for: activations with outliers.
#include "passes/calibration_walk.h"
#include "passes/folding.h"
#include "passes/recipe.h"
#include "tiny_models.h"

namespace hone {
namespace {

using namespace testing;

class SmoothQuantPass : public ::testing::Test {
 protected:
  SmoothQuantPass() {
    write_tiny(scratch_ / "model", tiny_fixture("llama"));
    for (uint32_t i = 0; i < 4; ++i) calibration_.samples.push_back(tiny_ids(48, 50 + i));
  }
  LoadedModel load() const { return load_editable(scratch_ / "model"); }
  std::vector<LayerRecord> run(LoadedModel& m, const std::string& options) const {
    Recipe r = parse_recipe("steps: [{pass: smoothquant" + options + "}]", "test");
    std::vector<LayerRecord> records;
    PassContext c{m, ModuleFilter(), &calibration_, 0, &records, nullptr, -1, nullptr};
    r.main.steps[0].made->run(c);
    return records;
  }
  TemporaryDirectory scratch_;
  Calibration calibration_;
};

TEST_F(SmoothQuantPass, AllInTheWeightsMakesEveryInputReachOne) {
  LoadedModel m = load();
  run(m, ", alpha: 1, keep_better: false");
  CalibrationWalk walk(*m.model, calibration_);
  std::vector<float> largest(static_cast<size_t>(m.model->width()));
  walk.visit_inputs(0, [&](const Tensor& x) {
    for (int64_t i = 0; i < x.numel(); ++i) {
      float& most = largest[i % m.model->width()];
      most = std::max(most, std::fabs(x.data<float>()[i]));
    }
  });
  for (float most : largest) EXPECT_NEAR(most, 1, 1e-5);
}

TEST_F(SmoothQuantPass, NothingInTheWeightsMakesEveryColumnReachOne) {
  LoadedModel m = load();
  run(m, ", alpha: 0, keep_better: false");
  std::vector<float> largest(static_cast<size_t>(m.model->width()));
  const auto stages = m.model->blocks[1].stages();
  for (const Linear* l : stages[0]) {
    const Tensor w = decode_weight(l->weight());
    for (int64_t i = 0; i < w.numel(); ++i) {
      float& most = largest[i % w.dim(1)];
      most = std::max(most, std::fabs(w.data<float>()[i]));
    }
  }
  for (float most : largest) EXPECT_NEAR(most, 1, 0.01);  // after rounding
}

TEST_F(SmoothQuantPass, OutliersOfActivationsCostLess) {
  LoadedModel m = load();
  // Every fifth channel of what the norms give is large, and the function the same.
  for (Block& b : m.model->blocks)
    for (const Coupling& c : couplings_of(b)) {
      if (c.norm == nullptr) continue;
      std::vector<float> s(static_cast<size_t>(m.model->width()), 1.0f);
      for (size_t i = 0; i < s.size(); i += 5) s[i] = 1.0f / 60;
      for (Linear* l : c.readers) {
        const std::vector<float> rows(static_cast<size_t>(l->out_features()), 1.0f);
        l->set_weight(float_weight(scaled_weight(decode_weight(l->weight()), s, rows)));
      }
      divide_norm(*c.norm, s);
    }
  int smoothed = 0;
  for (const LayerRecord& r : run(m, "")) {
    EXPECT_LE(r.error, r.rtn_error) << r.module;
    EXPECT_EQ(r.after, "int8_row");
    if (r.kept != "smoothquant") continue;
    ++smoothed;
    EXPECT_LT(r.error, 0.5 * r.rtn_error) << r.module;
  }
  EXPECT_EQ(smoothed, 2 * 5);  // q, k, v, gate and up
}

}  // namespace
}  // namespace hone
