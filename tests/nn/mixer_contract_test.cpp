// What every mixer of nn/registry.h promises, with small random parameters: any way of cutting
// sequences into batches gives the same bits, on any number of threads; its state has the shapes
// that it declares; and gradients flow to its input, its parameters and through carried states.
// That the numbers are the right ones is the part of the families' goldens.
#include <cmath>
#include <cstring>

#include "base/threads.h"
#include "nn/linearised_attention.h"
#include "nn/registry.h"
#include "ops/dense.h"
#include "ops/elementwise.h"
#include "ops/heads.h"
#include "ops/tape.h"
#include "testing.h"

namespace hone {
namespace {

using testing::random_tensor;

struct Case {
  const char* name;
  bool first;  ///< layer of the model
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name << (c.first ? "" : ", later"); }

MixerSpec small_spec(bool first) {
  MixerSpec s;
  s.width = 24;
  s.hidden = 40;
  s.heads = 4;
  s.qk_heads = 2;
  s.k_dim = s.v_dim = 6;
  s.eps = 1;  // differences of norms of next to nothing would say little
  s.filter = 4;
  s.mix_rank = s.decay_rank = s.rate_rank = s.value_rank = s.gate_rank = 5;
  s.filter_bias = s.bias = true;
  s.first = first;
  s.segment = 8;
  s.memory = 5;
  return s;
}

// Of softmax layers made linear, which no table names: the projections.
std::unique_ptr<Mixer> linearised() {
  const MixerSpec s = small_spec(false);
  auto m = std::make_unique<LinearisedAttention>();
  m->spec.heads = s.heads;
  m->spec.kv_heads = 2;
  m->spec.k_dim = m->spec.v_dim = s.k_dim;
  m->spec.scale = 0.4f;
  m->window = 4;
  m->features = 5;
  m->rope = Rope(s.k_dim, 100, {});
  uint32_t seed = 70;
  auto made = [&](const char* name, int64_t n, int64_t k) {
    const float scale = 1 / std::sqrt(static_cast<float>(k));
    return Linear(name, float_weight(random_tensor({n, k}, seed++, scale)), {});
  };
  m->q = made("q", s.heads * s.k_dim, s.width);
  m->k = made("k", 2 * s.k_dim, s.width);
  m->v = made("v", 2 * s.v_dim, s.width);
  m->o = made("o", s.width, s.heads * s.v_dim);
  return m;
}

std::unique_ptr<Mixer> random_mixer(const Case& c) {
  std::unique_ptr<Mixer> m = std::string_view(c.name) == "linearised"
                                 ? linearised()
                                 : make_mixer(c.name, small_spec(c.first));
  uint32_t seed = 1;
  for (const MixerParameter& p : m->parameters()) {
    if (p.linear != nullptr && !p.bias) {
      const float scale = 1 / std::sqrt(static_cast<float>(p.shape[1]));
      *p.linear = Linear(p.name, float_weight(random_tensor(p.shape, seed++, scale)), {});
      continue;
    }
    Tensor t = random_tensor(p.shape, seed++, 0.5f);
    if (p.bias) p.linear->set_bias(t);
    if (p.vector != nullptr) *p.vector = {p.name, t};
    if (p.norm == nullptr) continue;
    p.norm->name = p.name;
    p.norm->weight = t;
    if (p.norm->kind == Norm::Kind::layer) p.norm->bias = random_tensor(p.shape, seed++, 0.5f);
  }
  return m;
}

constexpr int64_t kTokens = 21;

class MixerContract : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    mixer_ = random_mixer(GetParam());
    x_ = random_tensor({kTokens, 24}, 99);
    first_value_ = random_tensor({kTokens, 24}, 98);
  }

