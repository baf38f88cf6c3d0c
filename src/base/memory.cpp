#include "base/memory.h"

#include <malloc.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <string>

#include "base/cgroup.h"
#include "base/error.h"
#include "base/log.h"

namespace hone {
namespace {

namespace fs = std::filesystem;
constexpr double kUnknown = std::numeric_limits<double>::infinity();

// The value behind `key` in a file of lines "key value ..."; 0 where it is missing.
double keyed_value(const fs::path& path, std::string_view key, double missing = 0) {
  std::ifstream file(path);
  std::string word;
  for (double value = 0; file >> word; file.ignore(4096, '\n'))
    if (word == key && file >> value) return value;
  return missing;
}

// What a control group leaves: its limit, less its use, where cached files are no use.
double left_in_group(const fs::path& group) {
  struct Names {
    const char *limit, *usage, *active_files, *inactive_files;
  };
  constexpr Names kVersions[] = {
      {"memory.max", "memory.current", "active_file", "inactive_file"},
      {"memory.limit_in_bytes", "memory.usage_in_bytes", "total_active_file",
       "total_inactive_file"},
  };
  for (const Names& names : kVersions) {
    std::optional<double> limit = read_limit(group / names.limit);
    std::optional<double> usage = read_limit(group / names.usage);
    if (!limit || !usage) continue;
    const fs::path stat = group / "memory.stat";
    double files = keyed_value(stat, names.active_files) + keyed_value(stat, names.inactive_files);
    return *limit - std::max(0.0, *usage - files);
  }
  return kUnknown;
}

double left_in_address_space() {
  struct rlimit limit {};
  if (::getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return kUnknown;
  double pages = read_limit("/proc/self/statm").value_or(0);
  return static_cast<double>(limit.rlim_cur) - pages * double(::sysconf(_SC_PAGESIZE));
}

// Whole bytes; doubles up to 2^53 are exact, and memory is less.
int64_t as_bytes(double bytes) {
  if (bytes >= 9e18) return std::numeric_limits<int64_t>::max();
  return static_cast<int64_t>(std::max(0.0, bytes));
}

}  // namespace

int64_t available_memory_by_files(const fs::path& root) {
  double left = 1024 * keyed_value(root / "proc/meminfo", "MemAvailable:", kUnknown);
  for (const fs::path& group : cgroup_directories(root, "memory"))
    left = std::min(left, left_in_group(group));
  return as_bytes(left);
}

int64_t available_memory() {
  return std::min(available_memory_by_files("/"), as_bytes(left_in_address_space()));
}

int64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  int64_t all = 0, resident = 0;
  if (!(file >> all >> resident)) return 0;
  return resident * ::sysconf(_SC_PAGESIZE);
}

void give_back_freed_memory() {
#ifdef __GLIBC__
  ::mallopt(M_MMAP_THRESHOLD, 128 << 10);  // which sets it for good
#endif
}

void require_memory(int64_t bytes, std::string_view what) {
  int64_t free = available_memory();
  HONE_CHECK(bytes <= free, out_of_memory, "{}: needs {} of memory, {} are free", what,
             human_bytes(double(bytes)), human_bytes(double(free)));
}

}  // namespace hone
