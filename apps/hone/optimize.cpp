// hone optimize and hone quantize: run a recipe, or one pass, over a model.
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/files.h"
#include "base/log.h"
#include "base/yaml.h"
#include "child_bench.h"
#include "command.h"
#include "encodings/encoding.h"
#include "formats/gguf_file_type.h"
#include "passes/optimize.h"
#include "text/text_file.h"

namespace hone {
namespace optimize_command {

void add_output_flags(CLI::App& app, OptimizeOptions& o) {
  auto file = [&](const char* name, std::filesystem::path& field, const char* help) {
    return app.add_option(name, field, help)->type_name("FILE")->group("Input and output");
  };
  file("--out", o.out, "a new directory, or a new .gguf file")->type_name("PATH")->required();
  file("--calibration", o.calibration, "text or JSONL to calibrate on");
  auto* text = file("--text", o.text, "measure the result on this text");
  file("--report", o.report, "the measurements as an HTML page (and a .json beside it)")
      ->needs(text);
  auto* resume = app.add_flag("--resume", o.resume, "go on where an interrupted run stopped");
  resume->group("Input and output");
  app.add_flag("--restart", o.restart, "forget what an interrupted run left")
      ->excludes(resume)
      ->group("Input and output");
}

// What can be known to fail is refused before the work, not after it.
void check_files(const OptimizeOptions& o) {
  check_new_output(o.out);
  if (!o.recipe.layout.empty()) layout(o.recipe.layout);
  if (!o.text.empty()) read_utf8_file(o.text);
  if (o.report.empty()) return;
  HONE_CHECK(fs::weakly_canonical(o.report) != fs::weakly_canonical(o.out), invalid_argument,
             "{}: --report and --out name the same place", o.report.string());
  HONE_CHECK(o.report.extension() != ".json", invalid_argument,
             "{}: the report is an HTML page; its JSON twin gets the same name with .json",
             o.report.string());
  fs::path folder = o.report.has_parent_path() ? o.report.parent_path() : fs::path(".");
  HONE_CHECK(fs::is_directory(folder) && !fs::is_directory(o.report), io,
             "{}: the report needs a file name in a directory that exists", o.report.string());
}

void run_and_print(OptimizeOptions& o, const CommonOptions& common) {
  o.seed = common.seed;
  o.activations = common.precision();
  o.kv = common.kv();
  if (common.kv_list().size() > 1) o.compared_caches = common.kv_list();
  o.measure = [&common](const fs::path& model, int64_t prompt, int64_t decode) {
    return bench_in_child(common, model, prompt, decode);
  };
  check_files(o);
  Report report = optimize(o);
  if (common.json) {
    Json j = report_json(report);
    j["out"] = o.out.string();
    j["peak_rss_bytes"] = peak_rss_bytes();
    print_json(j);
    return;
  }
  if (report.variants.empty()) return;
  print_text(report_table(report, ::isatty(1) != 0));
  print_text(report_headline(report) + "\n");
  if (std::string line = report_memory_line(report); !line.empty()) print_text(line + "\n");
  print_text(cache_table(report.caches, report.sequence_length));
  for (const std::string& note : report.notes) print_text("Note: " + note + "\n");
}

std::function<void()> add_optimize(CLI::App& app, CommonOptions& common) {
  auto o = std::make_shared<OptimizeOptions>();
  auto recipe = std::make_shared<std::string>();
  auto model = std::make_shared<std::string>();
  add_model(app, *model);
  app.add_option("--recipe", *recipe, "YAML: passes, in order")->type_name("FILE")->required();
  add_output_flags(app, *o);
  return [o, model, recipe, &common] {
    o->model = *model;
    o->recipe = parse_recipe(read_text_file(*recipe), *recipe);
    run_and_print(*o, common);
  };
}

// The flag of a pass's option; the command has a --method of its own.
std::string flag_of(const std::string& pass, std::string option) {
  std::replace(option.begin(), option.end(), '_', '-');
  return option == "method" ? "--" + pass + "-method" : "--" + option;
}

// The options of all passes as flags: each becomes a YAML line when given. Passes share option
// names (bits, group); one flag serves them all, and its help says whose it is.
class FlagOptions : public OptionVisitor {
 public:
  FlagOptions(CLI::App& app, std::map<std::string, std::string>& given)
      : app_(app), given_(given) {}
  void visit(const PassEntry& pass) {
    pass_ = pass.name;
    pass.make()->visit_options(*this);
  }
  void option(const char* name, int64_t& value, const char* help) override {
    add(name, "N", fmt::format("{}", value), help);
  }
  void option(const char* name, double& value, const char* help) override {
    add(name, "X", fmt::format("{}", value), help);
  }
  void option(const char* name, std::string& value, const char* help) override {
    add(name, "NAME", value, help);
  }
  void option(const char* name, bool& value, const char* help) override {
    add(name, nullptr, value ? "on" : "off", help);
  }

