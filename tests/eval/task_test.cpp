// Kinds of tasks in both forms of their records, examples, paired figures; files that are wrong.
#include "eval/task.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "eval/task_result.h"
#include "testing.h"

namespace hone {
namespace {

using namespace testing;

class TaskTest : public ::testing::Test {
 protected:
  std::filesystem::path file(const std::string& name, const std::vector<Json>& records) {
    std::string text;
    for (const Json& r : records) text += r.dump() + "\n";
    put_file(scratch_ / name, text);
    return scratch_ / name;
  }
  /// What reading it raises.
  std::string refusal(const std::string& text, const std::string& kind = {}) {
    put_file(scratch_ / "bad.jsonl", text);
    try {
      read_task(scratch_ / "bad.jsonl", kind);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  }
  TemporaryDirectory scratch_;
};

// llm-foundry's fields give the prompts that the published ones give.
TEST_F(TaskTest, BothFormsOfARecordAskTheSame) {
  struct Case {
    const char *kind, *published, *foundry;
  };
  const Case cases[] = {
      {"lambada", R"({"text": "He saw the stone"})",
       R"({"context": "He saw the", "continuation": "stone"})"},
      {"arc_easy",
       R"({"question": "Why?", "choices": {"text": ["a", "b"], "label": ["A", "B"]},
           "answerKey": "B"})",
       R"({"query": "Question: Why?", "choices": ["a", "b"], "gold": 1})"},
      {"arc_challenge",
       R"({"question": {"stem": "Why?", "choices": [{"text": "a", "label": "1"},
           {"text": "b", "label": "2"}]}, "answerKey": "2"})",
       R"({"query": "Question: Why?", "choices": ["a", "b"], "gold": 1})"},
      {"openbookqa",
       R"({"question": {"stem": "It is", "choices": [{"text": "a", "label": "A"}]},
           "answerKey": "A"})",
       R"({"query": "It is", "choices": ["a"], "gold": 0})"},
      {"piqa", R"({"goal": "How?", "sol1": "a", "sol2": "b", "label": 1})",
       R"({"query": "Question: How?\n", "choices": ["a", "b"], "gold": 1})"},
      {"winogrande",
       R"({"sentence": "He met _ so did I.", "option1": "Ann", "option2": "Bob", "answer": "2"})",
       R"({"context_options": ["He met Ann", "He met Bob"], "continuation": "so did I.",
           "gold": 1})"},
      {"copa",
       R"({"premise": "It rained.", "question": "effect", "choice1": "It got wet.",
           "choice2": "Ice fell.", "label": 0})",
       R"({"query": "It rained, therefore", "choices": ["it got wet.", "ice fell."], "gold": 0})"},
      {"boolq", R"({"passage": "P", "question": "is it", "answer": true})",
       R"({"query": "P\nQuestion: is it?\nAnswer:", "choices": ["no", "yes"], "gold": 1})"},
      {"multiple_choice", R"({"question": "Q", "choices": ["a", "b"], "answer": "b"})",
       R"({"query": "Q", "choices": ["a", "b"], "gold": 1})"}};
  for (const Case& c : cases) {
    SCOPED_TRACE(c.kind);
    const Task a = read_task(file("p.jsonl", {parse_json(c.published, "")}), c.kind);
    // Found by its fields or by its name.
    const Task b =
        read_task(file(std::string("my-") + c.kind + "-test.jsonl", {parse_json(c.foundry, "")}));
    EXPECT_STREQ(b.kind->name, c.kind);
    EXPECT_EQ(a.items[0].gold, b.items[0].gold);
    EXPECT_EQ(a.items[0].example, b.items[0].example);
    EXPECT_EQ(a.items[0].choices, b.items[0].choices);
    ASSERT_EQ(a.items[0].requests.size(), b.items[0].requests.size());
    for (size_t i = 0; i < a.items[0].requests.size(); ++i) {
      EXPECT_EQ(a.items[0].requests[i].context, b.items[0].requests[i].context);
      EXPECT_EQ(a.items[0].requests[i].continuation, b.items[0].requests[i].continuation);
    }
  }
}

