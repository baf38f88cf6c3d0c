// What every pass of the registry promises, on tiny random models of every family: it does what its
// options and its glob say and nothing else, to the same bytes whatever the threads and
// interruptions, tells all of it in its records, and leaves a model that predicts nearly the same
// and can be written and read back; or it refuses the model before anything runs. A new pass is
// enrolled by its line in the registry.
#include <nlohmann/json.hpp>

#include <set>

#include "base/threads.h"
#include "models/session.h"
#include "passes/journal.h"
#include "passes/optimize.h"
#include "tiny_models.h"

namespace hone {
namespace {

using namespace testing;

/// Mean KL divergence, in nats, that default options of an encoding pass may cost these models;
/// the worst today is 4-bit rounding.
constexpr double kEncodeDivergence = 0.15;
/// The same of a conversion, as what random heads have in common is little, and of pruning.
constexpr double kConvertDivergence = 0.5;
/// Relative distance of the logits behind a transformation, which changes no function.
constexpr double kTransformDistance = 1e-4;
constexpr uint64_t kSeed = 3;

struct Case {
  const PassEntry* pass;
  std::string model;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.pass->name << " on " << c.model; }

std::vector<Case> make_cases() {
  std::vector<Case> cases;
  for (const PassEntry& p : pass_registry())
    for (const TinyFixture& f : distinct_fixtures()) cases.push_back({&p, f.name});
  return cases;
}

std::string digest(const Weight& w) {
  std::string d = w.encoding + shape_string(w.shape) +
                  fmt::format("{} {} {} {} {} {} {} ", w.params.bits, w.params.group,
                              w.params.symmetric, w.params.act_order, w.params.block,
                              w.params.double_quant, w.params.nested_offset);
  for (const auto& [name, t] : w.planes)
    d += name +
         std::string(reinterpret_cast<const char*>(t.raw()), static_cast<size_t>(t.byte_size()));
  return d;
}
std::string digest(const Tensor& t) { return t.empty_handle() ? "" : digest(float_weight(t)); }

/// Every parameter of a model by its module; a tied head is its embedding's.
std::map<std::string, std::string> digests(LoadedModel& m) {
  std::map<std::string, std::string> all;
  Model& model = *m.model;
  all[model.embedding.name()] = digest(model.embedding.weight());
  for (Linear* l : model.linears())
    if (l != &model.head || !model.tied_head)
      all[l->name()] = digest(l->weight()) + digest(l->bias());
  auto norm = [&](const Norm& n) {
    if (n.defined()) all[n.name] = digest(n.weight) + digest(n.bias);
  };
  for (Block& b : model.blocks)
    for (const Norm* n : {&b.mixer_norm, &b.post_mixer_norm, &b.mlp_norm, &b.post_mlp_norm})
      norm(*n);
  norm(model.final_norm);
  all["positions"] = digest(model.position_table);
  return all;
}

std::set<std::string> changed(const std::map<std::string, std::string>& before,
                              const std::map<std::string, std::string>& after) {
  std::set<std::string> names;
  for (const auto& [name, d] : after)
    if (!before.contains(name) || before.at(name) != d) names.insert(name);
  return names;
}

/// Of what a pass that folds scales changed, the modules: norms change beside them.
std::set<std::string> changed_modules(LoadedModel& m, std::set<std::string> names) {
  for (Block& b : m.model->blocks)
    for (const Norm* n : b.norms()) names.erase(n->name);
  return names;
}

const Weight* weight_of(LoadedModel& m, const std::string& module) {
  if (module == m.model->embedding.name()) return &m.model->embedding.weight();
  for (Linear* l : m.model->linears())
    if (l->name() == module) return &l->weight();
  return nullptr;
}

bool same_record(const LayerRecord& a, const LayerRecord& b) {
  auto same = [](double x, double y) { return x == y || (std::isnan(x) && std::isnan(y)); };
  return a.module == b.module && a.before == b.before && a.after == b.after &&
         a.bytes_before == b.bytes_before && a.bytes_after == b.bytes_after &&
         same(a.error, b.error) && same(a.rtn_error, b.rtn_error) && a.kept == b.kept &&
         a.from_inputs == b.from_inputs;
}

Tensor logits_of(LoadedModel& m) {
  Session s(*m.model, Activations::f32);
  return s.logits(s.hidden(tiny_ids(60, 9)));
}

double mean_divergence(const Tensor& reference, const Tensor& candidate) {
  int64_t rows = reference.dim(0), v = reference.dim(1);
  double total = 0;
  for (int64_t r = 0; r < rows; ++r) {
    auto log_softmax = [&](const Tensor& t) {
      const float* x = t.data<float>() + r * v;
      double sum = 0, top = *std::max_element(x, x + v);
      for (int64_t i = 0; i < v; ++i) sum += std::exp(x[i] - top);
      std::vector<double> y;
      for (int64_t i = 0; i < v; ++i) y.push_back(x[i] - top - std::log(sum));
      return y;
    };
    std::vector<double> a = log_softmax(reference), b = log_softmax(candidate);
    for (size_t i = 0; i < a.size(); ++i) total += std::exp(a[i]) * (a[i] - b[i]);
  }
  return total / static_cast<double>(rows);
}

struct Interrupted {};

/// Turns the wanted one of a pass's flags over, counting from 0; counts them.
struct FlagFlipper : OptionVisitor {
  explicit FlagFlipper(int flag) : wanted(flag) {}
  void option(const char*, bool& value, const char*) override { value ^= count++ == wanted; }
  void option(const char*, int64_t&, const char*) override {}
  void option(const char*, double&, const char*) override {}
  void option(const char*, std::string&, const char*) override {}
  int wanted, count = 0;
};

class PassContract : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    write_tiny(path(), tiny_fixture(GetParam().model));
    std::string refusal = error_of([&] { make()->check_model(*load().model); });
    if (!refusal.empty()) GTEST_SKIP() << refusal;
    for (uint32_t i = 0; i < 5; ++i) calibration_.samples.push_back(tiny_ids(48, 100 + i));
  }
  void TearDown() override { set_threads(0); }

