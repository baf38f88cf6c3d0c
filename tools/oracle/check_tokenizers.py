#!/usr/bin/env python3
"""Compares hone's token ids with those of the file's home library on a large generated text.

  check_tokenizers.py --build build [--texts FILE...] [--megabytes 5] TOKENIZER...

A TOKENIZER is a GGUF file (compared with llama.cpp), a tokenizer.json or a directory that holds one
(compared with Hugging Face tokenizers), or a directory with GPT-2's vocab.json and merges.txt (made
into a tokenizer.json first). The text is seeded: runs from every Unicode block, emoji sequences, odd
whitespace, numbers, code, contractions, the texts of special tokens, and pieces of the --texts files;
cut into documents of 0.1 to 4 kB. Exit status 1 where a document differs; the first few are shown.

Pinned: tokenizers 0.23.3, llama-cpp-python 0.3.36.
"""
import argparse
import pathlib
import random
import subprocess
import sys
import tempfile
import unicodedata

import numpy as np

SPACES = [" ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", " \n", "\n ", "\t\t", "\u00a0", "\u2003", "\u3000", "\u200b",
          "\u2028", "\x0b", "\x85", "        ", "\u202f", "\ufeff"]
WORDS = ("don't it's WE'LL I'd they've naïve cliché über straße İstanbul ǅ ﬁne Ⅷ ½ x² 12345 3.14159 1,000,000 "
         "0xFF 2024-11-23 user@example.org https://a.b/c?d=e&f=%20 C++20 #include <vector> def f(x): return x**2 "
         "{\"a\": [1, 2.5e-3, null]} != === -> ... -- —— ‘’ “” «» ¿Qué? 你好，世界 こんにちは 안녕하세요 Привет мир "
         "مرحبا שלום नमस्ते สวัสดี ▁ Ġ Ċ <0x0A> <unk> <s> </s> <bos> <eos> <pad> <|im_start|> <|im_end|> "
         "<|endoftext|> <start_of_turn> <end_of_turn> [INST] [/INST]").split(" ")
EMOJI = ["😀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "🇫🇷🇯🇵", "❤️", "1️⃣", "🧑🏿‍🚀", "🫠", "☂", "™️"]


def unicode_run(rng):
    """A few characters that lie near each other; every plane has its turn, unassigned ones too."""
    top = rng.choice([0x250, 0x3000, 0x10000, 0x20000, 0x110000])
    start = rng.randrange(1, top)
    codes = (start + rng.randrange(0, 48) for _ in range(rng.randint(1, 24)))
    return "".join(chr(c) for c in codes if c < 0x110000 and not 0xD800 <= c < 0xE000)


def english(rng, texts):
    text = rng.choice(texts)
    at = rng.randrange(max(1, len(text) - 600))
    return text[at:at + rng.randint(1, 600)]


def documents(texts, size, seed=1):
    rng = random.Random(seed)
    pieces = [lambda: unicode_run(rng), lambda: rng.choice(SPACES) * rng.choice([1, 1, 1, 2, 7]),
              lambda: rng.choice(WORDS), lambda: rng.choice(EMOJI) * rng.choice([1, 1, 2, 5]),
              lambda: unicodedata.normalize(rng.choice(["NFC", "NFD", "NFKD"]), unicode_run(rng)),
              lambda: rng.choice("aA0.,'-_ é中") * rng.choice([1, 2, 3, 17, 80]), lambda: " "]
    if texts:
        pieces.append(lambda: english(rng, texts))
    out = []
    while size > 0:
        want, parts = rng.randint(100, 4000), []
        while sum(map(len, parts)) < want:
            parts.append(rng.choice(pieces)())
        out.append("".join(parts))
        size -= len(out[-1].encode())
    return out


def load_hf(path, scratch):
    """A tokenizer's path for hone, and a function from texts to lists of ids."""
    import tokenizers
    path = path / "tokenizer.json" if (path / "tokenizer.json").exists() else path
    if path.is_dir():
        made = scratch / "tokenizer.json"
        tokenizers.ByteLevelBPETokenizer(str(path / "vocab.json"), str(path / "merges.txt")).save(str(made))
        path = made
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    return path, lambda texts: [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]


def load_llama_cpp(path):
    import llama_cpp
    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    return path, lambda texts: [model.tokenize(t.encode(), add_bos=False, special=True) for t in texts]


def hone_ids(build, path, texts, scratch):
    given, made = scratch / "texts", scratch / "ids"
    given.write_bytes(b"".join(t.encode() + b"\xff" for t in texts))
    subprocess.run([build / "hone_probe", "tokens", path, given, made], check=True)
    ids = np.fromfile(made, np.int32)
    ends = np.flatnonzero(ids == -1)
    return [part[part >= 0].tolist() for part in np.split(ids, ends + 1)[:len(ends)]]


def check(build, path, texts):
    with tempfile.TemporaryDirectory() as directory:
        scratch = pathlib.Path(directory)
        gguf = path.suffix == ".gguf"
        path, encode = load_llama_cpp(path) if gguf else load_hf(path, scratch)
        theirs = encode(texts)
        ours = hone_ids(build, path, texts, scratch)
    wrong = [i for i in range(len(texts)) if ours[i] != theirs[i]]
    print(f"{path}: {len(texts)} documents, {sum(map(len, theirs))} tokens, {len(wrong)} documents differ from "
          f"{'llama.cpp' if gguf else 'tokenizers'}", flush=True)
    for i in wrong[:3]:
        at = next((k for k, (a, b) in enumerate(zip(ours[i], theirs[i])) if a != b), 0)
        print(f"  from token {at}: hone {ours[i][at:at + 8]}, peer {theirs[i][at:at + 8]} in {texts[i][:60]!r}...")
    return not wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--texts", nargs="*", default=[])
    parser.add_argument("--megabytes", type=float, default=5)
    parser.add_argument("tokenizers", nargs="+", type=pathlib.Path)
    args = parser.parse_args()
    files = [pathlib.Path(t).read_text(encoding="utf-8", errors="replace") for t in args.texts]
    texts = documents(files, args.megabytes * 1e6)
    sys.exit(not all([check(args.build, path, texts) for path in args.tokenizers]))


main()
