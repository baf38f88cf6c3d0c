// Base64 (RFC 4648) as tokenizer files hold it.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace hone {

/// The bytes; nothing where `text` is not base64 with its padding.
std::optional<std::string> base64_decode(std::string_view text);
std::string base64_encode(std::string_view bytes);

}  // namespace hone
