// Checkpoint layouts: directories of the reference libraries load, and writing what was read gives
// the same tensors byte for byte; what cannot be held or is spoiled is refused with a reason.
#include <fmt/ranges.h>

#include "formats/bit_matrix.h"
#include "formats/checkpoint.h"
#include "formats/safetensors.h"
#include "formats/scratch.h"
#include "tensor/code_tables.h"

namespace hone {
namespace {

const fs::path kLayouts = fs::path(HONE_SOURCE_DIR) / "tests" / "golden" / "layouts";

/// Everything `checkpoint` holds, ready to be written again.
CheckpointContents contents_of(std::shared_ptr<const Checkpoint> checkpoint) {
  CheckpointContents c;
  c.config = checkpoint->config;
  for (const std::string& name : checkpoint->names()) {
    Weight w = checkpoint->weight(name);
    c.weights.push_back({name, w.shape, w.encoding, w.params});
  }
  c.weight = [checkpoint](const std::string& name) { return checkpoint->weight(name); };
  return c;
}

CheckpointContents one(const std::string& name, const Weight& w) {
  CheckpointContents c;
  c.config = {{"model_type", "llama"}};
  c.weights.push_back({name, w.shape, w.encoding, w.params});
  c.weight = [w](const std::string&) { return w; };
  return c;
}

Weight int_group(int bits, int64_t n, int64_t k, int64_t group, bool symmetric) {
  Weight w;
  w.shape = {n, k};
  w.encoding = "int_group";
  w.params.bits = bits;
  w.params.group = group;
  w.params.symmetric = symmetric;
  int64_t groups = group == 0 ? 1 : (k + group - 1) / group;
  w.planes["codes"] = Tensor::zeros({n, k * bits / 8}, DType::u8);
  w.planes["scales"] = Tensor::zeros({n, groups}, DType::f16);
  if (!symmetric) w.planes["zeros"] = Tensor::zeros({n, groups}, DType::u8);
  return w;
}

Weight float_matrix(DType dtype) { return float_weight(Tensor::zeros({4, 8}, dtype)); }

class Layouts : public ::testing::Test {
 protected:
  /// A copy of a golden directory, to be spoiled.
  fs::path copy(const std::string& name) {
    fs::path to = scratch_ / ("copy-" + std::to_string(copies_++));
    fs::copy(kLayouts / name, to, fs::copy_options::recursive);
    return to;
  }
  /// Replaces a tensor of model.safetensors, or drops it where `t` is not defined.
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
  void refuse_weight(const fs::path& directory, const std::string& name,
                     const std::vector<std::string>& parts, ErrorKind kind = ErrorKind::corrupt) {
    expect_error(kind, parts, [&] { open_checkpoint(directory)->weight(name); });
  }
  Scratch scratch_;
  int copies_ = 0;
};

TEST_F(Layouts, RewritesReferenceDirectories) {
  for (auto [name, layout] :
       std::vector<std::pair<const char*, const char*>>{{"hf", "hf"},
                                                        {"bnb_nf4", "bitsandbytes"},
                                                        {"bnb_fp4_double", "bitsandbytes"},
                                                        {"bnb_int8", "bitsandbytes"},
                                                        {"gptq_v1", "gptq"},
                                                        {"gptq_v2", "gptq_v2"}}) {
    SCOPED_TRACE(name);
    auto checkpoint = open_checkpoint(kLayouts / name);
    EXPECT_TRUE(std::string(layout).starts_with(checkpoint->layout)) << checkpoint->layout;
    EXPECT_EQ(checkpoint->architecture, "llama");
    fs::path out = scratch_ / name;
    write_checkpoint(layout, out, contents_of(checkpoint));
    EXPECT_TRUE(get_file(out / "model.safetensors") ==
                get_file(kLayouts / name / "model.safetensors"));
    EXPECT_EQ(open_checkpoint(out)->names(), checkpoint->names());
  }
}

TEST_F(Layouts, WritesTheReferenceConfigOfBitsandbytes) {
  for (const char* name : {"bnb_nf4", "bnb_fp4_double", "bnb_int8"}) {
    SCOPED_TRACE(name);
    auto checkpoint = open_checkpoint(kLayouts / name);
    write_checkpoint("bitsandbytes", scratch_ / name, contents_of(checkpoint));
    Json ours = open_checkpoint(scratch_ / name)->config["quantization_config"];
    Json theirs = checkpoint->config["quantization_config"];
    // Ours names every float matrix; theirs relies on defaults. The 4-bit fields of an 8-bit
    // directory mean nothing.
    for (const auto& [key, value] : theirs.items()) {
      if (key == "llm_int8_skip_modules" ||
          (name == std::string("bnb_int8") && key == "bnb_4bit_quant_type"))
        continue;
      EXPECT_EQ(ours[key], value) << key;
    }
  }
}

TEST_F(Layouts, ReadsWhatGptqModelPacked) {
  for (const char* name : {"gptq_v1", "gptq_v2"}) {
    auto checkpoint = open_checkpoint(kLayouts / name);
    SafetensorsFile planes = SafetensorsFile::open(kLayouts / name / "planes.safetensors");
    int modules = 0;
    for (const std::string& weight_name : checkpoint->names()) {
      if (weight_name == "model.norm.weight") continue;
      ++modules;
      SCOPED_TRACE(weight_name);
      std::string module = weight_name.substr(0, weight_name.size() - 7);
      Weight w = checkpoint->weight(weight_name);
      Tensor codes = planes.tensor(module + ".codes"), scales = planes.tensor(module + ".scales");
      Tensor zeros = planes.tensor(module + ".zeros"), g_idx = planes.tensor(module + ".g_idx");
      ASSERT_EQ(w.encoding, "int_group");
      ASSERT_EQ(w.shape, codes.shape());
      ASSERT_EQ(w.plane("scales").shape(), scales.shape());
      int64_t k = w.cols(), groups = scales.dim(1), row = k * w.params.bits / 8;
      int64_t group = w.params.group == 0 ? k : w.params.group;
      EXPECT_EQ(w.params.symmetric, module.find("asym") == std::string::npos &&
                                        module.find("act") == std::string::npos &&
                                        module.find("short") == std::string::npos);
      EXPECT_EQ(w.params.act_order, module.find("act") != std::string::npos);
      for (int64_t n = 0; n < w.rows(); ++n)
        for (int64_t i = 0; i < k; ++i) {
          const uint8_t* stream = w.plane("codes").data<uint8_t>() + n * row;
          ASSERT_EQ(stream_get(stream, i, w.params.bits), codes.data<uint8_t>()[n * k + i]);
        }
      for (int64_t i = 0; i < scales.numel(); ++i) {
        ASSERT_EQ(w.plane("scales").data<f16>()[i].bits, scales.data<f16>()[i].bits);
        int zero =
            w.params.symmetric ? 1 << (w.params.bits - 1) : w.plane("zeros").data<uint8_t>()[i];
        ASSERT_EQ(zero, zeros.data<uint8_t>()[i]);
      }
      EXPECT_EQ((k + group - 1) / group, groups);
      for (int64_t i = 0; i < k; ++i) {
        int64_t got = w.params.act_order ? w.plane("g_idx").data<int32_t>()[i] : i / group;
        ASSERT_EQ(got, g_idx.data<int32_t>()[i]);
      }
    }
    EXPECT_GE(modules, 4);
  }
}

TEST_F(Layouts, SymmetricGptqGivesItsVersionAway) {
  // The wrong label in the config, both ways: the zero points of symmetric weights tell.
  for (auto [name, module, lie] :
       {std::tuple("gptq_v1", "m.sym4", "gptq_v2"), std::tuple("gptq_v2", "m.sym3", "gptq")}) {
    fs::path d = copy(name);
    Json config = parse_json(get_file(d / "config.json"), "config.json");
    config["quantization_config"]["checkpoint_format"] = lie;
    config["quantization_config"]["sym"] = true;
    put_file(d / "config.json", config.dump());
    EXPECT_TRUE(open_checkpoint(d)->weight(std::string(module) + ".weight").params.symmetric);
  }
}

TEST_F(Layouts, ReadsLegacyGptqDirectories) {
  fs::path d = copy("gptq_v1");
  put_file(d / "config.json", R"({"model_type":"llama"})");
  put_file(d / "quantize_config.json",
           R"({"bits":4,"group_size":32,"desc_act":false,"sym":false})");
  replace(d, "m.asym4.g_idx", Tensor());
  auto checkpoint = open_checkpoint(d);
  EXPECT_EQ(checkpoint->layout, "gptq");
  Weight w = checkpoint->weight("m.asym4.weight");
  EXPECT_EQ(w.params.group, 32);
  EXPECT_EQ(w.shape, (Shape{64, 96}));
}

TEST_F(Layouts, RefusesSpoiledGptq) {
  fs::path d = copy("gptq_v1");
  replace(d, "m.sym4.qzeros", Tensor());
  refuse_weight(d, "m.sym4.weight", {"'m.sym4.qzeros'", "missing"});
  replace(d, "m.sym4.qzeros", Tensor::zeros({2, 3}, DType::i32));
  refuse_weight(d, "m.sym4.weight", {"'m.sym4.qzeros'", "[2, 4]", "[2, 3]"});
  replace(d, "m.sym4.qzeros", Tensor::zeros({2, 4}, DType::f32));
  refuse_weight(d, "m.sym4.weight", {"'m.sym4.qzeros'", "i32", "F32"});
  replace(d, "m.asym4.scales", Tensor::zeros({200, 64}, DType::f16));
  refuse_weight(d, "m.asym4.weight", {"'m.asym4'", "groups"});
  replace(d, "m.asym4.scales", Tensor::zeros({3, 60}, DType::f16));
  refuse_weight(d, "m.asym4.weight", {"'m.asym4.scales'"});
  replace(d, "m.sym2.g_idx", Tensor::zeros({63}, DType::i32));
  refuse_weight(d, "m.sym2.weight", {"'m.sym2'"});
  replace(d, "m.sym2.g_idx", Tensor::zeros({0}, DType::i32));
  refuse_weight(d, "m.sym2.weight", {"'m.sym2'", "g_idx"});
  Tensor wild = Tensor::zeros({64}, DType::i32);
  wild.mutable_data<int32_t>()[5] = -1;
  replace(d, "m.sym2.g_idx", wild);
  refuse_weight(d, "m.sym2.weight", {"'m.sym2.g_idx'", "column 5", "-1"});
  replace(d, "m.asym3.qweight", Tensor::zeros({0, 32}, DType::i32));
  refuse_weight(d, "m.asym3.weight", {"'m.asym3'", "empty"});
  refuse_weight(d, "nope.weight", {"'nope.weight'"});

  put_file(d / "config.json", R"({"model_type":"llama","quantization_config":
    {"quant_method":"gptq","bits":4,"checkpoint_format":"marlin"}})");
  expect_error(ErrorKind::unsupported, {"'marlin'", "config.json"}, [&] { open_checkpoint(d); });
  put_file(d / "config.json", R"({"model_type":"llama","quantization_config":
    {"quant_method":"gptq","bits":"four"}})");
  expect_error(ErrorKind::corrupt, {"\"bits\"", "config.json"}, [&] { open_checkpoint(d); });
}

