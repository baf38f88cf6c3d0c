// What every family of the registry promises, on tiny random checkpoints (tests/tiny_models.h):
// any way of running the same tokens gives the same bits, trips through files change nothing, and
// a checkpoint that does not fit its config is refused by the tensor's name. That the numbers are
// the right ones is families_test.cpp's part: it compares with transformers' goldens, and a family
// without a golden fails here.
#include <set>

#include "formats/safetensors.h"
#include "models/export.h"
#include "models/session.h"
#include "tiny_models.h"

namespace hone {
namespace {

using namespace testing;

::testing::AssertionResult same_floats(const float* a, const float* b, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    if (std::memcmp(a + i, b + i, 4) != 0)
      return ::testing::AssertionFailure()
             << "value " << i << " of " << n << ": " << a[i] << " and " << b[i];
  return ::testing::AssertionSuccess();
}
::testing::AssertionResult same_bits(const Tensor& a, const Tensor& b) {
  if (a.shape() != b.shape())
    return ::testing::AssertionFailure() << shape_string(a.shape()) << shape_string(b.shape());
  return same_floats(a.data<float>(), b.data<float>(), a.numel());
}

Tensor all_logits(LoadedModel& m, const std::vector<int32_t>& ids) {
  Session session(*m.model, Activations::f32);
  return session.logits(session.hidden(ids));
}

class FamilyContract : public ::testing::TestWithParam<TinyFixture> {
 protected:
  void SetUp() override { write_tiny(path(), GetParam()); }
  fs::path path() const { return scratch_ / "model"; }
  /// The model written anew with other tensors or another config.
  fs::path variant(const Json& config, const std::map<std::string, Tensor>& tensors) {
    fs::path p = scratch_ / "variant";
    fs::remove_all(p);
    write_tiny(p, config, tensors);
    return p;
  }
  Json config() const { return parse_json(GetParam().config, "config.json"); }
  void expect_refusal(const fs::path& p, const std::string& named) {
    try {
      load_model(p);
      ADD_FAILURE() << "loaded a model whose tensor " << named << " does not fit";
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::corrupt) << e.what();
      EXPECT_NE(std::string(e.what()).find("'" + named + "'"), std::string::npos) << e.what();
    }
  }

