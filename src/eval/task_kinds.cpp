// The kinds of tasks: what becomes of a record's fields.
//
// The spaces are the harness's. A choice is scored with one in front; COPA's choices begin with one
// of their own, so that they are scored with two; a cloze's word has its own alone.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "eval/task.h"
#include "text/jinja_strings.h"

namespace hone {
namespace {

std::string_view stripped(std::string_view text) {
  return jinja::strip(text, nullptr, jinja::Side::both);
}

std::string without_prefix(std::string text, std::string_view prefix) {
  return text.starts_with(prefix) ? text.substr(prefix.size()) : text;
}

TaskItem choose(const std::string& context, std::vector<std::string> choices, int64_t gold) {
  TaskItem item;
  for (const std::string& c : choices) item.requests.push_back({context, " " + c});
  item.choices = std::move(choices);
  item.gold = gold;
  return item;
}

// llm-foundry's form of all that choose between continuations.
TaskItem choose_as_given(const TaskRecord& r, const std::string& context) {
  std::vector<std::string> choices = r.texts("choices");
  const int64_t gold = r.index("gold", choices.size());
  return choose(context, std::move(choices), gold);
}

// Choices with labels, {text: [...], label: [...]} or [{text, label}, ...], and the label of the
// right one beside them.
TaskItem choose_labelled(const TaskRecord& choices, const TaskRecord& key, std::string context) {
  const Json& json = choices["choices"];
  std::vector<std::string> texts, labels;
  if (json.is_object()) {
    const TaskRecord lists = choices.object("choices");
    texts = lists.texts("text");
    labels = lists.texts("label");
  } else {
    if (!json.is_array() || json.empty()) choices.bad("'choices': expected a list");
    for (const Json& c : json) {
      const TaskRecord one(c, choices.where() + ": 'choices'");
      texts.push_back(one.text("text"));
      labels.push_back(one.text("label"));
    }
  }
  if (texts.size() != labels.size())
    choices.bad(fmt::format("'choices': {} texts, but {} labels", texts.size(), labels.size()));
  const std::string answer(stripped(key.text("answerKey")));
  const auto at = std::ranges::find(labels, answer);
  if (at == labels.end()) key.bad("'answerKey': it is the label of no choice");
  return choose(context, std::move(texts), at - labels.begin());
}

std::string as_question(const std::string& text) { return "Question: " + text + "\nAnswer:"; }

// "Question: TEXT\n", as llm-foundry has it, in the harness's words.
std::string asked_again(const TaskRecord& r) {
  std::string text = without_prefix(r.text("query"), "Question: ");
  if (text.ends_with('\n')) text.pop_back();
  return as_question(text);
}

TaskItem arc(const TaskRecord& r) {
  if (r.has("query")) return choose_as_given(r, asked_again(r));
  if (r["question"].is_object()) {
    const TaskRecord question = r.object("question");
    return choose_labelled(question, r, as_question(question.text("stem")));
  }
  return choose_labelled(r, r, as_question(r.text("question")));
}

TaskItem openbookqa(const TaskRecord& r) {
  if (r.has("query")) return choose_as_given(r, r.text("query"));
  if (r.has("question")) {
    const TaskRecord question = r.object("question");
    return choose_labelled(question, r, question.text("stem"));
  }
  return choose_labelled(r, r, r.text("question_stem"));
}

TaskItem piqa(const TaskRecord& r) {
  if (r.has("query")) return choose_as_given(r, asked_again(r));
  return choose(as_question(r.text("goal")), {r.text("sol1"), r.text("sol2")}, r.index("label", 2));
}

// The choice is the context, and the continuation is the same.
TaskItem complete_one_of(const std::vector<std::string>& contexts, const std::string& continuation,
                         int64_t gold) {
  TaskItem item;
  for (const std::string& c : contexts) {
    item.requests.push_back({c, " " + continuation});
    item.choices.push_back(continuation);
  }
  item.gold = gold;
  return item;
}

TaskItem winogrande(const TaskRecord& r) {
  if (r.has("context_options")) {
    const std::vector<std::string> contexts = r.texts("context_options");
    return complete_one_of(contexts, r.text("continuation"), r.index("gold", contexts.size()));
  }
  const std::string sentence = r.text("sentence"), answer = r.text("answer");
  const size_t gap = sentence.find('_');
  if (gap == std::string::npos) r.bad("'sentence': expected a '_' in it");
  if (answer != "1" && answer != "2") r.bad("'answer': expected \"1\" or \"2\"");
  const std::string before = sentence.substr(0, gap);
  return complete_one_of({before + r.text("option1"), before + r.text("option2")},
                         std::string(stripped(std::string_view(sentence).substr(gap + 1))),
                         answer == "1" ? 0 : 1);
}

// The first character in lower case, behind a space.
std::string copa_choice(const std::string& text) {
  const size_t first = jinja::byte_offset(text, 1);
  return " " + jinja::lower(text.substr(0, first)) + text.substr(first);
}

TaskItem copa(const TaskRecord& r) {
  if (r.has("query")) {
    // "PREMISE, because": the harness has no comma there.
    std::string query = r.text("query");
    for (const char* word : {"because", "therefore"})
      if (query.ends_with(std::string(", ") + word))
        query.erase(query.size() - std::string_view(word).size() - 2, 1);
    std::vector<std::string> choices = r.texts("choices");
    for (std::string& c : choices) c = copa_choice(c);
    const int64_t gold = r.index("gold", choices.size());
    return choose(query, std::move(choices), gold);
  }
  const std::string question = r.text("question"), all = r.text("premise");
  if (question != "cause" && question != "effect")
    r.bad("'question': expected \"cause\" or \"effect\"");
  const std::string_view premise = stripped(all);
  const int64_t characters = jinja::code_points(premise);
  if (characters == 0) r.bad("'premise': expected a sentence");
  const std::string said(premise.substr(0, jinja::byte_offset(premise, characters - 1)));
  return choose(said + (question == "cause" ? " because" : " therefore"),
                {copa_choice(r.text("choice1")), copa_choice(r.text("choice2"))},
                r.index("label", 2));
}

// Without the marks of the WikiHow part: "[title]" and what else stands in brackets on a line.
std::string without_marks(const std::string& text) {
  std::string out(stripped(text));
  auto replace = [&](std::string_view from, std::string_view to) {
    for (size_t at = 0; (at = out.find(from, at)) != std::string::npos; at += to.size())
      out.replace(at, from.size(), to);
  };
  replace(" [title]", ". ");
  std::string plain;
  for (size_t at = 0; at < out.size();) {
    const size_t close = out[at] == '[' ? out.find_first_of("]\n", at) : std::string::npos;
    if (close != std::string::npos && out[close] == ']')
      at = close + 1;
    else
      plain += out[at++];
  }
  out = plain;
  replace("  ", " ");
  return out;
}

TaskItem hellaswag(const TaskRecord& r) {
  if (r.has("query")) return choose_as_given(r, r.text("query"));
  std::vector<std::string> endings = r.texts("endings");
  for (std::string& e : endings) e = without_marks(e);
  const std::string context = without_marks(r.text("activity_label") + ": " + r.text("ctx_a") +
                                            " " + jinja::capitalize(r.text("ctx_b")));
  const int64_t gold = r.index("label", endings.size());
  return choose(context, std::move(endings), gold);
}

TaskItem boolq(const TaskRecord& r) {
  if (r.has("query")) return choose_as_given(r, r.text("query"));
  return choose(r.text("passage") + "\nQuestion: " + r.text("question") + "?\nAnswer:",
                {"no", "yes"}, r.index(r.has("label") ? "label" : "answer", 2));
}

TaskItem lambada(const TaskRecord& r) {
  std::string context, word;
  if (r.has("text")) {
    const std::string text = r.text("text");
    const size_t space = text.rfind(' ');
    context = space == std::string::npos ? "" : text.substr(0, space);
    word = " " + (space == std::string::npos ? text : text.substr(space + 1));
  } else {
    context = r.text("context");
    word = " " + r.text("continuation");
  }
  if (word == " ") r.bad("there is no word to find");
  TaskItem item;
  item.requests.push_back({context, word});
  item.choices.push_back(word);
  return item;
}

TaskItem multiple_choice(const TaskRecord& r) {
  std::string_view query = "query", gold = "gold";
  for (std::string_view other : {"question", "context", "prompt"})
    if (!r.has(query)) query = other;
  for (std::string_view other : {"label", "answer"})
    if (!r.has(gold)) gold = other;
  std::vector<std::string> choices = r.texts("choices");
  int64_t at = -1;
  // The right one may be given by its text.
  if (r[gold].is_string()) {
    const auto found = std::ranges::find(choices, r.text(gold));
    if (found != choices.end()) at = found - choices.begin();
  }
  if (at < 0) at = r.index(gold, choices.size());
  return choose(r.text(query), std::move(choices), at);
}

bool no_fields(const TaskRecord&) { return false; }
template <size_t N>
bool has_all(const TaskRecord& r, const char* const (&fields)[N]) {
  return std::ranges::all_of(fields, [&](const char* f) { return r.has(f); });
}
// As AI2 published both: the choices are the question's.
bool is_ai2(const TaskRecord& r) {
  return has_all(r, {"question", "answerKey"}) && r["question"].is_object();
}
bool is_arc(const TaskRecord& r) {
  return has_all(r, {"question", "choices", "answerKey"}) || is_ai2(r);
}
bool is_piqa(const TaskRecord& r) { return has_all(r, {"goal", "sol1", "sol2"}); }
bool is_winogrande(const TaskRecord& r) {
  return has_all(r, {"sentence", "option1", "option2"}) ||
         has_all(r, {"context_options", "continuation"});
}
bool is_copa(const TaskRecord& r) { return has_all(r, {"premise", "choice1", "choice2"}); }
bool is_hellaswag(const TaskRecord& r) { return has_all(r, {"ctx_a", "ctx_b", "endings"}); }
bool is_boolq(const TaskRecord& r) { return has_all(r, {"passage", "question"}); }
bool is_openbookqa(const TaskRecord& r) {
  return has_all(r, {"question_stem", "choices", "answerKey"}) || is_ai2(r);
}
bool is_lambada(const TaskRecord& r) { return has_all(r, {"context", "continuation"}); }

}  // namespace

std::span<const TaskKind> task_kinds() {
  static const std::vector<TaskKind> kKinds = {
      {"lambada", "text; or context, continuation", {"lambada"}, is_lambada, lambada, true, false},
      {"arc_easy", "question, choices, answerKey", {"arc_e", "arc-e"}, is_arc, arc},
      {"arc_challenge", "question, choices, answerKey", {"arc_c", "arc-c"}, is_arc, arc},
      {"openbookqa",
       "question_stem, choices, answerKey",
       {"openbook", "obqa"},
       is_openbookqa,
       openbookqa},
      {"piqa", "goal, sol1, sol2, label", {"piqa"}, is_piqa, piqa},
      {"winogrande",
       "sentence, option1, option2, answer",
       {"winogrande"},
       is_winogrande,
       winogrande,
       false,
       false},
      {"copa", "premise, question, choice1, choice2, label", {"copa"}, is_copa, copa},
      {"hellaswag",
       "activity_label, ctx_a, ctx_b, endings, label",
       {"hellaswag"},
       is_hellaswag,
       hellaswag},
      {"boolq", "passage, question, label or answer", {"boolq"}, is_boolq, boolq},
      {"multiple_choice", "query, choices, gold", {}, no_fields, multiple_choice},
  };
  return kKinds;
}

}  // namespace hone
