#include "text/chat_template.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "text/jinja_interpreter.h"
#include "text/jinja_json.h"
#include "text/jinja_parser.h"
#include "text/unicode.h"

namespace hone {
namespace {

using jinja::Fault;

[[noreturn]] void raise(const std::string& name, const Fault& fault) {
  fail(fault.kind, "chat template '{}', line {}: {}", name, fault.line,
       fault.message.substr(0, 2000));
}

/// The messages as transformers hands them to the template: without null members, and with
/// reasoning under "reasoning_content" and "thinking" whichever name it came under.
Json normalized(const Json& messages) {
  HONE_CHECK(messages.is_array() && !messages.empty(), invalid_argument,
             "chat: expected a list of at least one message");
  Json result = Json::array();
  for (const Json& message : messages) {
    HONE_CHECK(message.is_object(), invalid_argument,
               "chat: expected each message to be an object");
    Json kept = Json::object();
    for (const auto& [key, value] : message.items()) {
      if (!value.is_null()) kept[key] = value;
    }
    for (const char* field : {"reasoning_content", "thinking", "reasoning"}) {
      if (!kept.contains(field)) continue;
      const Json reasoning = kept[field];
      Json with_alias = Json::object();
      with_alias["thinking"] = reasoning;
      for (const auto& [key, value] : kept.items()) with_alias[key] = value;
      with_alias["reasoning_content"] = reasoning;
      kept = std::move(with_alias);
      break;
    }
    result.push_back(std::move(kept));
  }
  return result;
}

}  // namespace

ChatTemplate::ChatTemplate(std::string_view source, std::string name) : name_(std::move(name)) {
  constexpr size_t kMaxSource = 1 << 20;
  HONE_CHECK(source.size() <= kMaxSource, unsupported,
             "chat template '{}': {} bytes; at most {} are supported", name_, source.size(),
             kMaxSource);
  HONE_CHECK(is_valid_utf8(source), corrupt, "chat template '{}' is not UTF-8", name_);
  try {
    body_ = std::make_shared<const jinja::Body>(jinja::parse(source));
  } catch (const Fault& fault) {
    raise(name_, fault);
  }
}

ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;

std::string ChatTemplate::render(const Json& messages, const ChatOptions& options,
                                 std::vector<jinja::Span>* generated) const {
  const Json chat = normalized(messages);
  HONE_CHECK(options.extra.is_object(), invalid_argument,
             "chat: expected the extra variables as an object");
  try {
    jinja::Runtime runtime(options.limits);
    runtime.now = options.now;
    jinja::Interpreter interpreter(runtime);
    interpreter.define("messages", jinja::from_json(runtime, chat));
    interpreter.define("tools", jinja::from_json(runtime, options.tools));
    interpreter.define("documents", jinja::from_json(runtime, options.documents));
    interpreter.define("add_generation_prompt", options.add_generation_prompt);
    if (options.bos_token) interpreter.define("bos_token", runtime.text(*options.bos_token));
    if (options.eos_token) interpreter.define("eos_token", runtime.text(*options.eos_token));
    for (const auto& [key, value] : options.extra.items()) {
      interpreter.define(key, jinja::from_json(runtime, value));
    }
    std::string text = interpreter.run(*body_);
    if (generated) *generated = interpreter.generated();
    return text;
  } catch (const Fault& fault) {
    raise(name_, fault);
  }
}

}  // namespace hone
