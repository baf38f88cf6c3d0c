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

// Hidden states of a batch without a cache, and their logits.
Tensor logits_of(Model& m, const Batch& batch) {
  KvCache none({});
  return m.logits(m.forward(batch, none), Activations::f32);
}

double dot(const Tensor& a, const Tensor& b) {
  double sum = 0;
  for (int64_t i = 0; i < a.numel(); ++i)
    sum += double{a.data<float>()[i]} * double{b.data<float>()[i]};
  return sum;
}

// Every parameter as a tensor that requires a gradient.
std::vector<Tensor*> train_all(Model& m) {
  std::vector<Tensor*> all{&m.embedding.train()};
  auto norm = [&](Norm& n) {
    for (Tensor* t : {&n.weight, &n.bias})
      if (!t->empty_handle()) {
        t->require_gradient();
        all.push_back(t);
      }
  };
  if (!m.position_table.empty_handle()) {
    m.position_table.require_gradient();
    all.push_back(&m.position_table);
  }
  for (Block& b : m.blocks) {
    for (Norm* n : {&b.mixer_norm, &b.post_mixer_norm, &b.mlp_norm, &b.post_mlp_norm}) norm(*n);
    auto& a = dynamic_cast<SoftmaxAttention&>(*b.mixer);
    norm(a.q_norm);
    norm(a.k_norm);
  }
  norm(m.final_norm);
  for (Linear* l : m.linears()) {
    all.push_back(&l->train_weight());
    if (!l->bias().empty_handle()) all.push_back(&l->train_bias());
  }
  return all;
}

class Gradients : public ::testing::TestWithParam<TinyFixture> {};

TEST_P(Gradients, SlopesAlongRandomDirectionsAreThoseOfDifferences) {
  TemporaryDirectory scratch;
  write_tiny(scratch / "model", GetParam());
  LoadOptions options;
  options.inference = false;
  LoadedModel loaded = load_model(scratch / "model", options);
  Model& m = *loaded.model;
  std::vector<Tensor*> parameters = train_all(m);
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
    for (Tensor* p : parameters) {
      directions.push_back(random_tensor(p->shape(), which + uint32_t(directions.size())));
      ASSERT_FALSE(p->gradient().empty_handle()) << "a parameter got no gradient";
      slope += dot(p->gradient(), directions.back());
    }
    auto loss_at = [&](float step) {
      for (size_t i = 0; i < parameters.size(); ++i)
        for (int64_t j = 0; j < parameters[i]->numel(); ++j)
          parameters[i]->mutable_data<float>()[j] += step * directions[i].data<float>()[j];
      for (Linear* l : m.linears()) l->unpack();
      return dot(logits_of(m, batch), seed);
    };
    const float step = 1e-4f;
    double up = loss_at(step), down = loss_at(-2 * step);
    loss_at(step);
    EXPECT_NEAR((up - down) / (2 * step), slope, 0.005 * std::fabs(slope) + 0.005) << which;
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
