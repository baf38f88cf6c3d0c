// hone tune: fine-tunes a model: all of it, or an adapter.
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
  std::vector<std::string> methods{"full"};
  std::string footer = "\nMethods:\n  full        every parameter of the model\n";
  for (const AdapterMethod& m : adapter_methods()) {
    methods.push_back(m.name);
    footer += fmt::format("  {:<12}{}\n", m.name, m.summary);
  }
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
  app.add_option("--load-as", c->load_as, "quantise the frozen base while loading (QLoRA: nf4)")
      ->check(encoding_name())
      ->type_name("NAME");
  add_training_output(app, *c);
  TuneFlags flags(app);
  c->options.trainer.steps = 200;
  c->options.visit(flags);
  return [c, &common] {
    if (c->options.method == "full" && !c->load_as.empty())
      throw UsageError("--load-as freezes the model: it goes with an adapter, not with full");
    try {
      c->options.finish(common.seed);
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
