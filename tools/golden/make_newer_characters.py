"""Makes src/text/newer_characters.inc: the characters that Hugging Face tokenizers' expressions (Oniguruma)
know and PCRE2 10.42 (Unicode 14) does not, by general category.

Usage: python3.11 tools/golden/make_newer_characters.py > src/text/newer_characters.inc
Pinned: tokenizers 0.23.3 (Unicode 16), Python 3.11 (Unicode 14).
"""
import unicodedata

from tokenizers import Regex, pre_tokenizers

assert unicodedata.unidata_version == "14.0.0"
NEW = [c for c in range(0x80, 0x110000)
       if not 0xD800 <= c < 0xE000 and unicodedata.category(chr(c)) == "Cn"]
CATEGORIES = "Lu Ll Lm Lo Mn Mc Nd No Pd Po Sm So Cf".split()


def members(category):
    split = pre_tokenizers.Split(Regex(rf"\p{{{category}}}"), "removed", invert=True)
    return (ord(c) for part, _ in split.pre_tokenize_str("".join(map(chr, NEW))) for c in part)


category_of = {c: category for category in CATEGORIES for c in members(category)}
ranges = []
for code, category in sorted(category_of.items()):
    if ranges and ranges[-1][1] == code - 1 and ranges[-1][2] == category:
        ranges[-1][1] = code
    else:
        ranges.append([code, code, category])
print("// Made by tools/golden/make_newer_characters.py.")
for first, last, category in ranges:
    print(f"{{0x{first:X}, 0x{last:X}, Category::{category}}},")
