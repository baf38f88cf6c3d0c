// Quantisation-aware training: what prepare makes of a model, that training through it works, and
// that the converted model is the prepared one, bit for bit.
#include "train/qat.h"

#include <cstring>

#include "base/threads.h"
#include "models/export.h"
#include "ops/tape.h"
#include "tiny_models.h"
#include "train/trainer.h"
#include "train_testing.h"

namespace hone {
namespace {

using testing::error_of;
using testing::relative_distance;

class QatModel {
 public:
  explicit QatModel(const char* name = "llama", uint32_t seed = 1) {
    testing::write_tiny(directory_ / "model", testing::tiny_fixture(name), seed);
    loaded_ = testing::load_editable(directory_ / "model");
  }
  Model& model() { return *loaded_.model; }
  LoadedModel& loaded() { return loaded_; }
  fs::path file(const std::string& name) const { return directory_ / name; }

 private:
  testing::TemporaryDirectory directory_;
  LoadedModel loaded_;
};

TrainingBatch qat_batch_of(uint32_t seed) {
  TrainingBatch b;
  for (int64_t length : {24, 17}) {
    const auto ids = testing::tiny_ids(length + 1, seed++);
    const int64_t begin = std::ssize(b.tokens);
    b.row_spans.push_back(std::ssize(b.spans));
    b.tokens.insert(b.tokens.end(), ids.begin(), ids.end() - 1);
    b.targets.insert(b.targets.end(), ids.begin() + 1, ids.end());
    b.spans.push_back({begin, begin + length});
    b.target_count += length;
  }
  b.row_spans.push_back(std::ssize(b.spans));
  return b;
}

Tensor qat_logits_of(Model& m, Activations a = Activations::f32) {
  Batch batch;
  batch.activations = a;
  batch.append(testing::tiny_ids(20, 3), nullptr);
  return m.logits(m.forward(batch), a);
}

::testing::AssertionResult equal_tensors(const Tensor& a, const Tensor& b) {
  if (a.numel() == b.numel() &&
      std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.byte_size())) == 0)
    return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure()
         << "the distance is "
         << relative_distance(a.data<float>(), b.data<float>(), std::min(a.numel(), b.numel()));
}

struct Losses {
  double first = 0, last = 0;
};

Losses train(Model& model, const std::vector<Parameter>& parameters, int64_t steps,
             Checkpointing checkpointing = Checkpointing::none,
             Activations precision = Activations::f32) {
  TrainerOptions o;
  o.steps = steps;
  o.optimizer.lr = 3e-3;
  o.checkpointing = checkpointing;
  o.precision = precision;
  Trainer trainer(model, parameters, o, [&] { model.values_changed(); });
  Objective objective;
  const TrainingBatch b = qat_batch_of(7);
  Losses run;
  for (int64_t i = 0; i < steps; ++i) {
    run.last = trainer.step({&b, 1}, objective).loss;
    if (i == 0) run.first = run.last;
  }
  return run;
}

QatOptions options(int64_t bits, int64_t group, bool symmetric, const char* steps,
                   const char* activations = "none") {
  QatOptions o;
  o.bits = bits;
  o.group = group;
  o.symmetric = symmetric;
  o.grid = steps;
  o.activations = activations;
  return o;
}

const Parameter& named(const std::vector<Parameter>& all, const std::string& name) {
  for (const Parameter& p : all)
    if (p.name == name) return p;
  throw std::runtime_error("no parameter is called " + name);
}

TEST(Qat, PreparedWithoutTrainingIsRoundToNearest) {
  for (bool symmetric : {true, false}) {
    QatModel tiny, plain;
    const QatOptions o = options(3, 32, symmetric, "min_max");
    prepare_qat(tiny.model(), o);
    convert_qat(tiny.model());
    for (size_t i = 0; i < tiny.model().linears().size(); ++i) {
      Linear &got = *tiny.model().linears()[i], &was = *plain.model().linears()[i];
      if (&got == &tiny.model().head) continue;
      WeightParams p;
      p.bits = 3;
      p.group = 32;
      p.symmetric = symmetric;
      const Tensor values = decode_weight(was.weight());
      const Weight expected =
          encoding("int_group")
              .encode(values.data<float>(), values.dim(0), values.dim(1), {.params = p});
      EXPECT_EQ(got.weight().params, expected.params);
      ASSERT_EQ(got.weight().planes.size(), expected.planes.size());
      for (const auto& [name, plane] : expected.planes)
        EXPECT_EQ(
            std::memcmp(got.weight().plane(name).raw(), plane.raw(), size_t(plane.byte_size())), 0)
            << got.name() << " " << name;
    }
  }
}

