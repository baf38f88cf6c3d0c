// Merging: the written model is the tuned one, whatever the base is stored in; what rounding costs
// is what an independent count says; adapters come out again; and what cannot be is refused before
// anything is written.
#include "passes/merge.h"

#include "adapters/adapter.h"
#include "encodings/encoding.h"
#include "models/export.h"
#include "models/session.h"
#include "tiny_models.h"

namespace hone {
namespace {

using namespace testing;

std::vector<float> merged_logits_of(LoadedModel& m) {
  Session session(*m.model, Activations::f32);
  const std::vector<int32_t> ids = tiny_ids(12, 4);
  const Tensor y = m.model->logits(session.hidden(ids), Activations::f32);
  return {y.data<float>(), y.data<float>() + y.numel()};
}
double distance(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  return relative_distance(a.data(), b.data(), std::ssize(a));
}

struct Merge : ::testing::Test {
  // A checkpoint, its weights perhaps in an encoding.
  fs::path base(const char* fixture, const std::string& encoding = {}, const char* layout = "hf") {
    const fs::path plain = scratch / ("plain" + std::to_string(++count));
    write_tiny(plain, tiny_fixture(fixture));
    if (encoding.empty()) return plain;
    LoadedModel m = load_editable(plain);
    EncodeOptions options;
    const std::string id = encoding_from_shorthand(encoding, options.params);
    for (Linear* l : m.model->linears()) {
      if (l == &m.model->head) continue;
      const Tensor w = decode_weight(l->weight());
      l->set_weight(hone::encoding(id).encode(w.data<float>(), w.dim(0), w.dim(1), options));
    }
    ExportOptions e;
    e.layout = layout;
    const fs::path out =
        scratch / ("base" + std::to_string(count) + (std::string(layout) == "gguf" ? ".gguf" : ""));
    export_model(m, out, e);
    return out;
  }
  // An adapter with a change of this size in every weight.
  fs::path adapter(const fs::path& model, const char* method, const std::string& targets,
                   float size, uint32_t seed = 3) {
    LoadedModel m = load_editable(model);
    AdapterOptions o;
    o.rank = 4;
    o.alpha = 8;
    o.targets = targets;
    o.virtual_tokens = 3;
    auto made = adapter_method(method).make(*m.model, o);
    for (NamedTensor& t : made->train()) {
      const bool scaled = t.name.find("lora_A") != t.name.npos;
      const std::vector<float> noise =
          random_values(static_cast<size_t>(t.value.numel()), ++seed, scaled ? 0.1f : size);
      for (size_t i = 0; i < noise.size(); ++i) t.value.mutable_data<float>()[i] += noise[i];
    }
    const fs::path out = scratch / ("adapter" + std::to_string(++count));
    write_peft_directory(out, made->save());
    return out;
  }
  std::vector<float> tuned(const fs::path& model, const std::vector<AdapterSource>& sources) {
    LoadedModel m = load_editable(model);
    std::vector<std::unique_ptr<Adapter>> all;
    for (const AdapterSource& s : sources) {
      all.push_back(load_adapter(*m.model, read_peft_directory(s.path)));
      all.back()->set_weight(s.weight);
    }
    return merged_logits_of(m);
  }
  MergeOptions options(const fs::path& model, std::vector<AdapterSource> sources) {
    MergeOptions o;
    o.model = model;
    o.adapters = std::move(sources);
    o.out = scratch / ("out" + std::to_string(++count));
    o.evaluate.activations = Activations::f32;
    o.evaluate.context = 32;
    return o;
  }
  fs::path text() {
    std::string words;
    for (int i = 0; i < 40; ++i) words += "abc de cab ab" + std::to_string(i * 37 % 11);
    put_file(scratch / "text.txt", words);
    return scratch / "text.txt";
  }
  void expect_refused(const MergeOptions& o, const std::string& part) {
    try {
      merge_adapters(o);
      ADD_FAILURE() << "not refused: " << part;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
      EXPECT_NE(e.kind(), ErrorKind::internal);
    }
    EXPECT_FALSE(fs::exists(o.out));
  }

