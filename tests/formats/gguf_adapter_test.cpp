// GGUF LoRA files: those of the reference library load and are rewritten byte for byte; what is no
// plain LoRA, or spoiled, is refused with a reason.
#include "formats/gguf_adapter.h"

#include "formats/peft.h"
#include "formats/scratch.h"

namespace hone {
namespace {

const fs::path kAdapterGolden = fs::path(HONE_SOURCE_DIR) / "tests" / "golden";
const fs::path kLora = kAdapterGolden / "training" / "lora";

TEST(GgufAdapter, RewritesReferenceFilesByteForByte) {
  Scratch scratch;
  for (const fs::path& golden : {kLora / "initial.gguf", kAdapterGolden / "peft" / "odd.gguf"}) {
    SCOPED_TRACE(golden.string());
    write_gguf_adapter(scratch / "out.gguf", read_gguf_adapter(golden));
    EXPECT_EQ(get_file(scratch / "out.gguf"), get_file(golden));
  }
}

TEST(GgufAdapter, HoldsThePairsOfThePeftDirectory) {
  const GgufAdapter gguf = read_gguf_adapter(kLora / "initial.gguf");
  const PeftAdapter peft = read_peft_directory(kLora / "initial");
  EXPECT_EQ(gguf.architecture, "llama");
  EXPECT_EQ(gguf.alpha, 8.0f);
  EXPECT_EQ(gguf.pairs.size() * 2, peft.tensors.size());
  const std::string module = "base_model.model.model.layers.1.mlp.down_proj.";
  for (const GgufLoraPair& pair : gguf.pairs) {
    EXPECT_EQ(pair.rank(), 4);
    EXPECT_EQ(gguf.scale(pair), 2.0);
    EXPECT_FALSE(pair.embedding());
    if (pair.name != "blk.1.ffn_down.weight") continue;
    for (const auto& [w, name] :
         {std::pair(&pair.a, "lora_A.weight"), {&pair.b, "lora_B.weight"}}) {
      const Tensor& t = peft.tensors.at(module + name);
      EXPECT_EQ(w->shape, t.shape());
      EXPECT_EQ(std::memcmp(w->plane("values").raw(), t.raw(), static_cast<size_t>(t.byte_size())),
                0);
    }
  }
}

TEST(GgufAdapter, ReadsTypesAndTheEmbeddingsPair) {
  const GgufAdapter odd = read_gguf_adapter(kAdapterGolden / "peft" / "odd.gguf");
  ASSERT_EQ(odd.pairs.size(), 3u);
  EXPECT_EQ(odd.pairs[0].a.encoding, "q8_0");
  EXPECT_EQ(odd.pairs[0].b.encoding, "f16");
  EXPECT_TRUE(odd.pairs[1].embedding());
  EXPECT_EQ(odd.pairs[1].rank(), 2);
  EXPECT_EQ(odd.pairs[1].a.shape, (Shape{96, 2}));
  EXPECT_EQ(odd.pairs[1].b.encoding, "bf16");
  EXPECT_EQ(odd.pairs[2].rank(), 3);
  EXPECT_EQ(odd.scale(odd.pairs[2]), 5.5);
  GgufAdapter plain = odd;
  plain.alpha = 0;
  EXPECT_EQ(plain.scale(plain.pairs[2]), 1.0);
}

Weight matrix(int64_t rows, int64_t cols) {
  return float_weight(Tensor::zeros({rows, cols}, DType::f32));
}

TEST(GgufAdapter, WritesAdaptersOfOurOwn) {
  Scratch scratch;
  GgufAdapter adapter;
  adapter.architecture = "gpt2";
  adapter.alpha = 4;
  adapter.pairs.push_back({"blk.0.attn_qkv.weight", matrix(2, 8), matrix(24, 2)});
  // Keys of the file that the metadata were read from.
  adapter.metadata = {{"general.name", GgufValue::string("x")},
                      {"general.alignment", GgufValue::u32(64)},
                      {"split.count", GgufValue::u16(2)},
                      {"adapter.lora.alpha", GgufValue::f32(1)}};
  write_gguf_adapter(scratch / "a.gguf", adapter);
  const GgufAdapter again = read_gguf_adapter(scratch / "a.gguf");
  EXPECT_EQ(again.architecture, "gpt2");
  EXPECT_EQ(again.alpha, 4.0f);
  std::vector<std::string> keys;
  for (const GgufEntry& e : again.metadata) keys.push_back(e.key);
  EXPECT_EQ(keys, (std::vector<std::string>{"general.architecture", "general.type", "adapter.type",
                                            "general.name", "adapter.lora.alpha"}));
  EXPECT_TRUE(is_gguf_adapter(GgufFile::open(scratch / "a.gguf")));
  EXPECT_FALSE(is_gguf_adapter(GgufFile::open(kAdapterGolden / "formats.gguf")));

  adapter.pairs[0].b = matrix(24, 3);
  expect_error(ErrorKind::corrupt, {"attn_qkv", "ranks", "[24, 3]"},
               [&] { write_gguf_adapter(scratch / "bad.gguf", adapter); });
  adapter.pairs.clear();
  expect_error(ErrorKind::corrupt, {"without tensors"},
               [&] { write_gguf_adapter(scratch / "bad.gguf", adapter); });
  EXPECT_FALSE(fs::exists(scratch / "bad.gguf"));
}

class SpoiledGgufAdapter : public ::testing::Test {
 protected:
  using Metadata = std::map<std::string, GgufValue>;
  using Tensors = std::vector<std::pair<std::string, Shape>>;

