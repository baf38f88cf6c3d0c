// attention: which layers get a pattern, what config.json says of it, and what is refused.
#include "models/attention_patterns.h"
#include "models/export.h"
#include "models/session.h"
#include "passes/optimize.h"
#include "tiny_models.h"

namespace hone {
namespace {

using namespace testing;

constexpr const char* kKey = "hone_attention_patterns";

class AttentionPassTest : public ::testing::Test {
 protected:
  LoadedModel load(const std::string& fixture) {
    fs::path p = scratch_ / fixture;
    if (!fs::exists(p)) write_tiny(p, tiny_fixture(fixture));
    return load_editable(p);
  }
  static void apply(LoadedModel& m, const std::string& steps) {
    Recipe r = parse_recipe("steps: [" + steps + "]", "r");
    check_recipe(r.main, m);
    for (const RecipeStep& s : r.main.steps) {
      PassContext c{m, s.modules, nullptr, 0, nullptr, nullptr, -1, nullptr};
      s.made->run(c);
    }
  }
  static std::vector<std::string> patterns(const LoadedModel& m) {
    std::vector<std::string> all;
    for (const Block& b : m.model->blocks) {
      auto* a = dynamic_cast<SoftmaxAttention*>(b.mixer.get());
      all.push_back(a ? a->spec.pattern.describe() : "");
    }
    return all;
  }
  static Tensor logits(LoadedModel& m) {
    Session s(*m.model, Activations::f32);
    return s.logits(s.hidden(tiny_ids(100, 1)));
  }
  static bool same(const Tensor& a, const Tensor& b) {
    return std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.byte_size())) == 0;
  }
  /// Written, read back, the same patterns and the same bits: config.json.
  Json trip(LoadedModel& m) {
    const fs::path out = scratch_ / fmt::format("out{}", trips_++);
    export_model(m, out, {});
    LoadedModel back = load_model(out);
    EXPECT_EQ(patterns(back), patterns(m));
    EXPECT_TRUE(same(logits(back), logits(m)));
    return parse_json(read_text_file(out / "config.json"), "config.json");
  }
  static std::string error_of(const std::function<void()>& f) {
    try {
      f();
    } catch (const Error& e) {
      return e.what();
    }
    return {};
  }

  TemporaryDirectory scratch_;
  int trips_ = 0;
};

TEST_F(AttentionPassTest, ChoosesLayers) {
  const std::string w = "causal & window(8)", c = "causal";
  auto chosen = [&](const std::string& options) {
    LoadedModel m = load("gemma3");
    apply(m, "{pass: attention, pattern: causal, every: 1}, {pass: attention, pattern: '" + w +
                 "'" + options + "}");
    return patterns(m);
  };
  using List = std::vector<std::string>;
  EXPECT_EQ(chosen(", every: 1"), (List{w, w, w, w, w, w}));
  EXPECT_EQ(chosen(""), (List{w, c, w, c, w, c}));
  EXPECT_EQ(chosen(", every: 3, offset: 1"), (List{c, w, c, c, w, c}));
  EXPECT_EQ(chosen(", every: 6, offset: 5, keep: true"), (List{w, w, w, w, w, c}));
}

// The first step changes every second layer, the gemma fixture's others keep their own windows.
TEST_F(AttentionPassTest, LeavesTheOthersAsTheyAre) {
  LoadedModel m = load("gemma3");
  const std::vector<std::string> before = patterns(m);
  apply(m, "{pass: attention, pattern: 'causal & (window(8) | sinks(2))', offset: 1}");
  for (size_t i : {0, 2, 4}) EXPECT_EQ(patterns(m)[i], before[i]);
  for (size_t i : {1, 3, 5}) EXPECT_EQ(patterns(m)[i], "causal & (window(8) | prefix(2))");
}

