// Kinds of tasks, examples and figures, as lm-evaluation-harness makes them of made-up records
// (tools/golden/make_tasks.py).
#include <nlohmann/json.hpp>

#include "eval/task_result.h"
#include "testing.h"

namespace hone {
namespace {

using namespace testing;

TEST(TaskGolden, PromptsExamplesAndFiguresAreTheHarnesss) {
  TemporaryDirectory scratch;
  std::ifstream in(golden("tasks.json"), std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(in), {}};
  const Json all = parse_json(bytes, "tasks.json");
  const int64_t shots = all["shots"].get<int64_t>();
  for (const auto& [kind, g] : all["kinds"].items()) {
    SCOPED_TRACE(kind);
    std::string text;
    for (const Json& r : g["records"]) text += r.dump() + "\n";
    const auto path = scratch / (kind + ".jsonl");
    put_file(path, text);
    // LAMBADA's one field says nothing but by the file's name.
    Task task = read_task(path);
    EXPECT_EQ(task.kind->name, kind);
    ASSERT_EQ(task.items.size(), g["requests"].size());
    std::vector<TaskAnswer> answers(task.items.size());
    for (size_t i = 0; i < task.items.size(); ++i) {
      ASSERT_EQ(task.items[i].requests.size(), g["requests"][i].size()) << i;
      for (size_t r = 0; r < task.items[i].requests.size(); ++r) {
        EXPECT_EQ(task.items[i].requests[r].context, g["requests"][i][r][0].get<std::string>());
        EXPECT_EQ(task.items[i].requests[r].continuation,
                  g["requests"][i][r][1].get<std::string>());
        const Json& response = g["responses"][i][r];
        answers[i].scores.push_back({response[0].get<double>(), response[1].get<bool>(), 1});
      }
    }
    const TaskResult result = judge_answers(task, answers);
    const Json& figures = g["figures"];
    EXPECT_NEAR(result.accuracy.value, figures["acc"].get<double>(), 1e-12);
    EXPECT_NEAR(result.accuracy.standard_error, figures["acc_stderr"].get<double>(), 1e-12);
    if (figures.contains("acc_norm")) {
      ASSERT_TRUE(result.accuracy_norm.has_value());
      EXPECT_NEAR(result.accuracy_norm->value, figures["acc_norm"].get<double>(), 1e-12);
      EXPECT_NEAR(result.accuracy_norm->standard_error, figures["acc_norm_stderr"].get<double>(),
                  1e-12);
    }
    EXPECT_EQ(result.perplexity.has_value(), figures.contains("perplexity"));
    if (result.perplexity) {
      EXPECT_NEAR(result.perplexity->value / figures["perplexity"].get<double>(), 1, 1e-12);
    }

    const Task pool = task;
    add_shots(task, pool.items, true, shots);
    for (size_t i = 0; i < task.items.size(); ++i)
      EXPECT_EQ(task.items[i].requests[0].context, g["with_shots"][i].get<std::string>()) << i;
  }
}

}  // namespace
}  // namespace hone
