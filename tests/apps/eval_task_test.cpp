// hone eval --task: the table, the samples, and what is refused.
#include <nlohmann/json.hpp>

#include "apps/command.h"

namespace hone::testing {
namespace {

TEST(EvalTask, PrintsATableAndWritesWhatWasAsked) {
  TemporaryDirectory scratch;
  const std::string model = (scratch / "model").string(), text = (scratch / "text.txt").string();
  TinyModel().write(model);
  write_bytes(text, "the sea and the whale");
  const std::string task = (scratch / "mine.jsonl").string();
  const std::string samples = (scratch / "samples.jsonl").string();
  const std::string bad = (scratch / "bad.jsonl").string();
  write_bytes(task,
              "{\"query\": \"the sea\", \"choices\": [\"and\", \"whale\"], \"gold\": 0}\n"
              "{\"query\": \"the\", \"choices\": [\"whale\", \"x\"], \"gold\": 1}\n");
  Outcome run = run_hone(
      {"eval", model, "--task", task, "--task", task, "--reference", model, "--samples", samples});
  EXPECT_EQ(run.status, 0) << run.err;
  for (const char* part : {"per character", "multiple_choice", "McNemar p", "+0.00 ± 0.00 %"})
    EXPECT_NE(run.out.find(part), std::string::npos) << part << " in\n" << run.out;
  EXPECT_NE(run.err.find("0 examples in front"), std::string::npos) << run.err;
  ASSERT_EQ(lines_of(read_bytes(samples)).size(), 4u);
  const Json first = Json::parse(lines_of(read_bytes(samples))[0]);
  EXPECT_EQ(first["requests"][1]["continuation"], " whale");
  EXPECT_EQ(first["log_likelihoods"], first["reference"]["log_likelihoods"]);
  Json j = last_json(run_hone({"eval", model, "--task", task, "--task", task, "--json"}).out);
  EXPECT_EQ(j["tasks"].size(), 2u);
  // Nothing is written over, and a bad line is named.
  expect_refusal(run_hone({"eval", model, "--task", task, "--samples", samples}), 1,
                 {samples, "exists already"});
  write_bytes(bad, read_bytes(task) + "{\"query\": \n");
  expect_refusal(run_hone({"eval", model, "--task", bad}), 1, {bad + ":3:", "JSON"});
  expect_refusal(run_hone({"eval", model, "--task", text}), 1, {text + ":1:", "JSON"});
  expect_refusal(run_hone({"eval", model, "--task", task, "--shots", "2"}), 1, {task, "pool of 3"});
}

}  // namespace
}  // namespace hone::testing
