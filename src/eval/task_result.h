// What a model makes of a task: its answers, and the figures over them; and how two models' answers
// to the same questions differ.
//
//   accuracy        the likeliest continuation is the right one; of a cloze: each token of it is
//                   the model's likeliest
//   accuracy_norm   the same of log-likelihood ÷ characters of the choice: lm-evaluation-harness's
//                   acc_norm
//   accuracy_bytes  the same per byte of UTF-8: its acc_bytes
//   perplexity      of a cloze: exp of the mean −ln p of whole continuations
// Of equally likely choices the first counts.
#pragma once

#include <limits>
#include <optional>

#include "eval/task_score.h"

namespace hone {

/// A mean over items with its standard error, s/√n with s of n − 1; NaN for a single item.
struct TaskFigure {
  double value = 0, standard_error = std::numeric_limits<double>::quiet_NaN();
};

/// Of one item.
struct TaskAnswer {
  std::vector<TokenRequest> requests;
  std::vector<TaskScore> scores;
  int64_t choice = 0, choice_norm = 0, choice_bytes = 0;
  bool right = false, right_norm = false, right_bytes = false;
};

struct TaskResult {
  std::vector<TaskAnswer> answers;  ///< [items]
  TaskFigure accuracy;
  std::optional<TaskFigure> accuracy_norm, accuracy_bytes;  ///< where choices differ in length
  std::optional<TaskFigure> perplexity;                     ///< of a cloze
  int64_t truncated = 0;  ///< requests whose beginning did not fit the model's context
  TaskTokens tokens;
  double seconds = 0;
};

/// The figures over answers whose scores are there, [items]. The rest of each is filled in.
TaskResult judge_answers(const Task& task, std::vector<TaskAnswer> answers);

/// Answers every item. Raises as tokenize_request and score_groups do, naming file and line.
TaskResult measure_task(LoadedModel& model, const Task& task, const TaskRunOptions& options);

/// A model against a reference on the same items.
struct TaskComparison {
  TaskFigure difference;                      ///< of accuracy; the error is of the paired items
  std::optional<TaskFigure> difference_norm;  ///< of accuracy_norm
  int64_t gained = 0, lost = 0;               ///< items right here alone, and there alone
  int64_t changed = 0;                        ///< items with another answer, right or wrong
  /// Exact McNemar test: how probable so uneven gained and lost are where both are equally likely.
  double mcnemar_p = 1;
};
TaskComparison compare_tasks(const TaskResult& result, const TaskResult& reference);

/// One line of JSON for each item: what was asked, and what each model said.
std::string task_samples(const Task& task, const TaskResult& result, const TaskResult* reference);

}  // namespace hone