struct QatForm {
  int64_t bits, group;
  bool symmetric;
  const char* steps;
  const char* activations;
};

class QatForms : public ::testing::TestWithParam<QatForm> {
 protected:
  static QatOptions form() {
    const QatForm& f = GetParam();
    return options(f.bits, f.group, f.symmetric, f.steps, f.activations);
  }
};

// What a weight's parameters stand for, written plainly; decode must give exactly this.
Tensor fake_quantised(const std::vector<Parameter>& all, const std::string& module,
                      const QatOptions& o) {
  const Tensor& values = named(all, module + ".weight").value;
  const int64_t n = values.dim(0), k = values.dim(1), group = o.group == 0 ? k : o.group;
  const int64_t groups = (k + group - 1) / group;
  const int top = (1 << o.bits) - 1;
  Tensor y = Tensor::empty({n, k}, DType::f32);
  for (int64_t i = 0; i < n * groups; ++i) {
    const int64_t first = i / groups * k + i % groups * group;
    const int64_t count = std::min(group, k - i % groups * group);
    const float* w = values.data<float>() + first;
    float s, zero = float(1 << (o.bits - 1)), low = 0;
    if (o.grid == "learned") {
      s = named(all, module + ".steps").value.data<float>()[i];
      if (!o.symmetric) low = named(all, module + ".lows").value.data<float>()[i];
    } else {
      float high = 0;
      for (int64_t c = 0; c < count; ++c) low = std::min(low, w[c]), high = std::max(high, w[c]);
      if (o.symmetric) high = std::max(high, -low), low = -high;
      s = (high - low) / float(top);
    }
    s = std::max(to_f32(to_f16(s)), 0x1p-24f);
    if (!o.symmetric) zero = std::clamp(std::nearbyint(-low / s), 0.0f, float(top));
    for (int64_t c = 0; c < count; ++c)
      y.mutable_data<float>()[first + c] =
          s * (std::clamp(std::nearbyint(w[c] / s) + zero, 0.0f, float(top)) - zero);
  }
  return y;
}

TEST_P(QatForms, ConvertedIsWhatWasTrained) {
  QatModel tiny;
  Model& m = tiny.model();
  const QatOptions o = form();
  const auto parameters = prepare_qat(m, o);
  const Tensor untrained = qat_logits_of(m);
  const Losses run = train(m, parameters, 8);
  EXPECT_LT(run.last, run.first);
  const Tensor f32 = qat_logits_of(m), int8 = qat_logits_of(m, Activations::int8);
  EXPECT_FALSE(equal_tensors(f32, untrained));
  convert_qat(m);
  for (Linear* l : m.linears()) {
    if (l == &m.head) continue;
    EXPECT_EQ(l->weight().encoding, "int_group");
    EXPECT_TRUE(equal_tensors(decode_weight(l->weight()), fake_quantised(parameters, l->name(), o)))
        << l->name();
    // As if it came from a file.
    l->unpack();
  }
  EXPECT_TRUE(equal_tensors(qat_logits_of(m), f32));
  EXPECT_TRUE(equal_tensors(qat_logits_of(m, Activations::int8), int8));
  // Nothing is trained through it any more.
  m.values_changed();
  EXPECT_TRUE(equal_tensors(qat_logits_of(m), f32));
}