TEST_F(AttentionPassTest, CountsOnlyLayersWithSoftmaxAttention) {
  LoadedModel m = load("qwen3_5");
  apply(m, "{pass: attention, pattern: 'causal & window(8)'}");
  EXPECT_EQ(patterns(m), (std::vector<std::string>{"", "", "", "causal & window(8)"}));
  const Json c = trip(m);
  EXPECT_EQ(c[kKey].dump(), R"j([null,null,null,"causal & window(8)"])j");
}

TEST_F(AttentionPassTest, ChangesWhatIsSeenAndNoWeight) {
  LoadedModel m = load("llama"), by_hand = load("llama");
  const Tensor before = logits(m);
  apply(m, "{pass: attention, pattern: 'causal & (window(20) | sinks(4))', offset: 1}");
  auto& second = dynamic_cast<SoftmaxAttention&>(*by_hand.model->blocks[1].mixer);
  second.spec.pattern = Pattern::causal() & (Pattern::window(20) | Pattern::prefix(4));
  const Tensor after = logits(m);
  EXPECT_TRUE(same(after, logits(by_hand)));
  EXPECT_TRUE(same(after.rows(0, 20), before.rows(0, 20)));
  EXPECT_FALSE(same(after.rows(40, 100), before.rows(40, 100)));
}

TEST_F(AttentionPassTest, OneKeyOfItsOwnWhereTheFamilyHasNone) {
  LoadedModel m = load("llama");
  apply(m, "{pass: attention, pattern: 'causal & window(20)', every: 1}");
  EXPECT_TRUE(hides_patterns(m.config, *m.family));
  EXPECT_EQ(trip(m)[kKey].dump(), R"j(["causal & window(20)","causal & window(20)"])j");
  // And none where nothing differs any more.
  apply(m, "{pass: attention, pattern: causal, every: 1}");
  EXPECT_TRUE(m.config.patterns.empty());
  EXPECT_FALSE(trip(m).contains(kKey));
}

// Gemma's layers have windows of one size, and layers with a window a rotation of their own.
TEST_F(AttentionPassTest, TheFamilysKeysWhereTheySayIt) {
  LoadedModel m = load("gemma3");
  apply(m, "{pass: attention, pattern: 'causal & window(9)', every: 6, offset: 5, keep: true}");
  EXPECT_FALSE(hides_patterns(m.config, *m.family));
  Json c = trip(m);
  EXPECT_FALSE(c.contains(kKey));
  EXPECT_EQ(c["sliding_window"], 9);
  EXPECT_EQ(c["layer_types"][0], "sliding_attention");
  EXPECT_EQ(c["layer_types"][5], "full_attention");
  // A global layer keeps its rotation, which `sliding_attention` would change.
  for (const char* steps : {"{pass: attention, pattern: 'causal & window(16)', every: 1}",
                            "{pass: attention, pattern: causal, every: 1}",
                            "{pass: attention, pattern: 'causal & window(9)', every: 3}",
                            "{pass: attention, pattern: 'causal & (window(16) | sinks(1))'}"}) {
    SCOPED_TRACE(steps);
    LoadedModel other = load("gemma3");
    apply(other, steps);
    EXPECT_TRUE(hides_patterns(other.config, *other.family));
    c = trip(other);
    EXPECT_TRUE(c.contains(kKey));
    EXPECT_FALSE(c.contains("layer_types") && c["layer_types"].size() != 6);
  }
}

TEST_F(AttentionPassTest, StandsAnywhereInARecipe) {
  LoadedModel m = load("llama"), quantised = load("llama");
  apply(quantised, "{pass: rtn, bits: 4, group: 32}");
  apply(m, "{pass: rtn, bits: 4, group: 32}, {pass: attention, pattern: 'causal & window(8)'}");
  for (size_t i = 0; i < m.model->linears().size(); ++i)
    EXPECT_EQ(m.model->linears()[i]->weight().encoding,
              quantised.model->linears()[i]->weight().encoding);
}

