// Files that are wrong, hostile or not there: one line on stderr that names the file and, where it
// applies, tensor and byte; exit status 1; nothing written.
#include <fcntl.h>
#include <sys/wait.h>

#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>

#include "apps/command.h"

namespace hone::testing {
namespace {

/// A fresh model, as a directory and as a GGUF file, for a case to spoil.
struct Files {
  fs::path directory, gguf, scratch;

  Json config() const { return Json::parse(read_bytes(directory / "config.json")); }
  void edit_config(const std::function<void(Json&)>& edit) const {
    Json c = config();
    edit(c);
    write_bytes(directory / "config.json", c.dump());
  }
  /// Changes the header of model.safetensors, whose data stays.
  void edit_header(const std::function<void(Json&)>& edit) const {
    std::string bytes = read_bytes(directory / "model.safetensors");
    uint64_t length = 0;
    std::memcpy(&length, bytes.data(), 8);
    Json header = Json::parse(bytes.substr(8, length));
    edit(header);
    put_header(header.dump(), bytes.substr(8 + length));
  }
  void put_header(const std::string& header, const std::string& data) const {
    uint64_t length = header.size();
    write_bytes(directory / "model.safetensors",
                std::string(reinterpret_cast<const char*>(&length), 8) + header + data);
  }
  /// Overwrites a number of the GGUF at a position.
  template <typename T>
  void patch(size_t at, T value) const {
    std::string bytes = read_bytes(gguf);
    std::memcpy(bytes.data() + at, &value, sizeof(value));
    write_bytes(gguf, bytes);
  }
  /// Where the description of a GGUF tensor goes on behind its name: rank, sizes, type, offset.
  size_t behind(const std::string& name) const {
    uint64_t length = name.size();
    std::string bytes = read_bytes(gguf);
    std::string wanted = std::string(reinterpret_cast<const char*>(&length), 8) + name;
    size_t at = bytes.find(wanted);
    if (at == std::string::npos) throw std::runtime_error("no " + name + " in the GGUF");
    return at + wanted.size();
  }
};

constexpr const char* kQ = "model.layers.0.self_attn.q_proj.weight";
constexpr const char* kGgufQ = "blk.0.attn_q.weight";

struct Case {
  const char* name;
  std::function<void(const Files&)> spoil;
  std::vector<std::string> parts;  // of the message; the file's name is always one
  bool gguf = false;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

// Sets one key of config.json.
Case config_case(const char* name, const char* key, Json value, std::vector<std::string> parts) {
  auto spoil = [key, value](const Files& f) { f.edit_config([&](Json& c) { c[key] = value; }); };
  return {name, spoil, std::move(parts)};
}

Case missing_key(const char* name, const char* key) {
  auto spoil = [key](const Files& f) { f.edit_config([&](Json& c) { c.erase(key); }); };
  return {name, spoil, {"config.json", key}};
}

Case header_case(const char* name, const std::function<void(Json&)>& edit,
                 std::vector<std::string> parts) {
  return {name, [edit](const Files& f) { f.edit_header(edit); }, std::move(parts)};
}

Case index_case(const char* name, const std::string& shard, std::vector<std::string> parts) {
  auto spoil = [shard](const Files& f) {
    fs::rename(f.directory / "model.safetensors", f.directory / "model-1.safetensors");
    Json index = {{"weight_map", {{kQ, shard}, {"model.norm.weight", "model-1.safetensors"}}}};
    write_bytes(f.directory / "model.safetensors.index.json", index.dump());
  };
  return {name, spoil, std::move(parts)};
}

Case gguf_case(const char* name, const std::function<void(const Files&)>& spoil,
               std::vector<std::string> parts) {
  return {name, spoil, std::move(parts), true};
}

std::vector<Case> directory_cases() {
  return {
      {"NoConfig",
       [](const Files& f) { fs::remove(f.directory / "config.json"); },
       {"config.json"}},
      {"ConfigNotJson",
       [](const Files& f) { write_bytes(f.directory / "config.json", "{\"a\":"); },
       {"config.json", "JSON"}},
      {"ConfigIsAList",
       [](const Files& f) { write_bytes(f.directory / "config.json", "[]"); },
       {"config.json", "object"}},
      {"ConfigIsADirectory",
       [](const Files& f) {
         fs::remove(f.directory / "config.json");
         fs::create_directory(f.directory / "config.json");
       },
       {"config.json"}},
      {"ConfigNestedDeep",
       [](const Files& f) { write_bytes(f.directory / "config.json", std::string(100000, '[')); },
       {"config.json", "nested"}},
      missing_key("NoModelType", "model_type"),
      missing_key("NoVocabulary", "vocab_size"),
      missing_key("NoWidth", "hidden_size"),
      missing_key("NoLayers", "num_hidden_layers"),
      missing_key("NoHeads", "num_attention_heads"),
      missing_key("NoFeedForward", "intermediate_size"),
      config_case("UnknownModelType", "model_type", "mamba9", {"mamba9", "llama"}),
      config_case("BillionLayers", "num_hidden_layers", 1000000000, {"layers", "1000000000"}),
      config_case("NoLayerAtAll", "num_hidden_layers", 0, {"layers"}),
      config_case("NegativeLayers", "num_hidden_layers", -1, {"layers"}),
      config_case("MoreLayersThanTensors", "num_hidden_layers", 5, {"model.layers.2"}),
      config_case("ZeroHeads", "num_attention_heads", 0, {"heads"}),
      config_case("HeadsNotDividing", "num_key_value_heads", 3, {"8", "3", "kv heads"}),
      config_case("MoreKvHeads", "num_key_value_heads", 16, {"kv heads"}),
      config_case("OddHeadSize", "head_dim", 7, {"7"}),
      config_case("HugeHeadSize", "head_dim", 1000000000, {"head size"}),
      config_case("HugeWidth", "hidden_size", 1000000000000, {"hidden size"}),
      config_case("HugeVocabulary", "vocab_size", 1000000000000, {"vocabulary"}),
      config_case("WrongWidth", "hidden_size", 128, {"model.embed_tokens.weight", "128"}),
      config_case("ZeroContext", "max_position_embeddings", 0, {"context"}),
      config_case("HugeContext", "max_position_embeddings", 1000000000000, {"context"}),
      config_case("TextForNumber", "hidden_size", "64", {"hidden_size", "integer"}),
      config_case("FractionForNumber", "hidden_size", 64.5, {"hidden_size", "integer"}),
      config_case("TextForEpsilon", "rms_norm_eps", "small", {"rms_norm_eps"}),
      config_case("WrongEpsilon", "rms_norm_eps", 3, {"epsilon"}),
      config_case("NegativeTheta", "rope_theta", -1, {"rope_theta"}),
      config_case("UnknownRope", "rope_scaling", {{"rope_type", "spiral"}, {"factor", 2}},
                  {"spiral"}),
      config_case("UnknownActivation", "hidden_act", "sine", {"sine"}),
      config_case("UnknownQuantisation", "quantization_config", {{"quant_method", "magic"}},
                  {"magic"}),
      config_case("WrongEndToken", "eos_token_id", "end", {"eos_token_id"}),

      {"NoWeights", [](const Files& f) { fs::remove(f.directory / "model.safetensors"); }, {}},
      {"EmptyWeights",
       [](const Files& f) { write_bytes(f.directory / "model.safetensors", ""); },
       {"model.safetensors"}},
      {"HeaderLongerThanFile",
       [](const Files& f) {
         std::string bytes = read_bytes(f.directory / "model.safetensors");
         uint64_t length = uint64_t{1} << 62;
         std::memcpy(bytes.data(), &length, 8);
         write_bytes(f.directory / "model.safetensors", bytes);
       },
       {"model.safetensors", "header"}},
      {"HeaderNotJson",
       [](const Files& f) { f.put_header("{\"a\": nonsense}", ""); },
       {"model.safetensors"}},
      {"TrailingBytes",
       [](const Files& f) {
         write_bytes(f.directory / "model.safetensors",
                     read_bytes(f.directory / "model.safetensors") + "more");
       },
       {"model.safetensors"}},
      {"DuplicateTensor",
       [](const Files& f) {
         f.put_header(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                      R"("a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                      std::string(8, '\0'));
       },
       {"model.safetensors", "twice"}},
      header_case("OffsetPastEnd",
                  [](Json& h) {
                    h[kQ]["data_offsets"] = {int64_t{1} << 40, (int64_t{1} << 40) + 64 * 64 * 4};
                  },
                  {"gap or an overlap"}),
      header_case("OverlappingTensors",
                  [](Json& h) {
                    h[kQ]["data_offsets"] =
                        h["model.layers.1.self_attn.q_proj.weight"]["data_offsets"];
                  },
                  {"gap or an overlap"}),
      header_case("NegativeOffset",
                  [](Json& h) {
                    h[kQ]["data_offsets"] = {-4, 12};
                  },
                  {kQ}),
      header_case("ReversedOffsets",
                  [](Json& h) {
                    h[kQ]["data_offsets"] = {64, 0};
                  },
                  {kQ}),
      header_case("OverflowingShape",
                  [](Json& h) {
                    h[kQ]["shape"] = {int64_t{1} << 62, int64_t{1} << 62};
                  },
                  {kQ}),
      header_case("NegativeShape",
                  [](Json& h) {
                    h[kQ]["shape"] = {-64, -64};
                  },
                  {kQ}),
      header_case("ShapeAndRangeDiffer",
                  [](Json& h) {
                    h[kQ]["shape"] = {64, 63};
                  },
                  {kQ}),
      header_case("UnknownType", [](Json& h) { h[kQ]["dtype"] = "F77"; }, {kQ, "F77"}),
      header_case("TransposedNames",
                  [](Json& h) {
                    h[kQ]["shape"] = {32, 128};
                  },
                  {kQ, "[64, 64]", "[32, 128]"}),
      header_case("IntegerWeights", [](Json& h) { h[kQ]["dtype"] = "I32"; }, {kQ, "I32"}),
      {"MissingTensor",
       [](const Files& f) {
         f.edit_header([](Json& h) {
           h["other"] = h[kQ];
           h.erase(kQ);
         });
       },
       {kQ, "missing"}},
      {"NotANumberIsNotATensor",
       [](const Files& f) { f.edit_header([](Json& h) { h[kQ] = 3; }); },
       {"model.safetensors", kQ}},

      index_case("ShardAbsent", "model-2.safetensors", {"model-2.safetensors"}),
      index_case("ShardOutside", "../model-1.safetensors", {"index.json", "../model-1"}),
      index_case("ShardAbsolute", "/etc/passwd", {"index.json", "/etc/passwd"}),
      index_case("ShardIsADirectory", "..", {"index.json"}),
      {"IndexWithoutMap",
       [](const Files& f) {
         fs::remove(f.directory / "model.safetensors");
         write_bytes(f.directory / "model.safetensors.index.json", "{\"weight_map\": 3}");
       },
       {"index.json", "weight_map"}},

      {"NoTokenizer",
       [](const Files& f) { fs::remove(f.directory / "tokenizer.json"); },
       {"tokenizer"}},
      {"TokenizerNotJson",
       [](const Files& f) { write_bytes(f.directory / "tokenizer.json", "tokens"); },
       {"tokenizer.json"}},
      {"TokenizerOfAnotherModel",
       [](const Files& f) {
         fs::copy_file(fs::path(HONE_SOURCE_DIR) / "models/hone-austen-3m/tokenizer.json",
                       f.directory / "tokenizer.json", fs::copy_options::overwrite_existing);
       },
       {"tokenizer", "288"}},
      {"TokenizerOfUnknownKind",
       [](const Files& f) {
         Json t = Json::parse(read_bytes(f.directory / "tokenizer.json"));
         t["model"]["type"] = "Unigram";
         write_bytes(f.directory / "tokenizer.json", t.dump());
       },
       {"tokenizer.json", "Unigram"}},
      {"TokenizerConfigNotJson",
       [](const Files& f) { write_bytes(f.directory / "tokenizer_config.json", "{"); },
       {"tokenizer_config.json"}},
      {"GenerationConfigNotJson",
       [](const Files& f) { write_bytes(f.directory / "generation_config.json", "{"); },
       {"generation_config.json"}},
  };
}

std::vector<Case> gguf_cases() {
  constexpr uint64_t kHuge = uint64_t{1} << 62;
  return {
      gguf_case("Empty", [](const Files& f) { write_bytes(f.gguf, ""); }, {}),
      gguf_case("NoGgufAtAll", [](const Files& f) { write_bytes(f.gguf, "PK\3\4 and so on"); },
                {"GGUF"}),
      gguf_case("UnknownVersion", [](const Files& f) { f.patch<uint32_t>(4, 9); },
                {"version", "9"}),
      gguf_case("BigEndian", [](const Files& f) { f.patch<uint32_t>(4, 3u << 24); }, {"endian"}),
      gguf_case("HugeTensorCount", [](const Files& f) { f.patch<uint64_t>(8, kHuge); },
                {"tensors"}),
      gguf_case("HugePairCount", [](const Files& f) { f.patch<uint64_t>(16, kHuge); }, {}),
      gguf_case("HugeKeyLength", [](const Files& f) { f.patch<uint64_t>(24, kHuge); }, {}),
      gguf_case("OffsetPastEnd",
                [](const Files& f) { f.patch<uint64_t>(f.behind(kGgufQ) + 24, uint64_t{1} << 40); },
                {kGgufQ}),
      gguf_case("OffsetWraps",
                [](const Files& f) { f.patch<uint64_t>(f.behind(kGgufQ) + 24, ~uint64_t{31}); },
                {kGgufQ}),
      gguf_case("OffsetNotAligned",
                [](const Files& f) { f.patch<uint64_t>(f.behind(kGgufQ) + 24, 1); }, {kGgufQ}),
      gguf_case("Overlapping",
                [](const Files& f) {
                  uint64_t other = 0;
                  std::string bytes = read_bytes(f.gguf);
                  std::memcpy(&other, bytes.data() + f.behind("blk.1.attn_q.weight") + 24, 8);
                  f.patch<uint64_t>(f.behind(kGgufQ) + 24, other);
                },
                {"attn_q.weight"}),
      gguf_case("SizesWrap",
                [](const Files& f) {
                  f.patch<uint64_t>(f.behind(kGgufQ) + 4, uint64_t{1} << 33);
                  f.patch<uint64_t>(f.behind(kGgufQ) + 12, uint64_t{1} << 33);
                },
                {kGgufQ}),
      gguf_case("WrongShape",
                [](const Files& f) {
                  f.patch<uint64_t>(f.behind(kGgufQ) + 4, 128);
                  f.patch<uint64_t>(f.behind(kGgufQ) + 12, 32);
                },
                {kGgufQ}),
      gguf_case("HugeRank", [](const Files& f) { f.patch<uint32_t>(f.behind(kGgufQ), 900); },
                {kGgufQ}),
      gguf_case("UnknownTensorType",
                [](const Files& f) { f.patch<uint32_t>(f.behind(kGgufQ) + 20, 999); },
                {kGgufQ, "999"}),
      gguf_case("MissingTensor", [](const Files& f) { f.patch<char>(f.behind(kGgufQ) - 1, 'X'); },
                {kGgufQ, "missing"}),
      gguf_case("UnknownArchitecture",
                [](const Files& f) {
                  std::string bytes = read_bytes(f.gguf);
                  bytes.replace(bytes.find("llama", bytes.find("general.architecture")), 5,
                                "liana");
                  write_bytes(f.gguf, bytes);
                },
                {"liana"}),
  };
}

class BadModel : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    files_ = {scratch_ / "model", scratch_ / "model.gguf", scratch_.path()};
    TinyModel().write(files_.directory);
    if (!GetParam().gguf) return;
    Outcome run = run_hone({"convert", files_.directory.string(), "--layout", "gguf", "--out",
                            files_.gguf.string(), "--quiet"});
    ASSERT_EQ(run.status, 0) << run.err;
  }
  TemporaryDirectory scratch_;
  Files files_;
};

TEST_P(BadModel, IsRefusedInOneLine) {
  const Case& c = GetParam();
  c.spoil(files_);
  std::string model = c.gguf ? files_.gguf.string() : files_.directory.string();
  std::vector<std::string> parts = c.parts;
  parts.push_back(model);
  std::vector<std::string> before = names_below(files_.scratch);
  expect_refusal(run_hone({"generate", model, "--prompt", "zebra", "--max-tokens", "1"}), 1, parts);
  // A model without a good tokenizer can still be converted to a directory, all others cannot.
  if (std::string(c.name).find("Tokenizer") == std::string::npos)
    expect_refusal(
        run_hone({"convert", model, "--layout", "hf", "--out", (files_.scratch / "out").string()}),
        1, parts);
  // Findings are data; that there are some, or that nothing could be looked at, is the line.
  const Outcome doctor = run_hone({"doctor", model, "--quiet"});
  const bool sound = std::string(c.name) == "NoTokenizer";  // so are its weights
  EXPECT_EQ(doctor.status, sound ? 0 : 1) << doctor.out;
  EXPECT_TRUE(sound || doctor.err.starts_with("hone: " + model)) << doctor.err;
  EXPECT_EQ(std::ranges::count(doctor.err, '\n'), sound ? 0 : 1) << doctor.err;
  EXPECT_EQ(names_below(files_.scratch), before);
}

std::string case_name(const ::testing::TestParamInfo<Case>& info) { return info.param.name; }
INSTANTIATE_TEST_SUITE_P(Directory, BadModel, ::testing::ValuesIn(directory_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Gguf, BadModel, ::testing::ValuesIn(gguf_cases()), case_name);

TEST(BadModelPath, IsNamed) {
  TemporaryDirectory scratch;
  fs::create_directory(scratch / "empty");
  write_bytes(scratch / "text.txt", "this is a text and not a model");
  for (const char* name : {"absent", "empty", "text.txt"})
    for (const char* command : {"info", "generate", "bench", "doctor"}) {
      std::string path = (scratch / name).string();
      expect_refusal(run_hone({command, path}), 1, {path});
    }
  expect_refusal(run_hone({"info", "/dev/zero"}), 1, {"/dev/zero"});
  expect_refusal(run_hone({"info", ""}), 1, {});
}

TEST(BadAdapter, IsRefusedInOneLineThatNamesIt) {
  TemporaryDirectory scratch;
  TinyModel().write(scratch / "model");
  TinyModel wide;
  wide.width = 128;
  write_adapter(scratch / "wide", 0.3f, wide);
  write_adapter(scratch / "broken");
  write_bytes(scratch / "broken" / "adapter_config.json", "{\"peft_type\": 3}");
  write_adapter(scratch / "cut");
  const fs::path tensors = scratch / "cut" / "adapter_model.safetensors";
  write_bytes(tensors, read_bytes(tensors).substr(0, 900));
  write_bytes(scratch / "no.gguf", "GGUF and no more");
  const std::string model = (scratch / "model").string(), out = (scratch / "out").string();
  std::vector<std::string> before = names_below(scratch.path());
  for (const char* name : {"absent", "wide", "broken", "cut", "no.gguf", "model"}) {
    SCOPED_TRACE(name);
    const std::string adapter = (scratch / name).string();
    expect_refusal(run_hone({"generate", model, "--prompt", "a", "--adapter", adapter}), 1,
                   {adapter});
    expect_refusal(run_hone({"merge", model, "--adapter", adapter, "--out", out}), 1, {adapter});
  }
  // A model where an adapter should be, and the other way round.
  expect_refusal(run_hone({"convert", model, "--base", model, "--layout", "gguf", "--out", out}), 1,
                 {model, "no adapter"});
  expect_refusal(
      run_hone({"convert", (scratch / "wide").string(), "--layout", "gguf", "--out", out}), 1,
      {"--base"});
  EXPECT_EQ(names_below(scratch.path()), before);
}

// Every prefix of a file must be refused, whatever its honest header promises.
TEST(Truncated, FilesAreRefusedAtEveryLength) {
  TemporaryDirectory scratch;
  TinyModel().write(scratch / "model");
  const std::string gguf = (scratch / "model.gguf").string(),
                    directory = (scratch / "model").string();
  ASSERT_EQ(run_hone({"convert", directory, "--layout", "gguf", "--out", gguf}).status, 0);
  for (const std::string& path : {gguf, directory + "/model.safetensors"}) {
    const std::string whole = read_bytes(path), model = path == gguf ? gguf : directory;
    for (size_t length :
         std::vector<size_t>{1, 4, 7, 8, 23, 24, 100, 1000, 3000, 8000, 20000, whole.size() / 2,
                             whole.size() - 4096, whole.size() - 1}) {
      SCOPED_TRACE(path + " at " + std::to_string(length));
      write_bytes(path, whole.substr(0, length));
      expect_refusal(run_hone({"generate", model, "--prompt", "a", "--max-tokens", "1"}), 1,
                     {path});
    }
    write_bytes(path, whole);
  }
}

// A mapped file that shrinks under a running process has no bytes to give.
TEST(Truncated, WhileItIsInUseIsAnErrorAndNoCrash) {
  TemporaryDirectory scratch;
  const fs::path model = scratch / "model";
  TinyModel().write(model);
  int to[2], from[2], error[2];
  for (int* p : {to, from, error}) ASSERT_EQ(::pipe2(p, O_CLOEXEC), 0);
  int pid = start_hone({"chat", model.string(), "--max-tokens", "1", "--quiet"},
                       {to[0], from[1], error[1]});
  for (int fd : {to[0], from[1], error[1]}) ::close(fd);
  char c = 0;
  ASSERT_EQ(::write(to[1], "a\n", 2), 2);
  ASSERT_EQ(::read(from[0], &c, 1), 1);  // it has answered: the file is mapped
  fs::resize_file(model / "model.safetensors", 16);
  ASSERT_EQ(::write(to[1], "b\n", 2), 2);
  ::close(to[1]);
  int status = 0;
  ::waitpid(pid, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 1) << status;
  char line[200] = {};
  EXPECT_GT(::read(error[0], line, sizeof(line) - 1), 0);
  EXPECT_EQ(std::string(line), "hone: a model file was changed while it was in use\n");
  for (int fd : {from[0], error[0]}) ::close(fd);
}

struct BadText : ::testing::Test {
  BadText() : model((scratch / "model").string()) { TinyModel().write(model); }
  std::string file(const char* name, const std::string& bytes) {
    write_bytes(scratch / name, bytes);
    return (scratch / name).string();
  }
  TemporaryDirectory scratch;
  std::string model;
};

TEST_F(BadText, IsRefusedByEveryCommandThatReadsOne) {
  struct Text {
    std::string path, part;
  };
  const std::vector<Text> texts = {{(scratch / "absent.txt").string(), "No such file"},
                                   {scratch.path().string(), "not a regular file"},
                                   {file("empty.txt", ""), "empty"},
                                   {file("latin1.txt", "caf\xe9 au lait"), "byte 3"},
                                   {"/dev/zero", "not a regular file"}};
  const std::string out = (scratch / "out").string();
  for (const Text& t : texts) {
    SCOPED_TRACE(t.path);
    expect_refusal(run_hone({"eval", model, "--text", t.path}), 1, {t.path, t.part});
    expect_refusal(run_hone({"precision", model, "--text", t.path}), 1, {t.path, t.part});
    expect_refusal(run_hone({"generate", model, "--prompt-file", t.path}), 1, {t.path, t.part});
    expect_refusal(run_hone({"quantize", model, "--method", "rtn", "--group", "32", "--text",
                             t.path, "--out", out}),
                   1, {t.path, t.part});
    expect_refusal(run_hone({"quantize", model, "--method", "gptq", "--group", "32",
                             "--calibration", t.path, "--out", out}),
                   1, {t.path, t.part});
  }
  EXPECT_FALSE(fs::exists(out));
  EXPECT_FALSE(fs::exists(out + ".journal"));
}

TEST_F(BadText, MustFitTheModelAndTheContext) {
  const std::string brief = file("brief.txt", "too brief"),
                    fine = file("fine.txt", std::string(300, 'x'));
  expect_refusal(run_hone({"eval", model, "--text", brief, "--context", "64"}), 1, {"9", "64"});
  expect_refusal(run_hone({"eval", model, "--text", fine}), 1, {"512", "96", model});
  expect_refusal(run_hone({"bench", model, "--prompt", "97"}), 1, {"97", "96", model});
  TinyModel other;
  other.vocabulary = 320;
  other.write(scratch / "other");
  expect_refusal(run_hone({"eval", model, "--text", fine, "--context", "64", "--reference",
                           (scratch / "other").string()}),
                 1, {"288", "320"});
  expect_refusal(run_hone({"generate", model, "--prompt", ""}), 1, {"empty", model});
}

TEST_F(BadText, RecipesAreCheckedBeforeAnythingRuns) {
  const std::string out = (scratch / "out").string();
  struct Recipe {
    const char *yaml, *part;
  };
  const Recipe recipes[] = {
      {"steps: [", "YAML"},
      {"- a list", "map"},
      {"passes: []", "passes"},
      {"steps: [{pass: magic}]", "magic"},
      {"steps: [{bits: 4}]", "pass"},
      {"steps: [{pass: rtn, bitz: 4}]", "bitz"},
      {"steps: [{pass: rtn, bits: four}]", "bits"},
      {"steps: [{pass: rtn, modules: 'nothing.*'}]", "nothing.*"},
      {"steps: [{pass: rtn, group: 32}, {pass: nf4}]", "second time"},
      {"steps: [{pass: rtn, group: 32, encoding: q9_9}]", "q9_9"},
      {"steps: [{pass: gptq, group: 32}]", "--calibration"},
      {"steps: [{pass: rtn, group: 32}]\noutput: {layout: onnx}", "onnx"},
      {"steps: [{pass: cast, to: f99}]", "f99"},
  };
  for (const Recipe& r : recipes) {
    SCOPED_TRACE(r.yaml);
    const std::string path = file("recipe.yaml", r.yaml);
    expect_refusal(run_hone({"optimize", model, "--recipe", path, "--out", out, "--quiet"}), 1,
                   {r.part});
    EXPECT_FALSE(fs::exists(out));
    EXPECT_FALSE(fs::exists(out + ".journal"));
  }
  expect_refusal(run_hone({"optimize", model, "--recipe", scratch.path().string(), "--out", out}),
                 1, {scratch.path().string()});
}

TEST_F(BadText, TrainingConfigsAndDataAreCheckedBeforeAnythingRuns) {
  const std::string out = (scratch / "out").string();
  const std::string fine = file("fine.txt", std::string(300, 'x'));
  struct Config {
    std::string yaml, part;
  };
  const std::string with = "\ndata: fine.txt\nlength: 16\n";
  const Config configs[] = {
      {"steps: [", "YAML"},
      {"- a list", "map"},
      {"stepz: 3" + with, "stepz"},
      {"steps: many\nmodel: model" + with, "config.yaml:1: steps"},
      {"steps: 3" + with, "one of the two"},
      {"model: model\narchitecture: {model_type: llama}" + with, "one of the two"},
      {"architecture: {model_type: llama}" + with, "tokenizer"},
      {"architecture: {model_type: mamba}\ntokenizer: model" + with, "mamba"},
      {"architecture: [llama]\ntokenizer: model" + with, "map of keys"},
      {"model: model\nsteps: 0" + with, "steps 0"},
      {"model: model\nmethod: magic" + with, "magic"},
      {"model: model\ntrain_only: nothing.*" + with, "nothing.*"},
      {"model: model\nmethod: lora\nbits: 3" + with, "config.yaml:3: bits belongs to qat"},
      {"model: model\nrank: 4" + with, "config.yaml:2: rank belongs to lora, dora,"},
      {"model: model\nlength: 4096\ndata: fine.txt", "4096"},
      {"model: absent" + with, "absent"},
      {"model: model\ndata: absent.txt\nlength: 16", "absent.txt"},
      {"model: model\ndata: bad.jsonl\nlength: 16", "bad.jsonl:2"},
      {"model: model\nschedule: magic" + with, "magic"},
      {"model: model\nbatch: 1000000000000" + with, "batch"},
  };
  file("bad.jsonl", "{\"text\": \"a\"}\n{\"text\": 5}\n");
  for (const Config& c : configs) {
    SCOPED_TRACE(c.yaml);
    const std::string path = file("config.yaml", c.yaml);
    expect_refusal(run_hone({"train", path, "--out", out, "--quiet"}), 1, {c.part});
    for (const char* end : {"", ".training", ".initial", ".initial.hone-tmp"})
      EXPECT_FALSE(fs::exists(out + end)) << end;
    fs::remove(out + ".log.jsonl");
  }
  // What is there already stays.
  fs::create_directory(out);
  write_bytes(out + "/notes.txt", "mine");
  const std::string path = file("config.yaml", "model: model\nsteps: 1" + with);
  expect_refusal(run_hone({"train", path, "--out", out, "--quiet"}), 1, {out});
  EXPECT_TRUE(fs::exists(out + "/notes.txt"));
}

TEST_F(BadText, ChatTemplatesThatMeanHarmAreStopped) {
  for (const char* harm : {"{% for i in range(10**12) %}x{% endfor %}", "{{ ''.__class__ }}",
                           "{% if %}", "{{ 'x' * 10**12 }}"}) {
    SCOPED_TRACE(harm);
    write_bytes(scratch / "model" / "chat_template.jinja", harm);
    expect_refusal(run_hone({"chat", model, "--message", "x"}), 1, {"chat template"});
  }
}

}  // namespace
}  // namespace hone::testing
