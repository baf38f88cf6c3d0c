// PEFT directories: what peft wrote is read, and written again byte for byte; modules are matched
// as peft matches them; spoiled directories give one clear error.
#include "formats/peft.h"

#include "formats/peft_modules.h"
#include "formats/safetensors.h"
#include "formats/scratch.h"

namespace hone {
namespace {

const fs::path kPeftGolden = fs::path(HONE_SOURCE_DIR) / "tests" / "golden";
const fs::path kTraining = kPeftGolden / "training";
constexpr const char* kQ = "base_model.model.model.layers.0.self_attn.q_proj.";

/// Every directory that peft wrote.
std::vector<fs::path> peft_directories() {
  std::vector<fs::path> found;
  for (const char* name :
       {"lora", "rslora", "dora", "lora_gpt2", "ia3", "prefix", "prefix_projection", "prompt"})
    for (const char* when : {"initial", "final"}) found.push_back(kTraining / name / when);
  found.push_back(kPeftGolden / "peft" / "odd");
  return found;
}

Tensor peft_matrix(int64_t rows, int64_t cols) { return Tensor::zeros({rows, cols}, DType::f32); }

TEST(Peft, RewritesWhatPeftWroteByteForByte) {
  Scratch scratch;
  int n = 0;
  for (const fs::path& golden : peft_directories()) {
    SCOPED_TRACE(golden.string());
    const fs::path out = scratch / std::to_string(n++);
    write_peft_directory(out, read_peft_directory(golden));
    for (const char* file : {"adapter_config.json", "adapter_model.safetensors"})
      EXPECT_EQ(get_file(out / file), get_file(golden / file)) << file;
    EXPECT_EQ(std::distance(fs::directory_iterator(out), fs::directory_iterator()), 2);
  }
}

TEST(Peft, AConfigOfOurOwnIsWhatPeftWrites) {
  Scratch scratch;
  int n = 0;
  for (const fs::path& golden : peft_directories()) {
    if (golden.filename() == "odd") continue;
    SCOPED_TRACE(golden.string());
    PeftAdapter adapter = read_peft_directory(golden);
    adapter.json = Json();
    const fs::path out = scratch / std::to_string(n++);
    write_peft_directory(out, adapter);
    EXPECT_EQ(get_file(out / "adapter_config.json"), get_file(golden / "adapter_config.json"));
  }
  EXPECT_EQ(n, 16);
}

TEST(Peft, ReadsTheFieldsOfEachMethod) {
  PeftConfig c = read_peft_directory(kTraining / "dora" / "initial").config;
  EXPECT_EQ(c.peft_type, "LORA");
  EXPECT_EQ(c.task_type, "CAUSAL_LM");
  EXPECT_EQ(c.base_model_name_or_path, "toy/llama");
  EXPECT_EQ(c.target_modules.names.size(), 7u);
  EXPECT_EQ(c.r, 4);
  EXPECT_EQ(c.lora_alpha, 8);
  EXPECT_TRUE(c.use_dora && c.inference_mode && !c.use_rslora && !c.fan_in_fan_out);
  EXPECT_TRUE(read_peft_directory(kTraining / "rslora" / "initial").config.use_rslora);
  EXPECT_TRUE(read_peft_directory(kTraining / "lora_gpt2" / "initial").config.fan_in_fan_out);

  c = read_peft_directory(kTraining / "ia3" / "initial").config;
  EXPECT_EQ(c.peft_type, "IA3");
  EXPECT_EQ(c.feedforward_modules.names, std::vector<std::string>{"down_proj"});

  c = read_peft_directory(kTraining / "prefix_projection" / "final").config;
  EXPECT_EQ(c.peft_type, "PREFIX_TUNING");
  EXPECT_TRUE(c.prefix_projection);
  EXPECT_EQ(c.encoder_hidden_size, 24);
  EXPECT_EQ(c.num_virtual_tokens, 5);
  EXPECT_EQ(c.token_dim, 16);
  EXPECT_EQ(c.num_layers, 2);
  EXPECT_EQ(c.num_attention_heads, 2);

  PeftAdapter odd = read_peft_directory(kPeftGolden / "peft" / "odd");
  EXPECT_EQ(odd.config.target_modules.pattern, R"(.*\.(q_proj|up_proj|embed_tokens))");
  EXPECT_EQ(odd.config.exclude_modules.names.size(), 1u);
  EXPECT_EQ(odd.config.lora_alpha, 16.5);
  EXPECT_EQ(odd.config.lora_dropout, 1e-5);
  EXPECT_EQ(odd.config.bias, "lora_only");
  EXPECT_EQ(odd.config.modules_to_save, std::vector<std::string>{"lm_head"});
  ASSERT_EQ(odd.config.alpha_pattern.size(), 2u);
  EXPECT_EQ(odd.config.alpha_pattern[1], (std::pair<std::string, double>("q_proj", 1e16)));
  EXPECT_EQ(odd.tensors.at(std::string(kQ) + "lora_A.weight").shape(), (Shape{2, 8}));
}

TEST(Peft, SplitsTensorNames) {
  const auto split = [](const std::string& name) {
    PeftTensorName s = split_peft_name(name, "f");
    EXPECT_EQ(peft_tensor_name(s), name);
    return std::pair(s.module, s.part);
  };
  using Pair = std::pair<std::string, std::string>;
  EXPECT_EQ(split("base_model.model.a.b.lora_A.weight"), Pair("a.b", "lora_A.weight"));
  EXPECT_EQ(split("base_model.model.a.lora_magnitude_vector"), Pair("a", "lora_magnitude_vector"));
  EXPECT_EQ(split("base_model.model.a.ia3_l"), Pair("a", "ia3_l"));
  EXPECT_EQ(split("base_model.model.lm_head.weight"), Pair("lm_head.weight", ""));
  EXPECT_EQ(split("prompt_embeddings"), Pair("", "prompt_embeddings"));
  for (const char* bad : {"model.a.lora_A.weight", "base_model.model.", ""})
    expect_error(ErrorKind::corrupt, {"f", "base_model.model."},
                 [&] { split_peft_name(bad, "f"); });
}

TEST(Peft, MatchesModulesAsPeftDoes) {
  const fs::path path = kPeftGolden / "peft" / "modules.json";
  const Json golden = parse_json(get_file(path), path.string());
  std::vector<std::string> linears = golden["linears"];
  for (Json config : golden["cases"]) {
    SCOPED_TRACE(config["config"].dump());
    Json adapted = config["adapted"];
    config = config["config"];
    config["peft_type"] = "LORA";
    config["r"] = 8;
    config["lora_alpha"] = 16;
    const PeftMatcher matcher(parse_peft_config(config, "case"), "case");
    for (const std::string module : golden["modules"]) {
      const bool linear = std::find(linears.begin(), linears.end(), module) != linears.end();
      EXPECT_EQ(matcher.adapts(module, linear, module == golden["head"]), adapted.contains(module))
          << module;
      if (!adapted.contains(module)) continue;
      EXPECT_EQ(matcher.rank(module), adapted[module][0].get<int64_t>()) << module;
      EXPECT_EQ(matcher.alpha(module), adapted[module][1].get<double>()) << module;
      EXPECT_EQ(matcher.scale(module), matcher.alpha(module) / matcher.rank(module)) << module;
    }
  }
}

TEST(Peft, ScalesBySquareRootOfRankWhereTold) {
  PeftConfig config;
  config.peft_type = "LORA";
  config.r = 16;
  config.lora_alpha = 8;
  EXPECT_EQ(PeftMatcher(config, "c").scale("a"), 0.5);
  config.use_rslora = true;
  EXPECT_EQ(PeftMatcher(config, "c").scale("a"), 2.0);
}

TEST(Peft, MatchesFeedforwardModulesByTheEndOfTheirName) {
  PeftConfig config;
  config.peft_type = "IA3";
  config.feedforward_modules.names = {"down_proj", "w2"};
  PeftMatcher list(config, "c");
  EXPECT_TRUE(list.feedforward("a.mlp.down_proj"));
  EXPECT_TRUE(list.feedforward("a.draw2"));  // no dot needed
  EXPECT_FALSE(list.feedforward("a.down_proj.b"));
  config.feedforward_modules.pattern = R"(.*\.mlp\..*)";
  EXPECT_TRUE(PeftMatcher(config, "c").feedforward("a.mlp.up"));
  EXPECT_FALSE(PeftMatcher(config, "c").feedforward("b.down_proj"));
}

TEST(Peft, ExpressionsRunUnderLimits) {
  PeftConfig config;
  config.peft_type = "LORA";
  config.target_modules.pattern = "(a|aa)+[^a]";  // exponential in the name's length
  PeftMatcher slow(config, "file");
  EXPECT_FALSE(slow.adapts(std::string(15, 'a'), true, false));
  const std::string module(28, 'a');  // within PCRE2's own limit, past ours
  expect_error(ErrorKind::invalid_argument, {"file", "(a|aa)+[^a]", "gives up"},
               [&] { slow.adapts(module, true, false); });
  const auto refuse = [&](const std::string& pattern, const char* why) {
    config.target_modules.pattern = pattern;
    expect_error(ErrorKind::unsupported, {"file", why}, [&] { PeftMatcher(config, "file"); });
  };
  refuse("(", "does not compile");
  refuse("a\\C", "does not compile");
  refuse(std::string(20'000, 'a'), "20000 bytes");
  refuse(std::string(5000, '(') + std::string(5000, ')'), "does not compile");
  config.target_modules = {};
  expect_error(ErrorKind::unsupported, {"file", "target_modules"},
               [&] { PeftMatcher(config, "file").adapts("a", true, false); });
  for (int i = 0; i < 5000; ++i) config.rank_pattern.emplace_back(std::to_string(i), 1);
  expect_error(ErrorKind::unsupported, {"file", "expressions"},
               [&] { PeftMatcher(config, "file"); });
  // A group that took no part in the match, where a pattern tears the expression in two.
  config.rank_pattern.clear();
  config.target_modules.names = {"q"};
  config.layers_to_transform = {0};
  config.layers_pattern = {"a|b"};
  EXPECT_FALSE(PeftMatcher(config, "file").adapts("a.0.q", true, false));
}

TEST(Peft, ChangedFieldsAreWrittenInTheirPlace) {
  PeftAdapter adapter = read_peft_directory(kTraining / "lora" / "initial");
  const Json before = adapter.json;
  adapter.config.lora_alpha = 2.5;
  adapter.config.base_model_name_or_path = "elsewhere";
  adapter.json.erase("use_rslora");  // a file of an older peft
  adapter.config.use_rslora = true;
  adapter.json["of_the_future"] = {1, 2};
  Json after = peft_config_json(adapter.config, adapter.json);
  EXPECT_EQ(after["lora_alpha"], 2.5);
  EXPECT_EQ(after["base_model_name_or_path"], "elsewhere");
  EXPECT_EQ(after["of_the_future"], (Json{1, 2}));
  std::vector<std::string> keys;
  for (const auto& [key, value] : after.items()) keys.push_back(key);
  EXPECT_EQ(keys.back(), "of_the_future");
  keys.pop_back();
  EXPECT_TRUE(std::is_sorted(keys.begin(), keys.end()));
  EXPECT_EQ(keys.size(), before.size());
}

TEST(Peft, WritesAdaptersOfOurOwn) {
  Scratch scratch;
  PeftAdapter adapter;
  adapter.config.peft_type = "LORA";
  adapter.config.task_type = "CAUSAL_LM";
  adapter.config.target_modules.names = {"q_proj"};
  adapter.config.r = 3;
  adapter.config.lora_alpha = 6;
  adapter.config.rank_pattern = {{"v_proj", 2}};
  adapter.tensors[std::string(kQ) + "lora_A.weight"] = peft_matrix(3, 8);
  adapter.tensors[std::string(kQ) + "lora_B.weight"] = peft_matrix(16, 3);
  write_peft_directory(scratch / "out", adapter);
  PeftAdapter again = read_peft_directory(scratch / "out");
  EXPECT_EQ(again.config, adapter.config);
  EXPECT_EQ(again.json["lora_alpha"].dump(), "6");
  EXPECT_TRUE(again.json["modules_to_save"].is_null());
  EXPECT_FALSE(again.json.contains("num_virtual_tokens"));

  expect_error(ErrorKind::invalid_argument, {"exists already"},
               [&] { write_peft_directory(scratch / "out", adapter); });
  adapter.tensors.erase(std::string(kQ) + "lora_B.weight");
  expect_error(ErrorKind::corrupt, {"lora_B", "missing"},
               [&] { write_peft_directory(scratch / "half", adapter); });
  adapter.config.base_model_name_or_path = "\xff";
  adapter.tensors[std::string(kQ) + "lora_B.weight"] = peft_matrix(16, 3);
  expect_error(ErrorKind::invalid_argument, {"UTF-8"},
               [&] { write_peft_directory(scratch / "half", adapter); });
  EXPECT_FALSE(fs::exists(scratch / "half") || fs::exists(scratch / "half.hone-tmp"));
}

class SpoiledPeft : public ::testing::Test {
 protected:
  fs::path copy(const fs::path& golden) {
    fs::path to = scratch_ / std::to_string(copies_++);
    fs::copy(golden, to);
    return to;
  }
  /// A copy of a golden directory with some keys of its config replaced.
  fs::path with_config(const std::string& name, const Json& changes) {
    fs::path to = copy(kTraining / name / "initial");
    Json config = parse_json(get_file(to / "adapter_config.json"), "golden");
    config.update(changes);
    put_file(to / "adapter_config.json", config.dump());
    return to;
  }
  /// A copy whose tensors `change` has been at.
  fs::path with_tensors(const std::string& name,
                        const std::function<void(std::map<std::string, Tensor>&)>& change) {
    fs::path to = copy(kTraining / name / "initial");
    std::map<std::string, Tensor> tensors;
    SafetensorsFile file = SafetensorsFile::open(to / "adapter_model.safetensors");
    for (const auto& e : file.entries()) tensors[e.name] = file.tensor(e.name).clone();
    change(tensors);
    SafetensorsWriter writer(to / "adapter_model.safetensors");
    for (const auto& [n, t] : tensors) writer.declare(n, t.dtype(), t.shape());
    for (const std::string& n : writer.order()) writer.write(n, tensors.at(n));
    writer.finish();
    return to;
  }
  void refuse(const fs::path& directory, std::vector<std::string> parts,
              ErrorKind kind = ErrorKind::corrupt) {
    parts.push_back(directory.string());
    expect_error(kind, parts, [&] { read_peft_directory(directory); });
  }
  Scratch scratch_;
  int copies_ = 0;
};

TEST_F(SpoiledPeft, ConfigsOfTheWrongTypeAreRefused) {
  const std::vector<std::pair<Json, std::string>> cases = {
      {{{"peft_type", nullptr}}, "peft_type"},
      {{{"peft_type", 3}}, "peft_type"},
      {{{"r", "8"}}, "\"r\""},
      {{{"r", 8.5}}, "\"r\""},
      {{{"r", 0}}, "\"r\""},
      {{{"r", 1e30}}, "\"r\""},
      {{{"lora_alpha", "16"}}, "lora_alpha"},
      {{{"use_dora", 1}}, "use_dora"},
      {{{"target_modules", {{"a", 1}}}}, "target_modules"},
      {{{"target_modules", {1, 2}}}, "target_modules"},
      {{{"rank_pattern", {"a"}}}, "rank_pattern"},
      {{{"rank_pattern", {{"a", -1}}}}, "rank_pattern"},
      {{{"alpha_pattern", {{"a", "b"}}}}, "alpha_pattern"},
      {{{"layers_to_transform", "1"}}, "layers_to_transform"},
      {{{"modules_to_save", 1}}, "modules_to_save"},
      {{{"bias", "some"}}, "bias"},
      {{{"lora_dropout", 1.5}}, "lora_dropout"},
  };
  for (const auto& [changes, key] : cases) {
    SCOPED_TRACE(changes.dump());
    refuse(with_config("lora", changes), {"adapter_config.json", key});
  }
  fs::path path = copy(kTraining / "lora" / "initial");
  put_file(path / "adapter_config.json", "[1]");
  refuse(path, {"adapter_config.json", "object"});
  put_file(path / "adapter_config.json", R"({"r": 1, "r": 2})");
  refuse(path, {"twice"});
  fs::remove(path / "adapter_config.json");
  refuse(path, {"adapter_config.json"}, ErrorKind::io);
}

TEST_F(SpoiledPeft, OptionsThatChangeTheMeaningAreRefused) {
  const std::vector<Json> cases = {
      {{"lora_bias", true}},
      {{"use_qalora", true}},
      {{"target_parameters", {"a"}}},
      {{"layer_replication", {{0, 1}}}},
      {{"alora_invocation_tokens", {1}}},
      {{"init_lora_weights", "pissa_niter_4"}},
      {{"init_lora_weights", "loftq"}},
  };
  for (const Json& changes : cases) {
    SCOPED_TRACE(changes.dump());
    refuse(with_config("lora", changes), {"adapter_config.json", changes.begin().key()},
           ErrorKind::unsupported);
  }
  read_peft_directory(with_config(
      "lora",
      {{"init_lora_weights", "eva"}, {"layer_replication", Json::array()}, {"use_qalora", false}}));
  refuse(with_config("prompt", {{"num_transformer_submodules", 2}}), {"num_transformer_submodules"},
         ErrorKind::unsupported);
  refuse(with_config("prefix", {{"modules_to_save", {"lm_head"}}}), {"modules_to_save"},
         ErrorKind::unsupported);
}

TEST_F(SpoiledPeft, TensorsThatDoNotFitTheConfigAreRefused) {
  refuse(with_config("lora", {{"r", 5}}), {"lora_A.weight", "[5, -1]", "[4, 64]"});
  refuse(with_config("lora", {{"rank_pattern", {{"layers.1.mlp.up_proj", 3}}}}),
         {"layers.1.mlp.up_proj.lora_A", "[3, -1]"});
  refuse(with_config("lora", {{"use_dora", true}}), {"lora_magnitude_vector", "missing"});
  refuse(with_config("dora", {{"use_dora", false}}), {"does not explain"});
  refuse(with_config("ia3", {{"feedforward_modules", Json::array()}}), {"down_proj.ia3_l"});
  refuse(with_config("lora", {{"peft_type", "IA3"}}), {"ia3_l", "missing"});
  refuse(with_config("lora", {{"peft_type", "PROMPT_TUNING"}}), {"prompt_embeddings"});
  refuse(with_config("prompt", {{"num_virtual_tokens", 6}}), {"[6, 32]", "[5, 32]"});
  refuse(with_config("prefix", {{"num_layers", 3}}), {"[5, 96]", "[5, 64]"});
  refuse(with_config("prefix", {{"num_layers", -1}}), {"num_layers"});
  refuse(with_config("prefix", {{"token_dim", int64_t{1} << 62}}), {"token_dim"});
  // An unknown method says nothing about its tensors.
  EXPECT_EQ(read_peft_directory(with_config("lora", {{"peft_type", "LOHA"}})).config.peft_type,
            "LOHA");
}

TEST_F(SpoiledPeft, SpoiledTensorsAreRefused) {
  const std::string q = kQ;
  refuse(with_tensors("lora", [&](auto& t) { t.erase(q + "lora_A.weight"); }),
         {"q_proj.lora_A.weight", "missing"});
  refuse(with_tensors("lora", [&](auto& t) { t[q + "lora_B.weight"] = peft_matrix(4, 32); }),
         {"q_proj.lora_B.weight", "[-1, 4]", "[4, 32]"});
  refuse(with_tensors("lora", [&](auto& t) { t[q + "lora_B.weight"] = peft_matrix(0, 4); }),
         {"q_proj.lora_B.weight"});
  refuse(with_tensors("lora", [&](auto& t) { t[q + "lora_embedding_A"] = peft_matrix(4, 32); }),
         {"q_proj.lora_embedding_B", "missing"});
  refuse(with_tensors("lora", [&](auto& t) { t["model.x.lora_A.weight"] = peft_matrix(4, 32); }),
         {"base_model.model."});
  refuse(with_tensors("lora", [&](auto& t) { t.clear(); }), {"no tensors", "LORA"});
  refuse(
      with_tensors("dora", [&](auto& t) { t[q + "lora_magnitude_vector"] = peft_matrix(1, 32); }),
      {"lora_magnitude_vector", "[32]"});
  refuse(with_tensors("prompt", [&](auto& t) { t[q + "ia3_l"] = peft_matrix(1, 32); }),
         {"no other"});
  refuse(with_tensors("lora",
                      [&](auto& t) {
                        t[q + "lora_A.weight"] = Tensor::zeros({4, 32}, DType::i32);
                      }),
         {"q_proj.lora_A.weight", "i32"}, ErrorKind::unsupported);

  fs::path path = copy(kTraining / "lora" / "initial");
  fs::rename(path / "adapter_model.safetensors", path / "adapter_model.bin");
  refuse(path, {"adapter_model.bin", "safetensors"}, ErrorKind::unsupported);
  fs::remove(path / "adapter_model.bin");
  refuse(path, {"adapter_model.safetensors"}, ErrorKind::io);
  put_file(path / "adapter_model.safetensors", "short");
  refuse(path, {"adapter_model.safetensors"});
}

}  // namespace
}  // namespace hone
