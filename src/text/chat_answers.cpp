#include "text/chat_answers.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <charconv>
#include <string_view>

#include "base/error.h"
#include "text/unicode.h"

namespace hone {
namespace {

// Bytes that rendering all beginnings of one conversation may write.
constexpr size_t kMaxRendered = size_t{64} << 20;

Json first_messages(const Json& messages, size_t n) {
  Json result = Json::array();
  for (size_t i = 0; i < n; ++i) result.push_back(messages[i]);
  return result;
}

bool is_answer(const Json& message) {
  const auto role = message.find("role");
  return role != message.end() && *role == "assistant";
}

bool any_string(const Json& value, std::string_view holds) {
  if (value.is_string())
    return value.get_ref<const std::string&>().find(holds) != std::string::npos;
  return value.is_structured() && std::any_of(value.begin(), value.end(),
                                              [&](const Json& v) { return any_string(v, holds); });
}

}  // namespace

const char* plain_chat_template() {
  return R"({{ bos_token if bos_token is defined }}
{%- set eos = eos_token if eos_token is defined else '\n' %}
{%- for m in messages %}
    {%- if m.role == 'assistant' %}
        {{- '### Answer\n' }}
        {%- generation %}{{ m.content ~ eos }}{% endgeneration %}
    {%- elif m.role == 'user' %}
        {{- '### Question\n' ~ m.content }}
    {%- elif m.role == 'system' %}
        {{- '### Instructions\n' ~ m.content }}
    {%- else %}
        {{- '### ' ~ m.role | capitalize ~ '\n' ~ m.content }}
    {%- endif %}
    {{- '\n\n' if not loop.last or add_generation_prompt }}
{%- endfor %}
{{- '### Answer\n' if add_generation_prompt }})";
}

const char* raw_chat_template() {
  return R"({{ bos_token if bos_token is defined }}
{%- for m in messages %}
    {%- if m.role == 'assistant' %}
        {%- generation %}{{ m.content ~ (eos_token if eos_token is defined else '') }}
        {%- endgeneration %}
    {%- else %}
        {{- m.content }}
    {%- endif %}
{%- endfor %})";
}

ChatAnswers::ChatAnswers(std::string_view source, std::string name, const Tokenizer& tokenizer,
                         const Options& options)
    : template_(source, std::move(name)), tokenizer_(tokenizer), last_only_(options.last_only) {
  if (const auto bos = tokenizer.bos(); bos && options.with_bos)
    options_.bos_token = tokenizer.token_text(*bos);
  if (const auto eos = tokenizer.eos()) options_.eos_token = tokenizer.token_text(*eos);
  std::tm day{};
  day.tm_year = 2025 - 1900;
  day.tm_mday = 1;
  day.tm_wday = 3;
  options_.now = day;
  if (!options.special_in_contents)
    for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
      const std::string_view text = tokenizer.token_text(id);
      if (tokenizer.is_special(id) && !text.empty() && text.size() <= kMaxAddedToken)
        specials_.add({.id = id, .content = std::string(text), .special = true}, template_.name());
    }
  // Whether the template marks answers shows in what it does with one.
  std::vector<jinja::Span> blocks;
  try {
    template_.render(Json::array({{{"role", "user"}, {"content", "a"}},
                                  {{"role", "assistant"}, {"content", "b"}}}),
                     options_, &blocks);
  } catch (const Error&) {
    // It takes other chats than this one; those of the data will tell.
  }
  has_blocks_ = !blocks.empty();
}

ChatAnswers::Text ChatAnswers::render(const Json& given, const Json& tools) const {
  HONE_CHECK(given.is_array() && !given.empty(), invalid_argument,
             "chat: expected a list of at least one message");
  ChatOptions options = options_;
  options.tools = tools;
  Json messages = given;
  std::string mark;
  if (!specials_.empty() && has_special(messages)) {
    // A character for private use that the conversation does not hold.
    for (char32_t code = 0xF0000; mark.empty() || any_string(messages, mark); ++code) {
      HONE_CHECK(code < 0xFFFFE, unsupported, "chat: it uses every private character there is");
      mark.clear();
      append_utf8(mark, code);
    }
    for (Json& message : messages) hide(message, mark);
  }
  Text result;
  result.text = template_.render(messages, options, &result.answers);
  result.marked = has_blocks_ || !result.answers.empty();
  if (!result.marked)
    result.answers = by_prefixes(messages, result.text, options);
  else if (last_only_ && result.answers.size() > 1)
    result.answers.erase(result.answers.begin(), result.answers.end() - 1);
  if (!mark.empty()) show(result, mark);
  return result;
}

