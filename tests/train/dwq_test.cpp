// Scales that are trained while codes stay: what changes in a weight, and that it brings a
// quantised model back towards the one that it was made of.
#include "train/dwq.h"

#include <cstring>

#include "ops/tape.h"
#include "tiny_models.h"
#include "train/distillation.h"
#include "train_testing.h"

namespace hone {
namespace {

using testing::error_of;

class DwqModel {
 public:
  explicit DwqModel(const std::string& id = {}, const WeightParams& params = {},
                    const char* name = "llama") {
    testing::write_tiny(directory_ / "model", testing::tiny_fixture(name));
    loaded_ = testing::load_editable(directory_ / "model");
    if (id.empty()) return;
    for (Linear* l : model().linears()) {
      if (l == &model().head) continue;
      const Tensor values = decode_weight(l->weight());
      l->set_weight(encoding(id).encode(values.data<float>(), values.dim(0), values.dim(1),
                                        {.params = params}));
    }
  }
  Model& model() { return *loaded_.model; }

 private:
  testing::TemporaryDirectory directory_;
  LoadedModel loaded_;
};

TrainingBatch dwq_batch_of(uint32_t seed) {
  TrainingBatch b;
  const auto ids = testing::tiny_ids(65, seed);
  b.tokens.assign(ids.begin(), ids.end() - 1);
  b.targets.assign(ids.begin() + 1, ids.end());
  b.spans = {{0, 32}, {32, 64}};
  b.row_spans = {0, 1, 2};
  b.target_count = 64;
  return b;
}

Tensor logits_of(Model& m) {
  Batch batch;
  batch.append(testing::tiny_ids(20, 3), nullptr);
  return m.logits(m.forward(batch), Activations::f32);
}

bool same(const Tensor& a, const Tensor& b) {
  return a.dtype() == b.dtype() && a.numel() == b.numel() &&
         std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.byte_size())) == 0;
}

struct Form {
  const char* id;
  WeightParams params;
};

class DwqForms : public ::testing::TestWithParam<Form> {};

TEST_P(DwqForms, TrainsScalesTowardsTheOriginal) {
  DwqModel original, tiny(GetParam().id, GetParam().params);
  Model& m = tiny.model();
  std::vector<Weight> before;
  for (Linear* l : m.linears()) before.push_back(l->weight());
  const Tensor untouched = logits_of(m);
  DwqParameters made = prepare_dwq(m);
  EXPECT_TRUE(same(logits_of(m), untouched));
  // The tied head is not one of them.
  EXPECT_EQ(made.refused.size(), 1u);
  TrainerOptions o;
  o.steps = 20;
  // 20 steps are few. Random models have nothing in common beyond what they are trained on.
  o.optimizer.lr = 1e-4;
  o.optimizer.weight_decay = 0;
  Trainer trainer(m, made.parameters, o, [&] { m.values_changed(); });
  Distillation objective(original.model(), Activations::f32,
                         {.lambda = 1, .temperature = kDwqTemperature});
  const std::vector<TrainingBatch> batches = {dwq_batch_of(5), dwq_batch_of(6)};
  const double at_first = trainer.evaluate(batches, objective);
  for (int64_t i = 0; i < o.steps; ++i) trainer.step({&batches[size_t(i) % 2], 1}, objective);
  EXPECT_LT(trainer.evaluate(batches, objective), 0.95 * at_first);
  const Tensor trained = logits_of(m);
  convert_dwq(m);
  EXPECT_TRUE(same(logits_of(m), trained));
  for (size_t i = 0; i < before.size(); ++i) {
    Linear& l = *m.linears()[i];
    if (&l == &m.head) continue;
    l.unpack();
    EXPECT_EQ(l.weight().encoding, before[i].encoding);
    EXPECT_EQ(l.weight().params, before[i].params);
    for (const auto& [name, plane] : before[i].planes) {
      ASSERT_EQ(l.weight().plane(name).dtype(), plane.dtype());
      if (name == "codes" || name == "zeros" || name == "values")
        EXPECT_TRUE(same(l.weight().plane(name), plane)) << l.name() << " " << name;
      else
        EXPECT_FALSE(same(l.weight().plane(name), plane)) << l.name() << " " << name;
    }
  }
  EXPECT_TRUE(same(logits_of(m), trained));
}