TEST_P(QatForms, CheckpointsChangeNoBit) {
  std::vector<Tensor> results;
  for (Checkpointing c : {Checkpointing::none, Checkpointing::cheap, Checkpointing::block}) {
    QatModel tiny;
    const auto parameters = prepare_qat(tiny.model(), form());
    train(tiny.model(), parameters, 2, c);
    results.push_back(qat_logits_of(tiny.model()));
  }
  EXPECT_TRUE(equal_tensors(results[0], results[1]));
  EXPECT_TRUE(equal_tensors(results[0], results[2]));
}

INSTANTIATE_TEST_SUITE_P(All, QatForms,
                         ::testing::Values(QatForm{2, 32, true, "learned", "none"},
                                           QatForm{4, 32, false, "learned", "none"},
                                           QatForm{4, 0, true, "min_max", "none"},
                                           QatForm{3, 48, false, "min_max", "none"},
                                           QatForm{8, 0, true, "learned", "token"},
                                           QatForm{4, 64, true, "learned", "tensor"}),
                         [](const auto& info) {
                           const QatForm& f = info.param;
                           return fmt::format("bits{}_group{}_{}_{}_{}", f.bits, f.group,
                                              f.symmetric ? "sym" : "asym", f.steps, f.activations);
                         });

TEST(Qat, EveryFamilyIsPrepared) {
  for (const auto& fixture : testing::distinct_fixtures()) {
    QatModel tiny(fixture.name);
    const auto parameters = prepare_qat(tiny.model(), options(4, 32, true, "learned", "tensor"));
    const Losses run = train(tiny.model(), parameters, 6);
    EXPECT_LT(run.last, run.first) << fixture.name;
    const Tensor before = qat_logits_of(tiny.model());
    convert_qat(tiny.model());
    EXPECT_TRUE(equal_tensors(qat_logits_of(tiny.model()), before)) << fixture.name;
  }
}

// The converted model in a file, loaded again.
TEST(Qat, ConvertedModelsAreExported) {
  QatModel tiny;
  const auto parameters = prepare_qat(tiny.model(), options(4, 32, true, "learned"));
  train(tiny.model(), parameters, 3);
  convert_qat(tiny.model());
  ExportOptions e;
  e.layout = "gptq";
  export_model(tiny.loaded(), tiny.file("out"), e);
  LoadedModel again = testing::load_editable(tiny.file("out"));
  for (size_t i = 0; i < tiny.model().linears().size(); ++i) {
    Linear &a = *tiny.model().linears()[i], &b = *again.model->linears()[i];
    if (&a == &tiny.model().head) continue;
    EXPECT_EQ(b.weight().encoding, "int_group") << b.name();
    EXPECT_TRUE(equal_tensors(decode_weight(a.weight()), decode_weight(b.weight()))) << a.name();
  }
}

// The gradients of the product that the layer does: of dW for the weight that is multiplied, what
// f32 weights of the same values would get.
TEST(Qat, GradientsAreThoseOfTheMultipliedWeight) {
  QatModel tiny, plain;
  const auto parameters = prepare_qat(tiny.model(), options(8, 0, true, "min_max"));
  // The other model has the quantised values as floats, and is trained plainly.
  for (size_t i = 0; i < plain.model().linears().size(); ++i) {
    Linear& l = *plain.model().linears()[i];
    if (&l != &plain.model().head)
      l.set_weight(float_weight(decode_weight(tiny.model().linears()[i]->weight())));
  }
  std::vector<Parameter> others;
  for (const NamedTensor& t : plain.model().train([](const auto&) { return true; }))
    others.push_back({t.name, t.value, true});
  auto backward = [](Model& m) {
    std::vector<int64_t> rows;
    Batch batch;
    batch.append(testing::tiny_ids(20, 3), nullptr);
    const auto targets = testing::tiny_ids(20, 4);
    Tape tape;
    CrossEntropy loss(targets);
    const LinearLoss l = m.loss(m.forward(batch), loss, 1, Activations::f32);
    tape.backward(l.root, Tensor::from(std::vector<float>{1}));
  };
  backward(tiny.model());
  backward(plain.model());
  ASSERT_EQ(parameters.size(), others.size());
  for (const Parameter& p : others) {
    const Tensor &a = named(parameters, p.name).value.gradient(), &b = p.value.gradient();
    ASSERT_EQ(a.numel(), b.numel()) << p.name;
    EXPECT_LT(relative_distance(a.data<float>(), b.data<float>(), a.numel()), 1e-5) << p.name;
  }
}

