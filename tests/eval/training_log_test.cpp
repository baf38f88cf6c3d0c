// Training logs on disk: what was written comes back, interruptions and bad lines included.
#include "eval/training_log.h"

#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/files.h"
#include "testing.h"

namespace hone {
namespace {

using testing::put_file;
using testing::TemporaryDirectory;

constexpr double kLogInfinity = std::numeric_limits<double>::infinity();
constexpr const char* kHeader =
    R"({"format":"hone training log","format_version":1,"title":"t","settings":{"lr":"3e-4"}})"
    "\n";
constexpr const char* kStep =
    R"({"step":1,"loss":5.5,"norm":1,"lr":0.1,"tokens":8,"seconds":1,"loss_scale":1,)"
    R"("skipped":false})"
    "\n";

TrainingLog header() {
  TrainingLog log;
  log.title = "Stories \"1\"\n";
  log.model = "llama";
  log.method = "full";
  log.machine = "2 cores";
  log.notes = {"first", "second \xFF"};
  log.settings = {{"optimizer", "adamw"}, {"lr", "3e-4"}, {"batch", "16 × 256"}};
  return log;
}

TrainingLog::Step step(int64_t n) {
  const double x = double(n);
  return {n, 5 / (x + 0.1), 1 / x, 3e-4 / x, 2048 + n, 0.1 * x, 65536, n == 2};
}

void expect_same(const TrainingLog& a, const TrainingLog& b) {
  ASSERT_EQ(a.steps.size(), b.steps.size());
  for (size_t i = 0; i < a.steps.size(); ++i) {
    const auto &s = a.steps[i], &t = b.steps[i];
    EXPECT_EQ(s.step, t.step);
    EXPECT_EQ(s.loss, t.loss);
    EXPECT_EQ(s.norm, t.norm);
    EXPECT_EQ(s.lr, t.lr);
    EXPECT_EQ(s.tokens, t.tokens);
    EXPECT_EQ(s.seconds, t.seconds);
    EXPECT_EQ(s.loss_scale, t.loss_scale);
    EXPECT_EQ(s.skipped, t.skipped);
  }
  ASSERT_EQ(a.evaluations.size(), b.evaluations.size());
  for (size_t i = 0; i < a.evaluations.size(); ++i) {
    EXPECT_EQ(a.evaluations[i].step, b.evaluations[i].step);
    EXPECT_EQ(a.evaluations[i].loss, b.evaluations[i].loss);
  }
}

std::string error_of(const std::string& text) {
  TemporaryDirectory directory;
  put_file(directory / "log.jsonl", text);
  try {
    read_training_log(directory / "log.jsonl");
  } catch (const Error& e) {
    EXPECT_TRUE(e.kind() == ErrorKind::corrupt || e.kind() == ErrorKind::unsupported);
    const std::string message = e.what();
    const size_t at = message.find("log.jsonl");
    return at == std::string::npos ? message : message.substr(at);
  }
  return "none";
}

TEST(TrainingLog, ComesBackAsItWasWritten) {
  TemporaryDirectory directory;
  TrainingLogFile file(directory / "log.jsonl", header());
  file.add(TrainingLog::Evaluation{0, 6.5});
  for (int64_t n = 1; n <= 4; ++n) file.add(step(n));
  file.add(TrainingLog::Evaluation{4, 1.0 / 3});
  // While the file is open: each line is there at once.
  const TrainingLog log = read_training_log(directory / "log.jsonl");
  expect_same(log, file.log());
  EXPECT_EQ(log.title, header().title);
  EXPECT_EQ(log.model, "llama");
  EXPECT_EQ(log.method, "full");
  EXPECT_EQ(log.machine, "2 cores");
  EXPECT_EQ(log.notes, (std::vector<std::string>{"first", "second \xEF\xBF\xBD"}));
  EXPECT_EQ(log.settings, header().settings);
  EXPECT_DOUBLE_EQ(log.seconds(), 1.0);
  EXPECT_EQ(log.tokens(), 4 * 2048 + 10);
}

TEST(TrainingLog, LinesAreAsDocumented) {
  TemporaryDirectory directory;
  TrainingLogFile file(directory / "log.jsonl", {});
  file.add(TrainingLog::Step{1, 5.5, 1.25, 0.0003, 2048, 1.5, 65536, true});
  file.add(TrainingLog::Evaluation{1, 0});
  const std::string text = read_text_file(directory / "log.jsonl");
  EXPECT_EQ(text.substr(text.find('\n') + 1),
            R"({"step":1,"loss":5.5,"norm":1.25,"lr":0.0003,"tokens":2048,"seconds":1.5,)"
            R"("loss_scale":65536.0,"skipped":true})"
            "\n"
            R"({"step":1,"eval_loss":0.0,"perplexity":1.0})"
            "\n");
}

TEST(TrainingLog, KeepsNumbersThatAreNotFinite) {
  TemporaryDirectory directory;
  {
    TrainingLogFile file(directory / "log.jsonl", {});
    file.add(TrainingLog::Step{1, std::nan(""), kLogInfinity, 0.1, 8, 1, 1, true});
    file.add(TrainingLog::Evaluation{1, -kLogInfinity});
    file.add(TrainingLog::Evaluation{2, 1000});  // its perplexity is infinite
  }
  const TrainingLog log = read_training_log(directory / "log.jsonl");
  EXPECT_TRUE(std::isnan(log.steps[0].loss));
  EXPECT_EQ(log.steps[0].norm, kLogInfinity);
  EXPECT_EQ(log.evaluations[0].loss, -kLogInfinity);
  EXPECT_EQ(log.evaluations[1].loss, 1000);
}

TEST(TrainingLog, AResumedRunGoesOnFromItsStep) {
  TemporaryDirectory directory;
  auto train = [&](TrainingLogFile& file, int64_t from, int64_t to) {
    for (int64_t n = from; n <= to; ++n) {
      file.add(step(n));
      if (n % 2 == 0) file.add(TrainingLog::Evaluation{n, 1.0 / double(n)});
    }
  };
  {
    TrainingLogFile whole(directory / "whole.jsonl", header());
    whole.add(TrainingLog::Evaluation{0, 9});
    train(whole, 1, 9);
    TrainingLogFile first(directory / "resumed.jsonl", header());
    first.add(TrainingLog::Evaluation{0, 9});
    train(first, 1, 7);  // the checkpoint is of step 4
  }
  TrainingLog log = read_training_log(directory / "resumed.jsonl");
  log.truncate(4);
  EXPECT_EQ(log.steps.size(), 4u);
  EXPECT_EQ(log.evaluations.size(), 3u);
  TrainingLogFile file(directory / "resumed.jsonl", log);
  train(file, 5, 9);
  EXPECT_EQ(read_text_file(directory / "resumed.jsonl"), read_text_file(directory / "whole.jsonl"));
}

TEST(TrainingLog, ATornLastLineIsDropped) {
  TemporaryDirectory directory;
  const std::string whole = std::string(kHeader) + kStep;
  for (size_t left = std::string(kHeader).size(); left < whole.size() - 2; ++left) {
    put_file(directory / "log.jsonl", whole.substr(0, left));
    EXPECT_EQ(read_training_log(directory / "log.jsonl").steps.size(), 0u) << left;
  }
  // Only its newline is missing.
  put_file(directory / "log.jsonl", whole.substr(0, whole.size() - 1));
  EXPECT_EQ(read_training_log(directory / "log.jsonl").steps.size(), 1u);
  put_file(directory / "log.jsonl", whole + std::string(100, '\0'));
  EXPECT_EQ(read_training_log(directory / "log.jsonl").steps.size(), 1u);
}

TEST(TrainingLog, ErrorsNameTheLine) {
  const std::string good = std::string(kHeader) + kStep;
  EXPECT_EQ(error_of(good), "none");
  EXPECT_EQ(error_of(""), "log.jsonl: empty, expected a training log");
  EXPECT_EQ(error_of("{}\n"),
            "log.jsonl, line 1: not the first line of a training log: expected \"format\": \"hone "
            "training log\"");
  EXPECT_EQ(error_of(R"({"format":"hone training log","format_version":2})"),
            "log.jsonl, line 1: format version 2, this hone reads 1");
  EXPECT_EQ(error_of(good.substr(0, 20)).find("log.jsonl, line 1: not valid JSON"), 0u);
  EXPECT_EQ(error_of(good + "{\"step\":2,\n" + kStep).find("log.jsonl, line 3: not valid JSON"),
            0u);
  EXPECT_EQ(error_of(good + "[]\n"), "log.jsonl, line 3: expected an object, got array");
  EXPECT_EQ(error_of(good + "{\"step\":2}\n"), "log.jsonl, line 3: 'loss' is missing");
  EXPECT_EQ(error_of(good + kStep),
            "log.jsonl, line 3: step 1 out of order, expected 2 or a later one");
  EXPECT_EQ(error_of(good + "{\"step\":-1,\"eval_loss\":1}\n"),
            "log.jsonl, line 3: step -1 out of order, expected 0 or a later one");
  EXPECT_EQ(error_of(good + "{\"step\":1,\"eval_loss\":\"x\"}\n"),
            "log.jsonl, line 3: 'eval_loss': expected a number, null, \"inf\" or \"-inf\"");
  EXPECT_EQ(error_of(good + "{\"step\":1.5,\"eval_loss\":1}\n"),
            "log.jsonl, line 3: step: expected an integer");
  std::string bad = kStep;
  bad.replace(bad.find("false"), 5, "12345");
  EXPECT_EQ(error_of(kHeader + bad), "log.jsonl, line 2: 'skipped': expected true or false");
  bad = kStep;
  bad.replace(bad.find(":8,"), 3, ":-8,");
  EXPECT_EQ(error_of(kHeader + bad), "log.jsonl, line 2: 'tokens': expected a count, got -8");
}

TEST(TrainingLog, SaysWhereItCannotWrite) {
  TemporaryDirectory directory;
  EXPECT_THROW(TrainingLogFile(directory / "none/log.jsonl", {}), Error);
}

}  // namespace
}  // namespace hone