  fs::path path() const { return scratch_ / "model"; }
  LoadedModel load() const { return load_editable(path()); }
  std::string name() const { return GetParam().pass->name; }
  std::unique_ptr<Pass> make() const {
    auto pass = GetParam().pass->make();
    FlagFlipper flipper{flag_};
    pass->visit_options(flipper);
    return pass;
  }
  bool transforms() const { return !works_on_modules(make()->kind()); }
  bool prunes() const { return make()->kind() == PassKind::sparsify; }
  static int64_t blocks(const LoadedModel& m) {
    return static_cast<int64_t>(m.model->blocks.size());
  }
  std::string recipe(const std::string& more = {}) const {
    return "calibration: {samples: 5, length: 48}\nsteps: [{pass: " + name() +
           (more.empty() ? "" : ", " + more) + "}]";
  }

  std::vector<LayerRecord> run(LoadedModel& m, const std::string& glob = {}) {
    std::vector<LayerRecord> records;
    PassContext c{m, ModuleFilter(glob), nullptr, kSeed, &records, nullptr, -1, nullptr};
    auto pass = make();
    if (pass->needs_calibration()) c.calibration = &calibration_;
    pass->run(c);
    return records;
  }
  /// As optimize() does: stores each unit in the journal, until the last unit to be done.
  std::vector<LayerRecord> run_with_journal(LoadedModel& m, bool resume, int64_t last,
                                            std::vector<int64_t>* units = nullptr) {
    Journal journal(scratch_ / "journal", {{"recipe", name()}}, resume, false);
    std::vector<LayerRecord> records;
    PassContext c{m, ModuleFilter(), nullptr, kSeed, &records, nullptr, -1, nullptr};
    auto pass = make();
    if (pass->needs_calibration()) c.calibration = &calibration_;
    c.first_unit = journal.restore(0, m, records);
    size_t stored = records.size();
    c.unit_done = [&](int64_t unit) {
      if (units) units->push_back(unit);
      journal.store(0, unit, m, {records.begin() + static_cast<int64_t>(stored), records.end()});
      stored = records.size();
      if (unit == last) throw Interrupted();
    };
    if (c.first_unit < blocks(m)) pass->run(c);
    return records;
  }
  std::string error_of(const std::function<void()>& f) {
    try {
      f();
    } catch (const Error& e) {
      EXPECT_TRUE(e.kind() == ErrorKind::invalid_argument || e.kind() == ErrorKind::unsupported)
          << e.what();
      return e.what();
    }
    return {};
  }