TEST_F(Layouts, ReadsBitsandbytesPlanes) {
  auto nf4 = open_checkpoint(kLayouts / "bnb_nf4");
  Weight down = nf4->weight("model.layers.0.mlp.down_proj.weight");
  EXPECT_EQ(down.encoding, "nf4");
  EXPECT_EQ(down.shape, (Shape{32, 48}));
  EXPECT_EQ(down.params.block, 64);
  EXPECT_EQ(down.plane("codes").shape(), (Shape{32 * 48 / 2}));
  EXPECT_EQ(down.plane("absmax").shape(), (Shape{32 * 48 / 64}));
  EXPECT_EQ(nf4->weight("model.embed_tokens.weight").encoding, "f32");
  for (const std::string& name : nf4->names()) EXPECT_TRUE(name.ends_with(".weight")) << name;

  Weight fp4 =
      open_checkpoint(kLayouts / "bnb_fp4_double")->weight("model.layers.0.mlp.down_proj.weight");
  EXPECT_EQ(fp4.encoding, "fp4");
  EXPECT_TRUE(fp4.params.double_quant);
  EXPECT_GT(fp4.params.nested_offset, 0);
  EXPECT_EQ(fp4.plane("absmax").dtype(), DType::u8);
  EXPECT_EQ(fp4.plane("nested_absmax").numel(), 1);
  EXPECT_FALSE(fp4.planes.contains("nested_map")) << "the table is the standard one, bit for bit";

  // The same codes, stored under another type.
  Weight stored = open_checkpoint(kLayouts / "bnb_nf4_double_bf16")
                      ->weight("model.layers.0.mlp.down_proj.weight");
  EXPECT_EQ(std::memcmp(stored.plane("codes").raw(), down.plane("codes").raw(), 32 * 48 / 2), 0);

  Weight int8 =
      open_checkpoint(kLayouts / "bnb_int8")->weight("model.layers.0.mlp.down_proj.weight");
  EXPECT_EQ(int8.encoding, "int8_row");
  EXPECT_EQ(int8.plane("codes").dtype(), DType::i8);
  EXPECT_EQ(int8.plane("scales").shape(), (Shape{32}));
}

