// Fuzz target: a task's file of any bytes, read as the kind that its first byte picks, or as the
// one that its fields say. Only hone::Error may come out; each item has a right answer among its
// choices, and examples can be put in front.
#include <cstdlib>

#include "base/error.h"
#include "eval/task.h"
#include "memory_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace hone;
  if (size == 0) return 0;
  const auto kinds = task_kinds();
  const size_t pick = static_cast<size_t>(data[0] - '0') % (kinds.size() + 1);
  const MemoryFile file(data + 1, size - 1);
  try {
    Task task = read_task(file.path(), pick < kinds.size() ? kinds[pick].name : "");
    for (const TaskItem& item : task.items) {
      if (item.requests.empty() || item.requests.size() != item.choices.size()) std::abort();
      if (item.gold < 0 || item.gold >= std::ssize(item.choices)) std::abort();
    }
    const Task pool = task;
    add_shots(task, pool.items, true, 2);
  } catch (const Error&) {
  }
  return 0;
}
