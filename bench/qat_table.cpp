// What quantisation costs a small model, and what training gives back: perplexity of held-out text
// at 2, 3 and 4 bits, after rounding to nearest, after GPTQ, with trained scales (DWQ) on the codes
// of either, and after quantisation-aware training.
//
//   qat_table --model MODEL --text FILE [--steps N] [--dwq-steps N] [--rows N] [--length N]
//             [--group N] [--asymmetric] [--lr X] [--dwq-lr X] [--held-out N] [--seed N] [--json]
//
// The last tenth of the text is held out; all training and calibration is on the rest. Blocks are
// quantised, the head and the embedding are not. f32 activations everywhere.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "base/log.h"
#include "base/random.h"
#include "eval/perplexity.h"
#include "passes/pass.h"
#include "train/distillation.h"
#include "train/dwq.h"
#include "train/qat.h"

namespace hone {
namespace {

struct Flags {
  std::string model, text;
  int64_t steps = 300, dwq_steps = 300, rows = 8, length = 256, group = 32, held_out = 20000;
  uint64_t seed = 0;
  double lr = 5e-4, dwq_lr = 1e-4;
  bool asymmetric = false, json = false;
};

// Sets fields by name, as a recipe would.
class Set final : public OptionVisitor {
 public:
  Set(int64_t bits, const Flags& f) : bits_(bits), f_(f) {}
  void option(const char* name, int64_t& v, const char*) override {
    if (std::string(name) == "bits") v = bits_;
    if (std::string(name) == "group") v = f_.group;
  }
  void option(const char*, double&, const char*) override {}
  void option(const char* name, bool& v, const char*) override {
    if (std::string(name) == "symmetric") v = !f_.asymmetric;
  }
  void option(const char*, std::string&, const char*) override {}

 private:
  int64_t bits_;
  const Flags& f_;
};

class Table {
 public:
  explicit Table(const Flags& f) : f_(f), original_(load()) {
    const std::string all = read_text_file(f_.text);
    const size_t cut = all.size() / 10 * 9;
    train_text_ = all.substr(0, cut);
    held_out_ = all.substr(cut);
    tokens_ = original_.encode(train_text_);
  }

  void run() {
    row("f32", [&](int64_t) { return load(); });
    row("f32, trained as long", [&](int64_t) {
      LoadedModel m = load();
      const auto all = parameters_of(m.model->train([](const auto&) { return true; }));
      Objective objective;
      fit(m, all, objective, f_.steps, f_.lr);
      return m;
    });
    for (const char* method : {"rtn", "gptq"}) {
      row(method, [&](int64_t bits) { return quantised(method, bits); });
      row(fmt::format("{} + DWQ", method), [&](int64_t bits) {
        LoadedModel m = quantised(method, bits);
        const DwqParameters made = prepare_dwq(*m.model);
        Distillation objective(*original_.model, Activations::f32,
                               {.lambda = 1, .temperature = kDwqTemperature});
        fit(m, made.parameters, objective, f_.dwq_steps, f_.dwq_lr, 0);
        convert_dwq(*m.model);
        return m;
      });
    }
    for (const char* steps : {"min_max", "learned"})
      row(fmt::format("QAT, {} steps", steps), [&](int64_t bits) {
        Objective objective;
        return trained(bits, steps, objective);
      });
    row("QAT, learned steps, distilled", [&](int64_t bits) {
      Distillation objective(*original_.model, Activations::f32, {.lambda = 0.5});
      return trained(bits, "learned", objective);
    });
    if (f_.json) fmt::print("{}\n", result_.dump());
  }

 private:
  LoadedModel load() const {
    LoadOptions o;
    o.inference = false;
    return load_model(f_.model, o);
  }

  TrainingBatch batch(int64_t step) const {
    TrainingBatch b;
    const auto room = static_cast<double>(std::ssize(tokens_) - f_.length - 1);
    HONE_CHECK(room > 0, invalid_argument, "{}: the text is too short", f_.text);
    for (int64_t r = 0; r < f_.rows; ++r) {
      const auto draw = random_uniform(f_.seed, static_cast<uint64_t>(step * f_.rows + r));
      const auto at = static_cast<int64_t>(room * draw), begin = std::ssize(b.tokens);
      b.row_spans.push_back(r);
      b.tokens.insert(b.tokens.end(), tokens_.begin() + at, tokens_.begin() + at + f_.length);
      b.targets.insert(b.targets.end(), tokens_.begin() + at + 1,
                       tokens_.begin() + at + 1 + f_.length);
      b.spans.push_back({begin, begin + f_.length});
    }
    b.row_spans.push_back(f_.rows);
    b.target_count = f_.rows * f_.length;
    return b;
  }

