#!/usr/bin/env python3
"""Writes src/text/older_categories.inc: what Hugging Face tokenizers does not know as punctuation, marks
and format characters.

Its BertNormalizer, BertPreTokenizer and Punctuation have the tables of Unicode 8. This asks them about
every character of category P, Mn or Cf in Python's Unicode, and adds what Unicode 15 brought.

Written with tokenizers 0.23.3, Python 3.11 (Unicode 14).
"""
import sys
import unicodedata
from pathlib import Path

from tokenizers import normalizers, pre_tokenizers

OUT = Path(__file__).resolve().parents[2] / "src" / "text" / "older_categories.inc"
UNICODE_15 = [(0xECE, 0xECE), (0x10EFD, 0x10EFF), (0x11241, 0x11241), (0x11B00, 0x11B09), (0x11F00, 0x11F01),
              (0x11F36, 0x11F3A), (0x11F40, 0x11F40), (0x11F42, 0x11F4F), (0x13439, 0x13440), (0x13447, 0x13455),
              (0x1E08F, 0x1E08F), (0x1E4EC, 0x1E4EF)]

clean = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=False, strip_accents=False, lowercase=False)
marks = normalizers.BertNormalizer(clean_text=False, handle_chinese_chars=False, strip_accents=True, lowercase=False)
split = pre_tokenizers.BertPreTokenizer()


def known(code, category):
    c = chr(code)
    if category == "Cf":
        return clean.normalize_str("a" + c) == "a"
    if category == "Mn":
        return marks.normalize_str("a" + c) != unicodedata.normalize("NFD", "a" + c)
    return len(split.pre_tokenize_str("a" + c + "b")) == 3


def main():
    unknown = {c for first, last in UNICODE_15 for c in range(first, last + 1)}
    for code in range(0x80, sys.maxunicode + 1):
        category = unicodedata.category(chr(code))
        if (category in ("Cf", "Mn") or category[0] == "P") and not known(code, category):
            unknown.add(code)
    ranges = []
    for code in sorted(unknown):
        if ranges and code == ranges[-1][1] + 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    items = [f"{{{a:#x}, {b:#x}}}," for a, b in ranges]
    lines, line = ["// Written by tools/golden/make_older_categories.py."], ""
    for item in items:
        if len(line) + len(item) + 1 > 100:
            lines.append(line)
            line = ""
        line += (" " if line else "") + item
    OUT.write_text("\n".join(lines + [line]) + "\n")


main()
