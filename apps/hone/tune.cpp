// hone tune: fine-tunes a model: all of it, an adapter, its codes or its scales.
#include <fmt/core.h>

#include <algorithm>

#include "training.h"

namespace hone {
namespace tune_command {

struct Flag {
  std::string option;  // as visit() names it
  CLI::Option* flag;
};

// Every option of a run as a flag.
class TuneFlags : public OptionVisitor {
 public:
  TuneFlags(CLI::App& app, std::vector<Flag>& all) : app_(app), all_(all) {}
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
    describe(name, app_.add_flag(flag(name), value), help);
  }

 private:
  static std::string flag(std::string name) {
    std::ranges::replace(name, '_', '-');
    return "--" + name;
  }
  void describe(const char* name, CLI::Option* o, std::string help) {
    if (!methods().empty()) help = fmt::format("{}: {}", methods(), help);
    o->description(help)->group("Training, with defaults");
    all_.push_back({name, o});
  }
  template <typename T>
  void add(const char* name, T& value, const char* type, const char* help,
           const std::string& unset) {
    std::string text = help;
    if (!unset.empty() && unset != "-1") text += " (" + unset + ")";
    describe(name, app_.add_option(flag(name), value)->type_name(type), text);
  }
  CLI::App& app_;
  std::vector<Flag>& all_;
};

std::function<void()> add(CLI::App& app, CommonOptions& common) {
  auto c = std::make_shared<TrainingCommand>();
  std::vector<std::string> methods;
  std::string footer = "\nMethods:\n";
  auto describe = [&](std::string name, std::string_view summary) {
    footer +=
        fmt::format("  {:<12}{} (lr {})\n", name, summary, default_learning_rate(name, "adamw"));
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
  app.add_option("--data", c->options.data, "text, JSONL, instructions or chats (repeatable)")
      ->allow_extra_args(false)
      ->type_name("FILE")
      ->required();
  app.add_option("--load-as", c->load_as,
                 "adapters, dwq: quantise the model while loading (QLoRA: nf4)")
      ->check(encoding_name())
      ->type_name("NAME");
  add_training_output(app, *c);
  auto flags = std::make_shared<std::vector<Flag>>();
  TuneFlags visitor(app, *flags);
  c->options.trainer.steps = 200;
  c->options.visit(visitor);
  return [c, flags, &common] {
    try {
      for (const Flag& f : *flags)
        if (f.flag->count() > 0) c->options.check_given(f.option, f.flag->get_name());
      finish_training(*c, common.seed);
    } catch (const Error& e) {
      throw UsageError(e.what());
    }
    run_training(*c, common);
  };
}

}  // namespace tune_command

extern const Command kTuneCommand;
const Command kTuneCommand{"tune", "fine-tune a model or an adapter for it", tune_command::add};

}  // namespace hone