 private:
  // A null type is a switch, --name or --no-name.
  void add(const std::string& name, const char* type, const std::string& value,
           const std::string& help) {
    const std::string flag = flag_of(pass_, name);
    const std::string shown = value.empty() ? "" : " " + value;
    CLI::Option* o = app_.get_option_no_throw(flag);
    if (o != nullptr && !given_.contains(name)) return;  // a flag of the command itself
    if (o != nullptr) {
      std::string text = o->get_description();
      text.pop_back();
      if (text.ends_with(shown)) text.erase(text.size() - shown.size());  // passes share a default
      o->description(text + ", " + pass_ + shown + ")");
      return;
    }
    std::string& place = given_[name];  // empty: not given
    if (type != nullptr)
      o = app_.add_option_function<std::string>(flag,
                                                [&place](const std::string& text) { place = text; })
              ->type_name(type);
    else
      o = app_.add_flag_function(flag + ",!--no-" + flag.substr(2),
                                 [&place](int64_t n) { place = n > 0 ? "true" : "false"; });
    o->description(help + " (" + pass_ + shown + ")")->group("Options of methods, with defaults");
  }
  CLI::App& app_;
  std::map<std::string, std::string>& given_;
  std::string pass_;
};

struct QuantizeFlags {
  std::string model;
  OptimizeOptions options;
  std::string method, type, embeddings, head, layout, decode_to;
  std::map<std::string, std::string> given;
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

bool is_encoding(const std::string& name) {
  WeightParams ignored;
  const std::string id = encoding_from_shorthand(name, ignored);
  return std::ranges::any_of(encodings(), [&](const Encoding* e) { return e->id() == id; });
}

// An encoding's id says how `rtn` rounds; another name is one of llama.cpp's file types.
CLI::Validator encoding_or_file_type() {
  auto check = [](std::string& text) -> std::string {
    if (is_encoding(text) || find_gguf_file_type(text) != nullptr) return {};
    return "neither an encoding nor a file type: " + unknown_gguf_file_type(text);
  };
  return CLI::Validator(check, "");
}

// The method that the flags ask for without naming it.
void settle_method(QuantizeFlags& f) {
  if (f.method.empty() && f.type.empty()) throw UsageError("--method is required, or --type");
  const bool file_type = !f.type.empty() && !is_encoding(f.type);
  if (f.method.empty()) f.method = file_type ? "gguf" : "rtn";
  if (f.method != "gguf") return;
  std::string& importance = f.given["importance"];
  if (!f.options.calibration.empty() && importance.empty()) importance = "true";
  if (f.layout.empty()) f.layout = "gguf";
}

std::string quantize_recipe(const QuantizeFlags& f) {
  std::string yaml = "steps:\n";
  auto step = [&](const std::string& pass, const std::string& rest) {
    yaml += "  - {pass: " + pass + rest + "}\n";
  };
  std::string options;
  for (const auto& [key, value] : f.given) {
    if (value.empty()) continue;
    bool plain = value.find_first_not_of("0123456789.-+eE") == std::string::npos ||
                 value == "true" || value == "false";
    options += ", " + key + ": " + (plain ? value : yaml_quoted(value));
  }
  const bool gguf = f.method == "gguf";
  if (!f.type.empty()) options += (gguf ? ", type: " : ", encoding: ") + yaml_quoted(f.type);
  if (gguf) {  // it stores the ends itself
    if (!f.embeddings.empty()) options += ", embeddings: " + yaml_quoted(f.embeddings);
    if (!f.head.empty()) options += ", head: " + yaml_quoted(f.head);
    step(f.method, options);
    return yaml;
  }
  step(f.method, options);
  if (!f.embeddings.empty())
    step("rtn", ", modules: '*embed_tokens|*wte', encoding: " + yaml_quoted(f.embeddings));
  if (!f.head.empty()) step("rtn", ", modules: 'lm_head', encoding: " + yaml_quoted(f.head));
  return yaml;
}

// The options that a pass has, as flags.
struct OptionNames : OptionVisitor {
  std::vector<std::string> names;
  void option(const char* name, int64_t&, const char*) override { names.emplace_back(name); }
  void option(const char* name, double&, const char*) override { names.emplace_back(name); }
  void option(const char* name, bool&, const char*) override { names.emplace_back(name); }
  void option(const char* name, std::string&, const char*) override { names.emplace_back(name); }
};

void check_belongs(const QuantizeFlags& f) {
  OptionNames known;
  pass_named(f.method).make()->visit_options(known);
  auto flag = [&](const std::string& name) { return flag_of(f.method, name); };
  std::string list;
  for (const std::string& name : known.names) list += (list.empty() ? "" : ", ") + flag(name);
  for (const auto& [key, value] : f.given) {
    bool has = std::find(known.names.begin(), known.names.end(), key) != known.names.end();
    if (!value.empty() && !has)
      throw UsageError(fmt::format("{} takes no {}; it takes {}", f.method, flag(key),
                                   list.empty() ? "no options" : list));
  }
  if (f.type.empty() || f.method == "gguf") return;
  if (f.method != "rtn")
    throw UsageError("--type belongs to --method rtn or gguf, not to " + f.method);
  if (!is_encoding(f.type))
    throw UsageError(fmt::format("--type {}: a file type, of --method gguf, not of rtn", f.type));
  if (f.type == "int_group") return;
  for (const char* key : {"bits", "group", "symmetric"})
    if (auto it = f.given.find(key); it != f.given.end() && !it->second.empty())
      throw UsageError(fmt::format("--type {} says all: it takes no {}", f.type, flag(key)));
}

Recipe recipe_of(const QuantizeFlags& f) {
  check_belongs(f);
  try {
    Recipe r = parse_recipe(quantize_recipe(f), kCommandLine);
    r.main.name = f.method;
    r.layout = f.layout;
    r.decode_to = f.decode_to;
    return r;
  } catch (const Error& e) {
    throw UsageError(e.what());
  }
}

// The passes that a command runs by name: hone prune those that set weights to zero, hone quantize
// the others. They go into the footer too.
std::vector<std::string> methods_of(CLI::App& app, bool prune) {
  std::vector<std::string> methods;
  std::string footer = "\nMethods:";
  for (const PassEntry& e : pass_registry()) {
    if ((e.make()->kind() == PassKind::sparsify) != prune) continue;
    methods.push_back(e.name);
    footer += fmt::format("\n  {:<28}{}", e.name, e.summary);
  }
  app.footer(footer);
  return methods;
}

std::function<void()> add_quantize(CLI::App& app, CommonOptions& common) {
  auto f = std::make_shared<QuantizeFlags>();
  const std::vector<std::string> methods = methods_of(app, false);
  add_model(app, f->model);
  app.add_option("--method", f->method, "one of the methods below")
      ->check(one_of(methods))
      ->type_name("NAME");
  auto name = [&](const char* flag, std::string& field, const char* help) {
    return app.add_option(flag, field, help)->type_name("NAME");
  };
  auto* type =
      name("--type", f->type, "llama.cpp's file type (Q4_K_M), or an encoding for rtn (q4_k)")
          ->check(encoding_or_file_type());
  name("--embeddings", f->embeddings,
       "encoding of the embedding; else it stays, or is the file type's")
      ->check(encoding_name());
  name("--head", f->head, "encoding of an untied head; else it stays, or is the file type's")
      ->check(encoding_name());
  name("--layout", f->layout, "a name of hone convert --help; else what fits")
      ->check(layout_name());
  name("--decode-to", f->decode_to, "f32, f16 or bf16 for what the layout cannot hold")
      ->check(decoded_type_name());
  FlagOptions options(app, f->given);
  for (const std::string& m : methods) options.visit(pass_named(m));
  type->excludes(app.get_option("--encoding"));
  add_output_flags(app, f->options);
  return [f, &common] {
    f->options.model = f->model;
    settle_method(*f);
    f->options.recipe = recipe_of(*f);
    run_and_print(f->options, common);
  };
}

// As quantize, of the passes that set weights to zero.
std::function<void()> add_prune(CLI::App& app, CommonOptions& common) {
  auto f = std::make_shared<QuantizeFlags>();
  const std::vector<std::string> methods = methods_of(app, true);
  add_model(app, f->model);
  app.add_option("--method", f->method, "one of the methods below")
      ->check(one_of(methods))
      ->type_name("NAME")
      ->required();
  app.add_option("--layout", f->layout, "a name of hone convert --help; else what fits")
      ->check(layout_name())
      ->type_name("NAME");
  FlagOptions options(app, f->given);
  for (const std::string& m : methods) options.visit(pass_named(m));
  add_output_flags(app, f->options);
  return [f, &common] {
    f->options.model = f->model;
    f->options.recipe = recipe_of(*f);
    run_and_print(f->options, common);
  };
}

}  // namespace optimize_command

extern const Command kOptimizeCommand;
const Command kOptimizeCommand{"optimize", "run a recipe over a model and report what it cost",
                               optimize_command::add_optimize, true};
extern const Command kQuantizeCommand;
const Command kQuantizeCommand{"quantize", "run one quantisation pass over a model",
                               optimize_command::add_quantize, true};

extern const Command kPruneCommand;
const Command kPruneCommand{"prune", "set weights to zero, by one method",
                            optimize_command::add_prune, true};

}  // namespace hone
