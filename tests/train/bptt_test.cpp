// Segments with carried states: as one group they are the whole row; truncated, gradients are those
// of a computation that was cut by hand, and memory is that of one group.
#include "train/bptt.h"

#include <map>

#include "ops/elementwise.h"
#include "ops/tape.h"
#include "tensor/storage.h"
#include "tiny_models.h"
#include "train/trainer.h"

namespace hone {
namespace {

using namespace testing;

using Gradients = std::map<std::string, Tensor>;

class CarriedSegments : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    write_tiny(scratch_ / "model", tiny_fixture(GetParam()));
    loaded_ = load_editable(scratch_ / "model");
    parameters_ = model().train([](const std::string&) { return true; });
  }
  Model& model() { return *loaded_.model; }
  int64_t segment() const { return loaded_.config.segment; }

  // Two sequences of so many segments, the second a little shorter; targets from `first` on.
  TrainingBatch batch(int64_t segments, int64_t first = 0) const {
    TrainingBatch b;
    const int64_t n = segments * segment();
    const std::vector<int32_t> ids = tiny_ids(2 * n, 5);
    b.spans = {{0, n}, {n, 2 * n - 2}};
    b.row_spans = {0, 1, 2};
    for (const TrainingBatch::Span& s : b.spans)
      for (int64_t t = s.begin; t < s.end; ++t) {
        b.tokens.push_back(ids[size_t(t)]);
        b.targets.push_back(t - s.begin >= first ? ids[size_t(t + 1)] : -1);
        b.target_count += b.targets.back() >= 0;
      }
    return b;
  }
  double loss_of(const Tensor& hidden, std::span<const int32_t> targets) {
    CrossEntropy loss(targets);
    const LinearLoss l = model().loss(hidden, loss, 1, Activations::f32);
    if (Tape* tape = Tape::current(); tape != nullptr && l.root.requires_gradient())
      tape->backward(l.root, Tensor::from(std::vector<float>{1}));
    return l.sum;
  }
  // The gradients of what `run` computes under a tape.
  Gradients gradients(const std::function<void()>& run) {
    for (NamedTensor& p : parameters_) p.value.gradient_node()->sum = {};
    {
      Tape tape;
      run();
    }
    Gradients all;
    for (const NamedTensor& p : parameters_)
      if (!p.value.gradient().empty_handle()) all[p.name] = p.value.gradient().clone();
    return all;
  }
  double segments(const TrainingBatch& b, int64_t bptt) {
    return run_segments(model(), model_batch(model(), b), segment(), bptt,
                        [&](const Tensor& hidden, std::span<const int64_t>,
                            std::span<const int32_t> targets) { return loss_of(hidden, targets); });
  }
  static double distance(const Gradients& a, const Gradients& b) {
    double most = 0;
    EXPECT_EQ(a.size(), b.size());
    for (const auto& [name, t] : a) {
      if (!b.contains(name)) continue;
      most =
          std::max(most, relative_distance(t.data<float>(), b.at(name).data<float>(), t.numel()));
    }
    return most;
  }

  TemporaryDirectory scratch_;
  LoadedModel loaded_;
  std::vector<NamedTensor> parameters_;
};

TEST_P(CarriedSegments, AsOneGroupAreTheWholeRow) {
  const TrainingBatch b = batch(4);
  const ModelBatch in = model_batch(model(), b);
  double whole_loss = 0, loss = 0;
  const Gradients whole = gradients([&] {
    whole_loss = loss_of(ops::gather_rows(model().forward(in.batch), in.rows), in.targets);
  });
  const Gradients carried = gradients([&] { loss = segments(b, 0); });
  EXPECT_NEAR(loss, whole_loss, 1e-4 * whole_loss);
  EXPECT_LT(distance(carried, whole), 1e-4);
  EXPECT_NEAR(segments(b, 0), whole_loss, 1e-4 * whole_loss) << "without a tape";
}

// By hand: each group alone on a tape of its own, from states that the one before has left, cut.
TEST_P(CarriedSegments, TruncatedHaveTheGradientsOfACutComputation) {
  const TrainingBatch b = batch(4);
  const ModelBatch in = model_batch(model(), b);
  const int64_t s = segment(), n = 4 * s;
  std::vector<std::vector<RecurrentState>> states(2);
  const Gradients by_hand = gradients([&] {
    for (int64_t first = 0; first < n; first += 2 * s) {
      Tape tape;
      Batch part;
      std::vector<int32_t> targets;
      for (int i = 0; i < 2; ++i) {
        const int64_t begin = i * n + first, end = std::min(begin + 2 * s, i == 0 ? n : 2 * n - 2);
        part.append(std::span(b.tokens).subspan(size_t(begin), size_t(end - begin)), nullptr);
        part.spans.back().recurrent = &states[size_t(i)];
        targets.insert(targets.end(), b.targets.begin() + begin, b.targets.begin() + end);
      }
      loss_of(model().forward(part), targets);
      for (auto& state : states)
        for (RecurrentState& of_layer : state)
          for (Tensor& t : of_layer)
            if (!t.empty_handle()) t = t.clone();
    }
  });
  const Gradients truncated = gradients([&] { segments(b, 2); });
  EXPECT_LT(distance(truncated, by_hand), 1e-4);
  const Gradients all = gradients([&] { segments(b, 0); });
  EXPECT_GT(distance(truncated, all), 1e-3) << "nothing was cut";
}

TEST_P(CarriedSegments, TruncatedTakeTheMemoryOfOneGroup) {
  auto peak = [&](int64_t count, int64_t bptt) {
    const TrainingBatch b = batch(count);
    gradients([&] { segments(b, bptt); });
    const int64_t before = storage_bytes();
    reset_storage_peak();
    gradients([&] { segments(b, bptt); });
    return storage_peak() - before;
  };
  const int64_t few = peak(4, 2), many = peak(24, 2), all = peak(24, 0);
  EXPECT_LT(many, few + few / 20);
  EXPECT_GT(all, 4 * few);
}

// What nothing is learned from leaves its states and no gradients.
TEST_P(CarriedSegments, GroupsWithoutTargetsAreOnlyRun) {
  const TrainingBatch b = batch(3, 2 * segment());
  const ModelBatch in = model_batch(model(), b);
  double whole = 0;
  gradients(
      [&] { whole = loss_of(ops::gather_rows(model().forward(in.batch), in.rows), in.targets); });
  double loss = 0;
  const Gradients g = gradients([&] { loss = segments(b, 1); });
  EXPECT_NEAR(loss, whole, 1e-4 * whole);
  EXPECT_FALSE(g.empty());
}

class SegmentsOfSoftmax : public CarriedSegments {};
INSTANTIATE_TEST_SUITE_P(Models, SegmentsOfSoftmax, ::testing::Values("llama", "qwen3_5"),
                         [](const auto& info) { return std::string(info.param); });
TEST_P(SegmentsOfSoftmax, AreRefused) {
  loaded_.config.segment = 8;
  const TrainingBatch b = batch(3);
  EXPECT_THROW(segments(b, 1), Error);
}

INSTANTIATE_TEST_SUITE_P(Models, CarriedSegments,
                         ::testing::Values("transformer_xl", "recurrent_memory", "infini"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace hone
