// What a sequence takes, against what a cache really holds.
#include "models/sequence_memory.h"

#include "tiny_models.h"

namespace hone {
namespace {

using namespace testing;

LoadedModel tiny(const TemporaryDirectory& scratch, const char* name, int64_t context = 256) {
  Json config = parse_json(tiny_fixture(name).config, "config");
  config["max_position_embeddings"] = context;
  write_tiny(scratch / name, config, tiny_tensors(tiny_fixture(name)));
  return load_model(scratch / name);
}

TEST(SequenceMemory, CountsTheKeysAndValuesOfAllLayers) {
  TemporaryDirectory scratch;
  LoadedModel m = tiny(scratch, "llama");  // two layers of two heads of 32
  const SequenceMemory f32 = sequence_memory(*m.model, KvType::f32, 200);
  EXPECT_EQ(f32.kv_bytes_per_token, 2 * 2 * (32 + 32) * 4);
  EXPECT_EQ(f32.kv_bytes, 256 * 2 * 2 * (32 + 32) * 4) << "whole pages";
  EXPECT_EQ(f32.state_bytes, 0);
  EXPECT_EQ(f32.bytes(), double(f32.kv_bytes));
  EXPECT_EQ(sequence_memory(*m.model, KvType::bf16, 200).kv_bytes, f32.kv_bytes / 2);
  // A scale for the keys and one for the values of a head, and the page that is being filled.
  const SequenceMemory fp8 = sequence_memory(*m.model, KvType::fp8_e4m3, 200);
  EXPECT_EQ(fp8.kv_bytes_per_token, 2 * 2 * (32 + 32 + 1));
  EXPECT_EQ(fp8.kv_bytes, 256 * 2 * 2 * (32 + 32 + 1) + 64 * 2 * 2 * (32 + 32) * 4);
  EXPECT_EQ(sequence_memory(*m.model, KvType::fp8_e4m3, 0).kv_bytes, 0);
}

TEST(SequenceMemory, OfRecurrentLayersIsTheState) {
  TemporaryDirectory scratch;
  LoadedModel m = tiny(scratch, "mamba2");
  const SequenceMemory of = sequence_memory(*m.model, KvType::f32, 4096);
  EXPECT_EQ(of.kv_bytes_per_token, 0);
  EXPECT_EQ(of.kv_bytes, 0);
  EXPECT_EQ(of.state_bytes, m.model->state_bytes());
  EXPECT_GT(of.state_bytes, 0);
  LoadedModel hybrid = tiny(scratch, "qwen3_5");
  const SequenceMemory both = sequence_memory(*hybrid.model, KvType::f32, 256);
  EXPECT_GT(both.kv_bytes, 0);
  EXPECT_GT(both.state_bytes, 0);
  EXPECT_EQ(both.bytes(), double(both.kv_bytes + both.state_bytes));
}

}  // namespace
}  // namespace hone
