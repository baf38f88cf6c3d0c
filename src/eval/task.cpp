#include "eval/task.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "text/data_file.h"
#include "text/unicode.h"

namespace hone {

bool TaskRecord::has(std::string_view field) const {
  return json_.is_object() && json_.contains(field);
}

void TaskRecord::bad(const std::string& what) const {
  fail(ErrorKind::corrupt, "{}: {}", where_, what);
}

const Json& TaskRecord::operator[](std::string_view field) const {
  if (!json_.is_object()) bad("expected an object of fields");
  auto at = json_.find(field);
  if (at == json_.end()) bad(fmt::format("there is no '{}'", field));
  return *at;
}

std::string TaskRecord::text(std::string_view field) const {
  const Json& value = (*this)[field];
  if (!value.is_string()) bad(fmt::format("'{}': expected a string", field));
  return value.get<std::string>();
}

std::vector<std::string> TaskRecord::texts(std::string_view field) const {
  const Json& value = (*this)[field];
  const bool fine = value.is_array() && !value.empty() &&
                    std::ranges::all_of(value, [](const Json& x) { return x.is_string(); });
  if (!fine) bad(fmt::format("'{}': expected a list of strings", field));
  return value.get<std::vector<std::string>>();
}

int64_t TaskRecord::index(std::string_view field, size_t count) const {
  const Json& value = (*this)[field];
  int64_t i = -1;
  if (value.is_boolean() && count == 2) {
    i = value.get<bool>() ? 1 : 0;
  } else if (value.is_string()) {
    const auto& text = value.get_ref<const std::string&>();
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), i);
    if (error != std::errc() || end != text.data() + text.size()) i = -1;
  } else if (value.is_number_integer()) {
    i = json_integer(value, field, where_);
  }
  if (i < 0 || i >= static_cast<int64_t>(count))
    bad(fmt::format("'{}': expected a whole number from 0 to {}", field, count - 1));
  return i;
}

TaskRecord TaskRecord::object(std::string_view field) const {
  const Json& value = (*this)[field];
  if (!value.is_object()) bad(fmt::format("'{}': expected an object", field));
  return {value, fmt::format("{}: '{}'", where_, field)};
}

const TaskKind& task_kind(const std::string& name) {
  const auto kinds = task_kinds();
  const auto at = std::ranges::find(kinds, name, &TaskKind::name);
  HONE_CHECK(at != kinds.end(), invalid_argument, "task kind '{}': expected one of {}", name,
             task_kind_names());
  return *at;
}

std::string task_kind_names() {
  std::string all;
  for (const TaskKind& k : task_kinds()) all += (all.empty() ? "" : ", ") + std::string(k.name);
  return all;
}

namespace {

// By fields, and by the name among kinds that share theirs; by the name alone where fields say
// nothing.
const TaskKind& detect(const TaskRecord& record, const std::filesystem::path& path) {
  const std::string name = lowercase(replace_ill_formed(path.stem().string()));
  auto named = [&](const TaskKind& k) {
    return std::ranges::any_of(k.files, [&](auto part) { return name.find(part) != name.npos; });
  };
  for (const TaskKind& k : task_kinds())
    if (k.fits(record) && named(k)) return k;
  for (const TaskKind& k : task_kinds())
    if (k.fits(record)) return k;
  for (const TaskKind& k : task_kinds())
    if (named(k)) return k;
  if (record.has("choices")) return task_kind("multiple_choice");
  fail(ErrorKind::invalid_argument, "{}: its fields are those of no task; the kinds are {}",
       record.where(), task_kind_names());
}

}  // namespace

Task read_task(const std::filesystem::path& path, const std::string& kind, int64_t limit) {
  Task task;
  task.path = path.string();
  if (!kind.empty()) task.kind = &task_kind(kind);
  DataFile file(path, false);
  DataPiece piece;
  while (file.next(piece) && (limit <= 0 || std::ssize(task.items) < limit)) {
    const std::string where = file.where(piece);
    const Json json = parse_json(piece.text, where);
    const TaskRecord record(json, where);
    if (task.kind == nullptr) task.kind = &detect(record, path);
    TaskItem item = task.kind->read(record);
    HONE_ASSERT(item.choices.size() == item.requests.size());
    const auto gold = static_cast<size_t>(item.gold);
    item.example = item.requests[gold].context + " " + item.choices[gold];
    item.line = piece.line;
    task.items.push_back(std::move(item));
  }
  HONE_CHECK(!task.items.empty(), corrupt, "{}: it has no records", task.path);
  return task;
}

}  // namespace hone
