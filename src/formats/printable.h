// Names from untrusted files, made safe to print: 'model.norm', 'bad\x1b[2J...'.
#pragma once

#include <string>
#include <string_view>

namespace hone {

/// `name` in single quotes, at most 80 of its bytes, control and non-ASCII bytes as \xNN.
std::string printable(std::string_view name);

}  // namespace hone
