#include "text/text_file.h"

#include "base/error.h"
#include "base/files.h"
#include "text/unicode.h"

namespace hone {
namespace {

constexpr size_t kMaxText = size_t{1} << 30;

}  // namespace

std::string read_utf8_file(const fs::path& path) {
  std::string text = read_text_file(path, kMaxText);
  HONE_CHECK(!text.empty(), invalid_argument, "{}: the file is empty", path.string());
  if (is_valid_utf8(text)) return text;
  size_t at = 0;
  while (utf8_at(text, at).valid) at += utf8_at(text, at).size;
  fail(ErrorKind::corrupt, "{}: not UTF-8 text: byte {} begins no character", path.string(), at);
}

}  // namespace hone
