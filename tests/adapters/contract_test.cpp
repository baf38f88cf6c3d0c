// What every fine-tuning method of the registry promises, on tiny random models: it has something
// to train, a step lowers the loss, its files bring back the same logits bit for bit, weight 0 is
// the model without it, merged it is what it was, and files of another model are refused. A new
// method is enrolled by its line in the registry.
#include "adapters/adapter.h"

#include "models/session.h"
#include "ops/elementwise.h"
#include "ops/tape.h"
#include "tiny_models.h"

namespace hone {
namespace {

using namespace testing;

struct Case {
  const AdapterMethod* method;
  std::string model;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.method->name << " on " << c.model; }

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const AdapterMethod& m : adapter_methods())
    for (const TinyFixture& f : softmax_fixtures()) all.push_back({&m, f.name});
  return all;
}

AdapterOptions small_options() {
  AdapterOptions o;
  o.rank = 4;
  o.alpha = 6;
  o.virtual_tokens = 3;
  o.reduction = 8;
  o.seed = 5;
  return o;
}

std::vector<float> logits_of(Model& model) {
  Session session(model, Activations::f32);
  const std::vector<int32_t> ids = tiny_ids(9, 4);
  const Tensor y = model.logits(session.hidden(ids), Activations::f32);
  return {y.data<float>(), y.data<float>() + y.numel()};
}

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  return relative_distance(a.data(), b.data(), std::ssize(a));
}

// The mean cross-entropy of some tokens, and its gradients.
double loss_of(Model& model, Checkpointing checkpointing = Checkpointing::none) {
  const int64_t prompted = model.prompt.empty_handle() ? 0 : model.prompt.dim(0);
  const std::vector<int32_t> text = tiny_ids(12, 6);
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < prompted; ++i) ids.push_back(static_cast<int32_t>(-1 - i));
  ids.insert(ids.end(), text.begin(), text.end() - 1);
  Batch batch;
  batch.append(ids, nullptr, model.virtual_tokens() - prompted);
  batch.checkpointing = checkpointing;
  const std::vector<int32_t> targets(text.begin() + 1, text.end());
  Tape tape;
  CrossEntropy loss(targets);
  std::vector<int64_t> rows;
  for (size_t i = 0; i < targets.size(); ++i) rows.push_back(prompted + static_cast<int64_t>(i));
  const Tensor hidden = model.forward(batch);
  const float share = 1 / static_cast<float>(targets.size());
  const LinearLoss l = model.loss(ops::gather_rows(hidden, rows), loss, share, Activations::f32);
  tape.backward(l.root, Tensor::from(std::vector<float>{1}));
  return l.sum * double{share};
}

class AdapterContract : public ::testing::TestWithParam<Case> {
 protected:
  AdapterContract() { write_tiny(scratch_ / "model", tiny_fixture(GetParam().model)); }
  LoadedModel load() const { return load_editable(scratch_ / "model"); }
  std::unique_ptr<Adapter> make(Model& model) const {
    return GetParam().method->make(model, small_options());
  }
  // One that does something: all values moved off where they begin.
  std::unique_ptr<Adapter> make_moved(Model& model, float by = 0.1f) const {
    auto adapter = make(model);
    uint32_t seed = 11;
    for (NamedTensor& t : adapter->train()) {
      const std::vector<float> noise =
          random_values(static_cast<size_t>(t.value.numel()), ++seed, by);
      for (size_t i = 0; i < noise.size(); ++i) t.value.mutable_data<float>()[i] += noise[i];
    }
    adapter->values_changed();
    return adapter;
  }
  TemporaryDirectory scratch_;
};

TEST_P(AdapterContract, AStepLowersTheLoss) {
  LoadedModel m = load();
  auto adapter = make(*m.model);
  std::vector<NamedTensor> trained = adapter->train();
  ASSERT_FALSE(trained.empty());
  const double before = loss_of(*m.model);
  double norm = 0;
  for (NamedTensor& t : trained) {
    const Tensor& g = t.value.gradient();
    for (int64_t i = 0; i < g.numel(); ++i) norm += double{g.data<float>()[i]} * g.data<float>()[i];
  }
  ASSERT_GT(norm, 0);
  // Along the gradient, so far that the loss should fall by a twentieth.
  const auto step = static_cast<float>(0.05 * before / norm);
  for (NamedTensor& t : trained) {
    const Tensor& g = t.value.gradient();
    for (int64_t i = 0; i < g.numel(); ++i)
      t.value.mutable_data<float>()[i] -= step * g.data<float>()[i];
  }
  adapter->values_changed();
  EXPECT_LT(loss_of(*m.model), before);
}

// Also of what is shared by all layers, as a prefix's projection is.
TEST_P(AdapterContract, CheckpointingChangesNoBitOfAGradient) {
  for (const bool projection : {false, true}) {
    if (projection && GetParam().method->name != std::string_view("prefix")) continue;
    AdapterOptions options = small_options();
    options.projection = projection;
    options.hidden = 8;
    std::vector<std::vector<float>> plain;
    for (Checkpointing c :
         {Checkpointing::none, Checkpointing::cheap, Checkpointing::block, Checkpointing::root}) {
      LoadedModel m = load();
      auto adapter = GetParam().method->make(*m.model, options);
      std::vector<NamedTensor> trained = adapter->train();
      loss_of(*m.model, c);
      for (size_t i = 0; i < trained.size(); ++i) {
        const Tensor& g = trained[i].value.gradient();
        std::vector<float> all(g.data<float>(), g.data<float>() + g.numel());
        if (c == Checkpointing::none)
          plain.push_back(std::move(all));
        else
          EXPECT_EQ(all, plain[i]) << trained[i].name << " " << static_cast<int>(c);
      }
    }
  }
}

