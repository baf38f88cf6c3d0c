#include "train/schedule.h"

#include "train/train_testing.h"

namespace hone {
namespace {

using testing::error_of;
using testing::options_from;

TEST(ScheduleTest, FactorsEqualTransformers) {
  testing::OptimizerGolden golden;
  int cases = 0;
  for (const auto& [name, options] : golden.options.items()) {
    if (!name.starts_with("schedule.")) continue;
    Schedule schedule(options_from<ScheduleOptions>(options), golden.schedule_steps);
    Tensor expected = golden.file.tensor(name);
    for (int64_t i = 0; i < expected.numel(); ++i)
      ASSERT_NEAR(schedule.factor(i), expected.data<double>()[i], 1e-15) << name << " " << i;
    ++cases;
  }
  EXPECT_EQ(cases, 11);
}

TEST(ScheduleTest, StaysBehindTheLastStep) {
  for (const char* name : {"constant", "linear", "cosine", "wsd"}) {
    ScheduleOptions o;
    o.schedule = name;
    o.warmup_steps = 3;
    if (o.schedule == "wsd") o.decay_steps = 4;
    Schedule s(o, 20);
    for (int64_t i : {21, 30, 1000}) EXPECT_EQ(s.factor(i), s.factor(20)) << name;
    EXPECT_NEAR(s.factor(20), o.schedule == "constant" ? 1 : 0, 1e-15);
  }
  ScheduleOptions o;
  o.warmup_steps = 5;
  EXPECT_EQ(Schedule(o, 0).factor(0), 0);
  EXPECT_EQ(Schedule(ScheduleOptions(), 0).factor(0), 1);
}

TEST(ScheduleTest, RefusesWhatCannotBe) {
  auto make = [](const nlohmann::json& o, int64_t steps = 10) {
    return error_of([&] { Schedule(options_from<ScheduleOptions>(o), steps); });
  };
  const std::string bad = "invalid_argument: ";
  EXPECT_EQ(make({{"schedule", "step"}}),
            bad + "schedule step: expected one of constant, linear, cosine, inverse_sqrt, wsd");
  EXPECT_EQ(make({{"warmup_steps", -1}}), bad + "warmup_steps -1: expected 0 or more");
  EXPECT_EQ(make({}, -1), bad + "steps -1: expected 0 or more");
  EXPECT_EQ(make({{"schedule", "cosine"}, {"min_ratio", 1.5}}),
            bad + "min_ratio 1.5: expected 0 to 1");
  EXPECT_EQ(make({{"min_ratio", 0.1}}),
            bad + "schedule linear: min_ratio belongs to cosine and wsd");
  EXPECT_EQ(make({{"decay", "linear"}}),
            bad + "schedule linear: decay_steps and decay belong to wsd");
  EXPECT_EQ(make({{"schedule", "wsd"}, {"decay", "steps"}}),
            bad + "decay steps: expected one of linear, cosine, 1-sqrt");
  EXPECT_EQ(make({{"schedule", "wsd"}, {"warmup_steps", 5}, {"decay_steps", 6}}),
            bad + "decay_steps 6: expected 0 to what 10 steps leave behind a warm-up of 5");
}

}  // namespace
}  // namespace hone