TEST_F(AttentionPassTest, RefusesOptionsThatMakeNoSense) {
  LoadedModel llama = load("llama"), mamba = load("mamba2");
  auto refusal = [&](LoadedModel& m, const std::string& options) {
    return error_of([&] { apply(m, "{pass: attention, " + options + "}"); });
  };
  auto names = [](const std::string& text, const char* part) {
    EXPECT_NE(text.find(part), std::string::npos) << text << " lacks " << part;
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
  };
  names(refusal(llama, "pattern: 'window(8)'"), "shows later keys");
  names(refusal(llama, "pattern: 'causal | sinks(4)'"), "shows later keys");
  names(refusal(llama, "pattern: all"), "shows later keys");
  names(refusal(llama, "pattern: 'causal & window(0)'"), "position 0 does not see its own key");
  names(refusal(llama, "pattern: 'causal & sinks(4)'"), "position 4 does not see its own key");
  names(refusal(llama, "pattern: 'causal & windows(4)'"), "attention: pattern: ");
  names(refusal(llama, "every: 0"), "every 0");
  names(refusal(llama, "offset: 2"), "offset 2");
  names(refusal(llama, "every: 1, keep: true"), "leaves nothing");
  names(refusal(llama, "every: 7, offset: 5"), "choose none of the 2 layers");
  names(refusal(mamba, "every: 1"), "no layers with softmax attention");
  EXPECT_TRUE(llama.config.patterns.empty());
}

TEST_F(AttentionPassTest, GgufIsRefusedBeforeAnythingRuns) {
  LoadedModel m = load("llama");
  OptimizeOptions o;
  o.model = scratch_ / "llama";
  o.out = scratch_ / "out.gguf";
  o.recipe = parse_recipe("steps: [{pass: rtn, encoding: q8_0}, {pass: attention}]", "r");
  o.unit_stored = [](int64_t) { ADD_FAILURE() << "something ran"; };
  EXPECT_NE(error_of([&] { optimize(o); }).find("gguf: files cannot say"), std::string::npos);
  apply(m, "{pass: attention, pattern: 'causal & window(8)'}");
  ExportOptions e;
  e.layout = "gguf";
  EXPECT_NE(error_of([&] { export_model(m, o.out, e); }).find("gguf: files cannot say"),
            std::string::npos);
  EXPECT_FALSE(fs::exists(o.out));
}

TEST_F(AttentionPassTest, BadKeysOfAFileAreCorrupt) {
  const Json good = parse_json(tiny_fixture("llama").config, "config.json");
  for (const char* bad :
       {R"("causal")", R"(["causal"])", R"(["causal", 3])", R"(["causal", "all"])",
        R"(["causal", "causal &"])", R"j(["causal", "causal & window(0)"])j",
        R"({"a": "causal", "b": "causal"})"}) {
    Json c = good;
    c[kKey] = parse_json(bad, "bad");
    const fs::path p = scratch_ / "bad";
    fs::remove_all(p);
    write_tiny(p, c, tiny_tensors(tiny_fixture("llama")));
    try {
      load_model(p);
      ADD_FAILURE() << bad << " was taken";
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::corrupt) << e.what();
      EXPECT_NE(std::string(e.what()).find(kKey), std::string::npos) << e.what();
    }
  }
  // Layers whose own pattern is asked for where the file names fewer.
  Json c = parse_json(tiny_fixture("gemma3").config, "config.json");
  c["layer_types"] = {"full_attention"};
  c[kKey] = std::vector<Json>(6);
  const fs::path p = scratch_ / "few";
  write_tiny(p, c, tiny_tensors(tiny_fixture("gemma3")));
  EXPECT_THROW(load_model(p), Error);
}

TEST(LayersText, SaysRunsAndAll) {
  EXPECT_EQ(layers_text({0, 1, 2}, 3), "all 3");
  EXPECT_EQ(layers_text({0, 2, 4}, 6), "0, 2, 4");
  EXPECT_EQ(layers_text({0, 1, 2, 5}, 6), "0–2, 5");
  EXPECT_EQ(layers_text({}, 6), "");
}

}  // namespace
}  // namespace hone