  TemporaryDirectory scratch_;
  Calibration calibration_;
  int flag_ = -1;  ///< of the pass's flags the one that make() turns over
};

// ---- Options --------------------------------------------------------------------------------

// YAML values that no option of the type may take.
class BadValues : public OptionVisitor {
 public:
  void option(const char* name, int64_t&, const char* help) override {
    add(name, help, {"-9000000000000000000", "four", "1.5", "[1]", "99999999999999999999"});
  }
  void option(const char* name, double&, const char* help) override {
    add(name, help, {".nan", "-1e300", ".inf", "much", "[1]"});
  }
  void option(const char* name, bool&, const char* help) override {
    add(name, help, {"perhaps", "2", "[true]"});
  }
  void option(const char* name, std::string& value, const char* help) override {
    add(name, help, {"no_such_value", "[x]"});
    if (!value.empty()) add(name, help, {"''"});
  }
  std::vector<std::pair<std::string, std::string>> all;

 private:
  void add(const char* name, const char* help, std::initializer_list<const char*> values) {
    EXPECT_GT(std::strlen(help), 3u) << name << " has no help";
    for (const char* v : values) all.emplace_back(name, v);
  }
};

TEST_P(PassContract, DefaultOptionsAreGood) {
  EXPECT_NO_THROW(make()->check_options());
  EXPECT_GT(std::strlen(GetParam().pass->summary), 10u);
  LoadedModel m = load();
  EXPECT_NO_THROW(check_recipe(parse_recipe(recipe(), "r").main, m));
  // Who has no modules to choose from refuses to be given some.
  std::string refusal =
      error_of([&] { check_recipe(parse_recipe(recipe("modules: '*'"), "r").main, m); });
  EXPECT_EQ(!refusal.empty(), transforms()) << refusal;
}

TEST_P(PassContract, RefusesBadAndUnknownOptions) {
  BadValues bad;
  make()->visit_options(bad);
  for (const auto& [option, value] : bad.all) {
    std::string text = option + ": " + value;
    EXPECT_NE(error_of([&] { parse_recipe(recipe(text), "r"); }), "") << text << " was accepted";
  }
  for (const char* unknown : {"bitz: 4", "'': 1", "Pass: x", "pass_: 1"})
    EXPECT_NE(error_of([&] { parse_recipe(recipe(unknown), "r"); }).find("unknown key"),
              std::string::npos)
        << unknown;
}

// ---- Bytes ----------------------------------------------------------------------------------

TEST_P(PassContract, BytesDependOnNeitherRunNorThreads) {
  std::map<std::string, std::string> expected;
  std::vector<LayerRecord> told;
  for (int threads : {0, 0, 1, 3}) {
    set_threads(threads);
    LoadedModel m = load();
    std::vector<LayerRecord> records = run(m);
    auto got = digests(m);
    if (expected.empty()) {
      expected = got;
      told = records;
    }
    EXPECT_EQ(changed(expected, got), std::set<std::string>{}) << threads << " threads";
    ASSERT_EQ(records.size(), told.size());
    for (size_t i = 0; i < told.size(); ++i) EXPECT_TRUE(same_record(records[i], told[i])) << i;
  }
}

