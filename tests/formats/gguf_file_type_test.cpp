// The mixtures of types against what llama.cpp gave to every tensor of a few models.
#include "formats/gguf_file_type.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "base/files.h"
#include "base/json.h"

namespace hone {
namespace {

const Json& cases() {
  static const Json kCases = parse_json(
      read_text_file(fs::path(HONE_SOURCE_DIR) / "tests" / "golden" / "gguf_mixes.json"), "golden");
  return kCases;
}

TEST(GgufFileTypes, GiveEveryTensorTheTypeThatLlamaCppGives) {
  ASSERT_GT(cases().size(), 100u);
  std::set<std::string> seen;
  for (const Json& c : cases()) {
    const std::string name = c["type"], arch = c["arch"];
    const GgufFileType* type = find_gguf_file_type(name);
    ASSERT_NE(type, nullptr) << name;
    EXPECT_EQ(type->number, c["number"].get<uint32_t>()) << name;
    seen.insert(name);
    GgufMixModel m;
    m.architecture = arch;
    m.layers = c["layers"];
    m.queries_per_value = c["heads"].get<int64_t>() / c["kv_heads"].get<int64_t>();
    m.tied_head = c["tied"];
    m.importances = c["importances"];
    for (const auto& [part, kinds] : c["types"].items()) {
      const int64_t columns = part == "ffn_down" ? c["ffn"] : c["width"];
      const bool end = part == "token_embd" || part == "output";
      for (int64_t i = 0; i < (end ? 1 : m.layers); ++i) {
        const std::string tensor = (end ? "" : fmt::format("blk.{}.", i)) + part + ".weight";
        const std::string kind = kinds.is_array() ? kinds[i] : kinds;
        EXPECT_EQ(gguf_tensor_type(*type, m, tensor, columns), kind)
            << name << " " << tensor << " of " << c.dump().substr(0, 150);
      }
    }
  }
  // But for those that llama.cpp has no mixture for.
  for (const GgufFileType& t : gguf_file_types())
    EXPECT_EQ(seen.contains(std::string(t.name)), t.name != "MXFP4" && t.name != "NVFP4") << t.name;
}

TEST(GgufFileTypes, AreFoundInAnyCaseAndByShortNames) {
  EXPECT_EQ(find_gguf_file_type("q4_k_m")->number, 15u);
  EXPECT_EQ(find_gguf_file_type("Q3_K")->name, "Q3_K_M");
  EXPECT_EQ(find_gguf_file_type("Q4_K")->name, "Q4_K_M");
  EXPECT_EQ(find_gguf_file_type("Q5_K")->name, "Q5_K_M");
  EXPECT_EQ(find_gguf_file_type("Q4_K_L"), nullptr);
  EXPECT_NE(unknown_gguf_file_type("Q4_K_L").find("Q4_K_M"), std::string::npos);
  EXPECT_NE(unknown_gguf_file_type("IQ3_M").find("tables"), std::string::npos);
}

// Two matrices whose types differ where the choice is hone's own.
TEST(GgufFileTypes, OfFp4KeepTheEndsInEightBits) {
  for (const char* name : {"MXFP4", "NVFP4"}) {
    const GgufFileType& type = *find_gguf_file_type(name);
    EXPECT_EQ(gguf_tensor_type(type, {}, "token_embd.weight", 128), "q8_0");
    EXPECT_EQ(gguf_tensor_type(type, {}, "output.weight", 128), "q8_0");
    EXPECT_EQ(gguf_tensor_type(type, {}, "blk.0.attn_v.weight", 128), type.base);
  }
}

}  // namespace
}  // namespace hone
