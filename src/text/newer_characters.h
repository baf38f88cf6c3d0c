// Characters that are newer than PCRE2's Unicode (14 in 10.42), for expressions that are to know
// them.
#pragma once

#include <string>
#include <string_view>

namespace hone {

/// `text` (well-formed UTF-8) with every character that Unicode 15 to 16 added replaced by an older
/// one of the same general category and as many bytes: expressions match both alike, at the same
/// offsets. Where `text` has none it is returned itself; otherwise `storage` holds the result.
std::string_view with_older_characters(std::string_view text, std::string& storage);

}  // namespace hone
