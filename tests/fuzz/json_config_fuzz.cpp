// Any bytes as JSON: an Error, or a value that survives being written and read again.
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace hone;
  Json value;
  try {
    value = parse_json({reinterpret_cast<const char*>(data), size}, "fuzz");
  } catch (const Error&) {
    return 0;
  }
  std::string text = value.dump();
  if (parse_json(text, "again").dump() != text) std::abort();
  return 0;
}
