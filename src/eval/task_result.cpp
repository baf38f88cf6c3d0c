#include "eval/task_result.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"
#include "base/threads.h"
#include "models/session.h"
#include "text/jinja_strings.h"

namespace hone {
namespace {

template <typename Value>
TaskFigure mean(size_t n, Value value) {
  TaskFigure f;
  for (size_t i = 0; i < n; ++i) f.value += value(i);
  f.value /= double(n);
  double squares = 0;
  for (size_t i = 0; i < n; ++i) squares += (value(i) - f.value) * (value(i) - f.value);
  if (n > 1) f.standard_error = std::sqrt(squares / double(n - 1) / double(n));
  return f;
}

// The first of the likeliest, each divided by `length` of it.
template <typename Length>
int64_t best(const std::vector<TaskScore>& scores, Length length) {
  auto value = [&](size_t i) { return scores[i].log_likelihood / length(i); };
  size_t top = 0;
  for (size_t i = 1; i < scores.size(); ++i)
    if (value(i) > value(top)) top = i;
  return int64_t(top);
}

void answer(const TaskKind& kind, const TaskItem& item, TaskAnswer& a) {
  a.choice = best(a.scores, [](size_t) { return 1.0; });
  // An empty choice has no length to divide by.
  a.choice_norm = best(a.scores, [&](size_t i) {
    return std::max(1.0, double(jinja::code_points(item.choices[i])));
  });
  a.choice_bytes =
      best(a.scores, [&](size_t i) { return std::max(1.0, double(item.choices[i].size())); });
  a.right = kind.cloze ? a.scores[0].greedy : a.choice == item.gold;
  a.right_norm = a.choice_norm == item.gold;
  a.right_bytes = a.choice_bytes == item.gold;
}

// Of a model that streams.
constexpr int64_t kMostRoom = int64_t{1} << 30;

// Tokens of all requests, and how many of these were cut.
int64_t tokenize(const LoadedModel& model, const Task& task, int64_t room,
                 std::vector<TaskAnswer>& answers) {
  std::vector<int64_t> cut(task.items.size(), 0);
  parallel_for(std::ssize(task.items), 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) try {
        for (const TaskRequest& r : task.items[size_t(i)].requests) {
          TokenRequest t = tokenize_request(model, r, room);
          cut[size_t(i)] += t.cut;
          answers[size_t(i)].requests.push_back(std::move(t));
        }
      } catch (const Error& e) {
        throw Error(e.kind(),
                    fmt::format("{}:{}: {}", task.path, task.items[size_t(i)].line, e.what()));
      }
  });
  int64_t sum = 0;
  for (int64_t c : cut) sum += c;
  return sum;
}

}  // namespace

TaskResult judge_answers(const Task& task, std::vector<TaskAnswer> answers) {
  HONE_ASSERT(answers.size() == task.items.size());
  TaskResult result;
  const size_t n = answers.size();
  for (size_t i = 0; i < n; ++i) answer(*task.kind, task.items[i], answers[i]);
  result.answers = std::move(answers);
  const std::vector<TaskAnswer>& all = result.answers;
  result.accuracy = mean(n, [&](size_t i) { return double(all[i].right); });
  if (task.kind->normalised) {
    result.accuracy_norm = mean(n, [&](size_t i) { return double(all[i].right_norm); });
    result.accuracy_bytes = mean(n, [&](size_t i) { return double(all[i].right_bytes); });
  }
  if (task.kind->cloze) {
    // The error of exp(x) is that of x times exp(x).
    TaskFigure f = mean(n, [&](size_t i) { return -all[i].scores[0].log_likelihood; });
    f.value = std::exp(f.value);
    f.standard_error *= f.value;
    result.perplexity = f;
  }
  return result;
}

