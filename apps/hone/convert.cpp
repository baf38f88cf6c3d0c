// hone convert: the same weights in another layout.
#include <nlohmann/json.hpp>

#include "base/files.h"
#include "base/log.h"
#include "command.h"
#include "models/export.h"

namespace hone {
namespace {

std::function<void()> add(CLI::App& app, CommonOptions& common) {
  struct Flags {
    ModelArgument model;
    std::string out;
    ExportOptions options;
  };
  auto f = std::make_shared<Flags>();
  f->options.layout.clear();
  f->model.add(app);
  app.add_option("--layout", f->options.layout,
                 "hf, gguf, gptq, gptq_v2 or bitsandbytes; gguf for a .gguf file")
      ->check(layout_name())
      ->type_name("NAME");
  app.add_option("--out", f->out, "a new directory, or a new file for gguf")
      ->type_name("PATH")
      ->required();
  app.add_option("--decode-to", f->options.decode_to,
                 "f32, f16 or bf16 for what the layout cannot hold; hf: for all")
      ->check(decoded_type_name())
      ->type_name("TYPE");
  return [f, &common] {
    if (f->options.layout.empty() && fs::path(f->out).extension() == ".gguf")
      f->options.layout = "gguf";
    if (f->options.layout.empty()) throw UsageError("--layout is required, but for a .gguf file");
    check_new_output(f->out);
    LoadedModel m = f->model.load(false);
    export_model(m, f->out, f->options);
    int64_t bytes = written_bytes(f->out);
    log_info("wrote {} ({}, {})", f->out, f->options.layout, human_bytes(double(bytes)));
    if (common.json) print_json({{"out", f->out}, {"weight_bytes", bytes}});
  };
}

}  // namespace

extern const Command kConvertCommand;
const Command kConvertCommand{"convert", "write a model in another layout", add};

}  // namespace hone
