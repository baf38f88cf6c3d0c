// rotate: the same logits from other weights, for every family that can be rotated.
#include "formats/safetensors.h"
#include "models/export.h"
#include "models/session.h"
#include "passes/recipe.h"
#include "testing.h"

namespace hone {
namespace {

using testing::golden;
using testing::relative_distance;

LoadedModel load(const std::filesystem::path& path) {
  LoadOptions canonical;
  canonical.inference = false;
  return load_model(path, canonical);
}

std::vector<int32_t> ids_of(const std::string& name) {
  auto file = SafetensorsFile::open(golden("families/" + name + "/logits.safetensors"));
  Tensor t = file.tensor("input_ids");
  return {t.data<int64_t>(), t.data<int64_t>() + t.numel()};
}

Tensor logits_of(Model& m, const std::vector<int32_t>& ids) {
  Session session(m, Activations::f32);
  return session.logits(session.hidden(ids));
}

double largest_distance(const Tensor& a, const Tensor& b) {
  return relative_distance(a.data<float>(), b.data<float>(), a.numel());
}

void rotate(LoadedModel& m, const std::string& options, uint64_t seed = 11) {
  Recipe recipe = parse_recipe("steps: [{pass: rotate" + options + "}]", "test");
  check_recipe(recipe.main, m);
  PassContext c{m, recipe.main.steps[0].modules, nullptr, seed, nullptr, nullptr, -1, nullptr};
  recipe.main.steps[0].made->run(c);
}

class RotateTest : public ::testing::TestWithParam<std::string> {
 protected:
  std::filesystem::path directory() const { return golden("families/" + GetParam()); }
  bool post_norms() const { return GetParam().rfind("gemma", 0) == 0; }
  std::string options() const { return post_norms() ? ", residual: false" : ""; }
};

TEST_P(RotateTest, KeepsTheLogitsAndChangesTheWeights) {
  auto ids = ids_of(GetParam());
  LoadedModel m = load(directory());
  Tensor before = logits_of(*m.model, ids);
  std::vector<Tensor> weights;
  for (Linear* l : m.model->linears()) weights.push_back(decode_weight(l->weight()).clone());
  rotate(m, options());
  EXPECT_LT(largest_distance(logits_of(*m.model, ids), before), 1e-4);
  int changed = 0;
  auto linears = m.model->linears();
  for (size_t i = 0; i < linears.size(); ++i)
    changed += largest_distance(decode_weight(linears[i]->weight()), weights[i]) > 0.3;
  // Values alone touch v and o of each block.
  EXPECT_EQ(changed, post_norms() ? 2 * int(m.model->blocks.size()) : int(linears.size()));
}

TEST_P(RotateTest, SurvivesTheTripThroughAFile) {
  auto ids = ids_of(GetParam());
  LoadedModel m = load(directory());
  Tensor before = logits_of(*m.model, ids);
  rotate(m, options());
  testing::TemporaryDirectory scratch;
  export_model(m, scratch / "rotated", {});
  LoadedModel copy = load_model(scratch / "rotated");
  EXPECT_EQ(copy.model->tied_head, m.model->tied_head);
  EXPECT_LT(largest_distance(logits_of(*copy.model, ids), before), 1e-4);
}

TEST_P(RotateTest, TheSeedDecides) {
  LoadedModel a = load(directory()), b = load(directory()), c = load(directory());
  rotate(a, options(), 1);
  rotate(b, options(), 1);
  rotate(c, options(), 2);
  auto o = [](LoadedModel& m) {
    return decode_weight(m.model->blocks[0].mixer->output().weight());
  };
  EXPECT_EQ(largest_distance(o(a), o(b)), 0);
  EXPECT_GT(largest_distance(o(a), o(c)), 0.3);
}

INSTANTIATE_TEST_SUITE_P(Goldens, RotateTest,
                         ::testing::Values("llama", "llama_tied_bias", "gpt2", "gemma3", "gpt_neox",
                                           "opt", "gptj", "gpt_bigcode"),
                         [](const auto& info) { return info.param; });

TEST(Rotate, RefusesWhatItCannotKeep) {
  LoadedModel gemma = load(golden("families/gemma3"));
  try {
    rotate(gemma, "");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::unsupported);
    EXPECT_NE(std::string(e.what()).find("residual: false"), std::string::npos);
  }
  LoadedModel llama = load(golden("families/llama"));
  EXPECT_THROW(rotate(llama, ", modules: \"*\""), Error);
  EXPECT_THROW(parse_recipe("steps: [{pass: rotate, residual: false, values: false}]", "t"), Error);
  Recipe late = parse_recipe("steps: [{pass: rtn, group: 32}, {pass: rotate}]", "test");
  EXPECT_THROW(check_recipe(late.main, llama), Error);
}

TEST(Rotate, RemovesOutlierChannels) {
  LoadedModel m = load(golden("families/llama"));
  Linear& o = m.model->blocks[0].mixer->output();
  // A channel of the residual stream that is thirty times as large as the others.
  Tensor w = decode_weight(o.weight()).clone();
  for (int64_t j = 0; j < w.dim(1); ++j) w.mutable_data<float>()[3 * w.dim(1) + j] *= 30;
  o.set_weight(float_weight(w));
  auto peak = [](const Tensor& t) {
    double square = 0, largest = 0;
    for (int64_t i = 0; i < t.numel(); ++i) {
      double x = t.data<float>()[i];
      square += x * x;
      largest = std::max(largest, std::fabs(x));
    }
    return largest / std::sqrt(square / double(t.numel()));
  };
  double before = peak(w);
  rotate(m, ", values: false");
  EXPECT_LT(peak(decode_weight(o.weight())), before / 2);
}

}  // namespace
}  // namespace hone