TEST_P(AdapterContract, MergedWhileItIsOffItChangesNothing) {
  LoadedModel m = load();
  auto adapter = make_moved(*m.model);
  if (!adapter->merge_refusal(1).empty()) return;
  adapter->set_weight(0);
  for (Linear* l : m.model->linears()) {
    const Tensor before = decode_weight(l->weight());
    Tensor values = before.clone(), bias;
    adapter->merge(*l, values, bias, 1);
    EXPECT_EQ(relative_distance(values.data<float>(), before.data<float>(), before.numel()), 0)
        << l->name();
  }
}

TEST_P(AdapterContract, FilesBringBackTheSameLogits) {
  std::vector<float> expected;
  {
    LoadedModel m = load();
    auto adapter = make_moved(*m.model);
    EXPECT_EQ(adapter->method(), GetParam().method->name);
    expected = logits_of(*m.model);
    write_peft_directory(scratch_ / "adapter", adapter->save());
  }
  LoadedModel m = load();
  const std::vector<float> plain = logits_of(*m.model);
  EXPECT_GT(distance(expected, plain), 1e-3);
  auto adapter = load_adapter(*m.model, read_peft_directory(scratch_ / "adapter"));
  EXPECT_EQ(adapter->method(), GetParam().method->name);
  EXPECT_EQ(logits_of(*m.model), expected);
  // Where the model only runs, its weights are packed and gone.
  LoadedModel running = load_model(scratch_ / "model");
  auto other = load_adapter(*running.model, read_peft_directory(scratch_ / "adapter"));
  EXPECT_EQ(logits_of(*running.model), expected);
  write_peft_directory(scratch_ / "again", adapter->save());
  for (const char* file : {"adapter_config.json", "adapter_model.safetensors"}) {
    std::ifstream a(scratch_ / "adapter" / file), b(scratch_ / "again" / file);
    EXPECT_EQ(std::string(std::istreambuf_iterator<char>(a), {}),
              std::string(std::istreambuf_iterator<char>(b), {}))
        << file;
  }
}

TEST_P(AdapterContract, WeightZeroIsTheModelWithoutIt) {
  LoadedModel m = load();
  const std::vector<float> plain = logits_of(*m.model);
  auto adapter = make_moved(*m.model);
  const std::vector<float> with = logits_of(*m.model);
  EXPECT_NE(with, plain);
  adapter->set_weight(0);
  EXPECT_EQ(logits_of(*m.model), plain);
  adapter->set_weight(1);
  EXPECT_EQ(logits_of(*m.model), with);
}

TEST_P(AdapterContract, MergedIsAsUnmerged) {
  LoadedModel m = load();
  auto adapter = make_moved(*m.model);
  if (!adapter->merge_refusal(1).empty()) return;
  const std::vector<float> with = logits_of(*m.model);
  LoadedModel merged = load();
  const std::vector<float> plain = logits_of(*merged.model);
  const std::vector<Linear*> from = m.model->linears(), to = merged.model->linears();
  for (const int sign : {1, -1}) {
    if (!adapter->merge_refusal(sign).empty()) continue;
    for (size_t i = 0; i < from.size(); ++i) {
      Tensor values = decode_weight(to[i]->weight()).clone(), bias = to[i]->bias();
      if (!bias.empty_handle()) bias = bias.clone();
      adapter->merge(*from[i], values, bias, sign);
      to[i]->set_weight(float_weight(values));
      if (!bias.empty_handle()) to[i]->set_bias(bias);
    }
    EXPECT_LT(distance(logits_of(*merged.model), sign > 0 ? with : plain), 1e-4);
  }
}

TEST_P(AdapterContract, RefusesFilesOfAnotherModel) {
  {
    LoadedModel m = load();
    write_peft_directory(scratch_ / "adapter", make(*m.model)->save());
  }
  // Of another width, and of the same family where there is one.
  const ModelConfig own = tiny_config(tiny_fixture(GetParam().model));
  const char* other = own.width == 64 ? "llama" : "llama_untied";
  // A prefix is of keys, whatever the width.
  const bool same_keys = own.layers == 2 && own.kv_heads * own.head_dim == 64;
  if (GetParam().method->name == std::string("prefix") && same_keys) other = "llama_untied";
  write_tiny(scratch_ / "other", tiny_fixture(other));
  LoadedModel m = load_editable(scratch_ / "other");
  try {
    auto adapter = load_adapter(*m.model, read_peft_directory(scratch_ / "adapter"), "the files");
    FAIL() << "it was taken";
  } catch (const Error& e) {
    EXPECT_EQ(std::string(e.what()).rfind("the files: ", 0), 0u) << e.what();
    EXPECT_NE(e.kind(), ErrorKind::internal) << e.what();
  }
}

INSTANTIATE_TEST_SUITE_P(All, AdapterContract, ::testing::ValuesIn(cases()), [](const auto& info) {
  return std::string(info.param.method->name) + "_" + info.param.model;
});

}  // namespace
}  // namespace hone
