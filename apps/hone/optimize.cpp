// hone optimize and hone quantize: run a recipe, or one pass, over a model.
#include <fmt/core.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/files.h"
#include "base/log.h"
#include "child_bench.h"
#include "command.h"
#include "passes/optimize.h"

namespace hone {
namespace {

void add_output_flags(CLI::App& app, OptimizeOptions& o) {
  app.add_option("--out", o.out, "a new directory, or a .gguf file")->required();
  app.add_option("--calibration", o.calibration, "text or JSONL to calibrate on");
  app.add_option("--text", o.text, "measure the result on this text");
  app.add_option("--report", o.report,
                 "write the report to this HTML file (and a .json beside it)");
  app.add_flag("--resume", o.resume, "go on where an interrupted run stopped");
  app.add_flag("--restart", o.restart, "forget what an interrupted run left");
}

void run_and_print(OptimizeOptions& o, const CommonOptions& common) {
  o.seed = common.seed;
  o.activations = common.precision();
  o.measure = [&common](const fs::path& model, int64_t prompt, int64_t decode) {
    return bench_in_child(common, model, prompt, decode);
  };
  HONE_CHECK(o.report.empty() || !o.text.empty(), invalid_argument,
             "--report needs --text: a report without measurements says nothing");
  Report report = optimize(o);
  if (common.json) {
    Json j = report_json(report);
    j["out"] = o.out.string();
    j["peak_rss_bytes"] = peak_rss_bytes();
    print_json(j);
    return;
  }
  if (report.variants.empty()) return;
  fmt::print("{}", report_table(report, ::isatty(1) != 0));
  fmt::print("{}\n", report_headline(report));
}

std::function<void()> add_optimize(CLI::App& app, CommonOptions& common) {
  auto o = std::make_shared<OptimizeOptions>();
  auto recipe = std::make_shared<std::string>();
  app.add_option("model", o->model, "a GGUF file or a Hugging Face directory")->required();
  app.add_option("--recipe", *recipe, "YAML: passes, in order")->required();
  add_output_flags(app, *o);
  return [o, recipe, &common] {
    o->recipe = parse_recipe(read_text_file(*recipe), *recipe);
    run_and_print(*o, common);
  };
}

// Collects a pass's options as flags: each becomes a YAML line when given.
class FlagOptions : public OptionVisitor {
 public:
  FlagOptions(CLI::App& app, std::map<std::string, std::string>& given)
      : app_(app), given_(given) {}
  void option(const char* name, int64_t&, const char* help) override { add(name, help); }
  void option(const char* name, double&, const char* help) override { add(name, help); }
  void option(const char* name, std::string&, const char* help) override { add(name, help); }
  void option(const char* name, bool&, const char* help) override {
    std::string flag = flag_name(name);
    if (app_.get_option_no_throw(flag)) return;
    app_.add_flag_function(
        flag + ",!--no-" + flag.substr(2),
        [this, key = std::string(name)](int64_t n) { given_[key] = n > 0 ? "true" : "false"; },
        help);
  }

 private:
  static std::string flag_name(std::string name) {
    for (char& c : name)
      if (c == '_') c = '-';
    return "--" + name;
  }
  void add(const char* name, const char* help) {
    std::string flag = flag_name(name);
    // Passes share option names (bits, group); one flag serves them all.
    if (app_.get_option_no_throw(flag)) return;
    app_.add_option_function<std::string>(
        flag, [this, key = std::string(name)](const std::string& v) { given_[key] = v; }, help);
  }
  CLI::App& app_;
  std::map<std::string, std::string>& given_;
};

struct QuantizeFlags {
  OptimizeOptions options;
  std::string method = "rtn", type, embeddings, head, layout, decode_to;
  std::map<std::string, std::string> given;
  std::shared_ptr<FlagOptions> flags;
};

// Single quotes make any text a YAML scalar.
std::string yaml_quoted(const std::string& s) {
  std::string out = "'";
  for (char c : s) {
    if (c == '\'') out += '\'';
    out += c;
  }
  return out + "'";
}

std::string quantize_recipe(const QuantizeFlags& f) {
  std::string yaml = "steps:\n";
  auto step = [&](const std::string& pass, const std::string& rest) {
    yaml += "  - {pass: " + pass + rest + "}\n";
  };
  std::string options;
  for (const auto& [key, value] : f.given) {
    bool plain = value.find_first_not_of("0123456789.-+eE") == std::string::npos ||
                 value == "true" || value == "false";
    options += ", " + key + ": " + (plain ? value : yaml_quoted(value));
  }
  if (!f.type.empty()) options += ", encoding: " + yaml_quoted(f.type);
  step(f.method, options);
  if (!f.embeddings.empty())
    step("rtn", ", modules: '*embed_tokens|*wte', encoding: " + yaml_quoted(f.embeddings));
  if (!f.head.empty()) step("rtn", ", modules: 'lm_head', encoding: " + yaml_quoted(f.head));
  return yaml;
}

std::function<void()> add_quantize(CLI::App& app, CommonOptions& common) {
  auto f = std::make_shared<QuantizeFlags>();
  std::vector<std::string> methods;
  f->flags = std::make_shared<FlagOptions>(app, f->given);
  app.add_option("model", f->options.model, "a GGUF file or a Hugging Face directory")->required();
  for (const PassEntry& e : pass_registry()) {
    methods.push_back(e.name);
    e.make()->visit_options(*f->flags);
  }
  app.add_option("--method", f->method, "the pass")->check(CLI::IsMember(methods))->required();
  app.add_option("--type", f->type, "rtn: the encoding to write (q4_k, q8_0, nf4, ...)");
  app.add_option("--embeddings", f->embeddings, "encoding of the embedding (default: as it is)");
  app.add_option("--head", f->head, "encoding of an untied head (default: as it is)");
  app.add_option("--layout", f->layout,
                 "hf, gguf, gptq, gptq_v2, bitsandbytes (default: what fits)");
  app.add_option("--decode-to", f->decode_to, "float type for weights the layout cannot hold");
  add_output_flags(app, f->options);
  return [f, &common] {
    f->options.recipe = parse_recipe(quantize_recipe(*f), "command line");
    f->options.recipe.main.name = f->method;
    f->options.recipe.layout = f->layout;
    f->options.recipe.decode_to = f->decode_to;
    run_and_print(f->options, common);
  };
}

}  // namespace

extern const Command kOptimizeCommand;
const Command kOptimizeCommand{"optimize", "run a recipe over a model and report what it cost",
                               add_optimize};
extern const Command kQuantizeCommand;
const Command kQuantizeCommand{"quantize", "run one quantisation pass over a model", add_quantize};

}  // namespace hone