TEST_F(Layouts, RefusesSpoiledBitsandbytes) {
  const std::string w = "model.layers.0.mlp.down_proj.weight";
  const std::string state = w + ".quant_state.bitsandbytes__fp4";
  auto text = [](const std::string& s) {
    return Tensor::from(std::vector<uint8_t>(s.begin(), s.end()));
  };
  fs::path d = copy("bnb_fp4_double");
  auto with_state = [&](const std::string& json, const std::vector<std::string>& parts,
                        ErrorKind kind = ErrorKind::corrupt) {
    replace(d, state, text(json));
    refuse_weight(d, w, parts, kind);
  };
  with_state("{", {"JSON", state});
  with_state("[]", {"object"});
  with_state(R"({"blocksize":64,"shape":[32]})", {"shape"});
  with_state(R"({"blocksize":64,"shape":[-32,48]})", {"shape"});
  with_state(R"({"blocksize":64,"shape":[4294967296,4294967296]})", {"too large"});
  with_state(R"({"blocksize":0,"shape":[32,48]})", {"blocks of 0"});
  with_state(R"({"blocksize":"x","shape":[32,48]})", {"blocksize"});
  with_state(R"({"blocksize":64,"shape":[32,50]})", {"'" + w + "'", "800"});
  with_state(R"({"blocksize":32,"shape":[32,48]})", {".absmax'"});
  with_state(R"({"blocksize":64,"shape":[32,48],"quant_type":"nf4"})", {"quant_type"});
  with_state(R"({"blocksize":64,"shape":[32,48],"nested_blocksize":64})", {"nested_blocksize"},
             ErrorKind::unsupported);
  with_state(R"({"blocksize":64,"shape":[32,48],"nested_offset":1e300})", {"nested_offset"});
  with_state(std::string(70000, ' '), {"70000"});

  d = copy("bnb_fp4_double");
  replace(d, w + ".quant_map", Tensor::zeros({16}, DType::f32));
  refuse_weight(d, w, {".quant_map'", "entry 1"}, ErrorKind::unsupported);
  replace(d, w + ".quant_map", Tensor());
  refuse_weight(d, w, {".quant_map'", "missing"});

  // A dynamic map that differs in the last bits is kept; another one is refused.
  d = copy("bnb_fp4_double");
  const auto& table = signed_dynamic_table();
  Tensor map = Tensor::from(std::vector<float>(table.begin(), table.end()));
  map.mutable_data<float>()[3] *= 1.0000001f;
  replace(d, w + ".nested_quant_map", map);
  EXPECT_TRUE(open_checkpoint(d)->weight(w).planes.contains("nested_map"));
  map.mutable_data<float>()[3] = 0;
  replace(d, w + ".nested_quant_map", map);
  refuse_weight(d, w, {".nested_quant_map'", "entry 3"}, ErrorKind::unsupported);

  d = copy("bnb_int8");
  const std::string module = "model.layers.0.mlp.down_proj";
  replace(d, module + ".SCB", Tensor::zeros({31}, DType::f32));
  refuse_weight(d, w, {".SCB'", "[31]"});
  d = copy("bnb_int8");
  Tensor format = Tensor::zeros({}, DType::u8);
  format.mutable_data<uint8_t>()[0] = 2;
  replace(d, module + ".weight_format", format);
  refuse_weight(d, w, {"weight_format"}, ErrorKind::unsupported);
}

