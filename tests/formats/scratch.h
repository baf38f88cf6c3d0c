// Helpers of the format tests: a directory that cleans up after itself, bytes built by hand, and a
// matcher for the one clear error that bad input must give.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>

#include "base/error.h"
#include "base/files.h"

namespace hone {

class Scratch {
 public:
  Scratch() {
    std::string pattern = (fs::temp_directory_path() / "hone-formats-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("no scratch directory");
    path_ = pattern;
  }
  ~Scratch() { fs::remove_all(path_); }
  fs::path operator/(const std::string& name) const { return path_ / name; }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

inline void put_file(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}
inline std::string get_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// Little-endian bytes of a number.
template <typename T>
std::string le(T x) {
  return {reinterpret_cast<const char*>(&x), sizeof(T)};
}

/// Runs f, which must raise Error(kind) with every one of `parts` in its message.
inline void expect_error(ErrorKind kind, const std::vector<std::string>& parts,
                         const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_EQ(error_kind_name(e.kind()), std::string(error_kind_name(kind))) << e.what();
    for (const std::string& part : parts)
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos)
          << "no '" << part << "' in: " << e.what();
    return;
  }
  ADD_FAILURE() << "no error was raised; expected one with '" << (parts.empty() ? "" : parts[0])
                << "'";
}

}  // namespace hone
