// Optimizers against PyTorch, transformers and bitsandbytes, 20 steps each, and what hone promises
// beside that: threads change no bit, nor does a checkpoint half way.
#include "train/optimizer.h"

#include <algorithm>
#include <cstring>

#include "base/threads.h"
#include "kernels/kernel_table.h"
#include "ops/tape.h"
#include "train/train_testing.h"

namespace hone {
namespace {

using testing::error_of;
using testing::options_from;
using testing::random_tensor;

void set_gradient(Parameter& p, Tensor g) {
  p.value.require_gradient();
  add_gradient(p.value, std::move(g));
}

struct Golden : testing::OptimizerGolden {
  std::vector<Parameter> parameters(const std::string& names) const {
    std::vector<Parameter> all;
    for (char name : names)
      all.push_back({{name}, file.tensor({name}).to(DType::f32), name != 'b'});
    return all;
  }
  // Those of step t, times 1/factor.
  void set_gradients(std::vector<Parameter>& parameters, int t, bool late_c, float factor) const {
    for (Parameter& p : parameters) {
      Tensor g = file.tensor("gradient." + std::to_string(t % 4) + "." + p.name).to(DType::f32);
      auto scale = static_cast<float>(std::pow(10.0, -(t % 3)));
      for (int64_t i = 0; i < g.numel(); ++i) g.mutable_data<float>()[i] *= scale / factor;
      p.value.require_gradient();
      if (!(late_c && p.name == "c" && t < 5)) add_gradient(p.value, g);
    }
  }
};

double largest_difference(const Tensor& a, const Tensor& b) {
  EXPECT_EQ(a.shape(), b.shape());
  Tensor x = a.to(DType::f32), y = b.to(DType::f32);
  double d = 0;
  for (int64_t i = 0; i < x.numel(); ++i)
    d = std::max(d, std::abs(double{x.data<float>()[i]} - y.data<float>()[i]));
  return d;
}

class GoldenCase : public ::testing::TestWithParam<const char*> {};

TEST_P(GoldenCase, TwentyStepsEqualTheReference) {
  Golden golden;
  const std::string name = GetParam();
  auto options = options_from<OptimizerOptions>(golden.options.at(name)).resolved();
  auto optimizer = make_optimizer(options);
  auto parameters = golden.parameters("abcd");
  const float factor = 0.125f;
  for (int t = 0; t < 20; ++t) {
    golden.set_gradients(parameters, t, name == "adamw", factor);
    optimizer->step(parameters, options.lr, factor, t);
    if (t != 9) continue;
    for (const Parameter& p : parameters)
      if (golden.file.has(name + ".mid." + p.name)) {
        EXPECT_LT(largest_difference(p.value, golden.file.tensor(name + ".mid." + p.name)), 5e-7);
      }
  }
  for (const Parameter& p : parameters) {
    const std::string end = name + "." + p.name;
    if (!golden.file.has(end)) continue;
    if (name == "adamw8bit" && p.name == "d") continue;
    EXPECT_LT(largest_difference(p.value, golden.file.tensor(end)), 2e-6) << end;
  }
}

INSTANTIATE_TEST_SUITE_P(All, GoldenCase,
                         ::testing::Values("adamw", "adamw_wide", "sgd", "momentum", "nesterov",
                                           "adafactor", "adafactor_moment", "adafactor_relative",
                                           "lion", "adamw8bit"),
                         [](const auto& info) { return std::string(info.param); });

// A last bit decides about a code now and then, and the code about the next steps: all but a few
// elements agree as closely as f32 does.
TEST(OptimizerTest, EightBitStatesAreThoseOfBitsandbytes) {
  Golden golden;
  auto options = options_from<OptimizerOptions>(golden.options.at("adamw8bit")).resolved();
  auto optimizer = make_optimizer(options);
  auto parameters = golden.parameters("d");
  for (int t = 0; t < 20; ++t) {
    golden.set_gradients(parameters, t, false, 1);
    optimizer->step(parameters, options.lr, 1, t);
  }
  const Tensor &w = parameters[0].value, expected = golden.file.tensor("adamw8bit.d");
  int64_t far = 0;
  for (int64_t i = 0; i < w.numel(); ++i)
    far += std::abs(w.data<float>()[i] - expected.data<float>()[i]) > 1e-6;
  EXPECT_LT(far, w.numel() / 50);
  EXPECT_LT(largest_difference(w, expected), 0.2 * options.lr);
  std::map<std::string, Tensor> state;
  for (const NamedTensor& t : optimizer->state()) state[t.name] = t.value;
  for (const char* slot : {"m", "v"}) {
    Tensor ours = state.at(std::string("d.") + slot).reshape({w.numel()});
    Tensor theirs = golden.file.tensor(std::string("adamw8bit.") + slot).reshape({w.numel()});
    int64_t different = 0;
    for (int64_t i = 0; i < w.numel(); ++i) {
      const int d = std::abs(ours.data<uint8_t>()[i] - theirs.data<uint8_t>()[i]);
      EXPECT_LE(d, 1) << slot << " " << i;
      different += d > 0;
    }
    EXPECT_LT(different, w.numel() / 50) << slot;
    const std::string scales = std::string(slot) + "_scales";
    EXPECT_LT(
        largest_difference(state.at("d." + scales), golden.file.tensor("adamw8bit." + scales)),
        1e-5);
  }
}

// f32 arithmetic on bf16 parameters, rounded to the nearest after each step.
TEST(OptimizerTest, Bf16WithoutMastersEqualsRoundedF32) {
  Golden golden;
  auto options = options_from<OptimizerOptions>(golden.options.at("bf16")).resolved();
  auto optimizer = make_optimizer(options);
  auto parameters = golden.parameters("abc");
  for (Parameter& p : parameters) p.value = p.value.to(DType::bf16);
  for (int t = 0; t < 20; ++t) {
    golden.set_gradients(parameters, t, false, 1);
    optimizer->step(parameters, options.lr, 1, t);
  }
  int64_t different = 0;
  for (const Parameter& p : parameters) {
    Tensor expected = golden.file.tensor("bf16." + p.name), got = p.value.to(DType::f32);
    for (int64_t i = 0; i < got.numel(); ++i)
      different += got.data<float>()[i] != expected.data<float>()[i];
  }
  EXPECT_LE(different, 4) << "of 368 values, where f32 sums lie between two bf16 numbers";
}

// Every method, with parameters that are cut into chunks, rows and strips.
struct Variant {
  std::string optimizer;
  DType type;
};
std::vector<Variant> variants() {
  std::vector<Variant> all;
  for (const std::string& name : optimizer_names())
    for (DType t : {DType::f32, DType::bf16, DType::f16}) all.push_back({name, t});
  return all;
}
std::vector<Parameter> large_parameters(DType type) {
  std::vector<Parameter> all;
  for (const Shape& shape : {Shape{150001}, {130, 700}, {3, 5000}, {2, 70, 9}, {5}, {0}, {}})
    all.push_back({"w" + std::to_string(all.size()),
                   random_tensor(shape, static_cast<uint32_t>(all.size()), 0.3f).to(type),
                   shape.size() > 1});
  return all;
}
OptimizerOptions options_of(const Variant& variant) {
  OptimizerOptions o;
  o.optimizer = variant.optimizer;
  o.lr = 0.01;
  if (variant.optimizer == "sgd") o.momentum = 0.9;
  if (variant.optimizer == "adafactor") o.beta1 = 0.5;
  o.scale_parameter = variant.optimizer == "adafactor";
  o.stochastic_rounding = o.count_unchanged = true;
  o.seed = 5;
  return o.resolved();
}
void take_steps(Optimizer& optimizer, std::vector<Parameter>& parameters, int from, int to) {
  for (int t = from; t < to; ++t) {
    for (size_t i = 0; i < parameters.size(); ++i)
      set_gradient(parameters[i], random_tensor(parameters[i].value.shape(),
                                                static_cast<uint32_t>(100 * t + i), 1e-3f));
    optimizer.step(parameters, 0.01, 0.5, t);
  }
}
bool same_bytes(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         (a.byte_size() == 0 ||
          std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.byte_size())) == 0);
}
void expect_same(const std::vector<Parameter>& a, const std::vector<Parameter>& b,
                 const Optimizer& x, const Optimizer& y, const std::string& where) {
  for (size_t i = 0; i < a.size(); ++i)
    EXPECT_TRUE(same_bytes(a[i].value, b[i].value)) << where << " " << a[i].name;
  const auto s = x.state(), t = y.state();
  ASSERT_EQ(s.size(), t.size());
  for (size_t i = 0; i < s.size(); ++i)
    EXPECT_TRUE(s[i].name == t[i].name && same_bytes(s[i].value, t[i].value))
        << where << " " << s[i].name;
  EXPECT_EQ(x.unchanged(), y.unchanged());
}

