// A 64-bit fingerprint of a file's bytes: tells whether it is still the file it was. Not
// cryptographic: nobody is kept from forging one.
#pragma once

#include <cstdint>
#include <filesystem>

namespace hone {

/// Reads the whole file, in parallel; raises io. Independent of the thread count.
uint64_t file_fingerprint(const std::filesystem::path& path);

}  // namespace hone
