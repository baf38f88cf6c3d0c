// 50 steps of AdamW beside PyTorch and peft, from the same weights and batches: logits at the
// start, gradients of the first step, every loss, and what comes out at the end.
#include <cstring>
#include <map>

#include "adapters/adapter.h"
#include "formats/safetensors.h"
#include "models/loader.h"
#include "models/session.h"
#include "ops/elementwise.h"
#include "ops/tape.h"
#include "testing.h"
#include "train/trainer.h"

namespace hone {
namespace {

using testing::golden;
using testing::relative_distance;

constexpr int64_t kSequences = 4, kLength = 24, kBatches = 5, kSteps = 50;

std::string base_of(const std::string& name) {
  return name.find("gpt2") != std::string::npos ? "gpt2" : "llama";
}

// A golden's tensors, and hone's under the same names.
class Parity {
 public:
  explicit Parity(const std::string& name)
      : directory_(golden("training/" + name)),
        base_(SafetensorsFile::open(golden("training/" + base_of(name) + "/expected.safetensors"))),
        expected_(SafetensorsFile::open(directory_ / "expected.safetensors")) {
    LoadOptions options;
    options.inference = false;
    loaded_ = load_model(golden("training/" + base_of(name)), options);
  }

  Model& model() { return *loaded_.model; }
  const SafetensorsFile& expected() const { return expected_; }
  const std::filesystem::path& directory() const { return directory_; }

  // Sequences of batch `which`; where `first_token` says so, a prompt's last row predicts the
  // first.
  TrainingBatch batch(int64_t which) const {
    TrainingBatch b;
    const Tensor tokens = base_.tensor("tokens"), labels = base_.tensor("labels");
    for (int64_t s = 0; s < kSequences; ++s) {
      const int64_t at = (which * kSequences + s) * kLength;
      b.row_spans.push_back(s);
      b.spans.push_back({s * kLength, (s + 1) * kLength});
      for (int64_t t = 0; t < kLength; ++t) {
        b.tokens.push_back(tokens.data<int32_t>()[at + t]);
        const int32_t next = t + 1 < kLength ? labels.data<int32_t>()[at + t + 1] : -100;
        b.targets.push_back(next < 0 ? -1 : next);
        b.target_count += next >= 0;
      }
    }
    b.row_spans.push_back(kSequences);
    return b;
  }
  // What stands at a sequence's first token.
  int32_t first_label(int64_t which, int64_t sequence) const {
    return base_.tensor("labels").data<int32_t>()[(which * kSequences + sequence) * kLength];
  }