TEST_F(Layouts, RefusesOtherPaths) {
  expect_error(ErrorKind::io, {"nowhere"}, [&] { open_checkpoint(scratch_ / "nowhere"); });
  expect_error(ErrorKind::unsupported, {"config.json"}, [&] { open_checkpoint(scratch_.path()); });
  put_file(scratch_ / "f", "text");
  expect_error(ErrorKind::corrupt, {"not a GGUF file"}, [&] { open_checkpoint(scratch_ / "f"); });
  put_file(scratch_ / "config.json", "[]");
  expect_error(ErrorKind::corrupt, {"config.json", "object"},
               [&] { open_checkpoint(scratch_.path()); });
  put_file(scratch_ / "config.json", "{}");
  expect_error(ErrorKind::corrupt, {"model_type"}, [&] { open_checkpoint(scratch_.path()); });
  put_file(scratch_ / "config.json", R"({"model_type":"llama"})");
  expect_error(ErrorKind::io, {"model.safetensors"}, [&] { open_checkpoint(scratch_.path()); });
  for (const char* q : {"1", "{}", R"({"quant_method":3})"}) {
    put_file(scratch_ / "config.json", fmt::format(R"({{"quantization_config":{}}})", q));
    expect_error(ErrorKind::corrupt, {"quant"}, [&] { open_checkpoint(scratch_.path()); });
  }
  put_file(scratch_ / "config.json", R"({"quantization_config":{"quant_method":"new\u001b"}})");
  expect_error(ErrorKind::unsupported, {"'new\\x1b'", "gptq", "bitsandbytes"},
               [&] { open_checkpoint(scratch_.path()); });
}

