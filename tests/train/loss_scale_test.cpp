#include "train/loss_scale.h"

#include <cmath>

#include "train/train_testing.h"

namespace hone {
namespace {

using testing::error_of;

// The whole trace, and the same when it goes on from a checkpoint at any step.
TEST(LossScaleTest, TraceEqualsGradScaler) {
  testing::OptimizerGolden golden;
  for (const char* trace : {"scaler", "scaler.top"}) {
    auto get = [&](const char* what) { return golden.file.tensor(trace + std::string(what)); };
    Tensor found = get(".found"), scale = get(".scale"), tracker = get(".tracker");
    Tensor inverse = get(".inverse");
    LossScaleOptions o;
    o.interval = 5;
    if (std::string(trace) == "scaler.top") o.initial = 0x1p126;
    LossScale scaler(o);
    for (int64_t i = 0; i < found.numel(); ++i) {
      const bool finite = found.data<uint8_t>()[i] == 0;
      if (finite) {
        EXPECT_EQ(scaler.unscale_factor(), inverse.data<float>()[i]) << i;
      }
      EXPECT_EQ(scaler.update(finite), finite);
      EXPECT_EQ(scaler.scale(), scale.data<float>()[i]) << trace << " " << i;
      EXPECT_EQ(scaler.state().good_steps, tracker.data<int32_t>()[i]) << trace << " " << i;
      LossScale resumed(o);
      resumed.load_state(scaler.state());
      scaler = resumed;
    }
  }
}

TEST(LossScaleTest, DefaultsAreGradScalers) {
  LossScale scaler({});
  EXPECT_EQ(scaler.scale(), 65536);
  for (int i = 0; i < 1999; ++i) scaler.update(true);
  EXPECT_EQ(scaler.scale(), 65536);
  scaler.update(true);
  EXPECT_EQ(scaler.scale(), 131072);
  EXPECT_FALSE(scaler.update(false));
  EXPECT_EQ(scaler.scale(), 65536);
}

TEST(LossScaleTest, RefusesWhatCannotBe) {
  auto make = [](const nlohmann::json& o) {
    return error_of([&] { LossScale(testing::options_from<LossScaleOptions>(o)); });
  };
  EXPECT_EQ(make({{"loss_scale", 0.0}}),
            "invalid_argument: loss_scale 0: expected a positive number");
  EXPECT_EQ(make({{"loss_scale", 1e300}}),
            "invalid_argument: loss_scale 1e+300: expected a positive number");
  EXPECT_EQ(make({{"loss_scale_growth", 1.0}}),
            "invalid_argument: loss_scale_growth 1: expected more than 1");
  EXPECT_EQ(make({{"loss_scale_backoff", 1.0}}),
            "invalid_argument: loss_scale_backoff 1: expected more than 0 and less than 1");
  EXPECT_EQ(make({{"loss_scale_interval", 0}}),
            "invalid_argument: loss_scale_interval 0: expected 1 or more");
  LossScale scaler({});
  EXPECT_EQ(error_of([&] { scaler.load_state({NAN, 0}); }).substr(0, 8), "corrupt:");
  EXPECT_EQ(error_of([&] { scaler.load_state({1, -1}); }).substr(0, 8), "corrupt:");
}

}  // namespace
}  // namespace hone
