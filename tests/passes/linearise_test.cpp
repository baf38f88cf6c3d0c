// linearise: a window that sees all loses nothing; transfer brings the layers nearer; what is
// written is read back to the same bits; an interrupted run ends in the same bytes.
#include "passes/optimize.h"

#include <cstring>
#include <nlohmann/json.hpp>

#include "models/export.h"
#include "models/session.h"
#include "nn/linearised_attention.h"
#include "passes/journal.h"
#include "tiny_models.h"

namespace hone {
namespace {

using namespace testing;

class LineariseTest : public ::testing::Test {
 protected:
  void SetUp() override {
    write_tiny(path(), tiny_fixture("llama"));
    for (uint32_t i = 0; i < 6; ++i) calibration_.samples.push_back(tiny_ids(96, 30 + i));
  }
  fs::path path() const { return scratch_ / "model"; }

  LoadedModel run(const std::string& options) {
    LoadedModel m = load_editable(path());
    Recipe r = parse_recipe("steps: [{pass: linearise, " + options + "}]", "test");
    check_recipe(r.main, m);
    PassContext c{m, ModuleFilter(), &calibration_, 5, nullptr, nullptr, -1, nullptr};
    r.main.steps[0].made->run(c);
    return m;
  }
  static Tensor logits(LoadedModel& m, int64_t step = 120) {
    const std::vector<int32_t> ids = tiny_ids(120, 7);
    Session session(*m.model, Activations::f32);
    Tensor all = Tensor::empty({120, m.model->vocabulary()}, DType::f32);
    for (int64_t at = 0; at < 120; at += step) {
      const int64_t n = std::min<int64_t>(step, 120 - at);
      const Tensor y =
          session.logits(session.hidden(std::span(ids).subspan(size_t(at), size_t(n))));
      std::copy_n(y.data<float>(), y.numel(), all.mutable_data<float>() + at * all.dim(1));
    }
    return all;
  }
  static double distance(const Tensor& a, const Tensor& b) {
    return relative_distance(a.data<float>(), b.data<float>(), a.numel());
  }
  static bool same(const Tensor& a, const Tensor& b) {
    return 0 == std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.byte_size()));
  }

  TemporaryDirectory scratch_;
  Calibration calibration_;
};

TEST_F(LineariseTest, AWindowThatSeesAllLosesNothing) {
  LoadedModel original = load_editable(path());
  LoadedModel m = run("window: 120, epochs: 0");
  EXPECT_LT(distance(logits(m), logits(original)), 1e-5);
  EXPECT_EQ(m.model->kv_shapes()[0].kv_heads, 0);
}

TEST_F(LineariseTest, TransferBringsTheLayersNearer) {
  LoadedModel original = load_editable(path());
  LoadedModel swapped = run("window: 8, epochs: 0"), fitted = run("window: 8, epochs: 8");
  const Tensor expected = logits(original);
  const double before = distance(logits(swapped), expected);
  const double after = distance(logits(fitted), expected);
  EXPECT_GT(before, 1e-3);
  EXPECT_LT(after, 0.9 * before);
}

TEST_F(LineariseTest, IsReadBackToTheSameBitsAndCutAnywhere) {
  LoadedModel m = run("window: 8, features: 20, layers: '1', epochs: 1");
  EXPECT_EQ(m.model->kv_shapes()[0].kv_heads, 2);
  EXPECT_EQ(m.model->kv_shapes()[1].kv_heads, 0);
  export_model(m, scratch_ / "out", {});
  LoadedModel back = load_editable(scratch_ / "out");
  EXPECT_EQ(back.model->blocks[1].mixer->describe(), m.model->blocks[1].mixer->describe());
  const Tensor expected = logits(m);
  EXPECT_TRUE(same(logits(back), expected));
  for (int64_t step : {1, 50}) EXPECT_TRUE(same(logits(back, step), expected)) << step;
  // A second time, on what is left.
  EXPECT_EQ(back.config.linearised, (std::vector<bool>{false, true}));
}

TEST_F(LineariseTest, RefusesWhatItCannotDo) {
  auto error = [&](const std::string& options) -> std::string {
    try {
      run(options);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_NE(error("layers: '0-2'").find("the model has 2"), std::string::npos);
  for (const char* text : {"window: 0", "lr: 0", "features: -1", "layers: '1-'", "layers: '1,'",
                           "layers: '2-1'", "layers: ''", "epochs: -1"})
    EXPECT_NE(error(text), "") << text;
  OptimizeOptions o;
  o.model = path();
  o.out = scratch_ / "out.gguf";
  o.recipe = parse_recipe("steps: [{pass: linearise, epochs: 0}]", "r");
  try {
    optimize(o);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::unsupported);
    EXPECT_NE(std::string(e.what()).find("gguf"), std::string::npos) << e.what();
  }
  EXPECT_FALSE(fs::exists(o.out));
}

TEST_F(LineariseTest, RefusesConfigsThatCannotBe) {
  LoadedModel m = run("window: 8, epochs: 0");
  export_model(m, scratch_ / "out", {});
  const fs::path config = scratch_ / "out" / "config.json";
  const Json good = parse_json(read_text_file(config), "config");
  for (const auto& [key, value] :
       std::vector<std::pair<const char*, Json>>{{"layers", {0, 2}},
                                                 {"layers", "all"},
                                                 {"layers", {-1}},
                                                 {"window", 0},
                                                 {"window", int64_t{1} << 40},
                                                 {"features", -3},
                                                 {"features", 9},
                                                 {"window", "8"}}) {
    Json bad = good;
    bad["linearised"][key] = value;
    put_file(config, bad.dump());
    try {
      load_editable(scratch_ / "out");
      FAIL() << key << " " << value.dump();
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::corrupt) << e.what();
    }
  }
}

TEST_F(LineariseTest, AnInterruptedRunEndsInTheSameBytes) {
  std::string text;
  for (int i = 0; i < 900; ++i) text += "abc de x abcd "[i * 5 % 14];
  put_file(scratch_ / "text.txt", text);
  OptimizeOptions o;
  o.model = path();
  o.recipe = parse_recipe(
      "calibration: {samples: 4, length: 64}\nsteps: [{pass: linearise, window: 8}]", "r");
  o.calibration = scratch_ / "text.txt";
  o.out = scratch_ / "whole";
  optimize(o);
  o.out = scratch_ / "cut";
  struct Interrupted {};
  int units = 0;
  o.unit_stored = [&](int64_t) {
    if (++units == 1) throw Interrupted();
  };
  EXPECT_THROW(optimize(o), Interrupted);
  EXPECT_FALSE(fs::exists(o.out));
  o.resume = true;
  optimize(o);
  EXPECT_EQ(units, 2) << "the first layer was fitted again";
  for (const char* file : {"model.safetensors", "config.json"})
    EXPECT_EQ(read_text_file(scratch_ / "whole" / file), read_text_file(o.out / file)) << file;
}

}  // namespace
}  // namespace hone
