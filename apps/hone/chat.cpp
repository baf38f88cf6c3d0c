// hone chat: a conversation in the terminal, with the model's own chat template.
#include <fmt/core.h>
#include <unistd.h>

#include <iostream>
#include <nlohmann/json.hpp>

#include "base/log.h"
#include "command.h"
#include "text/chat_template.h"
#include "text/unicode.h"

namespace hone {
namespace chat_command {

struct ChatFlags {
  ModelArgument model;
  std::string system;
  std::vector<std::string> messages;
  GenerateOptions options;
  StreamingFlags streaming;
};

std::optional<std::string> token_text(const Tokenizer& t, std::optional<int32_t> id) {
  if (!id) return std::nullopt;
  return std::string(t.token_text(*id));
}

class Conversation {
 public:
  Conversation(const ChatFlags& f, const CommonOptions& common)
      : flags_(f),
        common_(common),
        model_(loaded(f, common)),
        template_(checked_template(model_), model_.path + ": chat template"),
        session_(*model_.model, common.precision(), common.kv()) {
    options_.add_generation_prompt = true;
    options_.bos_token = token_text(*model_.tokenizer, model_.tokenizer->bos());
    options_.eos_token = token_text(*model_.tokenizer, model_.tokenizer->eos());
    if (!f.system.empty()) add("system", f.system);
  }

  void answer(const std::string& question) {
    add("user", question);
    // The template's own bos is in its text, so the tokenizer adds none.
    std::vector<int32_t> ids = model_.encode(template_.render(history_, options_), false, true);
    HONE_CHECK(!ids.empty(), unsupported, "{}: its chat template makes no text of this",
               model_.path);
    // What the session holds already is the beginning of the new prompt, unless the template
    // rewrites old turns; then everything from there on runs again.
    size_t same = 0;
    while (same < done_.size() && same + 1 < ids.size() && done_[same] == ids[same]) ++same;
    session_.truncate(static_cast<int64_t>(same));
    auto stream = [this](std::string_view piece) {
      if (!common_.json) print_text(piece);
    };
    Generation g = generate(model_, session_, ids, flags_.options, stream);
    done_ = std::move(ids);
    done_.insert(done_.end(), g.tokens.begin(), g.tokens.end());
    done_.resize(static_cast<size_t>(session_.length()));
    add("assistant", g.text);
    if (common_.json) {
      answers_.push_back(to_json(g));
      return add_fractions(fractions_of_limit(g, model_, common_), answers_.back());
    }
    stream("\n");
    log_info("{}", speed_line(g, model_, common_));
  }

  void finish() {
    std::string precision = precision_line(model_, common_);
    if (common_.json)
      print_json({{"answers", answers_},
                  {"messages", history_},
                  {"precision", precision},
                  {"peak_rss_bytes", peak_rss_bytes()}});
    else
      log_info("{}", precision);
  }

 private:
  static LoadedModel loaded(const ChatFlags& f, const CommonOptions& common) {
    LoadedModel m = f.model.load(common);
    f.streaming.apply(m);
    return m;
  }
  static const std::string& checked_template(const LoadedModel& m) {
    HONE_CHECK(m.tokenizer != nullptr, unsupported, "{}: it has no tokenizer", m.path);
    HONE_CHECK(!m.chat_template.empty(), unsupported,
               "{}: it has no chat template; use hone generate", m.path);
    return m.chat_template;
  }
  static Json to_json(const Generation& g) {
    return {{"text", g.text},
            {"finish_reason", g.finish_reason},
            {"prompt_tokens", g.prompt_tokens},
            {"cached_tokens", g.cached_tokens},
            {"completion_tokens", g.tokens.size()},
            {"prefill_tokens_per_second", g.prefill_speed()},
            {"decode_tokens_per_second", g.decode_speed()}};
  }
  void add(const char* role, const std::string& content) {
    history_.push_back({{"role", role}, {"content", content}});
  }

  const ChatFlags& flags_;
  const CommonOptions& common_;
  LoadedModel model_;
  ChatTemplate template_;
  Session session_;
  ChatOptions options_;
  Json history_ = Json::array(), answers_ = Json::array();
  std::vector<int32_t> done_;  // tokens that the session holds
};

// One message a line, until end of file.
void talk_over_stdin(Conversation& talk) {
  bool terminal = ::isatty(0) != 0;
  auto prompt = [&] {
    if (terminal) std::fprintf(stderr, "\n> ");
  };
  std::string line;
  for (prompt(); std::getline(std::cin, line); prompt()) {
    HONE_CHECK(is_valid_utf8(line), corrupt, "standard input: a line is not UTF-8 text");
    if (!line.empty()) talk.answer(line);
  }
}

void run(const ChatFlags& f, const CommonOptions& common) {
  for (const std::string& text : f.messages)
    if (!is_valid_utf8(text)) throw UsageError("--message: not UTF-8 text");
  if (!is_valid_utf8(f.system)) throw UsageError("--system: not UTF-8 text");
  Conversation talk(f, common);
  for (const std::string& message : f.messages) talk.answer(message);
  if (f.messages.empty()) talk_over_stdin(talk);
  talk.finish();
}

std::function<void()> add(CLI::App& app, CommonOptions& common) {
  auto f = std::make_shared<ChatFlags>();
  f->options.max_tokens = 512;
  f->options.sampler.temperature = 0.7f;
  f->options.sampler.top_p = 0.95f;
  f->model.add_with_adapters(app);
  app.add_option("--system", f->system, "the system message")->type_name("TEXT");
  app.add_option("--message", f->messages,
                 "say this (repeatable); without it, say each line of stdin")
      ->allow_extra_args(false)
      ->type_name("TEXT");
  add_generation_flags(app, f->options);
  f->streaming.add(app);
  return [f, &common] {
    f->options.sampler.seed = common.seed;
    run(*f, common);
  };
}

}  // namespace chat_command

extern const Command kChatCommand;
const Command kChatCommand{"chat", "talk to a model, with its chat template", chat_command::add};

}  // namespace hone
