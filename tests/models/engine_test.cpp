// Engine: each request's bits are those it gets alone, however requests come and go; what a step
// holds; what is refused.
#include "models/engine.h"

#include <map>

#include "tiny_models.h"

namespace hone {
namespace {

using namespace testing;

bool equal_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() &&
         std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.byte_size())) == 0;
}

class EngineTest : public ::testing::TestWithParam<TinyFixture> {
 protected:
  EngineTest() {
    write_tiny(scratch_ / "model", GetParam());
    m_ = load_model(scratch_ / "model");
  }
  Engine engine(int64_t step_tokens, KvType kv = KvType::f32) {
    return Engine(*m_.model, {Activations::f32, kv, step_tokens});
  }
  Session session(KvType kv = KvType::f32) { return Session(*m_.model, Activations::f32, kv); }

  TemporaryDirectory scratch_;
  LoadedModel m_;
};

// Three requests that begin at different steps, prompts in chunks beside the others' decodes.
TEST_P(EngineTest, EachRequestGetsTheBitsThatItGetsAlone) {
  for (KvType kv : {KvType::f32, KvType::int8}) {
    Engine e = engine(23, kv);
    std::vector<Session> alone;
    std::map<Engine::Id, size_t> index;
    std::map<Engine::Id, std::vector<int32_t>> given;
    std::vector<int> turns(3);
    auto begin = [&](uint32_t i, int64_t length) {
      const std::vector<int32_t> prompt = tiny_ids(length, i + 1);
      const Engine::Id id = e.add(prompt);
      alone.push_back(session(kv));
      index[id] = i;
      given[id] = prompt;
    };
    begin(0, 5);
    begin(1, 70);
    for (int step = 0; step < 14; ++step) {
      if (step == 2) begin(2, 40);
      for (const Engine::Output& out : e.step()) {
        const size_t i = index[out.id];
        ASSERT_TRUE(equal_bits(out.logits, alone[i].append(given[out.id])))
            << "request " << i << " at step " << step;
        EXPECT_EQ(e.length(out.id), alone[i].length());
        // Now and then several at once: the next turn of a dialogue.
        const int64_t more = ++turns[i] == 3 ? 30 : 1;
        given[out.id] = tiny_ids(more, static_cast<uint32_t>(10 * step) + uint32_t(i));
        e.append(out.id, given[out.id]);
      }
    }
    for (int n : turns) EXPECT_GE(n, 4);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, EngineTest, ::testing::ValuesIn(tiny_fixtures()),
                         [](const auto& p) { return p.param.name; });

class EngineStepTest : public EngineTest {};
INSTANTIATE_TEST_SUITE_P(Llama, EngineStepTest, ::testing::Values(tiny_fixture("llama_untied")),
                         [](const auto& p) { return p.param.name; });

TEST_P(EngineStepTest, DecodesComeFirstAndPromptsFillTheStep) {
  Engine e = engine(8);
  EXPECT_FALSE(e.waits());
  EXPECT_TRUE(e.step().empty());
  const Engine::Id a = e.add(tiny_ids(3, 1));
  EXPECT_EQ(e.step().size(), 1u);
  EXPECT_EQ(e.last_step().prefill_tokens, 3);
  EXPECT_FALSE(e.waits());
  const Engine::Id b = e.add(tiny_ids(20, 2)), c = e.add(tiny_ids(4, 3));
  // The prompt of 20 takes three steps beside a's decodes; what its last chunk leaves is c's.
  for (int64_t chunk : {7, 7, 7}) {
    e.append(a, tiny_ids(1, 4));
    const std::vector<Engine::Output> out = e.step();
    EXPECT_EQ(e.last_step().decodes, 1);
    EXPECT_EQ(e.last_step().prefill_tokens, chunk);
    ASSERT_FALSE(out.empty());
    EXPECT_EQ(out[0].id, a);
    EXPECT_EQ(out.size(), e.length(b) == 20 ? 2u : 1u);
  }
  EXPECT_EQ(e.length(b), 20);
  EXPECT_EQ(e.length(c), 1);
  EXPECT_EQ(e.step()[0].id, c);
}

// More decodes than a step has room for take turns.
TEST_P(EngineStepTest, NoDecodeWaitsForEver) {
  Engine e = engine(2);
  std::vector<Engine::Id> ids;
  for (uint32_t i = 0; i < 5; ++i) ids.push_back(e.add(tiny_ids(2, i)));
  while (e.waits()) e.step();
  std::map<Engine::Id, int> served;
  for (Engine::Id id : ids) e.append(id, tiny_ids(1, 9));
  for (int step = 0; step < 5; ++step)
    for (const Engine::Output& out : e.step()) {
      ++served[out.id];
      e.append(out.id, tiny_ids(1, 9));
    }
  for (Engine::Id id : ids) EXPECT_EQ(served[id], 2) << id;
}

// Nor a prompt, where decodes would fill every step.
TEST_P(EngineStepTest, NoPromptWaitsForEver) {
  Engine e = engine(1);
  const Engine::Id a = e.add(tiny_ids(1, 1));
  ASSERT_EQ(e.step().size(), 1u);
  e.append(a, tiny_ids(1, 2));
  const Engine::Id b = e.add(tiny_ids(3, 3));
  std::map<Engine::Id, int> served;
  for (int step = 0; step < 8; ++step)
    for (const Engine::Output& out : e.step()) {
      ++served[out.id];
      if (out.id == a) e.append(a, tiny_ids(1, 9));
    }
  EXPECT_GE(served[a], 3);
  EXPECT_EQ(served[b], 1);
}

TEST_P(EngineStepTest, RefusesWhatItCannotRunAndChangesNothing) {
  Engine e = engine(16);
  EXPECT_THROW(engine(0), Error);
  EXPECT_THROW(e.add({}), Error);
  EXPECT_THROW(e.add(std::vector<int32_t>{5, 272}), Error);
  EXPECT_THROW(e.add(std::vector<int32_t>{-1}), Error);
  EXPECT_THROW(e.add(tiny_ids(m_.model->context + 1, 1)), Error);
  EXPECT_FALSE(e.waits());
  const std::vector<int32_t> prompt = tiny_ids(5, 1), next = tiny_ids(1, 2);
  const Engine::Id a = e.add(prompt);
  EXPECT_THROW(e.append(a, tiny_ids(m_.model->context - 4, 1)), Error);
  EXPECT_THROW(e.append(a, {}), Error);
  EXPECT_THROW(e.append(a + 1, next), Error);
  EXPECT_THROW(e.end(a + 1), Error);
  EXPECT_THROW(e.length(a + 1), Error);
  Session alone = session();
  EXPECT_TRUE(equal_bits(e.step()[0].logits, alone.append(prompt)));
  e.end(a);
  EXPECT_THROW(e.append(a, next), Error);
  Session fresh = session();
  const Engine::Id b = e.add(prompt);
  EXPECT_NE(a, b);
  EXPECT_TRUE(equal_bits(e.step()[0].logits, fresh.append(prompt))) << "in pages of another";
}

}  // namespace
}  // namespace hone
