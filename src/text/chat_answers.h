// A conversation as a training text: the chat template's rendering, and which bytes of it are the
// answers, which are what a model learns.
//
// Answers are what the template's {% generation %} blocks write, where it has any. Where it has
// none, answer number i begins where the text of the messages in front of it, rendered with
// add_generation_prompt, ends, and ends where the text of the messages up to it ends. That is right
// only if those texts are beginnings of the whole text; a template that writes early messages
// differently once later ones follow is refused, by the message's number. A message of the
// assistant that nothing comes before is context and no answer. strftime_now is always 1 January
// 2025: what a file becomes does not depend on the day.
//
// Contents are typed by people, templates are not: the text of a special token ("<|im_end|>") in a
// content is text, and must not become that token, although the template's own must. The template
// sees such texts replaced by a mark; in the result they are put back, and `cuts` lists a place
// behind the first character of each: encoded in parts between the cuts, no special token can be
// read where one was typed. Cost: the tokens around the cut may be others than those of the same
// text uncut, and SentencePiece vocabularies see a space there.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "text/added_tokens.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace hone {

/// The format for models without a chat template, as a template itself:
///
///   ### Question
///   What is 2 + 3?
///
///   ### Answer
///   5<eos>
///
/// with "### Instructions" for a system message. A model tuned with it can be given it as its own.
const char* plain_chat_template();
/// The contents as they stand, one behind the other, each answer followed by eos.
const char* raw_chat_template();

class ChatAnswers {
 public:
  struct Text {
    std::string text;
    std::vector<jinja::Span> answers;  // ascending, disjoint
    bool marked = false;               // by the template itself
    std::vector<size_t> cuts;          // ascending, inside the text
  };

  struct Options {
    bool last_only = false;            // only a conversation's last answer counts
    bool special_in_contents = false;  // special tokens in contents are tokens
    bool with_bos = true;              // the template sees bos_token, where there is one
  };

  /// The tokenizer must live as long. Raises corrupt or unsupported on a bad template.
  ChatAnswers(std::string_view source, std::string name, const Tokenizer& tokenizer,
              const Options& options);

  /// May be called from several threads at once. Raises invalid_argument where the template refuses
  /// the chat, unsupported where answers cannot be told or the conversation is too long.
  Text render(const Json& messages, const Json& tools = {}) const;

 private:
  std::vector<jinja::Span> by_prefixes(const Json& messages, const std::string& whole,
                                       const ChatOptions& options) const;
  bool has_special(const Json& value) const;
  void hide(Json& value, const std::string& mark) const;
  void show(Text& text, const std::string& mark) const;

  ChatTemplate template_;
  const Tokenizer& tokenizer_;
  bool last_only_;
  ChatOptions options_;
  bool has_blocks_ = false;
  AddedTokenMatcher specials_;
};

}  // namespace hone