TEST(OptimizerTest, ThreadsChangeNoBit) {
  for (const Variant& variant : variants()) {
    std::vector<std::vector<Parameter>> parameters;
    std::vector<std::unique_ptr<Optimizer>> optimizers;
    for (int threads : {1, 0}) {
      set_threads(threads);
      parameters.push_back(large_parameters(variant.type));
      optimizers.push_back(make_optimizer(options_of(variant)));
      take_steps(*optimizers.back(), parameters.back(), 0, 2);
    }
    expect_same(parameters[0], parameters[1], *optimizers[0], *optimizers[1], variant.optimizer);
  }
}

TEST(OptimizerTest, ACheckpointHalfWayChangesNoBit) {
  for (const Variant& variant : variants()) {
    auto whole = large_parameters(variant.type), halves = large_parameters(variant.type);
    auto one = make_optimizer(options_of(variant)), first = make_optimizer(options_of(variant));
    take_steps(*one, whole, 0, 4);
    take_steps(*first, halves, 0, 2);
    int64_t bytes = 0;
    for (const NamedTensor& t : first->state())
      if (!t.name.ends_with(".steps")) bytes += t.value.byte_size();
    EXPECT_EQ(first->state_bytes(halves), bytes);
    auto second = make_optimizer(options_of(variant));
    second->load_state(halves, first->state());
    const Tensor slot = first->state()[1].value, before = slot.clone();
    take_steps(*second, halves, 2, 4);
    EXPECT_TRUE(same_bytes(slot, before)) << "a loaded state is a copy";
    expect_same(whole, halves, *one, *second, variant.optimizer);
  }
}