  // Rows [begin, end) as the next tokens of a sequence, with what mix() needs of the others.
  Tensor run(const Tensor& x, int64_t begin, int64_t end, std::vector<RecurrentState>& states,
             KvSequence* cached) {
    Batch batch;
    if (cached != nullptr) cached->length = begin;
    batch.append(std::vector<int32_t>(static_cast<size_t>(end - begin), 3), cached, begin);
    return run(x.rows(begin, end), batch, states, first_value_.rows(begin, end));
  }
  Tensor run(const Tensor& x, const Batch& batch, std::vector<RecurrentState>& states,
             Tensor shared) {
    KvCache none({});
    states.resize(batch.spans.size());
    MixerState state{none, 0, states, shared};
    const LinearInput in(x);
    Mixed mixed = mixer_->mix(in, batch, state);
    Tensor y = mixer_->output().forward(LinearInput(mixed.x), Activations::f32);
    return mixed.combine ? mixed.combine(y) : y;
  }
  Tensor whole() {
    std::vector<RecurrentState> states;
    KvSequence sequence;
    return run(x_, 0, kTokens, states, &sequence);
  }
  static bool same(const Tensor& a, const Tensor& b) {
    return a.shape() == b.shape() &&
           std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.byte_size())) == 0;
  }

  std::unique_ptr<Mixer> mixer_;
  Tensor x_, first_value_;
};

TEST_P(MixerContract, PiecesGiveTheBitsOfTheWhole) {
  const Tensor expected = whole();
  for (bool cached : {true, false})
    for (int64_t step : {1, 2, 5, 20}) {
      std::vector<RecurrentState> states;
      KvSequence sequence;
      for (int64_t at = 0; at < kTokens; at += step) {
        const int64_t end = std::min(kTokens, at + step);
        const Tensor y = run(x_, at, end, states, cached ? &sequence : nullptr);
        ASSERT_TRUE(same(y, expected.rows(at, end))) << step << " at " << at;
      }
    }
}

TEST_P(MixerContract, ItsStateHasTheShapesThatItDeclares) {
  std::vector<RecurrentState> states;
  KvSequence sequence;
  for (int64_t at : {0, 7, 14}) {
    run(x_, at, at + 7, states, &sequence);
    ASSERT_EQ(states[0].size(), mixer_->state_shapes().size());
    for (size_t i = 0; i < states[0].size(); ++i)
      EXPECT_EQ(states[0][i].shape(), mixer_->state_shapes()[i]);
  }
}

TEST_P(MixerContract, NeighboursInABatchChangeNothing) {
  const Tensor expected = whole();
  const Tensor other = random_tensor({kTokens, 24}, 97);
  KvSequence a, b;
  std::vector<RecurrentState> states;
  Batch batch;
  batch.append(std::vector<int32_t>(5, 3), &a);
  batch.append(std::vector<int32_t>(16, 3), &b);
  Tensor both = other.clone(), shared = first_value_.clone();
  std::copy_n(x_.data<float>(), 16 * 24, both.mutable_data<float>() + 5 * 24);
  std::copy_n(first_value_.data<float>(), 16 * 24, shared.mutable_data<float>() + 5 * 24);
  const Tensor y = run(both, batch, states, shared);
  EXPECT_TRUE(same(y.rows(5, 21), expected.rows(0, 16)));
}

TEST_P(MixerContract, ThreadsChangeNothing) {
  const int before = thread_count();
  set_threads(1);
  const Tensor one = whole();
  set_threads(2);
  const Tensor three = whole();
  set_threads(before);
  EXPECT_TRUE(same(one, three));
}

TEST_P(MixerContract, EachLinearsInputIsWhatItMultiplies) {
  if (mixer_->shares_input()) return;
  Batch batch;
  batch.append(std::vector<int32_t>(kTokens, 3), nullptr);
  KvCache none({});
  std::vector<RecurrentState> states(1);
  MixerState state{none, 0, states, first_value_};
  // A linear that is not given its own input but another's shows in the result.
  const Tensor expected = whole();
  for (size_t i = 0; i < mixer_->inputs().size(); ++i) {
    const Tensor x = mixer_->input_of(i, x_, batch, state);
    ASSERT_EQ(x.shape(), x_.shape());
    for (size_t j = 0; j < i; ++j)
      EXPECT_FALSE(same(x, mixer_->input_of(j, x_, batch, state))) << i << " and " << j;
    EXPECT_TRUE(states[0].empty());
  }
  EXPECT_TRUE(same(whole(), expected));
}

double weighted_sum(const Tensor& y, const Tensor& c) {
  double sum = 0;
  for (int64_t i = 0; i < y.numel(); ++i)
    sum += double{y.data<float>()[i]} * double{c.data<float>()[i]};
  return sum;
}

