// gqa: heads that differ by what the method allows for are merged without a loss.
#include "base/random.h"
#include "formats/safetensors.h"
#include "models/export.h"
#include "models/session.h"
#include "passes/recipe.h"
#include "tiny_models.h"

namespace hone {
namespace {

using testing::golden;
using testing::load_editable;
using testing::relative_distance;

Tensor logits_of(Model& m, int64_t tokens = 40) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < tokens; ++i)
    ids.push_back(static_cast<int32_t>(random_uniform(5, static_cast<uint64_t>(i)) *
                                       static_cast<double>(m.vocabulary())));
  Session session(m, Activations::f32);
  return session.logits(session.hidden(ids)).clone();
}

double distance(const Tensor& a, const Tensor& b) {
  return relative_distance(a.data<float>(), b.data<float>(), a.numel());
}

Calibration calibration_of(const Model& m) {
  Calibration c;
  for (uint64_t s = 0; s < 6; ++s) {
    c.samples.emplace_back();
    for (uint64_t i = 0; i < 48; ++i)
      c.samples.back().push_back(
          static_cast<int32_t>(random_uniform(s + 20, i) * static_cast<double>(m.vocabulary())));
  }
  return c;
}

void merge(LoadedModel& m, const std::string& options) {
  Recipe recipe = parse_recipe("steps: [{pass: gqa, " + options + "}]", "test");
  check_recipe(recipe.main, m);
  const Calibration calibration = calibration_of(*m.model);
  PassContext c{m, ModuleFilter(), &calibration, 11, nullptr, nullptr, -1, nullptr};
  recipe.main.steps[0].made->run(c);
}

SoftmaxAttention& attention_of(LoadedModel& m, size_t block) {
  return dynamic_cast<SoftmaxAttention&>(*m.model->blocks[block].mixer);
}

using Map = std::function<void(const float* first, float* other, int64_t columns)>;

// The second key/value head's rows become what `map` makes of the first's.
void derive_head(Linear& l, int64_t dim, const Map& map) {
  Tensor w = decode_weight(l.weight()).clone();
  float* x = w.mutable_data<float>();
  map(x, x + dim * w.dim(1), w.dim(1));
  l.set_weight(float_weight(w));
}

void copy_heads(LoadedModel& m) {
  for (size_t b = 0; b < m.model->blocks.size(); ++b) {
    SoftmaxAttention& a = attention_of(m, b);
    ASSERT_EQ(a.spec.kv_heads, 2);
    const int64_t d = a.spec.k_dim;
    const Map same = [d](const float* from, float* to, int64_t k) { std::copy_n(from, d * k, to); };
    derive_head(a.k, d, same);
    derive_head(a.v, d, same);
  }
}

// Keys turned and stretched pair by pair, values mixed by any matrix.
void relate_heads(LoadedModel& m) {
  for (size_t b = 0; b < m.model->blocks.size(); ++b) {
    SoftmaxAttention& a = attention_of(m, b);
    const int64_t d = a.spec.k_dim, half = d / 2;
    derive_head(a.k, d, [&](const float* from, float* to, int64_t k) {
      for (int64_t i = 0; i < half; ++i) {
        const double angle = double(i) + 1, size = 0.5 + 0.1 * double(i);
        const auto c = float(size * std::cos(angle)), s = float(size * std::sin(angle));
        for (int64_t j = 0; j < k; ++j) {
          const float re = from[i * k + j], im = from[(i + half) * k + j];
          to[i * k + j] = c * re - s * im;
          to[(i + half) * k + j] = s * re + c * im;
        }
      }
    });
    derive_head(a.v, d, [&](const float* from, float* to, int64_t k) {
      std::fill_n(to, d * k, 0.0f);
      for (int64_t r = 0; r < d; ++r)
        for (int64_t i = 0; i < d; ++i) {
          const auto factor =
              float(random_normal(77, static_cast<uint64_t>(r * d + i)) / std::sqrt(double(d)));
          for (int64_t j = 0; j < k; ++j) to[r * k + j] += factor * from[i * k + j];
        }
    });
  }
}

TEST(Gqa, MeanOfEqualHeadsChangesNothing) {
  LoadedModel m = load_editable(golden("families/llama"));
  copy_heads(m);
  const Tensor before = logits_of(*m.model);
  merge(m, "kv_heads: 1, method: mean");
  EXPECT_EQ(m.config.kv_heads, 1);
  EXPECT_EQ(attention_of(m, 0).k.out_features(), attention_of(m, 0).spec.k_dim);
  EXPECT_LT(distance(logits_of(*m.model), before), 1e-5);
}