TEST(OptimizerTest, AFactorOfTheGradientIsAPlainProduct) {
  for (const Variant& variant : variants()) {
    if (variant.optimizer == "adafactor") continue;  // its eps is in units of the gradient
    auto a = large_parameters(variant.type), b = large_parameters(variant.type);
    auto x = make_optimizer(options_of(variant)), y = make_optimizer(options_of(variant));
    for (size_t i = 0; i < a.size(); ++i) {
      Tensor g = random_tensor(a[i].value.shape(), 3);
      set_gradient(b[i], g.clone());
      for (int64_t j = 0; j < g.numel(); ++j) g.mutable_data<float>()[j] *= 4096;
      set_gradient(a[i], g);
    }
    x->step(a, 0.01, 1.0 / 4096, 0);
    y->step(b, 0.01, 1, 0);
    expect_same(a, b, *x, *y, variant.optimizer);
  }
}

// Columns that stand there twice change nothing: means over rows and columns stay.
TEST(OptimizerTest, AdafactorAddsUpStripsOfColumns) {
  const int64_t rows = 130, columns = 2500;
  Tensor w = random_tensor({rows, columns}, 1), g = random_tensor({rows, columns}, 2);
  auto twice = [&](const Tensor& x) {
    Tensor y = Tensor::empty({rows, 2 * columns}, DType::f32);
    for (int64_t i = 0; i < 2 * rows; ++i)
      std::copy_n(x.data<float>() + i / 2 * columns, columns,
                  y.mutable_data<float>() + i * columns);
    return y;
  };
  OptimizerOptions o;
  o.optimizer = "adafactor";
  auto one = make_optimizer(o), two = make_optimizer(o);
  std::vector<Parameter> a = {{"w", w.clone()}}, b = {{"w", twice(w)}};
  for (int t = 0; t < 3; ++t) {
    set_gradient(a[0], g.clone());
    set_gradient(b[0], twice(g));
    one->step(a, 0.1, 1, t);
    two->step(b, 0.1, 1, t);
  }
  EXPECT_GT(largest_difference(a[0].value, w), 0.05);
  EXPECT_LT(largest_difference(twice(a[0].value), b[0].value), 1e-6);
}

