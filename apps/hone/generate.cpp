// hone generate: continues a prompt.
#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "base/files.h"
#include "base/log.h"
#include "command.h"
#include "models/generate.h"

namespace hone {
namespace {

struct GenerateFlags {
  ModelArgument model;
  std::string prompt, prompt_file;
  GenerateOptions options;
};

std::function<void()> add(CLI::App& app, CommonOptions& common) {
  auto f = std::make_shared<GenerateFlags>();
  f->options.sampler.temperature = 0;
  f->model.add(app);
  auto* text = app.add_option("--prompt", f->prompt, "the text to continue");
  app.add_option("--prompt-file", f->prompt_file, "read the prompt from a file")->excludes(text);
  app.add_option("--max-tokens", f->options.max_tokens, "tokens to generate at most")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 30))
      ->capture_default_str();
  app.add_option("--stop", f->options.stop, "end before this text (repeatable)");
  app.add_flag("--ignore-eos", f->options.ignore_end, "go on past end-of-text tokens");
  add_sampler_flags(app, f->options.sampler);
  return [f, &common] {
    f->options.sampler.seed = common.seed;
    f->options.sampler.validate();
    std::string prompt = f->prompt_file.empty() ? f->prompt : read_text_file(f->prompt_file);
    LoadedModel m = f->model.load();
    HONE_CHECK(m.tokenizer != nullptr, unsupported, "{}: it has no tokenizer", m.path);
    std::vector<int32_t> ids = m.tokenizer->encode(prompt);
    if (ids.empty() && m.tokenizer->bos()) ids.push_back(*m.tokenizer->bos());
    HONE_CHECK(!ids.empty(), invalid_argument,
               "the prompt is empty and the model has no bos token");
    Session session(*m.model, common.precision());
    auto stream = [](std::string_view piece) {
      std::fwrite(piece.data(), 1, piece.size(), stdout);
      std::fflush(stdout);
    };
    if (!common.json) stream(prompt);
    Generation g = generate(m, session, ids, f->options,
                            common.json ? std::function<void(std::string_view)>() : stream);
    double prefill = double(g.prompt_tokens) / g.prefill_seconds;
    double decode = double(g.tokens.size()) / std::max(g.decode_seconds, 1e-9);
    std::string precision = precision_line(m, common.precision());
    if (!common.json) {
      stream("\n");
      log_info("{} prompt tokens at {:.0f}/s, {} tokens at {:.1f}/s; {}", g.prompt_tokens, prefill,
               g.tokens.size(), decode, precision);
      return;
    }
    Json j;
    j["text"] = g.text;
    j["tokens"] = g.tokens;
    j["finish_reason"] = g.finish_reason;
    j["prompt_tokens"] = g.prompt_tokens;
    j["prefill_tokens_per_second"] = prefill;
    j["decode_tokens_per_second"] = decode;
    j["precision"] = precision;
    j["peak_rss_bytes"] = peak_rss_bytes();
    print_json(j);
  };
}

}  // namespace

extern const Command kGenerateCommand;
const Command kGenerateCommand{"generate", "continue a prompt", add};

}  // namespace hone
