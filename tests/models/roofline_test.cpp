// The least work of a small model, counted by hand.
#include "models/roofline.h"

#include "models/loader.h"
#include "testing.h"

namespace hone {
namespace {

TEST(Roofline, CountsWhatAModelMustDo) {
  LoadedModel m = load_model(testing::source_file("models/hone-austen-3m"), {});
  const ModelConfig& c = m.config;
  double heads = double(c.heads * c.head_dim), kv = double(c.kv_heads * c.head_dim);
  double width = double(c.width), layers = double(c.layers);
  double block = width * (heads + 2 * kv) + heads * width + 3 * width * double(c.ffn);
  Work w = work_of(*m.model, Activations::f32);
  EXPECT_EQ(w.int8_operations, 0);
  EXPECT_EQ(w.f32_operations, 2 * layers * block);
  EXPECT_EQ(w.head_f32, 2 * width * double(c.vocabulary));
  // f32, and the head reads its rows as the embedding has them.
  EXPECT_EQ(w.weight_bytes, 4 * (layers * block + width * double(c.vocabulary)));
  double kv_bytes = layers * 2 * kv * 4;
  double bytes = w.weight_bytes + 10 * kv_bytes;
  kernels::Roofs slow_memory{1, 1e30, 1e30, 0, 0};
  EXPECT_EQ(decode_limit(w, slow_memory, 9), bytes);
  EXPECT_EQ(decode_limit(w, slow_memory, 9, 3), w.weight_bytes + 3 * 10 * kv_bytes);
  EXPECT_EQ(prefill_limit(w, slow_memory, 6, 4), bytes) << "weights are read once";
  kernels::Roofs cached{1, 1e30, 1e30, static_cast<int64_t>(3 * bytes), 4};
  EXPECT_EQ(decode_limit(w, cached, 9), bytes / 4);
  kernels::Roofs slow_cpu{1e30, 1, 1e30, 0, 0};
  // 3 tokens behind 4: 5 + 6 + 7 pairs.
  EXPECT_EQ(prefill_limit(w, slow_cpu, 3, 4),
            3 * w.f32_operations + w.head_f32 + 18 * layers * 4 * heads);
  EXPECT_EQ(decode_limit(work_of(*m.model, Activations::f32, KvType::f16), slow_memory, 9),
            w.weight_bytes + 10 * kv_bytes / 2);
}

TEST(Roofline, AWindowBoundsWhatIsSeen) {
  Work w;
  w.layers = {{1, 1, 4}};
  kernels::Roofs slow_cpu{1e30, 1, 1e30, 0, 0}, slow_memory{1, 1e30, 1e30, 0, 0};
  EXPECT_EQ(prefill_limit(w, slow_cpu, 6, 0), 1 + 2 + 3 + 4 + 4 + 4);
  EXPECT_EQ(prefill_limit(w, slow_cpu, 3, 2), 3 + 4 + 4);
  EXPECT_EQ(prefill_limit(w, slow_cpu, 2, 100), 8);
  EXPECT_EQ(decode_limit(w, slow_memory, 100), 4);
  EXPECT_EQ(decode_limit(w, slow_memory, 2), 3);
}

TEST(Roofline, SinksComeOnTopOfAWindow) {
  LoadedModel m = load_model(testing::source_file("models/hone-austen-3m"), {});
  auto& mixer = dynamic_cast<SoftmaxAttention&>(*m.model->blocks[0].mixer);
  mixer.spec.pattern = Pattern::causal() & (Pattern::window(100) | Pattern::prefix(4));
  const Work w = work_of(*m.model, Activations::f32);
  EXPECT_EQ(w.layers[0].reach, 104);
  EXPECT_EQ(w.layers[1].reach, INT64_MAX);
}

TEST(Roofline, QuantisedWeightsCountAsIntegersWhereActivationsAre) {
  LoadOptions options;
  options.load_as = "int8";
  LoadedModel m = load_model(testing::source_file("models/hone-austen-3m"), options);
  Work f = work_of(*m.model, Activations::f32), q = work_of(*m.model, Activations::int8);
  EXPECT_EQ(f.int8_operations, 0);
  EXPECT_EQ(q.f32_operations, 0);
  EXPECT_EQ(q.int8_operations, f.f32_operations);
  EXPECT_EQ(q.weight_bytes, f.weight_bytes);
}

}  // namespace
}  // namespace hone
