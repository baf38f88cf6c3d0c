// What a training will take against what its tensors took.
#include "train/memory_plan.h"

#include "tensor/storage.h"
#include "tiny_models.h"

namespace hone {
namespace {

using namespace testing;

class Plan : public ::testing::TestWithParam<Checkpointing> {};

TEST_P(Plan, IsWhatStepsTake) {
  TemporaryDirectory scratch;
  TinyFixture fixture = tiny_fixtures()[0];
  write_tiny(scratch / "model", fixture);
  LoadOptions load;
  load.inference = false;
  LoadedModel m = load_model(scratch / "model", load);
  std::vector<Parameter> parameters;
  for (NamedTensor& t : m.model->train([](const std::string&) { return true; }))
    parameters.push_back({t.name, t.value, true});
  TrainerOptions options;
  options.checkpointing = GetParam();
  options.schedule.schedule = "constant";
  Trainer trainer(*m.model, parameters, options, [&] { m.model->values_changed(); });
  Objective objective;
  const size_t blocks = m.model->blocks.size();
  const MemoryPlan plan = plan_memory(*m.model, trainer, objective, 8, 64);
  EXPECT_EQ(m.model->blocks.size(), blocks);
  TrainingBatch b;
  for (int64_t r = 0; r < 8; ++r) b.spans.push_back({r * 64, (r + 1) * 64});
  for (int32_t t = 0; t < 512; ++t) {
    b.tokens.push_back(t % 90);
    b.targets.push_back((t + 1) % 90);
  }
  b.target_count = 512;
  trainer.step({&b, 1}, objective);
  reset_storage_peak();
  trainer.step({&b, 1}, objective);
  const auto used = static_cast<double>(storage_peak());
  const auto planned = static_cast<double>(plan.weights + plan.step + plan.optimizer);
  EXPECT_GT(planned, 0.9 * used);
  EXPECT_LT(planned, 1.1 * used);
  // What the whole process holds depends on the tests that it ran before this one.
  EXPECT_GT(plan.rest, 0);
}
INSTANTIATE_TEST_SUITE_P(All, Plan,
                         ::testing::Values(Checkpointing::none, Checkpointing::cheap,
                                           Checkpointing::block, Checkpointing::root));

}  // namespace
}  // namespace hone