TEST_F(Layouts, RefusesWhatALayoutCannotHold) {
  auto refuse = [&](const char* layout, const Weight& w, const std::string& why) {
    expect_error(ErrorKind::unsupported, {"'x.weight'", layout, why},
                 [&] { write_checkpoint(layout, scratch_ / "out", one("x.weight", w)); });
  };
  Weight nf4 = int_group(4, 32, 64, 32, true);
  nf4.encoding = "nf4";
  refuse("hf", int_group(4, 32, 64, 32, true), "int_group");
  refuse("gptq", nf4, "nf4");
  refuse("gptq", int_group(5, 32, 64, 32, true), "not 5");
  refuse("gptq", int_group(4, 32, 48, 16, true), "multiples of 32");
  refuse("gptq", int_group(4, 30, 64, 32, true), "multiples of 32");
  refuse("gptq", int_group(4, 32, 96, 48, true), "48");
  refuse("bitsandbytes", int_group(4, 32, 64, 32, true), "int_group");
  refuse("gguf", nf4, "nf4");
  Weight q4 = float_matrix(DType::f32);
  q4.encoding = "q4_0";
  refuse("gguf", q4, "multiple of 32");
  expect_error(ErrorKind::unsupported, {"'new'", "gptq_v2"},
               [&] { write_checkpoint("new", scratch_ / "out", {}); });

  // Only the data shows a zero point of 0: nothing may stay behind then.
  Weight zero = int_group(4, 32, 64, 32, false);
  expect_error(ErrorKind::unsupported, {"'x.weight'", "gptq_v2"},
               [&] { write_checkpoint("gptq", scratch_ / "out", one("x.weight", zero)); });
  EXPECT_TRUE(fs::is_empty(scratch_.path()));
  write_checkpoint("gptq_v2", scratch_ / "out", one("x.weight", zero));
  EXPECT_FALSE(open_checkpoint(scratch_ / "out")->weight("x.weight").params.symmetric);
}

TEST_F(Layouts, GptqConfigNamesExceptions) {
  CheckpointContents c = one("a.weight", int_group(4, 32, 64, 32, true));
  c.weights.push_back({"b.weight", {32, 64}, "int_group", int_group(4, 32, 64, 32, true).params});
  c.weights.push_back({"c.d.weight", {32, 64}, "int_group", int_group(8, 32, 64, 0, true).params});
  c.weights.push_back({"e.weight", {4, 8}, "f32", float_matrix(DType::f32).params});
  c.weight = [](const std::string& name) {
    if (name == "e.weight") return float_matrix(DType::f32);
    return name == "c.d.weight" ? int_group(8, 32, 64, 0, true) : int_group(4, 32, 64, 32, true);
  };
  c.quantization_notes = {{"damp_percent", 0.01}};
  c.texts = {{"tokenizer.json", "{}"}};
  write_checkpoint("gptq", scratch_ / "out", c);
  auto checkpoint = open_checkpoint(scratch_ / "out");
  EXPECT_EQ(checkpoint->text("tokenizer.json"), "{}");
  EXPECT_EQ(checkpoint->text("absent.json"), std::nullopt);
  EXPECT_EQ(checkpoint->text("../out/tokenizer.json"), std::nullopt);
  Json q = checkpoint->config["quantization_config"];
  EXPECT_EQ(q["bits"], 4);
  EXPECT_EQ(q["group_size"], 32);
  EXPECT_EQ(q["checkpoint_format"], "gptq");
  EXPECT_EQ(q["format"], "gptq");
  EXPECT_EQ(q["dynamic"]["+:^c\\.d$"]["bits"], 8);
  EXPECT_EQ(q["dynamic"]["+:^c\\.d$"]["group_size"], -1);
  EXPECT_TRUE(q["dynamic"].contains("-:^e$"));
  EXPECT_EQ(q["meta"]["damp_percent"], 0.01);
  EXPECT_TRUE(fs::exists(scratch_ / "out" / "quantize_config.json"));
  EXPECT_EQ(checkpoint->weight("c.d.weight").params.group, 0);
}

