// AWQ, compressed-tensors, FP8, ModelOpt and HQQ: what is written has the bytes of the reference
// libraries' tensors; what cannot be held or is spoiled is refused with a reason. That values are
// the libraries' own is tested beside the encodings (encodings/layout_values_test.cpp).
#include <set>

#include "formats/checkpoint.h"
#include "formats/safetensors.h"
#include "formats/scratch.h"

namespace hone {
namespace {

const fs::path kQuantisedLayouts = fs::path(HONE_SOURCE_DIR) / "tests" / "golden" / "layouts";

/// What `checkpoint` holds but for the modules `without`.
CheckpointContents quantised_contents_of(std::shared_ptr<const Checkpoint> checkpoint,
                                         const std::set<std::string>& without = {}) {
  CheckpointContents c;
  c.config = checkpoint->config;
  for (const std::string& name : checkpoint->names()) {
    if (without.contains(name)) continue;
    const Weight w = checkpoint->weight(name);
    c.weights.push_back({name, w.shape, w.encoding, w.params});
  }
  c.weight = [checkpoint](const std::string& name) { return checkpoint->weight(name); };
  return c;
}

class QuantisedLayouts : public ::testing::Test {
 protected:
  fs::path copy(const std::string& name) {
    fs::path to = scratch_ / ("copy-" + std::to_string(copies_++));
    fs::copy(kQuantisedLayouts / name, to, fs::copy_options::recursive);
    return to;
  }
  void set(const fs::path& directory, const std::string& key, const Json& value) {
    Json config = parse_json(get_file(directory / "config.json"), "config.json");
    config["quantization_config"][key] = value;
    put_file(directory / "config.json", config.dump());
  }
  void replace(const fs::path& directory, const std::string& name, const Tensor& t) {
    std::map<std::string, Tensor> all;
    SafetensorsFile f = SafetensorsFile::open(directory / "model.safetensors");
    for (const auto& e : f.entries()) all[e.name] = f.tensor(e.name).clone();
    all.erase(name);
    if (!t.empty_handle()) all[name] = t;
    SafetensorsWriter w(directory / "model.safetensors");
    for (const auto& [n, tensor] : all) w.declare(n, tensor.dtype(), tensor.shape());
    for (const std::string& n : w.order()) w.write(n, all.at(n));
    w.finish();
  }
  void refuse(const fs::path& directory, const std::string& name,
              const std::vector<std::string>& parts, ErrorKind kind = ErrorKind::corrupt) {
    expect_error(kind, parts, [&] { open_checkpoint(directory)->weight(name); });
  }
  Scratch scratch_;
  int copies_ = 0;
};

struct Rewrite {
  const char *golden, *layout;
  std::set<std::string> without;  // weights that this layout's writer stores in another form
};

TEST_F(QuantisedLayouts, WritesTheTensorsOfTheReferenceLibraries) {
  const Rewrite all[] = {
      {"awq_gemm", "awq", {}},
      {"awq_gemm_row", "awq", {}},
      {"ct_packed", "compressed-tensors", {"m.row8.weight"}},
      {"ct_int", "compressed-tensors", {"m.group.weight", "m.asym.weight", "m.tensor.weight"}},
      {"ct_float", "compressed-tensors", {"m.bf16.weight"}},
      {"ct_nvfp4", "compressed-tensors", {}},
      {"ct_mxfp4", "compressed-tensors", {}},
      {"fp8_block", "fp8", {}},
      {"modelopt", "modelopt", {"m.f8.weight"}},
      {"hqq", "hqq", {}},
  };
  for (const Rewrite& r : all) {
    SCOPED_TRACE(r.golden);
    write_checkpoint(
        r.layout, scratch_ / r.golden,
        quantised_contents_of(open_checkpoint(kQuantisedLayouts / r.golden), r.without));
    const auto ours = SafetensorsFile::open(scratch_ / r.golden / "model.safetensors");
    const auto theirs = SafetensorsFile::open(kQuantisedLayouts / r.golden / "model.safetensors");
    EXPECT_GE(ours.entries().size(), 3u);
    for (const SafetensorsEntry& e : ours.entries()) {
      SCOPED_TRACE(e.name);
      ASSERT_TRUE(theirs.has(e.name));
      EXPECT_EQ(theirs.find(e.name)->type, e.type);
      EXPECT_EQ(theirs.find(e.name)->shape, e.shape);
      ASSERT_EQ(theirs.find(e.name)->size, e.size);
      EXPECT_EQ(0, std::memcmp(ours.tensor(e.name).raw(), theirs.tensor(e.name).raw(),
                               static_cast<size_t>(e.size)));
    }
    EXPECT_EQ(open_checkpoint(scratch_ / r.golden)->layout, r.layout);
  }
}

TEST_F(QuantisedLayouts, ReadsOlderConfigFiles) {
  fs::path d = copy("awq_gemm");
  put_file(d / "config.json", R"({"model_type":"llama"})");
  put_file(d / "quant_config.json",
           R"({"zero_point":true,"q_group_size":32,"w_bit":4,"version":"GEMM"})");
  EXPECT_EQ(open_checkpoint(d)->weight("m.a.weight").params.group, 32);
  d = copy("modelopt");
  put_file(d / "config.json", R"({"model_type":"llama"})");
  put_file(d / "hf_quant_config.json", R"({"quantization":{"quant_algo":"NVFP4"}})");
  EXPECT_EQ(open_checkpoint(d)->weight("m.a.weight").encoding, "nvfp4_modelopt");
}

TEST_F(QuantisedLayouts, MovesCodesFromOneToAnother) {
  auto awq = open_checkpoint(kQuantisedLayouts / "awq_gemm");
  write_checkpoint("compressed-tensors", scratch_ / "ct", quantised_contents_of(awq));
  write_checkpoint("gptq_v2", scratch_ / "gptq",
                   quantised_contents_of(open_checkpoint(scratch_ / "ct")));
  write_checkpoint("awq", scratch_ / "awq",
                   quantised_contents_of(open_checkpoint(scratch_ / "gptq")));
  EXPECT_TRUE(get_file(scratch_ / "awq" / "model.safetensors") ==
              get_file(kQuantisedLayouts / "awq_gemm" / "model.safetensors"));
}

TEST_F(QuantisedLayouts, RefusesSpoiledAwq) {
  fs::path d = copy("awq_gemm");
  set(d, "version", "gemv_fast");
  expect_error(ErrorKind::unsupported, {"'gemv_fast'", "config.json"}, [&] { open_checkpoint(d); });
  set(d, "version", "gemm");
  set(d, "bits", 3);
  expect_error(ErrorKind::unsupported, {"3 bits"}, [&] { open_checkpoint(d); });
  set(d, "bits", 4);
  replace(d, "m.a.qzeros", Tensor());
  refuse(d, "m.a.weight", {"'m.a.qzeros'", "missing"});
  replace(d, "m.a.scales", Tensor::zeros({3, 32}, DType::f16));
  replace(d, "m.a.qzeros", Tensor::zeros({3, 4}, DType::i32));
  refuse(d, "m.a.weight", {"'m.a'", "3 equal groups"});
  replace(d, "m.b.qweight", Tensor::zeros({0, 8}, DType::i32));
  refuse(d, "m.b.weight", {"'m.b'", "empty"});
}

TEST_F(QuantisedLayouts, RefusesSpoiledCompressedTensors) {
  fs::path d = copy("ct_packed");
  replace(d, "m.sym4.weight_packed", Tensor::zeros({32, 9}, DType::i32));
  refuse(d, "m.sym4.weight", {"'m.sym4'", "9 words", "64 codes"});
  replace(d, "m.asym4.weight_shape", Tensor::from<int64_t>({40, -5}));
  refuse(d, "m.asym4.weight", {"'m.asym4'", "[40, -5]"});
  replace(d, "m.asym3.weight_zero_point", Tensor::zeros({5, 4}, DType::i32));
  refuse(d, "m.asym3.weight", {"'m.asym3'", "weight_zero_point", "[5, 4]"});
  replace(d, "m.sym2.weight_scale", Tensor::zeros({7, 1}, DType::f16));
  refuse(d, "m.sym2.weight", {"'m.sym2'", "weight_scale", "[7, 1]"});
  set(d, "transform_config",
      parse_json(R"({"config_groups":{"R":{"apply":[{"location":"input"}]}}})", "test"));
  expect_error(ErrorKind::unsupported, {"transform_config", "'input'"},
               [&] { open_checkpoint(d); });
  d = copy("ctold_sparse");
  replace(d, "m.bf16.compressed", Tensor::zeros({3}, DType::bf16));
  refuse(d, "m.bf16.weight", {"'m.bf16'", "3 values"});
  replace(d, "m.int8.shape", Tensor::from<int64_t>({int64_t{1} << 40, int64_t{1} << 40}));
  refuse(d, "m.int8.weight", {"'m.int8.bitmask'"});
}

TEST_F(QuantisedLayouts, RefusesSpoiledFloatsAndHqq) {
  fs::path d = copy("fp8_block");
  replace(d, "m.a.weight_scale_inv", Tensor::zeros({2, 3}, DType::f32));
  refuse(d, "m.a.weight", {"'m.a'", "[2, 3]", "[144, 160]"});
  set(d, "weight_block_size", 128);
  expect_error(ErrorKind::corrupt, {"weight_block_size"}, [&] { open_checkpoint(d); });
  d = copy("modelopt");
  replace(d, "m.a.weight_scale_2", Tensor());
  refuse(d, "m.a.weight", {"'m.a'", "weight_scale_2"});
  replace(d, "m.a.pre_quant_scale", Tensor::zeros({64}, DType::f32));
  expect_error(ErrorKind::unsupported, {"'m.a.pre_quant_scale'"}, [&] { open_checkpoint(d); });
  d = copy("hqq");
  replace(d, "m.b4.group_size", Tensor::from<int32_t>({0}));
  refuse(d, "m.b4.weight", {"'m.b4'", "groups of 0"});
  replace(d, "m.b3.W_q", Tensor::zeros({1, 32}, DType::i32));
  refuse(d, "m.b3.weight", {"'m.b3'", "W_q has 128 bytes"});
  replace(d, "m.b2.quant_scale", Tensor::from<uint8_t>({1}));
  refuse(d, "m.b2.weight", {"'m.b2'", "quantised themselves"}, ErrorKind::unsupported);
}

WeightInfo info(const char* encoding, int64_t n, int64_t k, WeightParams p) {
  return {"x.weight", {n, k}, encoding, p};
}

TEST_F(QuantisedLayouts, SaysWhatItCannotHold) {
  auto refusal = [](const char* name, const WeightInfo& w) { return layout(name).refusal(w); };
  EXPECT_NE(refusal("awq", info("int_group", 8, 64, {.bits = 8})).find("4 bits"),
            std::string::npos);
  EXPECT_NE(refusal("awq", info("int_group", 8, 64, {.bits = 4, .act_order = true})), "");
  EXPECT_NE(refusal("awq", info("int_group", 8, 64, {.bits = 4, .scale_type = DType::f32})), "");
  EXPECT_NE(refusal("awq", info("int_group", 8, 64, {.bits = 4, .group = 48})), "");
  EXPECT_EQ(refusal("awq", info("int_group", 8, 64, {.bits = 4, .group = 32})), "");
  EXPECT_NE(refusal("fp8", info("f8_e4m3", 8, 64, {.row_scaled = true})), "");
  EXPECT_EQ(refusal("compressed-tensors", info("f8_e4m3", 8, 64, {.row_scaled = true})), "");
  EXPECT_NE(refusal("compressed-tensors", info("int_group", 8, 64, {.bits = 4, .group = 48})), "");

  CheckpointContents c;
  c.config = {{"model_type", "llama"}};
  c.weights = {info("int_group", 8, 64, {.bits = 4, .group = 32}),
               info("int_group", 8, 64, {.bits = 4})};
  c.weights[1].name = "y.weight";
  expect_error(ErrorKind::unsupported, {"'y.weight'", "group size"},
               [&] { write_checkpoint("awq", scratch_ / "out", c); });
}

}  // namespace
}  // namespace hone
