// Chat templates: a model's Jinja program that turns messages into its prompt, rendered as Hugging
// Face transformers does (jinja2's immutable sandbox with trim_blocks, lstrip_blocks and loop
// controls, the filter tojson without HTML escapes, and {% generation %} blocks).
//
// A template comes with a model file and is untrusted: it can compute text from the chat and do
// nothing else, within limits of steps, memory, output and nesting. Not supported, each refused by
// name: inheritance, includes and imports, recursive loops, and the filters pprint, random,
// striptags, urlencode, urlize, wordwrap, xmlattr, filesizeformat.
#pragma once

#include <nlohmann/json.hpp>

#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/jinja_value.h"

namespace hone {
namespace jinja {
struct Stmt;
}

struct ChatOptions {
  bool add_generation_prompt = false;
  std::optional<std::string> bos_token;  // undefined in the template where the model has none
  std::optional<std::string> eos_token;
  Json tools;                   // null, or a list of JSON schemas
  Json documents;               // null, or a list
  Json extra = Json::object();  // more variables; they win over the ones above
  std::optional<std::tm> now;   // local time of strftime_now; the clock's where not given
  jinja::Limits limits;
};

class ChatTemplate {
 public:
  /// Parses `source`; `name` stands for it in errors. Raises corrupt on wrong syntax, unsupported
  /// for tags this interpreter lacks, both with the line.
  ChatTemplate(std::string_view source, std::string name);
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;

  /// The prompt for `messages`, a list of objects with "role", "content" and what else the model
  /// knows ("tool_calls", ...). Members that are null are left out, and reasoning is found under
  /// any of its names, as transformers does. `generated`, where given, receives the bytes of the
  /// result that {% generation %} blocks wrote. May be called from several threads at once.
  /// Raises invalid_argument where the template refuses the chat or fails on it, unsupported past
  /// a limit.
  std::string render(const Json& messages, const ChatOptions& options = {},
                     std::vector<jinja::Span>* generated = nullptr) const;

  const std::string& name() const { return name_; }

 private:
  std::string name_;
  std::shared_ptr<const std::vector<jinja::Stmt>> body_;
};

}  // namespace hone