TEST_F(Layouts, MixedBitsandbytesIsRefused) {
  auto type = [](const char* encoding) {
    WeightInfo w{std::string(encoding) + ".weight", {4, 32}, encoding, {}};
    w.params.block = 64;
    return w;
  };
  for (auto [a, b] : {std::pair("nf4", "fp4"), std::pair("nf4", "int8_row")}) {
    CheckpointContents c;
    c.config = {{"model_type", "llama"}};
    c.weights = {type(a), type(b)};
    expect_error(ErrorKind::unsupported, {"not both"},
                 [&] { write_checkpoint("bitsandbytes", scratch_ / "out", c); });
  }
}

TEST_F(Layouts, WritesAllOrNothing) {
  CheckpointContents c = one("x.weight", float_matrix(DType::bf16));
  c.weight = [](const std::string&) -> Weight { fail(ErrorKind::io, "the source broke"); };
  for (const Layout& l : layouts()) {
    if (l.write == nullptr) continue;
    expect_error(ErrorKind::io, {"the source broke"},
                 [&] { write_checkpoint(l.name, scratch_ / "out", c); });
    EXPECT_TRUE(fs::is_empty(scratch_.path())) << l.name;
  }
  c = one("x.weight", float_matrix(DType::bf16));
  c.weight = [](const std::string&) { return float_matrix(DType::f32); };
  expect_error(ErrorKind::invalid_argument, {"'x.weight'", "announced"},
               [&] { write_checkpoint("hf", scratch_ / "out", c); });

  c = one("x.weight", float_matrix(DType::bf16));
  fs::create_directory(scratch_ / "out");
  write_checkpoint("hf", scratch_ / "out", c);
  EXPECT_EQ(open_checkpoint(scratch_ / "out")->weight("x.weight").encoding, "bf16");
  expect_error(ErrorKind::invalid_argument, {"exists already"},
               [&] { write_checkpoint("hf", scratch_ / "out", c); });
  c.texts = {{"../escape", "x"}};
  expect_error(ErrorKind::invalid_argument, {"'../escape'"},
               [&] { write_checkpoint("hf", scratch_ / "new", c); });
  EXPECT_FALSE(fs::exists(scratch_ / "new"));
}

TEST_F(Layouts, ShardsLargeDirectories) {
  auto checkpoint = open_checkpoint(kLayouts / "bnb_nf4");
  CheckpointContents c = contents_of(checkpoint);
  c.max_shard_bytes = 2000;
  write_checkpoint("bitsandbytes", scratch_ / "out", c);
  EXPECT_TRUE(fs::exists(scratch_ / "out" / "model.safetensors.index.json"));
  auto again = open_checkpoint(scratch_ / "out");
  EXPECT_EQ(again->names(), checkpoint->names());
  for (const std::string& name : again->names())
    for (const auto& [plane, t] : checkpoint->weight(name).planes)
      EXPECT_EQ(std::memcmp(again->weight(name).plane(plane).raw(), t.raw(),
                            static_cast<size_t>(t.byte_size())),
                0);
}

TEST_F(Layouts, GgufRoundTrip) {
  auto golden = open_checkpoint(kLayouts.parent_path() / "formats.gguf");
  EXPECT_EQ(golden->layout, "gguf");
  EXPECT_EQ(golden->architecture, "llama");
  EXPECT_EQ(golden->config["scalar.float32"], 0.5);
  EXPECT_FALSE(golden->config.contains("array.string"));
  CheckpointContents c;
  c.gguf_metadata = golden->gguf()->metadata();
  for (const std::string& name : golden->names()) {
    if (name == "ids") continue;
    Weight w = golden->weight(name);
    c.weights.push_back({name, w.shape, w.encoding, w.params});
  }
  c.weight = [&](const std::string& name) { return golden->weight(name); };
  write_checkpoint("gguf", scratch_ / "out.gguf", c);
  auto again = open_checkpoint(scratch_ / "out.gguf");
  EXPECT_EQ(again->names().size() + 1, golden->names().size());
  EXPECT_EQ(again->config, golden->config);
  again->release("q8_0.weight");
}

}  // namespace
}  // namespace hone
