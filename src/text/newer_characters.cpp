#include "text/newer_characters.h"

#include <algorithm>
#include <iterator>

#include "text/unicode.h"

namespace hone {
namespace {

enum class Category { Lu, Ll, Lm, Lo, Mn, Mc, Nd, No, Pd, Po, Sm, So, Cf };

struct NewRange {
  char32_t first, last;
  Category category;
};
constexpr NewRange kNewer[] = {
#include "text/newer_characters.inc"
};

// By category, of three and of four bytes; 0 where no newer character needs one.
constexpr char32_t kOlder[][2] = {
    {0x1E00, 0x10400},  // Lu
    {0x1E01, 0x10428},  // Ll
    {0x1D2C, 0x16B40},  // Lm
    {0x0E01, 0x10280},  // Lo
    {0x0E31, 0x11001},  // Mn
    {0x0903, 0x11000},  // Mc
    {0, 0x104A0},       // Nd
    {0, 0x10107},       // No
    {0, 0x10EAD},       // Pd
    {0x0964, 0x11047},  // Po
    {0, 0x1D6C1},       // Sm
    {0x2400, 0x1D000},  // So
    {0, 0x110BD},       // Cf
};
constexpr char32_t kIdeographs = 0x20000;  // from here on all letters are of the script Han

// What stands for `code`; 0: itself.
char32_t older(char32_t code) {
  const NewRange* r =
      std::upper_bound(std::begin(kNewer), std::end(kNewer), code,
                       [](char32_t c, const NewRange& range) { return c < range.first; });
  if (r == std::begin(kNewer) || code > (--r)->last) return 0;
  return code >= kIdeographs ? kIdeographs : kOlder[static_cast<int>(r->category)][code > 0xFFFF];
}

}  // namespace

std::string_view with_older_characters(std::string_view text, std::string& storage) {
  bool copied = false;
  for (size_t i = 0; i < text.size();) {
    if (static_cast<unsigned char>(text[i]) < 0xE0) {  // the table begins with three bytes
      ++i;
      continue;
    }
    const Utf8Char c = utf8_at(text, i);
    if (const char32_t stand_in = older(c.code)) {
      if (!copied) storage = text;
      copied = true;
      std::string bytes;
      append_utf8(bytes, stand_in);
      storage.replace(i, bytes.size(), bytes);
    }
    i += c.size;
  }
  return copied ? std::string_view(storage) : text;
}

}  // namespace hone
