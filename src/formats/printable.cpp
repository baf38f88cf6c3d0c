#include "formats/printable.h"

#include <fmt/core.h>

namespace hone {

std::string printable(std::string_view name) {
  constexpr size_t kLimit = 80;
  std::string out = "'";
  for (char c : name.substr(0, kLimit)) {
    if (c >= ' ' && c <= '~')
      out += c;
    else
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  }
  if (name.size() > kLimit) out += "...";
  return out + "'";
}

}  // namespace hone