TEST_F(TaskTest, AWrongRecordIsOneErrorWithFileAndLine) {
  const std::string good = R"({"query": "q", "choices": ["a", "b"], "gold": 1})",
                    at = "bad.jsonl:3: ";
  struct Case {
    std::string record, kind, part;
  };
  const Case cases[] = {
      {R"({"query": "q", "choices": ["a", "b"], "gold": 1)", "", "JSON"},
      {R"([1, 2])", "", "object"},
      {R"("text")", "lambada", "object"},
      {R"({"query": "q", "choices": ["a", "b"]})", "", "there is no 'answer'"},
      {R"({"query": "q", "choices": ["a", "b"], "gold": 2})", "", "from 0 to 1"},
      {R"({"query": "q", "choices": ["a", "b"], "gold": -1})", "", "from 0 to 1"},
      {R"({"query": "q", "choices": ["a", "b"], "gold": 0.5})", "", "from 0 to 1"},
      {R"({"query": "q", "choices": ["a", "b"], "gold": 99999999999999999999})", "", "from 0 to 1"},
      {R"({"query": "q", "choices": ["a", "b"], "gold": "c"})", "", "from 0 to 1"},
      {R"({"query": "q", "choices": [], "gold": 0})", "", "'choices': expected a list"},
      {R"({"query": "q", "choices": ["a", 1], "gold": 0})", "", "'choices': expected a list"},
      {R"({"query": 1, "choices": ["a"], "gold": 0})", "", "'query': expected a string"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.record);
    // Blank lines count, and are no records.
    const std::string message = refusal(good + "\n\n" + c.record + "\n", c.kind);
    const std::string where = c.kind.empty() ? at : "bad.jsonl:1: ";
    EXPECT_NE(message.find(where), std::string::npos) << message;
    EXPECT_NE(message.find(c.kind.empty() ? c.part : "'"), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos);
  }
  auto expect = [&](const char* kind, const std::string& record, const std::string& part) {
    const std::string message = refusal(record, kind);
    EXPECT_NE(message.find("bad.jsonl:1: "), std::string::npos) << message;
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  expect("arc_easy",
         R"({"question": "q", "choices": {"text": ["a"], "label": ["A", "B"]}, "answerKey": "A"})",
         "1 texts, but 2 labels");
  expect("arc_easy",
         R"({"question": "q", "choices": {"text": ["a"], "label": ["A"]}, "answerKey": "B"})",
         "'answerKey'");
  expect("winogrande", R"({"sentence": "no gap", "option1": "a", "option2": "b", "answer": "1"})",
         "'_'");
  expect("winogrande", R"({"sentence": "a _", "option1": "a", "option2": "b", "answer": "3"})",
         "'answer'");
  expect("copa",
         R"({"premise": "p.", "question": "why", "choice1": "", "choice2": "", "label": 0})",
         "'question'");
  expect("copa",
         R"({"premise": " ", "question": "cause", "choice1": "", "choice2": "", "label": 0})",
         "'premise'");
  expect("lambada", R"({"text": "ends "})", "no word");
  expect("hellaswag", R"({"ctx_a": "a"})", "'endings'");
  expect("", R"({"a": 1})", "the kinds are lambada, ");
  EXPECT_NE(refusal("").find("empty"), std::string::npos);
  EXPECT_NE(refusal("\n \n").find("no records"), std::string::npos);
  EXPECT_NE(refusal(good, "quiz").find("quiz"), std::string::npos);
}

TEST_F(TaskTest, ReadsAListAndStopsAtTheLimit) {
  put_file(scratch_ / "list.json", R"([{"query": "a", "choices": ["x"], "gold": 0},
    {"query": "b", "choices": ["x"], "gold": 0}, {"broken": 1}])");
  const Task task = read_task(scratch_ / "list.json", "", 2);
  ASSERT_EQ(task.items.size(), 2u);
  EXPECT_EQ(task.items[1].requests[0].context, "b");
  EXPECT_EQ(task.items[1].line, 2);
  EXPECT_THROW(read_task(scratch_ / "list.json"), Error);
}

TEST_F(TaskTest, APoolMustHoldEnoughExamples) {
  const auto path =
      file("x.jsonl", {parse_json(R"({"query": "a", "choices": ["x"], "gold": 0})", ""),
                       parse_json(R"({"query": "b", "choices": ["y"], "gold": 0})", "")});
  Task task = read_task(path);
  const Task pool = task;
  EXPECT_THROW(add_shots(task, pool.items, true, 2), Error);
  add_shots(task, pool.items, true, 1);
  EXPECT_EQ(task.items[0].requests[0].context, "b y\n\na");
  EXPECT_EQ(task.items[1].requests[0].context, "a x\n\nb");
}

// Two models of four items: paired differences by hand.
TEST_F(TaskTest, ComparesPairedAnswers) {
  std::vector<Json> records(6,
                            parse_json(R"({"query": "a", "choices": ["x", "y"], "gold": 0})", ""));
  const Task task = read_task(file("x.jsonl", records));
  auto answers = [&](const std::vector<int>& right) {
    std::vector<TaskAnswer> all(right.size());
    for (size_t i = 0; i < right.size(); ++i) {
      all[i].scores = {{right[i] ? -1.0 : -3.0, false, 1}, {-2.0, false, 1}};
      all[i].requests.resize(2);
    }
    return judge_answers(task, all);
  };
  const TaskResult a = answers({1, 1, 1, 1, 0, 0}), b = answers({1, 0, 0, 0, 1, 0});
  const TaskComparison c = compare_tasks(a, b);
  EXPECT_EQ(c.gained, 3);
  EXPECT_EQ(c.lost, 1);
  EXPECT_EQ(c.changed, 4);
  EXPECT_NEAR(c.difference.value, 2.0 / 6, 1e-12);
  // Differences 0 1 1 1 −1 0: squares about the mean 4 − 6/9, over 5 and 6.
  EXPECT_NEAR(c.difference.standard_error, std::sqrt((4 - 4.0 / 6) / 5 / 6), 1e-12);
  EXPECT_NEAR(c.mcnemar_p, 2 * (1 + 4) / 16.0, 1e-12);
  EXPECT_NEAR(compare_tasks(a, a).mcnemar_p, 1, 1e-12);
  const std::string samples = task_samples(task, a, &b);
  EXPECT_EQ(std::count(samples.begin(), samples.end(), '\n'), 6);
}

}  // namespace
}  // namespace hone