  TemporaryDirectory scratch;
  int count = 0;
};

class MergeFamilies : public Merge, public ::testing::WithParamInterface<const char*> {};

TEST_P(MergeFamilies, TheWrittenModelIsTheTunedOneAndGoesBack) {
  for (const char* method : {"lora", "dora", "ia3"}) {
    SCOPED_TRACE(method);
    const fs::path model = base(GetParam());
    const std::vector<AdapterSource> sources{{adapter(model, method, "all-linear", 0.1f)}};
    MergeOptions o = options(model, sources);
    const MergeChoice merged = merge_adapters(o);
    LoadedModel out = load_editable(o.out), before = load_editable(model);
    const std::vector<float> plain = merged_logits_of(before), with = tuned(model, sources);
    EXPECT_GT(distance(with, plain), 1e-2);
    EXPECT_LT(distance(merged_logits_of(out), with), 1e-4);
    EXPECT_FALSE(merged.layers.empty());
    // f32 has nothing to lose but its last bit.
    EXPECT_LT(merged.worst_ratio(), 1e-5);
    MergeOptions back = options(o.out, sources);
    back.unmerge = true;
    if (method == std::string("dora")) {
      expect_refused(back, "row lengths");
      continue;
    }
    merge_adapters(back);
    LoadedModel again = load_editable(back.out);
    EXPECT_LT(distance(merged_logits_of(again), plain), 1e-4);
  }
}
INSTANTIATE_TEST_SUITE_P(Tiny, MergeFamilies,
                         ::testing::Values("llama", "llama_untied", "gpt2", "gemma3"));

TEST_F(Merge, SeveralAreMixedByTheirWeights) {
  const fs::path model = base("llama");
  const std::vector<AdapterSource> sources{
      {adapter(model, "lora", "q_proj,down_proj", 0.1f), 0.5f},
      {adapter(model, "lora", "q_proj,up_proj", 0.1f, 90), -2.0f}};
  MergeOptions o = options(model, sources);
  merge_adapters(o);
  LoadedModel out = load_editable(o.out);
  EXPECT_LT(distance(merged_logits_of(out), tuned(model, sources)), 1e-4);
  EXPECT_GT(distance(merged_logits_of(out), tuned(model, {sources[0]})), 1e-2);
}

TEST_F(Merge, AnEmbeddingsAdapterUntiesTheHead) {
  const fs::path model = base("llama");
  const std::vector<AdapterSource> sources{{adapter(model, "lora", "embed_tokens,q_proj", 0.1f)}};
  MergeOptions o = options(model, sources);
  const MergeChoice merged = merge_adapters(o);
  LoadedModel out = load_editable(o.out), plain = load_editable(model);
  EXPECT_FALSE(out.model->tied_head);
  EXPECT_LT(distance(merged_logits_of(out), tuned(model, sources)), 1e-4);
  EXPECT_GT(distance(merged_logits_of(out), merged_logits_of(plain)), 1e-2);
  EXPECT_EQ(merged.layers[0].module, "model.embed_tokens");
}

TEST_F(Merge, AQuantisedBaseBecomesBf16OrStaysInItsEncoding) {
  struct Base {
    const char *encoding, *layout, *id;
  };
  for (const Base& b : {Base{"nf4", "bitsandbytes", "nf4"}, Base{"q8_0", "gguf", "q8_0"},
                        Base{"int4", "gptq_v2", "int_group"}}) {
    SCOPED_TRACE(b.encoding);
    const fs::path model = base("llama", b.encoding, b.layout);
    const std::vector<AdapterSource> sources{{adapter(model, "lora", "q_proj,up_proj", 0.05f)}};
    const std::vector<float> with = tuned(model, sources);

    MergeOptions o = options(model, sources);
    const MergeChoice to_float = merge_adapters(o);
    LoadedModel out = load_editable(o.out);
    EXPECT_LT(distance(merged_logits_of(out), with), 0.02);
    for (Linear* l : out.model->linears()) EXPECT_NE(l->weight().encoding, b.id) << l->name();
    for (const MergedLayer& l : to_float.layers) EXPECT_EQ(l.after, "bf16");

    MergeOptions own = options(model, sources);
    own.encoding = kOwnEncoding;
    if (b.layout == std::string("gguf")) {
      // A directory cannot hold its blocks, and does not turn them into floats unasked.
      expect_refused(own, "q8_0");
      own.out = scratch / "own.gguf";
    }
    const MergeChoice kept = merge_adapters(own);
    LoadedModel same = load_editable(own.out), before = load_editable(model);
    ASSERT_EQ(kept.layers.size(), 4u);  // of two layers
    EXPECT_GT(kept.mean_ratio(), to_float.mean_ratio());
    LoadedModel plain = load_editable(model);
    auto adapter = load_adapter(*plain.model, read_peft_directory(sources[0].path));
    size_t changed = 0;
    for (size_t i = 0; i < same.model->linears().size(); ++i) {
      Linear *l = same.model->linears()[i], *was = before.model->linears()[i];
      EXPECT_EQ(l->weight().encoding, was->weight().encoding) << l->name();
      Tensor w = decode_weight(was->weight()).clone(), bias, got = decode_weight(l->weight());
      const Tensor untouched = w.clone();
      adapter->merge(*plain.model->linears()[i], w, bias, 1);
      const double change = relative_distance(w.data<float>(), untouched.data<float>(), w.numel());
      if (change == 0) {
        EXPECT_EQ(relative_distance(got.data<float>(), w.data<float>(), w.numel()), 0) << l->name();
        continue;
      }
      // ‖Q − W′‖/‖W′ − W‖, by hand.
      double lost = 0, moved = 0;
      for (int64_t j = 0; j < w.numel(); ++j) {
        lost += std::pow(double{got.data<float>()[j]} - w.data<float>()[j], 2);
        moved += std::pow(double{w.data<float>()[j]} - untouched.data<float>()[j], 2);
      }
      ASSERT_LT(changed, kept.layers.size());
      EXPECT_EQ(kept.layers[changed].module, l->name());
      EXPECT_NEAR(kept.layers[changed].ratio, std::sqrt(lost / moved), 1e-4);
      EXPECT_NEAR(kept.layers[changed].change, change, 1e-5);
      ++changed;
    }
    EXPECT_EQ(changed, kept.layers.size());
  }
}

TEST_F(Merge, ASmallChangeIsErasedByCoarseCodesAndSaysSo) {
  const fs::path model = base("llama", "nf4", "bitsandbytes");
  const std::vector<AdapterSource> sources{{adapter(model, "lora", "all-linear", 0.004f)}};
  MergeOptions o = options(model, sources);
  o.encoding = kOwnEncoding;
  const MergeChoice merged = merge_adapters(o);
  EXPECT_EQ(merged.erased(), std::ssize(merged.layers));
  EXPECT_GT(merged.mean_ratio(), 1);
}

TEST_F(Merge, AnotherEncodingIsTakenByName) {
  const fs::path model = base("llama");
  const std::vector<AdapterSource> sources{{adapter(model, "lora", "q_proj", 0.1f)}};
  MergeOptions o = options(model, sources);
  o.encoding = "nf4";
  const MergeChoice merged = merge_adapters(o);
  EXPECT_EQ(merged.layers.size(), 2u);
  LoadedModel out = load_editable(o.out);
  EXPECT_EQ(out.layout, "bitsandbytes");
  for (Linear* l : out.model->linears())
    EXPECT_EQ(l->weight().encoding, l == &out.model->head ? "f32" : "nf4") << l->name();
  MergeOptions half = options(model, sources);
  half.encoding = "f16";
  merge_adapters(half);
  LoadedModel halved = load_editable(half.out);
  EXPECT_EQ(halved.model->embedding.weight().encoding, "f16");
}

TEST_F(Merge, MeasuresOnAText) {
  const fs::path model = base("llama", "nf4", "bitsandbytes");
  const std::vector<AdapterSource> sources{{adapter(model, "lora", "all-linear", 0.05f)}};
  MergeOptions o = options(model, sources);
  o.text = text();
  o.report = scratch / "report.html";
  const MergeChoice to_float = merge_adapters(o);
  ASSERT_TRUE(to_float.quality);
  MergeOptions own = options(model, sources);
  own.text = o.text;
  own.encoding = kOwnEncoding;
  const MergeChoice kept = merge_adapters(own);
  EXPECT_GT(kept.quality->kl_mean, 4 * to_float.quality->kl_mean);
  EXPECT_EQ(kept.quality->reference_perplexity, to_float.quality->reference_perplexity);
  EXPECT_GT(fs::file_size(scratch / "report.html"), 1000u);
  EXPECT_TRUE(fs::exists(scratch / "report.json"));
}

TEST_F(Merge, WholeParametersAreWritten) {
  const fs::path model = base("llama_untied");
  PeftAdapter files = read_peft_directory(adapter(model, "lora", "q_proj", 0.1f));
  files.config.modules_to_save = {"lm_head"};
  files.tensors["base_model.model.lm_head.weight"] = random_tensor({272, 64}, 77, 0.1f);
  files.tensors["base_model.model.model.norm.weight"] = random_tensor({64}, 78);
  files.tensors["base_model.model.model.layers.0.mlp.up_proj.bias"] = random_tensor({96}, 79);
  write_peft_directory(scratch / "whole", files);
  const std::vector<AdapterSource> sources{{scratch / "whole"}};
  MergeOptions o = options(model, sources);
  merge_adapters(o);
  LoadedModel out = load_editable(o.out);
  EXPECT_LT(distance(merged_logits_of(out), tuned(model, sources)), 1e-4);
  MergeOptions back = options(o.out, sources);
  back.unmerge = true;
  expect_refused(back, "replaced parameters");
}

TEST_F(Merge, RefusesWhatCannotBe) {
  const fs::path model = base("llama"), small = base("llama", "nf4", "bitsandbytes");
  const fs::path lora = adapter(model, "lora", "q_proj", 0.1f);
  expect_refused(options(model, {{adapter(model, "prompt", "", 0.1f)}}), "not a change of weights");
  expect_refused(options(model, {{adapter(model, "pfeiffer", "", 0.1f)}}), "nonlinearity");
  expect_refused(options(model, {{lora}, {adapter(model, "dora", "q_proj", 0.1f)}}),
                 "one after the other");
  expect_refused(options(model, {{scratch / "nothing"}}), "nothing");
  expect_refused(options(base("llama_untied"), {{lora}}), "lora_A");
  MergeOptions o = options(small, {{lora}});
  o.unmerge = true;
  expect_refused(o, "floats only");
  o = options(small, {{lora}});
  o.encoding = kOwnEncoding;
  o.layout = "hf";
  expect_refused(o, "nf4");
  PeftAdapter files = read_peft_directory(lora);
  Tensor& a = files.tensors.begin()->second;
  a = a.clone();
  a.mutable_data<float>()[0] = std::numeric_limits<float>::infinity();
  write_peft_directory(scratch / "infinite", files);
  expect_refused(options(model, {{scratch / "infinite"}}), "not finite");
}

TEST_F(Merge, TheAdvisorComparesTheChoices) {
  const fs::path model = base("llama", "nf4", "bitsandbytes");
  const std::vector<AdapterSource> sources{{adapter(model, "lora", "all-linear", 0.004f)}};
  MergeOptions o = options(model, sources);
  const MergeAdvice advice = advise_merge(o);
  EXPECT_FALSE(fs::exists(o.out));
  std::vector<std::string> names;
  for (const MergeChoice& c : advice.choices) names.push_back(c.name);
  EXPECT_EQ(names, (std::vector<std::string>{"separate", "bf16", "f16", "q8_0",
                                             "nf4, the base's own", "untuned"}));
  for (const MergeChoice& c : advice.choices) {
    SCOPED_TRACE(c.name);
    EXPECT_TRUE(c.refusal.empty());
    EXPECT_GT(c.bytes, 0);
    ASSERT_TRUE(c.quality);
    EXPECT_GE(c.quality->kl_mean, -1e-9);
  }
  EXPECT_EQ(advice.choices[0].quality->kl_mean, 0);
  EXPECT_GT(advice.choices[4].mean_ratio(), advice.choices[3].mean_ratio());
  EXPECT_GT(advice.choices[3].mean_ratio(), advice.choices[2].mean_ratio());
  EXPECT_GT(advice.choices[0].bytes, advice.choices[5].bytes);
  EXPECT_FALSE(advice.measured_on.empty());
  EXPECT_NE(advice.recommendation.find("nf4, the base's own would erase it"), std::string::npos)
      << advice.recommendation;
}

MergeChoice choice(const char* name, int64_t bytes, double ratio, double kl) {
  MergeChoice c;
  c.name = name;
  c.bytes = bytes;
  if (ratio > 0) c.layers.push_back({"layer", "a", "b", 1, 1, 0.1, ratio, 0.1});
  if (kl >= 0) {
    c.quality.emplace();
    c.quality->kl_mean = kl;
  }
  return c;
}

TEST(MergeRecommendation, IsTheSmallestThatKeepsTheTune) {
  auto of = [](const std::vector<MergeChoice>& c) { return merge_recommendation(c); };
  const MergeChoice separate = choice("separate", 110, 0, -1),
                    untuned = choice("untuned", 100, 0, -1);
  EXPECT_EQ(
      of({separate, choice("bf16", 100, 0.1, -1), choice("q8_0", 60, 0.2, -1), untuned}),
      "Merge into q8_0: rounding is at most 0.2 times the change, and it is the smallest that "
      "keeps the tune.");
  EXPECT_EQ(of({separate, choice("bf16", 400, 0.1, -1), choice("q4", 100, 3, -1), untuned}),
            "Keep the adapter separate: merging loses little only in bf16 (rounding is at most 0.1 "
            "times the change), at 3.6 times the bytes. q4 would erase it in 1 of 1 weights, where "
            "rounding is up to 3.0 times the change.");
  EXPECT_EQ(of({separate, choice("q8_0", 100, 0.5, -1), untuned}),
            "Keep the adapter separate: every merged form loses too much of the tune.");
  // What was measured goes before what weights say.
  EXPECT_EQ(of({choice("separate", 110, 0, 0), choice("q8_0", 100, 0.5, 0.001),
                choice("untuned", 100, 0, 0.1)}),
            "Merge into q8_0: it loses 1 % of the tune's effect, and it is the smallest that keeps "
            "the tune.");
}

}  // namespace
}  // namespace hone
