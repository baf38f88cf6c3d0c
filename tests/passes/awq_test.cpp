// AWQ: its searches against an independent implementation (tools/golden/make_awq.py), its scales
// alone against the function that they must not change, its errors against round-to-nearest's.
#include "base/threads.h"
#include "formats/safetensors.h"
#include "models/export.h"
#include "models/session.h"
#include "nn/mixture.h"
#include "passes/awq_scales.h"
#include "passes/folding.h"
#include "passes/optimize.h"
#include "tiny_models.h"

namespace hone {
namespace {

using namespace testing;

// ---- The searches ---------------------------------------------------------------------------

class AwqGolden : public ::testing::Test {
 protected:
  AwqGolden() : file_(SafetensorsFile::open(golden("awq.safetensors"))) {
    in_.add(file_.tensor("x"));
    for (const char* name : {"w0", "w1", "w2"}) {
      Tensor w = file_.tensor(name);
      layers_.push_back({w, std::vector<float>(static_cast<size_t>(w.dim(0)), 1.0f)});
    }
  }
  /// Calls f with each case's name and options.
  void visit(const std::function<void(const std::string&, const AwqOptions&)>& f) {
    int cases = 0;
    for (const auto& entry : file_.entries()) {
      const size_t dot = entry.name.find(".options");
      if (dot == std::string::npos) continue;
      const Tensor t = file_.tensor(entry.name);
      const int32_t* v = t.data<int32_t>();
      AwqOptions o;
      o.bits = v[0];
      o.group = v[1];
      o.symmetric = v[2] != 0;
      o.duo = v[3] != 0;
      SCOPED_TRACE(entry.name);
      f(entry.name.substr(0, dot), o);
      ++cases;
    }
    EXPECT_EQ(cases, 5);
  }
  std::vector<float> best_of(const std::string& name) {
    const int32_t step = *file_.tensor(name + ".chosen").data<int32_t>();
    const Tensor scales = file_.tensor(name + ".scales");
    const int64_t k = scales.dim(1);
    if (step < 0) return std::vector<float>(static_cast<size_t>(k), 1.0f);
    const float* s = scales.data<float>() + step * k;
    return {s, s + k};
  }