TEST_P(MixerContract, GradientsAreDifferencesOfTwoForwards) {
  const Tensor c = random_tensor({kTokens, 24}, 96);
  std::vector<Tensor*> to = {&x_};
  for (const MixerParameter& p : mixer_->parameters()) {
    if (p.vector != nullptr) to.push_back(&p.vector->values);
    if (p.norm != nullptr) to.push_back(&p.norm->weight);
    if (p.linear != nullptr && !p.bias) to.push_back(&p.linear->train_weight());
  }
  for (Tensor* t : to)
    if (!t->requires_gradient()) t->require_gradient();
  auto value = [&] {
    for (const MixerParameter& p : mixer_->parameters())
      if (p.linear != nullptr) p.linear->repack();
    std::vector<RecurrentState> states;
    Batch batch;
    batch.append(std::vector<int32_t>(kTokens, 3), nullptr);
    return run(x_, batch, states, first_value_);
  };
  {
    Tape tape;
    const Tensor y = value();
    tape.backward(y, c);
  }
  for (size_t which = 0; which < to.size(); ++which) {
    Tensor& t = *to[which];
    ASSERT_FALSE(t.gradient().empty_handle()) << which;
    const Tensor direction = random_tensor({t.numel()}, 50 + static_cast<uint32_t>(which));
    const Tensor kept = t.clone();
    auto moved = [&](float step) {
      for (int64_t i = 0; i < t.numel(); ++i)
        t.mutable_data<float>()[i] = kept.data<float>()[i] + step * direction.data<float>()[i];
      return weighted_sum(value(), c);
    };
    const double numeric = (moved(1e-3f) - moved(-1e-3f)) / 2e-3;
    moved(0);
    const double analytic = weighted_sum(direction, t.gradient());
    EXPECT_NEAR(analytic, numeric, 2e-2 * std::max(1.0, std::fabs(numeric))) << which;
  }
}

// Truncated backpropagation: a carried state hands gradients on, a cut one does not.
TEST_P(MixerContract, GradientsFlowThroughACarriedStateUnlessItIsCut) {
  const Tensor c = random_tensor({kTokens, 24}, 95);
  auto rows = [](const Tensor& t, int64_t begin, int64_t end) {
    std::vector<int64_t> ids;
    for (int64_t i = begin; i < end; ++i) ids.push_back(i);
    return ops::gather_rows(t, ids);
  };
  auto gradient = [&](int mode) {
    Tensor x = x_.clone();
    x.require_gradient();
    Tape tape;
    std::vector<RecurrentState> states;
    auto part = [&](int64_t begin, int64_t end) {
      Batch batch;
      batch.append(std::vector<int32_t>(static_cast<size_t>(end - begin), 3), nullptr, begin);
      return run(rows(x, begin, end), batch, states, first_value_.rows(begin, end));
    };
    Tensor y;
    if (mode == 0) {
      y = rows(part(0, kTokens), 9, kTokens);
    } else {
      part(0, 9);
      if (mode == 2) cut_states(states);
      y = part(9, kTokens);
    }
    tape.backward(y, c.rows(9, kTokens));
    return x.gradient().clone();
  };
  const Tensor whole = gradient(0), carried = gradient(1), cut = gradient(2);
  EXPECT_LT(testing::relative_distance(carried.data<float>(), whole.data<float>(), whole.numel()),
            1e-5);
  double before = 0, of_carried = 0;
  for (int64_t i = 0; i < 9 * 24; ++i) {
    before += std::fabs(cut.data<float>()[i]);
    of_carried += std::fabs(carried.data<float>()[i]);
  }
  EXPECT_EQ(before, 0);
  EXPECT_GT(of_carried, 1e-3);
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const MixerKind& k : mixer_kinds())
    for (bool first : {true, false}) all.push_back({k.name, first});
  all.push_back({"linearised", false});
  return all;
}

INSTANTIATE_TEST_SUITE_P(Registry, MixerContract, ::testing::ValuesIn(cases()),
                         [](const auto& info) {
                           return std::string(info.param.name) + (info.param.first ? "" : "_later");
                         });

}  // namespace
}  // namespace hone