TEST_P(PassContract, ResumesBehindEveryUnitToTheSameBytes) {
  LoadedModel whole = load();
  std::vector<int64_t> units;
  std::vector<LayerRecord> told = run_with_journal(whole, false, INT64_MAX, &units);
  auto expected = digests(whole);
  if (transforms()) {
    EXPECT_TRUE(units.empty()) << "a resumed run does a transformation again";
    return;
  }
  ASSERT_FALSE(units.empty());
  for (size_t i = 1; i < units.size(); ++i) EXPECT_EQ(units[i], units[i - 1] + 1);
  EXPECT_LE(units.front(), 0);
  EXPECT_EQ(units.back(), blocks(whole) - 1);
  for (int64_t last : units) {
    fs::remove_all(scratch_ / "journal");
    LoadedModel first = load(), second = load();
    EXPECT_THROW(run_with_journal(first, false, last), Interrupted);
    std::vector<int64_t> rest;
    std::vector<LayerRecord> records = run_with_journal(second, true, INT64_MAX, &rest);
    EXPECT_EQ(rest.size(), static_cast<size_t>(units.back() - last)) << "behind unit " << last;
    EXPECT_EQ(changed(expected, digests(second)), std::set<std::string>{}) << "behind " << last;
    ASSERT_EQ(records.size(), told.size());
    for (size_t i = 0; i < told.size(); ++i) EXPECT_TRUE(same_record(records[i], told[i])) << i;
    Tensor a = logits_of(whole), b = logits_of(second);
    EXPECT_EQ(0, std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.byte_size())));
  }
}

// What a flag makes of a weight (zero points, quantised scales) must pass through the journal too.
TEST_P(PassContract, ResumesWithEveryFlagTurnedOver) {
  FlagFlipper flags{-1};
  make()->visit_options(flags);
  for (flag_ = 0; !transforms() && flag_ < flags.count; ++flag_) {
    SCOPED_TRACE(flag_);
    if (!error_of([&] { make()->check_options(); }).empty()) continue;
    LoadedModel whole = load(), first = load(), second = load();
    run(whole);
    fs::remove_all(scratch_ / "journal");
    EXPECT_THROW(run_with_journal(first, false, 0), Interrupted);
    run_with_journal(second, true, INT64_MAX);
    EXPECT_EQ(changed(digests(whole), digests(second)), std::set<std::string>{});
  }
}

// ---- What changes ---------------------------------------------------------------------------

TEST_P(PassContract, AGlobNamesExactlyWhatChanges) {
  if (transforms()) GTEST_SKIP() << "a transformation concerns the whole model";
  LoadedModel original = load();
  auto before = digests(original);
  Model& model = *original.model;
  std::string up;  // or what a block without an MLP has last
  for (const auto& stage : model.blocks[1].stages())
    if (!stage.empty()) up = stage.back()->name();
  bool blocks_only = make()->blocks_only();
  for (const std::string& glob :
       {up, std::string("*.0.*"), model.embedding.name(), std::string(model.head.name()),
        model.embedding.name() + "|" + up, std::string("*mlp*|*head*"), std::string("*")}) {
    SCOPED_TRACE(glob);
    ModuleFilter filter(glob);
    std::set<std::string> expected;
    bool tied_named = model.tied_head && filter.matches(model.head.name());
    if (!blocks_only && (filter.matches(model.embedding.name()) || tied_named))
      expected.insert(model.embedding.name());
    for (Linear* l : model.linears())
      if (l != &model.head ? filter.matches(l->name())
                           : !blocks_only && !model.tied_head && filter.matches(l->name()))
        expected.insert(l->name());
    LoadedModel m = load();
    Recipe r = parse_recipe(recipe("modules: '" + glob + "'"), "r");
    if (expected.empty()) {
      EXPECT_NE(error_of([&] { check_recipe(r.main, m); }).find("selects nothing"),
                std::string::npos);
      continue;
    }
    EXPECT_NO_THROW(check_recipe(r.main, m));
    std::set<std::string> told;
    for (const LayerRecord& record : run(m, glob)) told.insert(record.module);
    EXPECT_EQ(told, expected);
    auto altered = changed(before, digests(m));
    EXPECT_EQ(make()->folds_scales() ? changed_modules(m, altered) : altered, expected);
    bool tied = m.model->tied_head;
    EXPECT_TRUE(!tied || digest(m.model->head.weight()) == digest(m.model->embedding.weight()));
  }
}