TEST(OptimizerTest, WithoutAGradientNothingMoves) {
  for (const std::string& name : optimizer_names()) {
    OptimizerOptions o;
    o.optimizer = name;
    o.weight_decay = 0.5;
    auto optimizer = make_optimizer(o);
    std::vector<Parameter> p = {{"still", random_tensor({5000}, 1)},
                                {"moves", random_tensor({5000}, 1)}};
    p[0].value.require_gradient();
    set_gradient(p[1], random_tensor({5000}, 2));
    Tensor before = p[0].value.clone();
    optimizer->step(p, 0.1, 1, 0);
    EXPECT_TRUE(same_bytes(p[0].value, before));
    EXPECT_FALSE(same_bytes(p[1].value, before));
    for (const NamedTensor& t : optimizer->state()) EXPECT_TRUE(t.name.starts_with("moves."));
    // Such a state loads too.
    make_optimizer(o)->load_state(p, optimizer->state());
  }
}

// Updates of a thousandth of a unit: rounding to the nearest never moves, rounding at random does
// in the mean; other steps and seeds draw otherwise.
TEST(OptimizerTest, StochasticRoundingLetsSmallUpdatesThrough) {
  const int64_t n = 200000;
  auto run = [&](bool stochastic, int64_t seed, int64_t first_step) {
    OptimizerOptions o;
    o.optimizer = "sgd";
    o.stochastic_rounding = stochastic;
    o.count_unchanged = true;
    o.seed = seed;
    auto optimizer = make_optimizer(o);
    std::vector<Parameter> p = {{"w", Tensor::empty({n}, DType::bf16)}};
    for (int64_t i = 0; i < n; ++i) p[0].value.mutable_data<bf16>()[i] = to_bf16(1.0f);
    Tensor g = Tensor::empty({n}, DType::f32);
    std::fill_n(g.mutable_data<float>(), n, -1.0f);
    set_gradient(p[0], g);
    for (int64_t t = 0; t < 10; ++t) {
      optimizer->step(p, 1e-4, 1, first_step + t);
      if (!stochastic) {
        EXPECT_EQ(optimizer->unchanged(), std::vector<int64_t>{n});
      }
    }
    return p[0].value;
  };
  auto mean = [&](const Tensor& t) {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += to_f32(t.data<bf16>()[i]);
    return sum / n;
  };
  EXPECT_EQ(mean(run(false, 0, 0)), 1);
  Tensor once = run(true, 0, 0);
  EXPECT_NEAR(mean(once), 1.001, 3e-5);
  EXPECT_TRUE(same_bytes(once, run(true, 0, 0)));
  EXPECT_FALSE(same_bytes(once, run(true, 1, 0)));
  EXPECT_FALSE(same_bytes(once, run(true, 0, 10)));
}

