// Multiple-choice and cloze tasks: a JSONL file of questions becomes items, and an item is what a
// model has to find likely: pairs of a context and a continuation, of which one is right.
//
// Prompts are those of lm-evaluation-harness (0.4), character for character, so that figures can be
// compared; what its task definitions do to a data set's fields is done here, too. A kind of task
// is an entry of the table in task_kinds.cpp.
//
// A file has either the fields of the data set as it was published (and as Hugging Face's datasets
// have them), or those of MosaicML's llm-foundry: query, choices, gold; context_options,
// continuation, gold; context, continuation.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace hone {

/// A continuation whose probability behind a context is asked for.
struct TaskRequest {
  std::string context, continuation;
};

struct TaskItem {
  std::vector<TaskRequest> requests;  ///< one for each choice; a cloze has one
  std::vector<std::string> choices;   ///< [requests]: by whose lengths likelihoods are normalised
  int64_t gold = 0;                   ///< the right one
  /// The question with its right answer, as it stands in front of other questions.
  std::string example;
  int64_t line = 0;  ///< of the file, from 1
};

/// A record of a file, for readers of kinds: all raise corrupt, naming file, line and field.
class TaskRecord {
 public:
  TaskRecord(const Json& json, std::string where) : json_(json), where_(std::move(where)) {}
  bool has(std::string_view field) const;
  const Json& operator[](std::string_view field) const;
  std::string text(std::string_view field) const;
  /// A list of at least one string.
  std::vector<std::string> texts(std::string_view field) const;
  /// A whole number from 0 to count − 1; also as a string that spells it, as some files have it,
  /// and true and false where there are two.
  int64_t index(std::string_view field, size_t count) const;
  TaskRecord object(std::string_view field) const;
  [[noreturn]] void bad(const std::string& what) const;
  const std::string& where() const { return where_; }

 private:
  const Json& json_;
  std::string where_;
};

struct TaskKind {
  const char* name;  ///< "arc_easy": as lm-evaluation-harness calls it
  const char* what;  ///< for help: the data set's fields
  /// Parts of a file's name that say what it holds, where fields do not.
  std::vector<std::string_view> files;
  /// Whether a record's fields are those of this kind and of no other.
  bool (*fits)(const TaskRecord& record);
  TaskItem (*read)(const TaskRecord& record);
  /// One continuation: right where it is what the model would say. Perplexity is of it as a whole.
  bool cloze = false;
  /// Whether choices differ in length, so that accuracy is given by likelihood per character too.
  bool normalised = true;
};

std::span<const TaskKind> task_kinds();
/// Raises invalid_argument, with the names there are.
const TaskKind& task_kind(const std::string& name);
/// "arc_easy, arc_challenge, ...": for help and errors.
std::string task_kind_names();

struct Task {
  const TaskKind* kind = nullptr;
  std::string path;
  std::vector<TaskItem> items;
};

/// The items of a file of JSON lines (or one JSON list). An empty `kind` is found from the fields
/// of the first record or from the file's name. `limit` > 0: only the first so many. Raises io;
/// corrupt, naming file and line, on what is not JSON or lacks a field; invalid_argument where no
/// kind fits.
Task read_task(const std::filesystem::path& path, const std::string& kind = {}, int64_t limit = 0);

/// Puts `count` examples in front of each item, an empty line behind each, drawn from `pool` as
/// lm-evaluation-harness draws them with its default seed: Python's random.sample from one
/// generator that goes on from item to item. `same`: pool[i] is item i, which is not its own
/// example. Raises invalid_argument where the pool has too few.
void add_shots(Task& task, std::span<const TaskItem> pool, bool same, int64_t count,
               uint32_t seed = 1234);

}  // namespace hone