std::vector<jinja::Span> ChatAnswers::by_prefixes(const Json& messages, const std::string& whole,
                                                  const ChatOptions& options) const {
  std::vector<size_t> wanted;
  for (size_t i = 1; i < messages.size(); ++i)
    if (is_answer(messages[i])) wanted.push_back(i);
  if (last_only_ && wanted.size() > 1) wanted.erase(wanted.begin(), wanted.end() - 1);
  HONE_CHECK(wanted.size() <= kMaxRendered / (whole.size() + 1), unsupported,
             "chat: {} answers in {} bytes are too many to be told apart; use a chat template with "
             "generation blocks",
             wanted.size(), whole.size());
  ChatOptions asking = options;
  asking.add_generation_prompt = true;
  std::vector<jinja::Span> answers;
  for (size_t i : wanted) {
    const std::string prompt = template_.render(first_messages(messages, i), asking);
    const std::string answered = i + 1 == messages.size()
                                     ? whole
                                     : template_.render(first_messages(messages, i + 1), options);
    HONE_CHECK(
        answered.starts_with(prompt) && whole.starts_with(answered), unsupported,
        "chat template '{}': what it writes for the first {} messages does not begin what it "
        "writes for {}, so answers cannot be told from prompts; mark them in the template by "
        "generation blocks{}",
        template_.name(), answered.starts_with(prompt) ? i + 1 : i,
        answered.starts_with(prompt) ? messages.size() : i + 1,
        last_only_ ? "" : ", or learn only the last answer");
    answers.push_back({prompt.size(), answered.size()});
  }
  return answers;
}

bool ChatAnswers::has_special(const Json& value) const {
  if (value.is_string()) {
    bool found = false;
    specials_.split(
        value.get_ref<const std::string&>(), true, [](std::string_view) {},
        [&](int32_t) { found = true; });
    return found;
  }
  return value.is_structured() &&
         std::any_of(value.begin(), value.end(), [&](const Json& v) { return has_special(v); });
}

// "a<|im_end|>" becomes "aMARK2MARK", with the token's id in the middle. Roles are the template's
// words and stay.
void ChatAnswers::hide(Json& value, const std::string& mark) const {
  if (value.is_object()) {
    for (auto& [key, member] : value.items())
      if (key != "role") hide(member, mark);
  } else if (value.is_array()) {
    for (Json& member : value) hide(member, mark);
  } else if (value.is_string()) {
    std::string out;
    specials_.split(
        value.get_ref<const std::string&>(), true, [&](std::string_view text) { out += text; },
        [&](int32_t id) { out += mark + std::to_string(id) + mark; });
    value = std::move(out);
  }
}

void ChatAnswers::show(Text& chat, const std::string& mark) const {
  std::vector<size_t*> borders;
  for (jinja::Span& s : chat.answers) {
    borders.push_back(&s.begin);
    borders.push_back(&s.end);
  }
  std::string out;
  size_t at = 0, border = 0;
  // Borders up to `end` of the old text lie `end − at` and so on behind what is out.
  auto copy_to = [&](size_t end) {
    for (; border < borders.size() && *borders[border] <= end; ++border)
      *borders[border] = out.size() + std::max(*borders[border], at) - at;
    out.append(chat.text, at, end - at);
    at = end;
  };
  for (size_t open; (open = chat.text.find(mark, at)) != std::string::npos;) {
    const size_t digits = open + mark.size(), close = chat.text.find(mark, digits);
    int32_t id = -1;
    if (close != std::string::npos)
      std::from_chars(chat.text.data() + digits, chat.text.data() + close, id);
    HONE_CHECK(
        id >= 0 && id < tokenizer_.vocab_size() && tokenizer_.is_special(id), unsupported,
        "chat template '{}': it takes a content apart in the middle of the text of a special "
        "token",
        template_.name());
    copy_to(open);
    const std::string_view text = tokenizer_.token_text(id);
    const auto first = static_cast<size_t>(utf8_length(static_cast<unsigned char>(text[0])));
    if (first < text.size()) chat.cuts.push_back(out.size() + first);
    out += text;
    at = close + mark.size();
  }
  copy_to(chat.text.size());
  chat.text = std::move(out);
}

}  // namespace hone
