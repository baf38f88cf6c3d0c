// New models: every family's, as its config says, and the same for the same seed.
#include "models/initial.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/files.h"
#include "models/session.h"
#include "tiny_models.h"

namespace hone {
namespace {

using namespace testing;

class Initial : public ::testing::TestWithParam<TinyFixture> {};

TEST_P(Initial, LoadsAndGuessesAllTokensAlike) {
  TemporaryDirectory scratch;
  write_tiny(scratch / "tiny", GetParam());
  Json config = parse_json(read_text_file(scratch / "tiny/config.json"), "config.json");
  config["initializer_range"] = 0.02;
  const auto tokenizer = source_file("models/hone-austen-3m");
  config["vocab_size"] = 2048;
  if (!tiny_config(GetParam()).mixer.empty() && !family_named(GetParam().family).plain_mixers) {
    EXPECT_THROW(write_initial_model(scratch / "a", config, tokenizer, 7), Error);
    EXPECT_FALSE(fs::exists(scratch / "a"));
    return;
  }
  write_initial_model(scratch / "a", config, tokenizer, 7);
  write_initial_model(scratch / "b", config, tokenizer, 7);
  write_initial_model(scratch / "c", config, tokenizer, 8);
  EXPECT_EQ(read_text_file(scratch / "a/model.safetensors"),
            read_text_file(scratch / "b/model.safetensors"));
  EXPECT_NE(read_text_file(scratch / "a/model.safetensors"),
            read_text_file(scratch / "c/model.safetensors"));
  LoadedModel m = load_model(scratch / "a");
  Session s(*m.model, Activations::f32);
  const Tensor logits = s.append(std::vector<int32_t>{1, 5, 9});
  double most = 0;
  for (int64_t i = 0; i < logits.numel(); ++i)
    most = std::max(most, std::fabs(double{logits.data<float>()[i]}));
  EXPECT_GT(most, 0);
  EXPECT_LT(most, 2) << "a new model should prefer nothing by far";
  EXPECT_THROW(write_initial_model(scratch / "a", config, tokenizer, 7), Error);
}
INSTANTIATE_TEST_SUITE_P(AllFamilies, Initial, ::testing::ValuesIn(tiny_fixtures()),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace hone
