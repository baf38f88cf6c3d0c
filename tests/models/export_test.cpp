// Exports that must be refused or must keep what other files say: each was a silent error once.
#include "models/export.h"
#include "models/export_gguf.h"

#include <nlohmann/json.hpp>

#include "models/session.h"
#include "testing.h"

namespace hone {
namespace {

using testing::golden;
using testing::TemporaryDirectory;

LoadedModel load_editable(const std::filesystem::path& path) {
  LoadOptions o;
  o.inference = false;
  return load_model(path, o);
}

// Encodes every Linear of the blocks.
void encode_blocks(LoadedModel& m, const std::string& id, const WeightParams& params) {
  for (Linear* l : m.model->linears()) {
    if (l == &m.model->head) continue;
    Tensor values = decode_weight(l->weight());
    EncodeOptions o;
    o.params = params;
    l->set_weight(encoding(id).encode(values.data<float>(), values.dim(0), values.dim(1), o));
  }
}

TEST(Export, RefusesScaledFp8InsteadOfDroppingTheScales) {
  TemporaryDirectory scratch;
  LoadedModel m = load_editable(golden("families/llama"));
  encode_blocks(m, "f8_e4m3", {});
  EXPECT_THROW(export_model(m, scratch / "out", {}), Error);
  EXPECT_FALSE(std::filesystem::exists(scratch / "out"));
  ExportOptions decode;
  decode.decode_to = "f32";
  export_model(m, scratch / "out", decode);
  LoadedModel back = load_editable(scratch / "out");
  Tensor a = decode_weight(m.model->linears()[0]->weight());
  Tensor b = decode_weight(back.model->linears()[0]->weight());
  EXPECT_EQ(0, std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.byte_size())));
}

TEST(Export, RefusesBlockTypesThatADirectoryCannotHold) {
  TemporaryDirectory scratch;
  LoadedModel m = load_editable(golden("families/llama"));
  encode_blocks(m, "q8_0", {});
  EXPECT_THROW(export_model(m, scratch / "out", {}), Error);
  EXPECT_FALSE(std::filesystem::exists(scratch / "out"));
}

// transformers refuses a directory whose query_pre_attn_scalar is 256.0.
TEST(Export, Gemma3QueryScaleIsAWholeNumberInConfigJson) {
  LoadedModel m = load_editable(golden("families/gemma3"));
  Json config = Json::object();
  m.family->to_hf(m.config, config);
  EXPECT_TRUE(config["query_pre_attn_scalar"].is_number_integer());
  EXPECT_EQ(config["query_pre_attn_scalar"], m.checkpoint->config["query_pre_attn_scalar"]);
}

TEST(Export, Gpt2IntegersSurviveTheGptqLayout) {
  TemporaryDirectory scratch;
  LoadedModel m = load_editable(golden("families/gpt2"));
  WeightParams p;
  p.bits = 8;
  p.group = 32;
  p.symmetric = false;
  encode_blocks(m, "int_group", p);
  ExportOptions o;
  o.layout = "gptq_v2";
  export_model(m, scratch / "out", o);
  LoadedModel back = load_editable(scratch / "out");
  std::vector<int32_t> ids = {3, 14, 15, 92, 65};
  Session a(*m.model, Activations::f32), b(*back.model, Activations::f32);
  Tensor x = a.append(ids), y = b.append(ids);
  EXPECT_EQ(0, std::memcmp(x.raw(), y.raw(), static_cast<size_t>(x.byte_size())));
}

TEST(Export, SymmetricIntegersBecomeGgufBlocksExactly) {
  for (int bits : {4, 8}) {
    WeightParams p;
    p.bits = bits;
    p.group = 64;
    Tensor values = testing::random_tensor({5, 128}, 1);
    EncodeOptions o;
    o.params = p;
    Weight w = encoding("int_group").encode(values.data<float>(), 5, 128, o);
    Weight g = exact_gguf_weight(w);
    EXPECT_EQ(g.encoding, bits == 4 ? "q4_0" : "q8_0");
    Tensor a = decode_weight(w), b = decode_weight(g);
    EXPECT_EQ(0, std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.byte_size())));
  }
}

}  // namespace
}  // namespace hone
