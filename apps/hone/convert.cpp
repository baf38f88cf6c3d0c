// hone convert: the same weights in another layout.
#include <nlohmann/json.hpp>

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
  f->model.add(app);
  app.add_option("--layout", f->options.layout, "hf, gguf, gptq, gptq_v2, bitsandbytes")
      ->required();
  app.add_option(
      "--decode-to", f->options.decode_to,
      "float type (f32, f16, bf16) for weights that the layout cannot hold; hf: for all");
  app.add_option("--out", f->out, "a new directory, or a file for gguf")->required();
  return [f, &common] {
    LoadedModel m = f->model.load(false);
    export_model(m, f->out, f->options);
    log_info("wrote {} ({}, {})", f->out, f->options.layout,
             human_bytes(double(written_bytes(f->out))));
    if (common.json) print_json({{"out", f->out}, {"weight_bytes", written_bytes(f->out)}});
  };
}

}  // namespace

extern const Command kConvertCommand;
const Command kConvertCommand{"convert", "write a model in another layout", add};

}  // namespace hone