TEST_P(PassContract, RecordsTellAllThatChanged) {
  LoadedModel original = load(), m = load();
  auto before = digests(original);
  std::vector<LayerRecord> records = run(m);
  std::set<std::string> told;
  for (const LayerRecord& r : records) {
    SCOPED_TRACE(r.module);
    EXPECT_TRUE(told.insert(r.module).second) << "told twice";
    const Weight *old = weight_of(original, r.module), *now = weight_of(m, r.module);
    ASSERT_TRUE(old != nullptr && now != nullptr);
    EXPECT_EQ(r.before, old->encoding);
    EXPECT_EQ(r.after, now->encoding);
    EXPECT_EQ(r.bytes_before, old->byte_size());
    EXPECT_EQ(r.bytes_after, now->byte_size());
    EXPECT_FALSE(r.kept.empty());
    if (transforms()) continue;
    EXPECT_EQ(r.from_inputs, make()->needs_calibration());
    EXPECT_TRUE(r.error > 0 && r.error < (prunes() ? 0.5 : 0.05)) << r.error;
    if (!r.from_inputs) {
      double error = relative_distance(decode_weight(*now).data<float>(),
                                       decode_weight(*old).data<float>(), old->numel());
      EXPECT_NEAR(r.error, error * error, 1e-9);
    } else if (!prunes()) {
      EXPECT_LE(r.error, r.rtn_error) << "round-to-nearest would have been better";
      EXPECT_EQ(r.kept == "rtn", r.error == r.rtn_error);
    }
  }
  if (transforms()) return;
  EXPECT_FALSE(records.empty());
  auto altered = changed(before, digests(m));
  EXPECT_EQ(told, make()->folds_scales() ? changed_modules(m, altered) : altered);
}

TEST_P(PassContract, ReportsItsProgress) {
  LoadedModel m = load();
  PassContext c{m, ModuleFilter(), nullptr, kSeed, nullptr, nullptr, -1, nullptr};
  auto pass = make();
  if (pass->needs_calibration()) c.calibration = &calibration_;
  int64_t last = 0, total = 0;
  c.progress = [&](int64_t done, int64_t of, const std::string&) {
    EXPECT_GE(done, last);
    last = done;
    total = of;
  };
  pass->run(c);  // without records: nobody need ask for them
  EXPECT_GT(total, 0);
  EXPECT_EQ(last, total);
}

// ---- What it costs --------------------------------------------------------------------------

TEST_P(PassContract, PredictionsStayNear) {
  LoadedModel original = load(), m = load();
  Tensor expected = logits_of(original);
  run(m);
  Tensor got = logits_of(m);
  for (float x : std::span(got.data<float>(), static_cast<size_t>(got.numel())))
    ASSERT_TRUE(std::isfinite(x));
  if (make()->kind() == PassKind::transform) {
    EXPECT_LT(relative_distance(got.data<float>(), expected.data<float>(), got.numel()),
              kTransformDistance);
  } else {
    double kl = mean_divergence(expected, got);
    EXPECT_LT(kl, make()->kind() == PassKind::encode ? kEncodeDivergence : kConvertDivergence);
    // One that converts may find that the model is so already.
    if (!transforms()) {
      EXPECT_GT(kl, 0) << "nothing happened";
    }
  }
}

/// GPT-2 stores matrices as [in, out], which the layouts of bitsandbytes and hqq cannot say.
/// Mamba-2's input projection has rows that GPTQ's layout cannot pack. Blocks of 4-bit floats
/// cannot be joined to the rows of one matrix that some families' q, k and v are.
bool must_refuse(const std::string& model, LoadedModel& m) {
  const std::string& e = m.model->linears()[0]->weight().encoding;
  if (model == "mamba2") return e == "int_group";
  if (model != "gpt2" &&
      std::ranges::any_of(m.family->slots, [](const Slot& s) { return s.parts; }))
    return e == "nf4" || e == "fp4";
  return model == "gpt2" && (e == "nf4" || e == "fp4" || e == "int8_row" || e == "hqq");
}