  void refuse(const Metadata& metadata, const Tensors& tensors, std::vector<std::string> parts,
              ErrorKind kind = ErrorKind::corrupt) {
    const fs::path path = scratch_ / "a.gguf";
    {
      GgufWriter writer(path);
      for (const auto& [key, value] : metadata) writer.set(key, value);
      for (const auto& [name, shape] : tensors) writer.declare(name, shape, "f32");
      for (const auto& [name, shape] : tensors)
        writer.write(name, float_weight(Tensor::zeros(shape, DType::f32)));
      writer.finish();
    }
    parts.push_back(path.string());
    expect_error(kind, parts, [&] { read_gguf_adapter(path); });
  }
  static Metadata with(const std::string& key, const GgufValue& value) {
    Metadata m = kGood;
    m.insert_or_assign(key, value);
    return m;
  }
  static Metadata without(const std::string& key) {
    Metadata m = kGood;
    m.erase(key);
    return m;
  }
  inline static const Metadata kGood = {{"general.type", GgufValue::string("adapter")},
                                        {"general.architecture", GgufValue::string("llama")},
                                        {"adapter.type", GgufValue::string("lora")},
                                        {"adapter.lora.alpha", GgufValue::f32(8)}};
  inline static const Tensors kPair = {{"w.lora_a", {2, 4}}, {"w.lora_b", {8, 2}}};
  Scratch scratch_;
};

TEST_F(SpoiledGgufAdapter, MetadataOfSomethingElseAreRefused) {
  refuse(with("general.type", GgufValue::string("model")), kPair, {"general.type", "'model'"},
         ErrorKind::unsupported);
  refuse(without("general.type"), kPair, {"general.type", "'nothing'"}, ErrorKind::unsupported);
  refuse(with("general.type", GgufValue::u32(1)), kPair, {"general.type"});
  refuse(with("adapter.type", GgufValue::string("control_vector")), kPair,
         {"adapter.type", "'control_vector'"}, ErrorKind::unsupported);
  refuse(without("adapter.type"), kPair, {"adapter.type"});
  refuse(without("general.architecture"), kPair, {"general.architecture"});
  refuse(with("general.architecture", GgufValue::string("")), kPair, {"general.architecture"});
  refuse(without("adapter.lora.alpha"), kPair, {"adapter.lora.alpha"});
  refuse(with("adapter.lora.alpha", GgufValue::string("8")), kPair, {"adapter.lora.alpha"});
  refuse(with("adapter.lora.alpha", GgufValue::f32(INFINITY)), kPair, {"adapter.lora.alpha"});
  refuse(with("adapter.alora.invocation_tokens", GgufValue::i32s({1})), kPair, {"alora"},
         ErrorKind::unsupported);
}

TEST_F(SpoiledGgufAdapter, TensorsThatAreNoPairsAreRefused) {
  refuse(kGood, {}, {"without tensors"});
  refuse(kGood, {kPair[0]}, {"'w.lora_b'", "missing"});
  refuse(kGood, {kPair[1]}, {"'w.lora_a'", "missing"});
  refuse(kGood, {kPair[0], {"w.lora_b", {2, 8}}}, {"'w'", "[2, 4]", "[2, 8]"});
  refuse(kGood, {kPair[0], {"w.lora_b", {8}}}, {"'w'", "two matrices"});
  refuse(kGood, {kPair[0], kPair[1], {"blk.0.attn_norm.weight", {4}}}, {"attn_norm"},
         ErrorKind::unsupported);
  refuse(kGood, {{".lora_a", {2, 4}}}, {"'.lora_a'"}, ErrorKind::unsupported);
  // The embeddings' A lies the other way round.
  refuse(kGood, {{"token_embd.weight.lora_a", {2, 9}}, {"token_embd.weight.lora_b", {8, 2}}},
         {"token_embd"});
}

TEST_F(SpoiledGgufAdapter, TruncatedFilesAreRefused) {
  const std::string bytes = get_file(kLora / "initial.gguf");
  for (size_t n = 0; n < bytes.size(); n += n < 4000 ? 37 : 4001) {
    put_file(scratch_ / "cut.gguf", bytes.substr(0, n));
    expect_error(ErrorKind::corrupt, {"cut.gguf"},
                 [&] { read_gguf_adapter(scratch_ / "cut.gguf"); });
  }
}

}  // namespace
}  // namespace hone
