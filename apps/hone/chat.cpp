// hone chat: a conversation in the terminal, with the model's own chat template.
#include <fmt/core.h>
#include <unistd.h>

#include <iostream>
#include <nlohmann/json.hpp>

#include "base/log.h"
#include "command.h"
#include "models/generate.h"
#include "text/chat_template.h"

namespace hone {
namespace {

struct ChatFlags {
  ModelArgument model;
  std::string system;
  std::vector<std::string> messages;
  GenerateOptions options;
};

std::optional<std::string> token_text(const Tokenizer& t, std::optional<int32_t> id) {
  if (!id) return std::nullopt;
  return t.token_text(*id);
}

class Conversation {
 public:
  Conversation(const ChatFlags& f, const CommonOptions& common)
      : flags_(f),
        common_(common),
        model_(f.model.load()),
        template_(checked_template(model_), model_.path + ": chat template"),
        session_(*model_.model, common.precision()) {
    options_.add_generation_prompt = true;
    options_.bos_token = token_text(*model_.tokenizer, model_.tokenizer->bos());
    options_.eos_token = token_text(*model_.tokenizer, model_.tokenizer->eos());
    if (!f.system.empty()) add("system", f.system);
  }

  Generation answer(const std::string& question) {
    add("user", question);
    // The template's own bos is in its text, so the tokenizer adds none.
    auto ids = model_.tokenizer->encode(template_.render(history_, options_), false, true);
    // What the session holds already is the beginning of the new prompt, unless the template
    // rewrites old turns; then everything runs again.
    size_t same = 0;
    while (same < done_.size() && same + 1 < ids.size() && done_[same] == ids[same]) ++same;
    session_.truncate(static_cast<int64_t>(same));
    auto stream = [this](std::string_view piece) {
      if (common_.json) return;
      std::fwrite(piece.data(), 1, piece.size(), stdout);
      std::fflush(stdout);
    };
    Generation g = generate(model_, session_, std::span<const int32_t>(ids).subspan(same),
                            flags_.options, stream);
    done_ = ids;
    done_.insert(done_.end(), g.tokens.begin(), g.tokens.end());
    done_.resize(static_cast<size_t>(session_.length()));
    add("assistant", g.text);
    if (!common_.json) std::printf("\n");
    return g;
  }

 private:
  static const std::string& checked_template(const LoadedModel& m) {
    HONE_CHECK(m.tokenizer != nullptr, unsupported, "{}: it has no tokenizer", m.path);
    HONE_CHECK(!m.chat_template.empty(), unsupported,
               "{}: it has no chat template; use hone generate", m.path);
    return m.chat_template;
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
  Json history_ = Json::array();
  std::vector<int32_t> done_;  // tokens that the session holds
};

std::function<void()> add(CLI::App& app, CommonOptions& common) {
  auto f = std::make_shared<ChatFlags>();
  f->options.max_tokens = 512;
  f->options.sampler.temperature = 0.7f;
  f->options.sampler.top_p = 0.95f;
  f->model.add(app);
  app.add_option("--system", f->system, "the system message");
  app.add_option("--message", f->messages, "say this instead of reading the terminal (repeatable)");
  app.add_option("--max-tokens", f->options.max_tokens, "tokens of one answer at most")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
      ->capture_default_str();
  add_sampler_flags(app, f->options.sampler);
  return [f, &common] {
    f->options.sampler.seed = common.seed;
    f->options.sampler.validate();
    Conversation talk(*f, common);
    for (const std::string& message : f->messages) {
      Generation g = talk.answer(message);
      if (common.json)
        print_json({{"text", g.text},
                    {"finish_reason", g.finish_reason},
                    {"prompt_tokens", g.prompt_tokens},
                    {"completion_tokens", g.tokens.size()}});
    }
    if (!f->messages.empty()) return;
    bool terminal = ::isatty(0) != 0;
    std::string line;
    while (true) {
      if (terminal) {
        std::printf("\n> ");
        std::fflush(stdout);
      }
      if (!std::getline(std::cin, line)) break;
      if (!line.empty()) talk.answer(line);
    }
  };
}

}  // namespace

extern const Command kChatCommand;
const Command kChatCommand{"chat", "talk to a model, with its chat template", add};

}  // namespace hone
