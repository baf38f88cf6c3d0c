// hone generate: continues a prompt.
#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "base/log.h"
#include "command.h"
#include "text/text_file.h"
#include "text/unicode.h"

namespace hone {
namespace generate_command {

struct GenerateFlags {
  ModelArgument model;
  std::string prompt, prompt_file;
  GenerateOptions options;
  StreamingFlags streaming;
};

Json to_json(const Generation& g, const std::string& precision) {
  Json j;
  j["text"] = g.text;
  j["tokens"] = g.tokens;
  j["finish_reason"] = g.finish_reason;
  j["prompt_tokens"] = g.prompt_tokens;
  j["prefill_tokens_per_second"] = g.prefill_speed();
  j["decode_tokens_per_second"] = g.decode_speed();
  j["precision"] = precision;
  j["peak_rss_bytes"] = peak_rss_bytes();
  return j;
}

void run(const GenerateFlags& f, const CommonOptions& common) {
  std::string prompt = f.prompt_file.empty() ? f.prompt : read_utf8_file(f.prompt_file);
  if (!is_valid_utf8(prompt)) throw UsageError("--prompt: not UTF-8 text");
  LoadedModel m = f.model.load(common);
  f.streaming.apply(m);
  std::vector<int32_t> ids = m.encode(prompt);
  if (ids.empty() && m.tokenizer->bos()) ids.push_back(*m.tokenizer->bos());
  HONE_CHECK(!ids.empty(), invalid_argument, "the prompt is empty and {} has no bos token", m.path);
  Session session(*m.model, common.precision(), common.kv());
  // The prompt is echoed with the first piece behind it: by then nothing refuses it any more.
  std::string echo = prompt;
  auto stream = [&](std::string_view piece) {
    if (common.json) return;
    print_text(std::exchange(echo, {}) + std::string(piece));
  };
  Generation g = generate(m, session, ids, f.options, stream);
  std::string precision = precision_line(m, common);
  if (common.json) {
    Json j = to_json(g, precision);
    j["kv_bytes"] = session.kv_bytes();
    add_fractions(fractions_of_limit(g, m, common), j);
    return print_json(j);
  }
  stream("\n");
  log_info("{}; {}", speed_line(g, m, common), precision);
}

std::function<void()> add(CLI::App& app, CommonOptions& common) {
  auto f = std::make_shared<GenerateFlags>();
  f->options.sampler.temperature = 0;
  f->model.add_with_adapters(app);
  auto* text = app.add_option("--prompt", f->prompt, "the text to continue")->type_name("TEXT");
  app.add_option("--prompt-file", f->prompt_file, "read the prompt from a file instead")
      ->type_name("FILE")
      ->excludes(text);
  add_generation_flags(app, f->options);
  f->streaming.add(app);
  return [f, &common] {
    f->options.sampler.seed = common.seed;
    run(*f, common);
  };
}

}  // namespace generate_command

extern const Command kGenerateCommand;
const Command kGenerateCommand{"generate", "continue a prompt", generate_command::add};

}  // namespace hone
