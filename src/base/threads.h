// A pool of worker threads for data-parallel loops.
//
// Work is split by absolute index, never by thread count, and every item writes its own output:
// results do not depend on how many threads run. Threading lives here, in baseline code; kernels
// are single-threaded functions on ranges.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>

namespace hone {

/// Threads that this process may run at once: the CPUs of its affinity, and no more than its
/// control groups give it time for.
int available_threads();

/// Whole CPUs that the quotas of this process's control groups allow, at least 1; the groups are
/// read under `root`, "/" but in tests. A part of a CPU is left alone: a thread that is stopped
/// half way would stop the loops of all.
int quota_threads(const std::filesystem::path& root);

/// Sets the size of the pool (1 … available_threads(), 0 = all). Not while a loop runs.
void set_threads(int n);
int thread_count();

/// Calls body(begin, end) on disjoint ranges that cover [0, n), each a multiple of `grain` items
/// (but the last), from several threads, and returns when all are done. Nested calls run serially.
/// An exception thrown by a body is rethrown here after the loop has stopped.
void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& body);

}  // namespace hone
