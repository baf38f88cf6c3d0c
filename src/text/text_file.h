// Text that a user gives as a file.
#pragma once

#include <filesystem>
#include <string>

namespace hone {

/// The whole file, at most 1 GiB of well-formed UTF-8, not empty. Raises io or corrupt, naming the
/// file and the byte.
std::string read_utf8_file(const std::filesystem::path& path);

}  // namespace hone