 private:
  std::filesystem::path directory_;
  SafetensorsFile base_, expected_;
  LoadedModel loaded_;
};

// Rows of the parts of a fused matrix, one below the other.
std::vector<float> joined(const std::vector<NamedTensor>& all,
                          const std::vector<std::string>& names) {
  std::vector<float> values;
  for (const NamedTensor& t : all)
    for (const std::string& name : names)
      if (t.name == name)
        values.insert(values.end(), t.value.data<float>(), t.value.data<float>() + t.value.numel());
  return values;
}

// The tensor of hone's list that the golden calls `name`: for GPT-2's matrices transposed, which
// are stored as [in, out]; put together where hone has parts.
std::vector<float> ours(const std::vector<NamedTensor>& all, std::string name, const Shape& shape) {
  auto cut = [&](const std::string& s, size_t front) {
    return name.substr(front, name.size() - front - s.size());
  };
  const std::string prefix = "base_model.model.";
  std::vector<std::string> names{name};
  bool turned = false;
  if (name.starts_with(prefix)) {
    if (name.ends_with(".weight")) name = cut(".weight", 0);
    name = name.substr(prefix.size());
    names = {name, name + ".0", name + ".1", name + ".2"};
  } else if (name.find(".h.") != std::string::npos && name.find("ln_") == std::string::npos) {
    const size_t dot = name.rfind('.');
    const std::string module = name.substr(0, dot), leaf = name.substr(dot);
    names = {name, module + ".q" + leaf, module + ".k" + leaf, module + ".v" + leaf};
    turned = shape.size() == 2;
  }
  std::vector<float> values = joined(all, names);
  if (!turned) return values;
  std::vector<float> out(values.size());
  const auto rows = static_cast<size_t>(shape[0]), cols = static_cast<size_t>(shape[1]);
  for (size_t r = 0; r < rows; ++r)
    for (size_t c = 0; c < cols && c * rows + r < values.size(); ++c)
      out[r * cols + c] = values[c * rows + r];
  return out;
}

void expect_all(const std::vector<NamedTensor>& got, const SafetensorsFile& file,
                const std::string& prefix,
                const std::function<double(const std::string&)>& tolerance) {
  int compared = 0;
  for (const SafetensorsEntry& e : file.entries()) {
    if (!e.name.starts_with(prefix)) continue;
    const Tensor t = file.tensor(e.name);
    const std::string name = e.name.substr(prefix.size());
    const std::vector<float> mine = ours(got, name, t.shape());
    ASSERT_EQ(std::ssize(mine), t.numel()) << name;
    EXPECT_LT(relative_distance(mine.data(), t.data<float>(), t.numel()), tolerance(name)) << name;
    ++compared;
  }
  EXPECT_GT(compared, 0) << prefix;
}

std::vector<NamedTensor> gradients_of(const std::vector<NamedTensor>& parameters) {
  std::vector<NamedTensor> all;
  for (const NamedTensor& p : parameters) {
    EXPECT_FALSE(p.value.gradient().empty_handle()) << p.name << " got no gradient";
    if (!p.value.gradient().empty_handle()) all.push_back({p.name, p.value.gradient()});
  }
  return all;
}

// One step's loss and gradients, as the trainer makes them: with a prompt its last row predicts the
// first token, as peft has it.
double loss_of(Parity& p, int64_t which) {
  Model& m = p.model();
  const TrainingBatch b = p.batch(which);
  const int64_t prompted = m.prompt.empty_handle() ? 0 : m.prompt.dim(0);
  Batch batch;
  std::vector<int64_t> rows;
  std::vector<int32_t> targets;
  for (int64_t s = 0; s < kSequences; ++s) {
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < prompted; ++i) ids.push_back(static_cast<int32_t>(-1 - i));
    if (prompted > 0 && p.first_label(which, s) >= 0) {
      rows.push_back(batch.size() + prompted - 1);
      targets.push_back(p.first_label(which, s));
    }
    for (int64_t t = s * kLength; t < (s + 1) * kLength; ++t) {
      if (b.targets[size_t(t)] >= 0) {
        rows.push_back(batch.size() + std::ssize(ids));
        targets.push_back(b.targets[size_t(t)]);
      }
      ids.push_back(b.tokens[size_t(t)]);
    }
    batch.append(ids, nullptr, m.virtual_tokens() - prompted);
  }
  Tape tape;
  CrossEntropy loss(targets);
  Tensor hidden = m.forward(batch);
  const LinearLoss l =
      m.loss(ops::gather_rows(hidden, rows), loss, 1 / float(targets.size()), Activations::f32);
  tape.backward(l.root, Tensor::from(std::vector<float>{1}));
  return l.sum / double(targets.size());
}

struct Course {
  TrainerOptions options;
  std::vector<NamedTensor> parameters;
  std::function<void()> changed;
};

void run(Parity& p, const Course& s, const SafetensorsFile& grads) {
  std::vector<Parameter> parameters;
  for (const NamedTensor& t : s.parameters) parameters.push_back({t.name, t.value, true});
  loss_of(p, 0);
  expect_all(gradients_of(s.parameters), grads, "grad.", [](const std::string&) { return 1e-5; });
  const Tensor losses = p.expected().tensor("losses"), noise = p.expected().tensor("noise.losses");
  auto near = [&](double loss, int64_t i) {
    const double tolerance = std::max(1e-4, 4 * double{noise.data<float>()[i]});
    EXPECT_NEAR(loss, losses.data<float>()[i], tolerance) << "step " << i;
  };
  if (p.model().prompt.empty_handle()) {
    Trainer trainer(p.model(), parameters, s.options, s.changed);
    Objective objective;
    for (int64_t i = 0; i < kSteps; ++i) {
      const TrainingBatch b = p.batch(i % kBatches);
      near(trainer.step({&b, 1}, objective).loss, i);
    }
    return;
  }
  auto optimizer = make_optimizer(s.options.optimizer);
  for (int64_t i = 0; i < kSteps; ++i) {
    for (Parameter& q : parameters) q.value.gradient_node()->sum = {};
    near(loss_of(p, i % kBatches), i);
    optimizer->step(parameters, s.options.optimizer.lr, 1, i + 1);
    s.changed();
  }
}

Course course_of(double lr, double decay) {
  Course s;
  s.options.optimizer.lr = lr;
  s.options.optimizer.weight_decay = decay;
  s.options.schedule.schedule = "constant";
  s.options.max_norm = 0;
  s.options.steps = kSteps;
  return s;
}

class FullParity : public ::testing::TestWithParam<std::string> {};

TEST_P(FullParity, FiftyStepsEqualPyTorchs) {
  Parity p(GetParam());
  Course s = course_of(1e-3, 0.01);
  s.parameters = p.model().train([](const std::string&) { return true; });
  s.changed = [&] { p.model().values_changed(); };
  run(p, s, SafetensorsFile::open(p.directory() / "expected_grads.safetensors"));
  // A tied embedding's head is packed of the same values.
  const auto file = SafetensorsFile::open(p.directory() / "expected_final.safetensors");
  expect_all(s.parameters, file, "final.", [&](const std::string& name) {
    return std::max(1e-4, 4 * double{file.tensor("noise." + name).data<float>()[0]});
  });
}
INSTANTIATE_TEST_SUITE_P(Toys, FullParity, ::testing::Values("llama", "gpt2"));

class AdapterParity : public ::testing::TestWithParam<std::string> {};

TEST_P(AdapterParity, FiftyStepsEqualPefts) {
  Parity p(GetParam());
  PeftAdapter files = read_peft_directory(p.directory() / "initial");
  auto adapter = load_adapter(p.model(), files);
  Batch batch;
  const TrainingBatch first = p.batch(0);
  const int64_t before = p.model().virtual_tokens();
  const int64_t prompted = p.model().prompt.empty_handle() ? 0 : before;
  for (int64_t i = 0; i < kSequences; ++i) {
    std::vector<int32_t> ids;
    for (int64_t j = 0; j < prompted; ++j) ids.push_back(static_cast<int32_t>(-1 - j));
    ids.insert(ids.end(), first.tokens.begin() + i * kLength,
               first.tokens.begin() + (i + 1) * kLength);
    batch.append(ids, nullptr, before - prompted);
  }
  const Tensor logits = p.model().logits(p.model().forward(batch), Activations::f32);
  const Tensor expected = p.expected().tensor("logits");
  ASSERT_EQ(logits.numel(), expected.numel());
  EXPECT_LT(relative_distance(logits.data<float>(), expected.data<float>(), logits.numel()), 1e-5);

  Course s = course_of(1e-2, 0);
  s.parameters = adapter->train();
  s.changed = [&] { adapter->values_changed(); };
  run(p, s, p.expected());
  const PeftAdapter after = adapter->save(), final = read_peft_directory(p.directory() / "final");
  ASSERT_EQ(after.tensors.size(), final.tensors.size());
  for (const auto& [name, t] : final.tensors) {
    ASSERT_TRUE(after.tensors.contains(name)) << name;
    const Tensor& mine = after.tensors.at(name);
    EXPECT_EQ(mine.shape(), t.shape()) << name;
    // The module has .weight at the end of the name, which the file leaves out.
    std::string noise = "noise." + name;
    if (!p.expected().has(noise)) noise += ".weight";
    // Adam at this rate doubles what sums in another order differ by in some ten steps.
    const double tolerance =
        std::max(2e-4, 4 * double{p.expected().tensor(noise).data<float>()[0]});
    EXPECT_LT(relative_distance(mine.data<float>(), t.data<float>(), t.numel()), tolerance) << name;
  }
}
INSTANTIATE_TEST_SUITE_P(Toys, AdapterParity,
                         ::testing::Values("lora", "rslora", "dora", "ia3", "prefix", "prompt",
                                           "lora_gpt2", "lora_embedding"));

// Biases and modules that an adapter's files hold whole replace the model's.
class WholeParity : public ::testing::TestWithParam<std::string> {};

TEST_P(WholeParity, LogitsEqualPefts) {
  Parity p(GetParam());
  const SafetensorsFile file = SafetensorsFile::open(p.directory() / "expected.safetensors");
  const SafetensorsFile base =
      SafetensorsFile::open(golden("training/" + base_of(GetParam()) + "/expected.safetensors"));
  const PeftAdapter files = read_peft_directory(p.directory() / "initial");
  const bool tied = p.model().tied_head;
  auto adapter = load_adapter(p.model(), files);
  auto distance = [&](const Tensor& expected) {
    Batch batch;
    const TrainingBatch first = p.batch(0);
    for (int64_t i = 0; i < kSequences; ++i)
      batch.append({first.tokens.data() + i * kLength, size_t{kLength}}, nullptr);
    const Tensor logits = p.model().logits(p.model().forward(batch), Activations::f32);
    return relative_distance(logits.data<float>(), expected.data<float>(), logits.numel());
  };
  EXPECT_LT(distance(file.tensor("logits")), 1e-5);
  EXPECT_FALSE(p.model().tied_head);
  adapter->set_weight(0);
  EXPECT_LT(distance(base.tensor("logits")), 1e-5);
  EXPECT_EQ(p.model().tied_head, tied);
  adapter->set_weight(1);
  EXPECT_LT(distance(file.tensor("logits")), 1e-5);
  EXPECT_THROW(adapter->set_weight(0.5f), Error);
  EXPECT_FALSE(adapter->merge_refusal(-1).empty());
  // Nothing of the files is lost.
  const PeftAdapter saved = adapter->save();
  ASSERT_EQ(saved.tensors.size(), files.tensors.size());
  for (const auto& [name, t] : files.tensors)
    EXPECT_EQ(relative_distance(saved.tensors.at(name).data<float>(), t.data<float>(), t.numel()),
              0)
        << name;
}
INSTANTIATE_TEST_SUITE_P(Toys, WholeParity, ::testing::Values("whole", "whole_gpt2"));

// The MLP that makes a prefix is not in peft's files: it is trained here from what the golden has.
TEST(PrefixProjectionParity, FiftyStepsEqualPefts) {
  Parity p("prefix_projection");
  const PeftConfig config = read_peft_directory(p.directory() / "initial").config;
  AdapterOptions options;
  options.virtual_tokens = config.num_virtual_tokens;
  options.projection = true;
  options.hidden = config.encoder_hidden_size;
  auto adapter = adapter_method("prefix").make(p.model(), options);
  Course s = course_of(1e-2, 0);
  s.parameters = adapter->train();
  for (NamedTensor& t : s.parameters) {
    const Tensor first = p.expected().tensor("initial." + t.name);
    ASSERT_EQ(first.numel(), t.value.numel()) << t.name;
    std::copy_n(first.data<float>(), first.numel(), t.value.mutable_data<float>());
  }
  adapter->values_changed();
  s.changed = [&] { adapter->values_changed(); };
  run(p, s, p.expected());
  expect_all(s.parameters, p.expected(), "final.", [&](const std::string& name) {
    return std::max(1e-4, 4 * double{p.expected().tensor("noise." + name).data<float>()[0]});
  });
  const Tensor made = adapter->save().tensors.at("prompt_embeddings");
  const Tensor theirs =
      read_peft_directory(p.directory() / "final").tensors.at("prompt_embeddings");
  ASSERT_EQ(made.shape(), theirs.shape());
  EXPECT_LT(relative_distance(made.data<float>(), theirs.data<float>(), made.numel()), 1e-3);
}

// Two that replace the same parameters, or a layer's weight and its bias: each alone is what it is
// on a model of its own, in whatever order they are switched.
TEST_P(WholeParity, SwitchInAnyOrder) {
  auto logits = [](Parity& p) {
    Batch batch;
    const TrainingBatch first = p.batch(0);
    for (int64_t i = 0; i < kSequences; ++i)
      batch.append({first.tokens.data() + i * kLength, size_t{kLength}}, nullptr);
    return p.model().logits(p.model().forward(batch), Activations::f32);
  };
  auto same = [](const Tensor& a, const Tensor& b) {
    return std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.byte_size())) == 0;
  };
  const PeftAdapter one = read_peft_directory(Parity(GetParam()).directory() / "initial");
  for (bool biases : {false, true}) {
    SCOPED_TRACE(biases);
    PeftAdapter other = one;
    for (auto it = other.tensors.begin(); it != other.tensors.end();) {
      const std::string& name = it->first;
      const bool whole = split_peft_name(name, "").part.empty();
      if (whole && biases && !name.ends_with(".bias")) {
        it = other.tensors.erase(it);
        continue;
      }
      it->second = it->second.clone();
      for (int64_t i = 0; whole && i < it->second.numel(); ++i)
        it->second.mutable_data<float>()[i] *= 0.5f;
      ++it;
    }
    Parity none(GetParam()), a(GetParam()), b(GetParam()), both(GetParam());
    const auto only_one = load_adapter(a.model(), one), only_other = load_adapter(b.model(), other);
    const Tensor bare = logits(none), first = logits(a), second = logits(b);
    ASSERT_FALSE(same(first, second));
    auto x = load_adapter(both.model(), one), y = load_adapter(both.model(), other);
    struct Switch {
      Adapter* adapter;
      float weight;
      const Tensor* expected;
    };
    for (const Switch& s : {Switch{x.get(), 0, &second},
                            {y.get(), 0, &bare},
                            {y.get(), 1, &second},
                            {x.get(), 1, nullptr},
                            {y.get(), 0, &first},
                            {y.get(), 1, nullptr},
                            {y.get(), 0, &first},
                            {x.get(), 0, &bare}}) {
      s.adapter->set_weight(s.weight);
      if (s.expected != nullptr) {
        EXPECT_TRUE(same(logits(both), *s.expected));
      }
    }
    EXPECT_EQ(both.model().tied_head, none.model().tied_head);
  }
}

