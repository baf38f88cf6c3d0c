// The one exception type of hone, and the two checks that raise it.
//
// HONE_CHECK is for what the outside world may get wrong (files, flags, requests): its message says
// what was expected, what came, and where. HONE_ASSERT is for our own bugs.
#pragma once

#include <fmt/core.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace hone {

enum class ErrorKind { invalid_argument, unsupported, corrupt, io, out_of_memory, internal };

/// The field's name of a kind, for messages and JSON ("corrupt", "io", ...).
const char* error_kind_name(ErrorKind kind);

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

[[noreturn]] void throw_error(ErrorKind kind, std::string message);
[[noreturn]] void assertion_failed(const char* expression, const char* file, int line);

/// Raises Error(kind) with a formatted message.
template <typename... Args>
[[noreturn]] void fail(ErrorKind kind, fmt::format_string<Args...> format, Args&&... args) {
  throw_error(kind, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace hone

// Input check: HONE_CHECK(rows > 0, invalid_argument, "rows: expected > 0, got {}", rows)
#define HONE_CHECK(condition, kind, ...)                  \
  do {                                                    \
    if (!(condition)) [[unlikely]]                        \
      ::hone::fail(::hone::ErrorKind::kind, __VA_ARGS__); \
  } while (0)

// Bug check: always on, also in Release; keep it out of inner loops.
#define HONE_ASSERT(condition)                                  \
  do {                                                          \
    if (!(condition)) [[unlikely]]                              \
      ::hone::assertion_failed(#condition, __FILE__, __LINE__); \
  } while (0)
