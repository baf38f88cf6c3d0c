// Globs, as recipes and configs name modules with: '*' any text, '?' one character, alternatives
// with '|' between.
#pragma once

#include <string_view>

namespace hone {

/// Whether one of the alternatives is all of `text`.
bool glob_matches(std::string_view glob, std::string_view text);

}  // namespace hone
