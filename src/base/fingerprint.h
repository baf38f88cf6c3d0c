// A 64-bit fingerprint of a file's bytes, or of bytes in memory: tells whether they are still what
// they were. Not cryptographic: nobody is kept from forging one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

namespace hone {

/// Reads the whole file, in parallel; raises io. Independent of the thread count.
uint64_t file_fingerprint(const std::filesystem::path& path);

/// Of bytes in memory. `before` is the fingerprint of what went before them: the fingerprint of a
/// chain of parts depends on where the parts are cut.
uint64_t bytes_fingerprint(std::string_view bytes, uint64_t before = 0);

}  // namespace hone