TEST(OptimizerTest, StatesThatDoNotFitAreRefused) {
  OptimizerOptions o;
  auto optimizer = make_optimizer(o);
  std::vector<Parameter> p = {{"w", random_tensor({64, 80}, 1)}};
  set_gradient(p[0], random_tensor({64, 80}, 2));
  optimizer->step(p, 0.1, 1, 0);
  const auto good = optimizer->state();
  ASSERT_EQ(good.size(), 3u);
  EXPECT_EQ(good[0].name, "w.steps");
  EXPECT_EQ(good[1].name, "w.m");
  EXPECT_EQ(good[2].name, "w.v");
  auto load = [&](const std::vector<NamedTensor>& state, const char* method = "adamw") {
    OptimizerOptions other;
    other.optimizer = method;
    return error_of([&] { make_optimizer(other)->load_state(p, state); });
  };
  EXPECT_EQ(load(good), "no error");
  EXPECT_EQ(load({good[0], good[2]}), "corrupt: optimizer state: w.m is missing");
  EXPECT_EQ(load({good[1]}),
            "corrupt: optimizer state: w.m belongs to no parameter of this run with adamw");
  EXPECT_EQ(load({good[0], good[0]}), "corrupt: optimizer state: w.steps stands there twice");
  EXPECT_EQ(load(good, "lion"),
            "corrupt: optimizer state: w.v belongs to no parameter of this run with lion");
  EXPECT_EQ(load(good, "adamw8bit"),
            "corrupt: optimizer state: w.m: expected u8 [64, 80] (adamw8bit), got f32 [64, 80]");
  auto bad = good;
  bad[1].value = bad[1].value.reshape({80, 64});
  EXPECT_EQ(load(bad),
            "corrupt: optimizer state: w.m: expected f32 [64, 80] (adamw), got f32 [80, 64]");
  bad = good;
  bad[0].value = Tensor::from(std::vector<int64_t>{-1});
  EXPECT_EQ(load(bad), "corrupt: optimizer state: w.steps: -1: expected 0 or more");
  p.clear();
  EXPECT_EQ(load(good).substr(0, 8), "corrupt:");
}

TEST(OptimizerTest, OptionsThatCannotBeAreRefused) {
  auto make = [](const nlohmann::json& o) {
    return error_of([&] { make_optimizer(options_from<OptimizerOptions>(o)); });
  };
  const std::string bad = "invalid_argument: optimizer ";
  EXPECT_EQ(make({{"optimizer", "adam"}}),
            bad + "adam: expected one of adamw, adamw8bit, adafactor, sgd, lion");
  EXPECT_EQ(make({{"beta1", 1.0}}), bad + "adamw: beta1 1: expected 0 or more, and less than 1");
  EXPECT_EQ(make({{"lr", NAN}}), bad + "adamw: lr nan: expected 0 or more, and less than inf");
  EXPECT_EQ(make({{"weight_decay", -0.5}}),
            bad + "adamw: weight_decay -0.5: expected 0 or more, and less than inf");
  EXPECT_EQ(make({{"momentum", 0.9}}), bad + "adamw: momentum and nesterov belong to sgd");
  EXPECT_EQ(make({{"optimizer", "sgd"}, {"nesterov", true}}),
            bad + "sgd: nesterov needs a momentum");
  EXPECT_EQ(make({{"optimizer", "adafactor"}, {"warmup_init", true}}),
            bad + "adafactor: warmup_init needs relative_step");
  EXPECT_EQ(make({{"optimizer", "adafactor"}, {"clip_threshold", 0.0}}),
            bad + "adafactor: clip_threshold 0: expected more than 0");
  EXPECT_EQ(make({{"optimizer", "adafactor"}, {"decay_rate", 0.8}}),
            bad + "adafactor: decay_rate 0.8: expected -1 or more, and less than 0");
  EXPECT_NE(make({{"relative_step", true}}), "no error");
  std::vector<Parameter> none;
  EXPECT_EQ(error_of([&] { make_optimizer({})->step(none, NAN, 1, 0); }),
            "invalid_argument: learning rate nan: expected 0 or more");
}

}  // namespace
}  // namespace hone
