// The least work of a tiny model, counted by hand.
#include "models/roofline.h"

#include "testing.h"
#include "tiny_models.h"

namespace hone {
namespace {

TEST(Roofline, CountsWhatAModelMustDo) {
  testing::TemporaryDirectory scratch;
  LoadedModel m = load_model(testing::source_file("models/hone-austen-3m"), {});
  const ModelConfig& c = m.config;
  double heads = double(c.heads * c.head_dim), kv = double(c.kv_heads * c.head_dim);
  double width = double(c.width), layers = double(c.layers);
  double block = width * (heads + 2 * kv) + heads * width + 3 * width * double(c.ffn);
  double head = width * double(c.vocabulary);
  Work w = work_of(*m.model, Activations::f32);
  EXPECT_EQ(w.int8_operations, 0);
  EXPECT_EQ(w.f32_operations, 2 * layers * block);
  EXPECT_EQ(w.head_f32, 2 * head);
  EXPECT_EQ(w.pair_operations, layers * 4 * heads);
  EXPECT_EQ(w.kv_bytes, layers * 2 * kv * 4);
  double bytes = w.weight_bytes + 10 * w.kv_bytes;
  kernels::Roofs slow_memory{1, 1e30, 1e30, 0, 0};
  EXPECT_EQ(decode_limit(w, slow_memory, 9), bytes);
  EXPECT_EQ(decode_limit(w, slow_memory, 9, 3), w.weight_bytes + 3 * 10 * w.kv_bytes);
  kernels::Roofs cached{1, 1e30, 1e30, static_cast<int64_t>(3 * bytes), 4};
  EXPECT_EQ(decode_limit(w, cached, 9), bytes / 4);
  kernels::Roofs slow_cpu{1e30, 1, 1e30, 0, 0};
  // 3 tokens behind 4: 5 + 6 + 7 pairs.
  EXPECT_EQ(prefill_limit(w, slow_cpu, 3, 4),
            3 * w.f32_operations + w.head_f32 + 18 * w.pair_operations);
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
