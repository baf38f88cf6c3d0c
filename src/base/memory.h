// How much memory this process may still take, so that what will not fit is refused before it is
// begun, with one line, and not ended by the kernel half way.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

namespace hone {

/// Bytes that this process may still take: the least of what the machine has free, what its control
/// groups leave it, and what its address space limit (RLIMIT_AS) does. Files in the page cache
/// count as free, since the kernel drops them when asked for memory; swap does not count. INT64_MAX
/// where nothing is known.
int64_t available_memory();

/// The part of available_memory() that is read from files, under `root` instead of "/".
int64_t available_memory_by_files(const std::filesystem::path& root);

/// Raises Error(out_of_memory), "WHAT: needs 12.3 GB of memory, 3.10 GB are free", unless `bytes`
/// are available now.
void require_memory(int64_t bytes, std::string_view what);

/// Bytes of this process that are in memory now; 0 where the system does not say.
int64_t resident_bytes();

/// From now on large blocks go back to the system when they are freed. glibc would soon keep them
/// in its heap, where what a file's header and vocabulary took while they were read stays beside
/// the weights.
void give_back_freed_memory();

}  // namespace hone
