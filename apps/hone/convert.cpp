// hone convert: the same weights in another layout; or an adapter, as PEFT has it or llama.cpp.
#include <nlohmann/json.hpp>

#include "base/files.h"
#include "base/log.h"
#include "command.h"
#include "models/adapter_file.h"
#include "models/export.h"

namespace hone {
namespace convert_command {

struct ConvertFlags {
  ModelArgument model;
  std::string base, out;
  ExportOptions options;
};

void convert_adapter(const ConvertFlags& f, const CommonOptions& common) {
  LoadOptions only_read;
  only_read.inference = false;
  const LoadedModel base = load_model(f.base, only_read);
  const PeftAdapter adapter = read_adapter(f.model.path, *base.family, base.config);
  if (f.options.layout == "peft")
    write_adapter_directory(f.out, adapter, *base.family, base.config);
  else
    write_gguf_adapter(f.out, gguf_from_peft(adapter, *base.family, base.config, f.model.path));
  const int64_t bytes = written_bytes(f.out);
  log_info("wrote {} ({}, {})", f.out, f.options.layout, human_bytes(double(bytes)));
  if (common.json) print_json({{"out", f.out}, {"weight_bytes", bytes}});
}

void run(ConvertFlags& f, const CommonOptions& common) {
  std::string& to = f.options.layout;
  if (to.empty() && fs::path(f.out).extension() == ".gguf") to = "gguf";
  if (to.empty()) throw UsageError("--layout is required, but for a .gguf file");
  const bool adapter = !f.base.empty();
  if (adapter && to != "peft" && to != "gguf")
    throw UsageError("--base: adapters have the layouts peft and gguf");
  if (!adapter && to == "peft") throw UsageError("--layout peft is of adapters: give --base MODEL");
  check_new_output(f.out);
  HONE_CHECK(adapter == is_adapter(f.model.path), invalid_argument, "{}: {}", f.model.path,
             adapter ? "it is no adapter, and --base is for those"
                     : "it is an adapter; give its model with --base");
  if (adapter) return convert_adapter(f, common);
  LoadedModel m = f.model.load(false);
  export_model(m, f.out, f.options);
  int64_t bytes = written_bytes(f.out);
  log_info("wrote {} ({}, {})", f.out, to, human_bytes(double(bytes)));
  if (common.json) print_json({{"out", f.out}, {"weight_bytes", bytes}});
}

std::function<void()> add(CLI::App& app, CommonOptions& common) {
  auto f = std::make_shared<ConvertFlags>();
  f->options.layout.clear();
  f->model.add(app);
  std::vector<std::string> names{"peft"};
  std::string footer = "\nLayouts:";
  for (const Layout& l : layouts()) {
    if (l.write == nullptr) continue;
    names.emplace_back(l.name);
    footer += fmt::format("\n  {:<28}{}", l.name, l.description);
  }
  app.footer(footer);
  app.add_option("--layout", f->options.layout, "one of those below; gguf for a .gguf file")
      ->check(one_of(names))
      ->type_name("NAME");
  app.add_option("--out", f->out, "a new directory, or a new file for gguf")
      ->type_name("PATH")
      ->required();
  auto* decode = app.add_option("--decode-to", f->options.decode_to,
                                "f32, f16 or bf16 for what the layout cannot hold; hf: for all")
                     ->check(decoded_type_name())
                     ->type_name("TYPE");
  app.add_option("--base", f->base, "MODEL is an adapter of this one: --layout peft or gguf")
      ->type_name("MODEL")
      ->excludes(decode)
      ->excludes("--load-as");
  return [f, &common] { run(*f, common); };
}

}  // namespace convert_command

extern const Command kConvertCommand;
const Command kConvertCommand{"convert", "write a model or an adapter in another layout",
                              convert_command::add};

}  // namespace hone