INSTANTIATE_TEST_SUITE_P(
    All, DwqForms,
    ::testing::Values(Form{"int_group", {.bits = 3, .group = 32}},
                      Form{"int_group",
                           {.bits = 2, .group = 32, .symmetric = false, .scale_type = DType::f32}},
                      Form{"nf4", {.block = 64}}, Form{"int8_row", {}}, Form{"q4_0", {}},
                      Form{"q4_1", {}}),
    [](const auto& info) { return fmt::format("{}_{}", info.param.id, info.index); });

// The gradients of scales beside differences of the loss in scales of f32.
TEST(Dwq, GradientsEqualDifferences) {
  DwqModel tiny("int_group", {.bits = 3, .group = 32, .scale_type = DType::f32});
  Model& m = tiny.model();
  const auto made = prepare_dwq(m);
  const auto ids = testing::tiny_ids(20, 3), targets = testing::tiny_ids(20, 4);
  auto loss = [&](bool recorded) {
    Batch batch;
    batch.append(ids, nullptr);
    CrossEntropy ce(targets);
    std::unique_ptr<Tape> tape;
    if (recorded) tape = std::make_unique<Tape>();
    const LinearLoss l = m.loss(m.forward(batch), ce, 1, Activations::f32);
    if (recorded) tape->backward(l.root, Tensor::from(std::vector<float>{1}));
    return l.sum;
  };
  loss(true);
  // Along the gradient itself: the largest slope that there is.
  for (size_t which : {size_t{0}, size_t{4}, made.parameters.size() - 1}) {
    Tensor scales = made.parameters[which].value;
    const Tensor gradient = scales.gradient().clone();
    double squares = 0, size = 0;
    for (int64_t i = 0; i < scales.numel(); ++i) {
      squares += double{gradient.data<float>()[i]} * gradient.data<float>()[i];
      size += double{scales.data<float>()[i]} * scales.data<float>()[i];
    }
    const double step = 2e-2 * std::sqrt(size / squares);
    auto at = [&](double t) {
      Tensor kept = scales.clone();
      for (int64_t i = 0; i < scales.numel(); ++i)
        scales.mutable_data<float>()[i] += float(t * gradient.data<float>()[i]);
      m.values_changed();
      const double l = loss(false);
      std::copy_n(kept.data<float>(), kept.numel(), scales.mutable_data<float>());
      return l;
    };
    // Of the fourth order.
    const double slope =
        (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step);
    EXPECT_NEAR(slope, squares, 1e-3 * squares) << made.parameters[which].name;
  }
}

TEST(Dwq, RefusesScalesThatAreNotFloats) {
  // Of 256 columns: what K-quants need.
  DwqModel plain;
  EXPECT_EQ(error_of([&] { prepare_dwq(plain.model()); }).substr(0, 33),
            "unsupported: no scales can be tra");
  DwqModel nested("nf4", {.double_quant = true});
  EXPECT_NE(error_of([&] {
              prepare_dwq(nested.model());
            }).find("nf4: its scales are quantised themselves"),
            std::string::npos);
  // Mixed: what can be trained is, and the other is named.
  DwqModel mixed("int_group", {.bits = 4, .group = 32});
  Linear& down = mixed.model().blocks[0].mlp()->down;
  const Tensor values = decode_weight(down.weight());
  down.set_weight(encoding("q4_k").encode(values.data<float>(), values.dim(0), values.dim(1), {}));
  const auto made = prepare_dwq(mixed.model());
  ASSERT_EQ(made.refused.size(), 2u);
  EXPECT_EQ(made.refused[0].first, down.name());
  EXPECT_EQ(made.refused[0].second, "q4_k: its scales are integers, not floats of their own");
  EXPECT_EQ(error_of([&] { prepare_dwq(plain.model(), [](const std::string&) { return false; }); }),
            "unsupported: no scales can be trained: no layer is selected");
}

}  // namespace
}  // namespace hone