TEST(Gqa, JointUndoesRotationsOfKeysAndMapsOfValues) {
  LoadedModel m = load_editable(golden("families/llama")),
              mean = load_editable(golden("families/llama"));
  relate_heads(m);
  relate_heads(mean);
  const Tensor before = logits_of(*m.model);
  merge(m, "kv_heads: 1");
  EXPECT_LT(distance(logits_of(*m.model), before), 1e-4);
  merge(mean, "kv_heads: 1, method: mean");
  EXPECT_GT(distance(logits_of(*mean.model), before), 1e-2);
}

const std::filesystem::path kTrained =
    std::filesystem::path(HONE_SOURCE_DIR) / "models/hone-austen-3m";

TEST(Gqa, IsWrittenAndReadBack) {
  LoadedModel m = load_editable(kTrained);
  merge(m, "kv_heads: 1");
  const Tensor made = logits_of(*m.model);
  testing::TemporaryDirectory scratch;
  ExportOptions gguf;
  gguf.layout = "gguf";
  export_model(m, scratch / "hf", {});
  export_model(m, scratch / "m.gguf", gguf);
  {
    // What a GGUF file says of itself is kept, but for this.
    LoadedModel copy = load_editable(scratch / "m.gguf");
    merge(copy, "kv_heads: 1");
    export_model(copy, scratch / "again.gguf", gguf);
  }
  for (const char* name : {"hf", "m.gguf", "again.gguf"}) {
    LoadedModel copy = load_editable(scratch / name);
    EXPECT_EQ(copy.config.kv_heads, 1);
    EXPECT_EQ(copy.model->kv_shapes()[0].kv_heads, 1);
    EXPECT_LT(distance(logits_of(*copy.model), made), 1e-5) << name;
  }
}

TEST(Gqa, OnATrainedModelJointIsNearerThanMean) {
  LoadedModel original = load_editable(kTrained);
  const Tensor before = logits_of(*original.model);
  double far[2];
  for (int joint : {0, 1}) {
    LoadedModel m = load_editable(kTrained);
    merge(m, joint ? "kv_heads: 2" : "kv_heads: 2, method: mean");
    far[joint] = distance(logits_of(*m.model), before);
  }
  EXPECT_LT(far[1], 0.8 * far[0]);
}

// Heads that differ by their biases alone: what was merged must know of them.
TEST(Gqa, JointCountsBiases) {
  LoadedModel m = load_editable(golden("families/llama_tied_bias"));
  for (size_t b = 0; b < m.model->blocks.size(); ++b) {
    SoftmaxAttention& a = attention_of(m, b);
    ASSERT_FALSE(a.k.bias().empty_handle());
    for (Linear* l : {&a.k, &a.v}) {
      Tensor w = decode_weight(l->weight()).clone(), bias = l->bias().clone();
      // All but one channel of each group gives next to nothing without its bias.
      for (int64_t i = 0; i < w.numel(); ++i) w.mutable_data<float>()[i] *= 1e-3f;
      for (int64_t i = 0; i < bias.numel(); ++i)
        bias.mutable_data<float>()[i] = static_cast<float>(random_normal(9, uint64_t(i)));
      l->set_weight(float_weight(w));
      l->set_bias(bias);
    }
  }
  const Tensor before = logits_of(*m.model);
  merge(m, "kv_heads: 1");
  EXPECT_LT(distance(logits_of(*m.model), before), 0.02);
}

TEST(Gqa, OneStepBehindAnotherIsCheckedAnew) {
  LoadedModel m = load_editable(kTrained);
  merge(m, "kv_heads: 2, method: mean");
  merge(m, "kv_heads: 1, method: mean");
  EXPECT_EQ(m.config.kv_heads, 1);
  Recipe recipe = parse_recipe(
      "steps: [{pass: gqa, kv_heads: 1, method: mean}, {pass: gqa, kv_heads: 2, method: mean}]",
      "test");
  LoadedModel other = load_editable(kTrained);
  PassContext c{other, ModuleFilter(), nullptr, 11, nullptr, nullptr, -1, nullptr};
  recipe.main.steps[0].made->run(c);
  EXPECT_THROW(recipe.main.steps[1].made->run(c), Error);
}

TEST(Gqa, RefusesWhatCannotBe) {
  auto refusal = [](const std::string& family, const std::string& options) {
    LoadedModel m = load_editable(golden("families/" + family));
    try {
      merge(m, options);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_NE(refusal("llama", "kv_heads: 3").find("does not divide"), std::string::npos);
  EXPECT_NE(refusal("llama", "kv_heads: -1").find("kv_heads"), std::string::npos);
  EXPECT_NE(refusal("llama", "kv_heads: 1, method: median").find("median"), std::string::npos);
  EXPECT_NE(refusal("gpt2", "kv_heads: 1").find("parts of one matrix"), std::string::npos);
  EXPECT_NE(refusal("gemma3", "kv_heads: 1").find("method: mean"), std::string::npos);
}

}  // namespace
}  // namespace hone