TaskResult measure_task(LoadedModel& model, const Task& task, const TaskRunOptions& options) {
  const double started = monotonic_seconds();
  std::vector<TaskAnswer> answers(task.items.size());
  const int64_t truncated =
      tokenize(model, task, std::min(room_behind(*model.model, 0), kMostRoom), answers);
  std::vector<std::vector<TokenRequest>> groups;
  size_t longest = 0;
  for (const TaskAnswer& a : answers) {
    groups.push_back(a.requests);
    for (const TokenRequest& r : a.requests) longest = std::max(longest, r.tokens.size());
  }
  model.model->set_reach(static_cast<int64_t>(longest));
  Progress progress(task.kind->name, std::ssize(groups));
  int64_t done = 0, right = 0;
  TaskTokens tokens;
  score_groups(model, groups, options, tokens, [&](size_t i, const std::vector<TaskScore>& scores) {
    answers[i].scores = scores;
    answer(*task.kind, task.items[i], answers[i]);
    right += answers[i].right;
    ++done;
    progress.update(done, fmt::format("accuracy {:.2f} %", 100.0 * double(right) / double(done)));
  });
  TaskResult result = judge_answers(task, std::move(answers));
  result.truncated = truncated;
  result.tokens = tokens;
  result.seconds = monotonic_seconds() - started;
  return result;
}

namespace {

// 2·P(at most k of n heads), for a fair coin, at most 1.
double two_sided(int64_t k, int64_t n) {
  double p = 0;
  for (int64_t i = 0; i <= k; ++i)
    p += std::exp(std::lgamma(double(n) + 1) - std::lgamma(double(i) + 1) -
                  std::lgamma(double(n - i) + 1) - double(n) * std::log(2.0));
  return std::min(1.0, 2 * p);
}

}  // namespace

TaskComparison compare_tasks(const TaskResult& result, const TaskResult& reference) {
  const std::vector<TaskAnswer>&a = result.answers, &b = reference.answers;
  HONE_ASSERT(a.size() == b.size());
  TaskComparison c;
  c.difference = mean(a.size(), [&](size_t i) { return double(a[i].right) - double(b[i].right); });
  if (result.accuracy_norm)
    c.difference_norm =
        mean(a.size(), [&](size_t i) { return double(a[i].right_norm) - double(b[i].right_norm); });
  for (size_t i = 0; i < a.size(); ++i) {
    c.gained += a[i].right && !b[i].right;
    c.lost += !a[i].right && b[i].right;
    // A cloze has one choice: its answer is whether the model would say it.
    c.changed += a[i].scores.size() > 1 ? a[i].choice != b[i].choice : a[i].right != b[i].right;
  }
  c.mcnemar_p = two_sided(std::min(c.gained, c.lost), c.gained + c.lost);
  return c;
}

namespace {

Json answer_json(const TaskAnswer& a) {
  Json j;
  for (const TaskScore& s : a.scores) {
    j["log_likelihoods"].push_back(s.log_likelihood);
    j["greedy"].push_back(s.greedy);
  }
  j["choice"] = a.choice;
  j["choice_norm"] = a.choice_norm;
  j["right"] = a.right;
  return j;
}

}  // namespace

std::string task_samples(const Task& task, const TaskResult& result, const TaskResult* reference) {
  std::string out;
  for (size_t i = 0; i < task.items.size(); ++i) {
    const TaskItem& item = task.items[i];
    const TaskAnswer& a = result.answers[i];
    Json j;
    j["task"] = task.kind->name;
    j["line"] = item.line;
    j["gold"] = item.gold;
    for (size_t r = 0; r < item.requests.size(); ++r) {
      const TokenRequest& t = a.requests[r];
      j["requests"].push_back({{"context", item.requests[r].context},
                               {"continuation", item.requests[r].continuation},
                               {"tokens", t.tokens},
                               {"context_tokens", t.scored_from}});
    }
    j.update(answer_json(a));
    if (reference) j["reference"] = answer_json(reference->answers[i]);
    out += j.dump() + "\n";
  }
  return out;
}

}  // namespace hone
