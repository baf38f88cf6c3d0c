// hone tune: fine-tunes a model: all of it, an adapter, its codes or its scales.
#include <fmt/core.h>

#include <algorithm>

#include "training.h"

namespace hone {
namespace {

// Every option of a run as a flag.
class TuneFlags : public OptionVisitor {
 public:
  explicit TuneFlags(CLI::App& app) : app_(app) {}
  void option(const char* name, int64_t& value, const char* help) override {
    add(name, value, "N", help, fmt::format("{}", value));
  }
  void option(const char* name, double& value, const char* help) override {
    add(name, value, "X", help, fmt::format("{}", value));
  }
  void option(const char* name, std::string& value, const char* help) override {
    add(name, value, "NAME", help, value);
  }
  void option(const char* name, bool& value, const char* help) override {
    app_.add_flag(flag(name), value, help)->group(group_);
  }
  void group(const char* name) { group_ = name; }

 private:
  static std::string flag(std::string name) {
    std::ranges::replace(name, '_', '-');
    return "--" + name;
  }
  template <typename T>
  void add(const char* name, T& value, const char* type, const char* help,
           const std::string& unset) {
    std::string text = help;
    if (!unset.empty() && unset != "-1") text += " (" + unset + ")";
    app_.add_option(flag(name), value, text)->type_name(type)->group(group_);
  }
  CLI::App& app_;
  std::string group_ = "Training, with defaults";
};

std::function<void()> add(CLI::App& app, CommonOptions& common) {
  auto c = std::make_shared<TrainingCommand>();
  std::vector<std::string> methods;
  std::string footer = "\nMethods:\n";
  auto describe = [&](std::string name, std::string_view summary) {
    footer += fmt::format("  {:<12}{}\n", name, summary);
    methods.push_back(std::move(name));
  };
  for (const TrainingMethodName& m : training_methods()) describe(m.name, m.summary);
  for (const AdapterMethod& m : adapter_methods()) describe(m.name, m.summary);
  footer.pop_back();
  app.footer(footer);
  add_model(app, c->model);
  app.add_option("--method", c->options.method, "one of the methods below")
      ->check(one_of(methods))
      ->type_name("NAME")
      ->required();
  app.add_option("--data", c->options.data, "text, JSONL, instructions or chats to learn from")
      ->type_name("FILE")
      ->required();
  app.add_option("--load-as", c->load_as,
                 "adapters, dwq: quantise the model while loading (QLoRA: nf4)")
      ->check(encoding_name())
      ->type_name("NAME");
  add_training_output(app, *c);
  TuneFlags flags(app);
  c->options.trainer.steps = 200;
  c->options.visit(flags);
  return [c, &common] {
    try {
      finish_training(*c, common.seed);
    } catch (const Error& e) {
      throw UsageError(e.what());
    }
    run_training(*c, common);
  };
}

}  // namespace

extern const Command kTuneCommand;
const Command kTuneCommand{"tune", "fine-tune a model or an adapter for it", add};

}  // namespace hone