TEST_P(PassContract, IsWrittenInItsDefaultLayoutAndReadBack) {
  std::string text;
  for (int i = 0; i < 200; ++i) text += "abc de x abcd "[i * 5 % 14];
  put_file(scratch_ / "text.txt", text);
  OptimizeOptions o;
  o.model = path();
  o.recipe = parse_recipe(recipe(), "r");
  o.calibration = scratch_ / "text.txt";
  // What stores blocks writes a GGUF, where the family has such files.
  const bool blocks = std::string_view(GetParam().pass->name) == "gguf";
  o.out = scratch_ / (blocks ? "out.gguf" : "out");
  o.seed = kSeed;
  LoadedModel m = load();
  ExportOptions plain;
  plain.layout = "gguf";
  const bool refused =
      blocks && !error_of([&] { export_model(m, scratch_ / "plain.gguf", plain); }).empty();
  if (make()->needs_calibration()) calibration_ = read_calibration(o.calibration, m, 5, 48, kSeed);
  run(m);
  if (refused || must_refuse(GetParam().model, m)) {
    EXPECT_NE(error_of([&] { optimize(o); }), "");
    EXPECT_FALSE(fs::exists(o.out));
    return;
  }
  optimize(o);
  if (!blocks) {
    EXPECT_EQ(read_text_file(o.out / "recipe.yaml"), recipe());
  }
  EXPECT_FALSE(fs::exists(scratch_ / "out.journal"));
  LoadedModel back = load_editable(o.out);
  Tensor expected = logits_of(m), got = logits_of(back);
  EXPECT_EQ(0, std::memcmp(expected.raw(), got.raw(), static_cast<size_t>(got.byte_size())));
}

INSTANTIATE_TEST_SUITE_P(Passes, PassContract, ::testing::ValuesIn(make_cases()),
                         [](const auto& info) {
                           return info.param.pass->name + ("_" + info.param.model);
                         });

// A pass that cannot work on a model says why before anything is written; and it works on some.
TEST(PassRegistry, RefusesAModelWithAReasonOrTakesIt) {
  std::map<std::string, int> taken;
  for (const Case& c : make_cases()) {
    SCOPED_TRACE(c.pass->name + ("_" + c.model));
    TemporaryDirectory scratch;
    write_tiny(scratch / "model", tiny_fixture(c.model));
    try {
      c.pass->make()->check_model(*load_editable(scratch / "model").model);
      ++taken[c.pass->name];
      continue;
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::unsupported);
      EXPECT_TRUE(std::string(e.what()).starts_with(c.pass->name)) << e.what();
    }
    OptimizeOptions o;
    o.model = scratch / "model";
    o.out = scratch / "out";
    o.recipe = parse_recipe(fmt::format("steps: [{{pass: {}}}]", c.pass->name), "r");
    EXPECT_THROW(optimize(o), Error);
    auto entries = fs::directory_iterator(scratch.path());
    EXPECT_EQ(std::distance(begin(entries), end(entries)), 1) << "something was left behind";
  }
  for (const PassEntry& p : pass_registry()) EXPECT_GT(taken[p.name], 0) << p.name;
}

TEST(PassRegistry, NamesAreUniqueAndKnown) {
  std::set<std::string> names;
  for (const PassEntry& p : pass_registry()) {
    EXPECT_TRUE(names.insert(p.name).second) << p.name;
    EXPECT_EQ(&pass_named(p.name), &p);
  }
  try {
    pass_named("hone");
    FAIL();
  } catch (const Error& e) {
    for (const std::string& name : names)
      EXPECT_NE(std::string(e.what()).find(name), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace hone
