#include "base/error.h"

namespace hone {

const char* error_kind_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::invalid_argument:
      return "invalid_argument";
    case ErrorKind::unsupported:
      return "unsupported";
    case ErrorKind::corrupt:
      return "corrupt";
    case ErrorKind::io:
      return "io";
    case ErrorKind::out_of_memory:
      return "out_of_memory";
    case ErrorKind::internal:
      return "internal";
  }
  return "internal";
}

void throw_error(ErrorKind kind, std::string message) { throw Error(kind, message); }

void assertion_failed(const char* expression, const char* file, int line) {
  fail(ErrorKind::internal, "internal error: {} does not hold ({}:{}); please report it",
       expression, file, line);
}

}  // namespace hone