TEST(Qat, ActivationsHaveLearnedSteps) {
  QatModel tiny;
  Model& m = tiny.model();
  const auto parameters = prepare_qat(m, options(4, 32, true, "learned", "tensor"));
  const std::string module = m.linears()[0]->name();
  EXPECT_EQ(named(parameters, module + ".input_step").value.data<float>()[0], 0);
  qat_logits_of(m);
  const float first = named(parameters, module + ".input_step").value.data<float>()[0];
  EXPECT_GT(first, 0);
  train(m, parameters, 3);
  EXPECT_NE(named(parameters, module + ".input_step").value.data<float>()[0], first);
  convert_qat(m);
  const auto steps = activation_steps(m);
  ASSERT_EQ(steps.size() + 1, m.linears().size());
  EXPECT_EQ(steps[0].value.data<float>()[0],
            named(parameters, module + ".input_step").value.data<float>()[0]);
  const Tensor with = qat_logits_of(m);
  remove_activation_quantizers(m);
  EXPECT_TRUE(activation_steps(m).empty());
  const Tensor without = qat_logits_of(m);
  EXPECT_FALSE(equal_tensors(with, without));
  EXPECT_LT(relative_distance(with.data<float>(), without.data<float>(), with.numel()), 0.1);
}

TEST(Qat, DoesNotDependOnThreads) {
  std::vector<Tensor> results;
  for (int threads : {1, 0}) {
    set_threads(threads);
    QatModel tiny;
    const auto parameters = prepare_qat(tiny.model(), options(3, 32, false, "learned", "tensor"));
    train(tiny.model(), parameters, 3, Checkpointing::none, Activations::int8);
    results.push_back(qat_logits_of(tiny.model()));
  }
  EXPECT_TRUE(equal_tensors(results[0], results[1]));
}

TEST(Qat, RefusesWhatItCannotDo) {
  QatModel tiny;
  auto error_with = [&](const std::function<void(QatOptions&)>& change) {
    QatOptions o;
    change(o);
    return error_of([&] { prepare_qat(tiny.model(), o); });
  };
  EXPECT_EQ(error_with([](QatOptions& o) { o.bits = 1; }),
            "invalid_argument: bits 1: expected 2 to 8");
  EXPECT_EQ(error_with([](QatOptions& o) { o.group = -1; }),
            "invalid_argument: group -1: expected 0 (a row) or more");
  EXPECT_EQ(error_with([](QatOptions& o) { o.grid = "none"; }),
            "invalid_argument: grid 'none': expected one of learned, min_max");
  EXPECT_EQ(error_with([](QatOptions& o) { o.activations = "int8"; }),
            "invalid_argument: activation_codes 'int8': expected one of none, token, tensor");
  EXPECT_EQ(error_with([](QatOptions& o) { o.scale_type = "i8"; }),
            "invalid_argument: scale_type 'i8': expected f16, bf16 or f32");
  auto all = [](const std::string&) { return true; };
  EXPECT_EQ(error_of([&] { prepare_qat(tiny.model(), {}, all); }),
            "unsupported: lm_head: it is tied to the embedding, and cannot be quantised alone");
  auto none = [](const std::string&) { return false; };
  EXPECT_EQ(error_of([&] { prepare_qat(tiny.model(), {}, none); }),
            "invalid_argument: no layer is selected to be quantised");
}

TEST(Qat, TakesAHeadOfItsOwn) {
  QatModel tiny("llama_untied");
  Model& m = tiny.model();
  const auto parameters =
      prepare_qat(m, options(4, 32, true, "learned"), [](const std::string&) { return true; });
  train(m, parameters, 3);
  const Tensor before = qat_logits_of(m);
  convert_qat(m);
  EXPECT_EQ(m.head.weight().encoding, "int_group");
  EXPECT_TRUE(equal_tensors(qat_logits_of(m), before));
}

}  // namespace
}  // namespace hone