  void fit(LoadedModel& m, const std::vector<Parameter>& parameters, Objective& objective,
           int64_t steps, double lr, double decay = 0.01) const {
    TrainerOptions o;
    o.steps = steps;
    o.seed = f_.seed;
    o.optimizer.lr = lr;
    o.optimizer.weight_decay = decay;
    o.schedule.schedule = "cosine";
    Trainer trainer(*m.model, parameters, o, [&] { m.model->values_changed(); });
    for (int64_t i = 0; i < steps; ++i) {
      const TrainingBatch b = batch(i);
      trainer.step({&b, 1}, objective);
    }
  }

  LoadedModel quantised(const std::string& method, int64_t bits) const {
    LoadedModel m = load();
    auto pass = pass_named(method).make();
    Set set(bits, f_);
    pass->visit_options(set);
    pass->check_options();
    Calibration calibration;
    for (int64_t i = 0; i < 64; ++i) {
      const TrainingBatch b = batch(i);
      calibration.samples.emplace_back(b.tokens.begin(), b.tokens.begin() + f_.length);
    }
    std::vector<LayerRecord> records;
    PassContext c{.model = m,
                  .modules = ModuleFilter(),
                  .calibration = &calibration,
                  .seed = f_.seed,
                  .records = &records,
                  .unit_done = {},
                  .progress = {}};
    pass->run(c);
    return m;
  }

  LoadedModel trained(int64_t bits, const char* steps, Objective& objective) const {
    LoadedModel m = load();
    QatOptions o;
    o.bits = bits;
    o.group = f_.group;
    o.symmetric = !f_.asymmetric;
    o.grid = steps;
    const auto parameters = prepare_qat(*m.model, o);
    fit(m, parameters, objective, f_.steps, f_.lr);
    convert_qat(*m.model);
    return m;
  }

  template <typename Make>
  void row(const std::string& name, Make make) {
    if (!f_.json) fmt::print("{:32}", name);
    const bool once = name.starts_with("f32");
    const double started = monotonic_seconds();
    for (int64_t bits : {2, 3, 4}) {
      if (once && bits != 4) {
        if (!f_.json) fmt::print("{:>10}", "");
        continue;
      }
      LoadedModel m = make(bits);
      PerplexityOptions o;
      o.context = f_.length;
      o.convention = PerplexityConvention::hf;
      o.max_tokens = f_.held_out;
      o.activations = Activations::f32;
      const double p = measure_perplexity(m, held_out_, o).perplexity;
      result_.push_back({{"method", name}, {"bits", once ? 32 : bits}, {"perplexity", p}});
      if (!f_.json) fmt::print("{:10.3f}", p);
      std::fflush(stdout);
    }
    if (!f_.json) fmt::print("   {:6.0f} s\n", monotonic_seconds() - started);
  }

  const Flags& f_;
  LoadedModel original_;
  std::string train_text_, held_out_;
  std::vector<int32_t> tokens_;
  nlohmann::json result_ = nlohmann::json::array();
};

}  // namespace
}  // namespace hone

int main(int argc, char** argv) {
  hone::Flags f;
  CLI::App app("perplexity after quantisation and after training");
  app.add_option("--model", f.model)->required();
  app.add_option("--text", f.text)->required();
  app.add_option("--steps", f.steps);
  app.add_option("--dwq-steps", f.dwq_steps);
  app.add_option("--rows", f.rows);
  app.add_option("--length", f.length);
  app.add_option("--group", f.group);
  app.add_option("--lr", f.lr);
  app.add_option("--dwq-lr", f.dwq_lr);
  app.add_option("--held-out", f.held_out);
  app.add_option("--seed", f.seed);
  app.add_flag("--asymmetric", f.asymmetric);
  app.add_flag("--json", f.json);
  CLI11_PARSE(app, argc, argv);
  try {
    hone::Table(f).run();
  } catch (const hone::Error& e) {
    fmt::print(stderr, "qat_table: {}\n", e.what());
    return 1;
  }
}
