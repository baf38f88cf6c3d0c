// A model that will not fit is refused before any of it is read.
#include <nlohmann/json.hpp>

#include "attention/kv_cache.h"
#include "base/files.h"
#include "models/loader.h"
#include "testing.h"

namespace hone {
namespace {

// A Llama of about 14 TB in bf16, whose file is all hole.
void write_huge_model(const fs::path& directory) {
  constexpr int64_t kWidth = 65536, kFfn = 262144, kLayers = 100, kVocabulary = 256;
  fs::create_directory(directory);
  Json config = {{"model_type", "llama"},         {"vocab_size", kVocabulary},
                 {"hidden_size", kWidth},         {"intermediate_size", kFfn},
                 {"num_hidden_layers", kLayers},  {"num_attention_heads", 512},
                 {"max_position_embeddings", 128}};
  write_text_file(directory / "config.json", config.dump());
  Json header = Json::object();
  int64_t at = 0;
  auto add = [&](const std::string& name, const Shape& shape) {
    int64_t bytes = 2;
    for (int64_t d : shape) bytes *= d;
    header[name + ".weight"] = {
        {"dtype", "BF16"}, {"shape", shape}, {"data_offsets", {at, at + bytes}}};
    at += bytes;
  };
  add("model.embed_tokens", {kVocabulary, kWidth});
  add("model.norm", {kWidth});
  for (int64_t i = 0; i < kLayers; ++i) {
    std::string block = fmt::format("model.layers.{}.", i);
    add(block + "input_layernorm", {kWidth});
    add(block + "post_attention_layernorm", {kWidth});
    for (const char* m : {"q_proj", "k_proj", "v_proj", "o_proj"})
      add(block + "self_attn." + m, {kWidth, kWidth});
    add(block + "mlp.gate_proj", {kFfn, kWidth});
    add(block + "mlp.up_proj", {kFfn, kWidth});
    add(block + "mlp.down_proj", {kWidth, kFfn});
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  uint64_t length = text.size();
  std::string start(reinterpret_cast<const char*>(&length), 8);
  write_text_file(directory / "model.safetensors", start + text);
  std::error_code e;
  fs::resize_file(directory / "model.safetensors", 8 + text.size() + static_cast<uint64_t>(at), e);
  if (e) throw std::runtime_error(e.message());
}

TEST(Memory, AModelThatWillNotFitIsRefusedWithItsNeed) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "ThreadSanitizer leaves no 14 TB of addresses to map the file";
#endif
  testing::TemporaryDirectory scratch;
  try {
    write_huge_model(scratch / "huge");
  } catch (const std::runtime_error& e) {
    GTEST_SKIP() << "this file system has no files of 14 TB: " << e.what();
  }
  for (const auto& [load_as, need] : {std::pair{"", "13.7 TB"}, {"nf4", "3.9"}, {"int8", "6.9"}}) {
    LoadOptions options;
    options.load_as = load_as;
    try {
      load_model(scratch / "huge", options);
      FAIL() << load_as;
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::out_of_memory) << e.what();
      EXPECT_NE(std::string(e.what()).find(std::string("huge: needs ") + need), std::string::npos)
          << e.what();
    }
  }
}

TEST(Memory, ACacheThatWillNotFitIsRefusedWithItsNeed) {
  KvCache cache(std::vector<KvShape>(100, KvShape{64, 128, 128}));
  KvSequence sequence;
  try {
    cache.reserve(sequence, int64_t{1} << 30);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::out_of_memory);
    EXPECT_NE(std::string(e.what()).find("KV cache of 1073741824 positions: needs"),
              std::string::npos)
        << e.what();
  }
  EXPECT_TRUE(sequence.pages.empty());
}

}  // namespace
}  // namespace hone