  SafetensorsFile file_;
  InputStatistics in_;
  std::vector<AwqLayer> layers_;
};

TEST_F(AwqGolden, CandidatesAndTheirErrorsEqualTheReference) {
  visit([&](const std::string& name, const AwqOptions& o) {
    const Tensor scales = file_.tensor(name + ".scales"), errors = file_.tensor(name + ".errors");
    const int64_t k = scales.dim(1);
    for (int64_t step = 0; step < o.steps; ++step) {
      const std::vector<float> s = awq_candidate(layers_, in_, step, o);
      for (int64_t i = 0; i < k; ++i) {
        const float expected = scales.data<float>()[step * k + i];
        ASSERT_NEAR(s[i], expected, 1e-4f * expected) << "step " << step << ", channel " << i;
      }
      for (size_t l = 0; l < layers_.size(); ++l) {
        double sum = 0;
        for (double e : awq_errors(layers_[l], s, in_, o)) sum += e;
        const double expected = errors.data<double>()[int64_t(l) * o.steps + step];
        EXPECT_NEAR(sum, expected, 2e-3 * expected) << "step " << step << ", weight " << l;
      }
    }
  });
}

TEST_F(AwqGolden, TheSearchTakesTheReferencesScales) {
  visit([&](const std::string& name, const AwqOptions& o) {
    const std::vector<float> got = awq_search(layers_, in_, o), expected = best_of(name);
    for (size_t i = 0; i < got.size(); ++i)
      ASSERT_NEAR(got[i], expected[i], 1e-4f * expected[i]) << "channel " << i;
  });
}

TEST_F(AwqGolden, ClippingGivesTheReferencesErrors) {
  visit([&](const std::string& name, const AwqOptions& o) {
    const std::vector<float> s = best_of(name);
    const AwqResult r = awq_store("w2", layers_[2], s, in_, true, o);
    const AwqResult unclipped = awq_store("w2", layers_[2], s, in_, false, o);
    const Tensor rows = file_.tensor(name + ".clipped");
    double expected = 0, output = 0;
    for (int64_t i = 0; i < rows.numel(); ++i) expected += rows.data<double>()[i];
    const Tensor w = layers_[2].values, x = file_.tensor("x");
    for (int64_t t = 0; t < x.dim(0); ++t)
      for (int64_t n = 0; n < w.dim(0); ++n) {
        double y = 0;
        for (int64_t i = 0; i < w.dim(1); ++i)
          y += double{x.data<float>()[t * x.dim(1) + i]} * w.data<float>()[n * w.dim(1) + i];
        output += y * y;
      }
    EXPECT_NEAR(r.error, expected / output, 3e-3 * expected / output);
    EXPECT_LT(r.error, unclipped.error);
    EXPECT_LT(unclipped.error, r.rtn_error);
  });
}

TEST_F(AwqGolden, SilentInputsKeepScaleOne) {
  InputStatistics silent;
  silent.add(Tensor::zeros({3, layers_[0].values.dim(1)}, DType::f32));
  for (float s : awq_search(layers_, silent, {})) ASSERT_EQ(s, 1.0f);
}

// ---- FoldingFamilies
// --------------------------------------------------------------------------------

Tensor awq_logits(LoadedModel& m) {
  Session s(*m.model, Activations::f32);
  return s.logits(s.hidden(tiny_ids(60, 9)));
}

double awq_distance(const Tensor& a, const Tensor& b) {
  return relative_distance(a.data<float>(), b.data<float>(), a.numel());
}

std::vector<float> some_scales(int64_t n, uint32_t seed) {
  const Tensor t = random_tensor({n}, seed, 0.7f);
  std::vector<float> s;
  for (int64_t i = 0; i < n; ++i) s.push_back(std::exp(t.data<float>()[i]));
  return s;
}

class FoldingFamilies : public ::testing::TestWithParam<TinyFixture> {};

TEST_P(FoldingFamilies, ScalesOfEveryCouplingLeaveTheLogits) {
  TemporaryDirectory scratch;
  write_tiny(scratch / "model", GetParam());
  LoadedModel m = load_editable(scratch / "model");
  const Tensor before = awq_logits(m);
  uint32_t seed = 40;
  std::set<std::string> kinds;
  for (Block& b : m.model->blocks)
    for (const Coupling& c : couplings_of(b)) {
      const int64_t k = c.readers[0]->in_features();
      const std::vector<float> s = some_scales(k, seed++), none(static_cast<size_t>(k), 1.0f);
      for (Linear* l : c.readers) {
        const std::vector<float> rows(static_cast<size_t>(l->out_features()), 1.0f);
        l->set_weight(float_weight(scaled_weight(decode_weight(l->weight()), s, rows)));
      }
      if (c.norm != nullptr) {
        divide_norm(*c.norm, s);
      } else {
        Linear& p = *c.previous;
        const std::vector<float> columns(static_cast<size_t>(p.in_features()), 1.0f);
        p.set_weight(float_weight(scaled_weight(decode_weight(p.weight()), columns, s)));
        divide_bias(p, s);
      }
      kinds.insert(fmt::format("{}{}", c.norm != nullptr ? "norm" : "linear", c.stage));
    }
  EXPECT_LT(awq_distance(awq_logits(m), before), 1e-5);
  const std::string name = GetParam().name;
  using Kinds = std::set<std::string>;
  if (name == "llama") {
    EXPECT_EQ(kinds, (Kinds{"norm0", "norm2", "linear3"}));  // GQA: no v → o
  }
  if (name == "gpt2") {
    EXPECT_EQ(kinds, (Kinds{"norm0", "norm2", "linear1"}));  // GELU between up and down
  }
  if (name == "opt") {
    EXPECT_EQ(kinds, (Kinds{"norm0", "norm2", "linear1", "linear3"}));
  }
  if (name == "falcon") {
    EXPECT_EQ(kinds, (Kinds{"norm0"}));  // one norm for both halves
  }
  if (name == "olmo2") {
    EXPECT_EQ(kinds, (Kinds{"linear3"}));  // no norm in front of a layer
  }
  if (name == "gemma2") {
    EXPECT_EQ(kinds, (Kinds{"norm0", "norm2", "linear3"}));
  }
  if (name == "mixtral") {
    EXPECT_EQ(kinds, (Kinds{"norm0", "linear3"}));  // the router reads the norm too
  }
}

INSTANTIATE_TEST_SUITE_P(Families, FoldingFamilies, ::testing::ValuesIn(tiny_fixtures()),
                         [](const auto& info) { return std::string(info.param.name); });

// ---- The pass -------------------------------------------------------------------------------

class AwqPass : public ::testing::Test {
 protected:
  LoadedModel load() const { return load_editable(source_file("models/hone-austen-3m")); }
  Calibration calibration(const LoadedModel& m) const {
    return read_calibration(source_file("examples/text/calibration.txt"), m, 6, 128, 0);
  }
  std::vector<LayerRecord> run(LoadedModel& m, const std::string& pass) const {
    Recipe r = parse_recipe("steps: [{" + pass + "}]", "test");
    check_recipe(r.main, m);
    const Calibration c = calibration(m);
    std::vector<LayerRecord> records;
    PassContext context{m, r.main.steps[0].modules, &c, 0, &records, nullptr, -1, nullptr};
    r.main.steps[0].made->run(context);
    return records;
  }
  TemporaryDirectory scratch_;
};

TEST_F(AwqPass, NoModuleIsWorseThanRoundToNearestAndMostAreBetter) {
  LoadedModel m = load();
  const auto records = run(m, "pass: awq, bits: 3, group: 64");
  int better = 0;
  for (const LayerRecord& r : records) {
    EXPECT_LE(r.error, r.rtn_error) << r.module;
    better += r.error < 0.95 * r.rtn_error;
  }
  EXPECT_GT(better, static_cast<int>(records.size()) * 2 / 3);
  for (const char* off : {"scale: false", "clip: false"}) {
    LoadedModel other = load();
    const auto partly = run(other, fmt::format("pass: awq, bits: 3, group: 64, {}", off));
    double whole = 0, part = 0;
    for (size_t i = 0; i < records.size(); ++i) {
      whole += records[i].error / records[i].rtn_error;
      part += partly[i].error / partly[i].rtn_error;
    }
    EXPECT_LT(whole, part) << off << " should cost something";
  }
}

TEST_F(AwqPass, WithNeitherScaleNorClipItIsRoundToNearest) {
  LoadedModel a = load(), b = load();
  run(a, "pass: awq, group: 64, scale: false, clip: false");
  run(b, "pass: rtn, group: 64, symmetric: false");
  const Tensor x = awq_logits(a), y = awq_logits(b);
  EXPECT_EQ(0, std::memcmp(x.raw(), y.raw(), static_cast<size_t>(x.byte_size())));
}

TEST_F(AwqPass, UnselectedModulesAndTheirNormsStay) {
  LoadedModel m = load(), original = load();
  run(m, "pass: awq, group: 64, modules: '*q_proj|*up_proj'");
  Block &b = m.model->blocks[0], &o = original.model->blocks[0];
  EXPECT_EQ(awq_distance(b.mixer_norm.weight, o.mixer_norm.weight), 0);
  EXPECT_EQ(awq_distance(b.mlp_norm.weight, o.mlp_norm.weight), 0);
  EXPECT_EQ(
      awq_distance(decode_weight(b.mlp()->down.weight()), decode_weight(o.mlp()->down.weight())),
      0);
}

TEST_F(AwqPass, TheAwqDirectoryLoadsToTheSameLogits) {
  OptimizeOptions o;
  o.model = source_file("models/hone-austen-3m");
  o.recipe = parse_recipe(
      "calibration: {samples: 4, length: 64}\nsteps: [{pass: awq, group: 64}]\n"
      "output: {layout: awq}",
      "test");
  o.calibration = source_file("examples/text/calibration.txt");
  o.out = scratch_ / "out";
  optimize(o);
  const Json config = parse_json(read_text_file(o.out / "config.json"), "config.json");
  const Json& q = config.at("quantization_config");
  EXPECT_EQ(q.at("quant_method"), "awq");
  EXPECT_EQ(q.at("bits"), 4);
  EXPECT_EQ(q.at("group_size"), 64);
  EXPECT_EQ(q.at("zero_point"), true);
  LoadedModel m = load(), back = load_editable(o.out);
  const Calibration c = read_calibration(o.calibration, m, 4, 64, 0);
  PassContext context{m, ModuleFilter(), &c, 0, nullptr, nullptr, -1, nullptr};
  o.recipe.main.steps[0].made->run(context);
  const Tensor x = awq_logits(m), y = awq_logits(back);
  EXPECT_EQ(0, std::memcmp(x.raw(), y.raw(), static_cast<size_t>(x.byte_size())));
  EXPECT_GT(awq_distance(back.model->blocks[0].mixer_norm.weight,
                         load().model->blocks[0].mixer_norm.weight),
            0.01);
}

}  // namespace
}  // namespace hone
