// Gradients through every family: the slope of a loss along random directions of all parameters
// against the difference of two forwards.
#include "models/session.h"
#include "ops/tape.h"
#include "tiny_models.h"

namespace hone {
namespace {

using namespace testing;

Batch batch_of(const std::vector<std::vector<int32_t>>& sequences) {
  Batch batch;
  for (const auto& ids : sequences) batch.append(ids, nullptr);
  return batch;
}

// Logits of a batch without a cache.
Tensor logits_of(Model& m, const Batch& batch) {
  return m.logits(m.forward(batch), Activations::f32);
}

double dot(const Tensor& a, const Tensor& b) {
  double sum = 0;
  for (int64_t i = 0; i < a.numel(); ++i)
    sum += double{a.data<float>()[i]} * double{b.data<float>()[i]};
  return sum;
}

std::vector<NamedTensor> train_all(Model& m) {
  return m.train([](const std::string&) { return true; });
}

class Gradients : public ::testing::TestWithParam<TinyFixture> {};

TEST_P(Gradients, SlopesAlongRandomDirectionsAreThoseOfDifferences) {
  TemporaryDirectory scratch;
  write_tiny(scratch / "model", GetParam());
  LoadOptions options;
  options.inference = false;
  LoadedModel loaded = load_model(scratch / "model", options);
  Model& m = *loaded.model;
  std::vector<NamedTensor> parameters = train_all(m);
  const Batch batch = batch_of({tiny_ids(23, 1), tiny_ids(9, 2)});
  const Tensor seed = random_tensor({32, m.vocabulary()}, 5, 0.01f);
  {
    Tape tape;
    Tensor y = logits_of(m, batch);
    tape.backward(y, seed.clone());
  }
  for (uint32_t which : {11u, 12u}) {
    std::vector<Tensor> directions;
    double slope = 0;
    for (const auto& [name, p] : parameters) {
      directions.push_back(random_tensor(p.shape(), which + uint32_t(directions.size())));
      ASSERT_FALSE(p.gradient().empty_handle()) << name << " got no gradient";
      slope += dot(p.gradient(), directions.back());
    }
    auto loss_at = [&](float step) {
      for (size_t i = 0; i < parameters.size(); ++i)
        for (int64_t j = 0; j < directions[i].numel(); ++j)
          parameters[i].value.mutable_data<float>()[j] += step * directions[i].data<float>()[j];
      m.values_changed();
      return dot(logits_of(m, batch), seed);
    };
    // A longer step takes more of ReLU's inputs across 0, and more tokens to other experts: there
    // the slope jumps.
    const ModelConfig c = tiny_config(GetParam());
    const bool jumps = c.activation == Mlp::Activation::relu || c.experts > 0;
    const float step = jumps ? 1e-5f : 1e-4f;
    double up = loss_at(step), down = loss_at(-2 * step);
    loss_at(step);
    EXPECT_NEAR((up - down) / (2 * step), slope, 0.005 * std::fabs(slope) + 0.005) << which;
  }
}

// What is computed again has the same bits, and so have its gradients.
TEST_P(Gradients, CheckpointingChangesNoBit) {
  TemporaryDirectory scratch;
  write_tiny(scratch / "model", GetParam());
  LoadOptions options;
  options.inference = false;
  LoadedModel loaded = load_model(scratch / "model", options);
  Model& m = *loaded.model;
  Batch batch = batch_of({tiny_ids(23, 1), tiny_ids(9, 2)});
  const Tensor seed = random_tensor({32, m.vocabulary()}, 5, 0.01f);
  std::vector<Tensor> expected;
  size_t kept = 0;
  for (Checkpointing c :
       {Checkpointing::none, Checkpointing::cheap, Checkpointing::block, Checkpointing::root}) {
    std::vector<NamedTensor> parameters = train_all(m);
    batch.checkpointing = c;
    Tape tape;
    Tensor y = logits_of(m, batch);
    if (c == Checkpointing::none) kept = tape.size();
    if (c >= Checkpointing::block) {
      EXPECT_LT(tape.size(), kept / 3);
    }
    tape.backward(y, seed.clone());
    for (size_t i = 0; i < parameters.size(); ++i) {
      const Tensor& g = parameters[i].value.gradient();
      if (c == Checkpointing::none) expected.push_back(g);
      ASSERT_EQ(0, std::memcmp(g.raw(), expected[i].raw(), size_t(g.byte_size())))
          << parameters[i].name;
    }
  }
}

// Below the lowest parameter nothing flows, checkpoints or not (peft#137: frozen embeddings in
// front of a checkpoint must not stop the gradients of what lies inside).
TEST_P(Gradients, ReachParametersBehindFrozenEmbeddings) {
  TemporaryDirectory scratch;
  write_tiny(scratch / "model", GetParam());
  LoadOptions options;
  options.inference = false;
  LoadedModel loaded = load_model(scratch / "model", options);
  Model& m = *loaded.model;
  const std::string only = m.blocks[1].mixer->output().name() + ".weight";
  for (Checkpointing c : {Checkpointing::none, Checkpointing::block, Checkpointing::root}) {
    std::vector<NamedTensor> trained = m.train([&](const std::string& n) { return n == only; });
    ASSERT_EQ(trained.size(), 1u);
    Batch batch = batch_of({tiny_ids(23, 1)});
    batch.checkpointing = c;
    Tape tape;
    Tensor y = logits_of(m, batch);
    tape.backward(y, random_tensor({23, m.vocabulary()}, 5, 0.01f));
    ASSERT_FALSE(trained[0].value.gradient().empty_handle());
  }
}

// Without a cache a batch gives what a session gives.
TEST_P(Gradients, ForwardWithoutACacheEqualsTheSession) {
  TemporaryDirectory scratch;
  write_tiny(scratch / "model", GetParam());
  LoadedModel m = load_model(scratch / "model");
  const std::vector<int32_t> a = tiny_ids(70, 1), b = tiny_ids(9, 2);
  Tensor both = logits_of(*m.model, batch_of({a, b}));
  Session first(*m.model, Activations::f32), second(*m.model, Activations::f32);
  Tensor x = first.logits(first.hidden(a)), y = second.logits(second.hidden(b));
  EXPECT_EQ(0, std::memcmp(both.raw(), x.raw(), static_cast<size_t>(x.byte_size())));
  EXPECT_EQ(0, std::memcmp(both.rows(70, 79).raw(), y.raw(), static_cast<size_t>(y.byte_size())));
}

INSTANTIATE_TEST_SUITE_P(AllFamilies, Gradients, ::testing::ValuesIn(tiny_fixtures()),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace hone