  TemporaryDirectory scratch_;
};

TEST_P(FamilyContract, BuildsWhatItsConfigSays) {
  LoadedModel m = load_editable(path());
  ModelConfig c = tiny_config(GetParam());
  EXPECT_EQ(m.family->name, std::string(GetParam().family));
  EXPECT_EQ(static_cast<int64_t>(m.model->blocks.size()), c.layers);
  EXPECT_EQ(m.model->vocabulary(), c.vocabulary);
  EXPECT_EQ(m.model->width(), c.width);
  EXPECT_EQ(m.model->context, c.context);
  int64_t parameters = 0;
  for (const auto& [name, t] : tiny_tensors(GetParam())) parameters += t.numel();
  EXPECT_EQ(m.model->parameter_count(), parameters);
  std::set<std::string> paths;
  for (Linear* l : m.model->linears()) EXPECT_TRUE(paths.insert(l->name()).second) << l->name();
}

TEST_P(FamilyContract, EveryWayToRunTokensGivesTheSameBits) {
  LoadedModel m = load_model(path());
  std::vector<int32_t> ids = tiny_ids(70, 1);  // beyond one page of keys
  Tensor whole = all_logits(m, ids);
  int64_t v = whole.dim(1);
  for (float x : std::span(whole.data<float>(), static_cast<size_t>(whole.numel())))
    ASSERT_TRUE(std::isfinite(x));
  for (size_t step : {1, 7, 64}) {
    Session session(*m.model, Activations::f32);
    for (size_t at = 0; at < ids.size(); at += step) {
      size_t n = std::min(step, ids.size() - at);
      Tensor last = session.append({&ids[at], n});
      ASSERT_TRUE(same_floats(last.data<float>(),
                              whole.data<float>() + static_cast<int64_t>(at + n - 1) * v, v))
          << "in steps of " << step << " at " << at;
    }
  }
}

// A prefill and a decode of other lengths run in one batch, first and second.
TEST_P(FamilyContract, ABatchOfSequencesEqualsEachAlone) {
  LoadedModel m = load_model(path());
  Model& model = *m.model;
  std::vector<int32_t> a = tiny_ids(37, 2), b = tiny_ids(67, 3);
  Session alone_a(model, Activations::f32), alone_b(model, Activations::f32);
  Tensor expect_a = alone_a.hidden(a), expect_b = alone_b.hidden(b);
  KvCache cache(model.kv_shapes());
  KvSequence sa, sb;
  Batch first;
  first.append(std::span(a).first(36), &sa);
  first.append(std::span(b).first(5), &sb);
  Tensor x = model.forward(first, cache);
  EXPECT_TRUE(same_bits(x.rows(0, 36), expect_a.rows(0, 36)));
  EXPECT_TRUE(same_bits(x.rows(36, 41), expect_b.rows(0, 5)));
  Batch second;
  second.append(std::span(b).subspan(5), &sb);
  second.append(std::span(a).subspan(36), &sa);
  Tensor y = model.forward(second, cache);
  EXPECT_TRUE(same_bits(y.rows(0, 62), expect_b.rows(5, 67)));
  EXPECT_TRUE(same_bits(y.rows(62, 63), expect_a.rows(36, 37)));
}

TEST_P(FamilyContract, TripsThroughFilesKeepEveryBit) {
  LoadedModel m = load_editable(path());
  std::vector<int32_t> ids = tiny_ids(40, 4);
  Tensor expected = all_logits(m, ids);
  for (const char* layout : {"hf", "gguf"}) {
    if (std::string(layout) == "gguf" && m.family->gguf_architectures.empty()) continue;
    fs::path out = scratch_ / (std::string(layout) == "gguf" ? "out.gguf" : "out");
    ExportOptions o;
    o.layout = layout;
    export_model(m, out, o);
    LoadedModel back = load_model(out);
    EXPECT_EQ(back.layout, layout);
    EXPECT_EQ(back.tokenizer->encode("abcé d"), m.tokenizer->encode("abcé d"));
    // GGUF stores some numbers in another form (frequency divisors, shifted norms).
    Tensor got = all_logits(back, ids);
    if (std::string(layout) == "hf")
      EXPECT_TRUE(same_bits(got, expected));
    else
      EXPECT_LT(relative_distance(got.data<float>(), expected.data<float>(), got.numel()), 1e-5);
  }
}

TEST_P(FamilyContract, GgufBecomesADirectoryAgain) {
  LoadedModel m = load_editable(path());
  ExportOptions gguf;
  gguf.layout = "gguf";
  if (m.family->gguf_architectures.empty()) {
    EXPECT_THROW(export_model(m, scratch_ / "a.gguf", gguf), Error);
    return;
  }
  export_model(m, scratch_ / "a.gguf", gguf);
  LoadedModel from_gguf = load_editable(scratch_ / "a.gguf");
  export_model(from_gguf, scratch_ / "back", {});
  LoadedModel back = load_model(scratch_ / "back");
  EXPECT_EQ(back.layout, "hf");
  std::vector<int32_t> ids = tiny_ids(40, 5);
  Tensor got = all_logits(back, ids), expected = all_logits(m, ids);
  EXPECT_LT(relative_distance(got.data<float>(), expected.data<float>(), got.numel()), 1e-5);
}

TEST_P(FamilyContract, RefusesAMissingTensorByName) {
  auto tensors = tiny_tensors(GetParam());
  for (const auto& [name, t] : tensors) {
    auto fewer = tensors;
    fewer.erase(name);
    expect_refusal(variant(config(), fewer), name);
  }
}

TEST_P(FamilyContract, RefusesATensorOfAnotherShapeByName) {
  auto tensors = tiny_tensors(GetParam());
  for (const auto& [name, t] : tensors)
    for (int axis = 0; axis < t.rank(); ++axis) {
      auto other = tensors;
      Shape shape = t.shape();
      ++shape[static_cast<size_t>(axis)];
      other[name] = Tensor::zeros(shape, DType::f32);
      expect_refusal(variant(config(), other), name);
    }
}

// A tensor that nothing reads says that the model is not what its config claims: a further layer,
// a norm on the queries, a bias.
TEST_P(FamilyContract, RefusesATensorTooManyByName) {
  auto tensors = tiny_tensors(GetParam());
  const Family& family = family_named(GetParam().family);
  std::vector<std::string> extra = {"model.surprise.weight"};
  for (const Slot& s : family.slots)
    if (is_layer_role(s.role)) {
      extra.push_back(slot_name(s.hf, tiny_config(GetParam()).layers) + ".weight");
      extra.push_back(slot_name(s.hf, 0) + ".gain");
    }
  for (const std::string& name : extra) {
    auto more = tensors;
    more[name] = Tensor::zeros({4}, DType::f32);
    expect_refusal(variant(config(), more), name);
  }
}

// Buffers that older versions of transformers saved beside the weights.
TEST_P(FamilyContract, TakesSavedBuffers) {
  auto tensors = tiny_tensors(GetParam());
  tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = Tensor::zeros({16}, DType::f32);
  tensors["transformer.h.0.attn.bias"] = Tensor::zeros({1, 1, 4, 4}, DType::f32);
  tensors["transformer.h.0.attn.masked_bias"] = Tensor::zeros({}, DType::f32);
  EXPECT_NO_THROW(load_model(variant(config(), tensors)));
}

// One key of the config after another is absent, of another type, or absurd: an Error or a model,
// never anything else.
TEST_P(FamilyContract, SurvivesASpoiledConfig) {
  auto tensors = tiny_tensors(GetParam());
  fs::path p = variant(config(), tensors);
  auto reload = [&](const Json& spoiled) {
    put_file(p / "config.json", spoiled.dump());
    try {
      load_model(p);
    } catch (const Error& e) {
      EXPECT_NE(e.kind(), ErrorKind::internal) << spoiled.dump() << ": " << e.what();
    }
  };
  const Json good = config();
  for (const auto& [key, value] : good.items()) {
    Json without = good;
    without.erase(key);
    reload(without);
    for (const Json& bad : {Json("text"), Json(-1), Json(0), Json(1e30), Json(INT64_MAX), Json(3),
                            Json(nullptr), Json::array(), Json::object()}) {
      Json other = good;
      other[key] = bad;
      reload(other);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, FamilyContract, ::testing::ValuesIn(tiny_fixtures()),
                         [](const auto& info) { return std::string(info.param.name); });

// GGUF keeps the two halves of a rotation side by side (llama.cpp's conversion reshapes each head's
// rows to [2, half] and swaps the axes); a trip there and back does not show in which order.
TEST(PairedRows, AreTheOnesOfTheConversion) {
  EXPECT_EQ(unpair_rows(12, 6), (std::vector<int64_t>{0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11}));
  EXPECT_EQ(pair_rows(12, 6), (std::vector<int64_t>{0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11}));
  TemporaryDirectory scratch;
  write_tiny(scratch / "model", tiny_fixture("llama"));
  LoadedModel m = load_editable(scratch / "model");
  ExportOptions o;
  o.layout = "gguf";
  export_model(m, scratch / "model.gguf", o);
  auto file = open_checkpoint(scratch / "model.gguf");
  auto tensors = tiny_tensors(tiny_fixture("llama"));
  for (auto [gguf, hf] :
       {std::pair("blk.1.attn_q.weight", "q_proj"), {"blk.1.attn_k.weight", "k_proj"}}) {
    Tensor stored = decode_weight(file->weight(gguf));
    Tensor plain = tensors.at(fmt::format("model.layers.1.self_attn.{}.weight", hf));
    // Heads of 32 rows: GGUF's rows 33, 34 are rows 16 and 1 of the second head.
    EXPECT_TRUE(same_bits(stored.rows(33, 34), plain.rows(48, 49)));
    EXPECT_TRUE(same_bits(stored.rows(34, 35), plain.rows(33, 34)));
  }
}

TEST(FamilyRegistry, EveryFamilyHasATinyFixtureAndAGolden) {
  std::set<std::string> fixtures, goldens;
  for (const TinyFixture& f : tiny_fixtures()) fixtures.insert(f.family);
  for (const auto& e : fs::directory_iterator(golden("families"))) {
    Json config = parse_json(read_text_file(e.path() / "config.json"), e.path().string());
    goldens.insert(config.at("model_type").get<std::string>());
    EXPECT_TRUE(fs::exists(e.path() / "logits.safetensors")) << e.path();
  }
  for (const Family* f : families()) {
    if (f->written_as != nullptr) continue;  // other names of a family that is tested
    EXPECT_TRUE(fixtures.contains(f->name)) << f->name << ": no line in tests/tiny_models.h";
    for (const char* type : f->hf_types)
      EXPECT_TRUE(goldens.contains(type))
          << type << ": no golden of transformers; see tools/golden/make_families.py";
  }
}

}  // namespace
}  // namespace hone