// Weights with an adapter merged into them are peft's, and without it again what they were.
class MergeParity : public ::testing::TestWithParam<std::string> {};

TEST_P(MergeParity, MergedWeightsEqualPefts) {
  Parity p(GetParam());
  auto adapter = load_adapter(p.model(), read_peft_directory(p.directory() / "initial"));
  const auto file = SafetensorsFile::open(p.directory() / "merged.safetensors");
  std::vector<NamedTensor> merged;
  for (Linear* l : p.model().linears()) {
    const Tensor before = decode_weight(l->weight());
    Tensor values = before.clone(), bias = l->bias();
    if (!bias.empty_handle()) bias = bias.clone();
    adapter->merge(*l, values, bias, 1);
    merged.push_back({l->name() + ".weight", values.clone()});
    if (!bias.empty_handle()) merged.push_back({l->name() + ".bias", bias.clone()});
    if (!adapter->merge_refusal(-1).empty()) continue;
    adapter->merge(*l, values, bias, -1);
    EXPECT_LT(relative_distance(values.data<float>(), before.data<float>(), values.numel()), 1e-6);
  }
  EXPECT_TRUE(adapter->merge_refusal(1).empty());
  Embedding& embedding = p.model().embedding;
  Tensor table = decode_weight(embedding.weight()).clone();
  adapter->merge_embedding(table, 1);
  merged.push_back({embedding.name() + ".weight", table});
  // Norms are as they were.
  for (const NamedTensor& t : p.model().train([&](const std::string& name) {
         return std::ranges::none_of(merged, [&](const auto& m) { return m.name == name; });
       }))
    merged.push_back(t);
  expect_all(merged, file, "", [](const std::string&) { return 1e-6; });
}
INSTANTIATE_TEST_SUITE_P(Toys, MergeParity,
                         ::testing::Values("lora", "dora", "ia3", "lora_gpt2", "lora_embedding"));

}  // namespace
}  // namespace hone
