#!/usr/bin/env python3
"""Goldens of the tokenizer files other than tokenizer.json, each with what its own library makes of it.

Written with sentencepiece 0.2.3, tiktoken 0.14.0, rwkv 0.8.32, Python 3.11.
Usage: make_tokenizer_files.py RWKV_VOCABULARY

Writes tests/golden/tokenizers/files/: spm_bpe.model and spm_unigram.model (SentencePiece), qwen.tiktoken
(the ranks of the golden qwen2, with Qwen 1's expression and special tokens), rwkv.txt (a vocabulary as
RWKV "world" has it), and for each NAME.json: {"ids": one list for each text}; world.json has the ids that
RWKV_VOCABULARY (rwkv_vocab_v20230424.txt, too large to keep) gives. Texts: those of texts.json that are no
normalised forms of others; sentencepiece gets no special tokens in its texts.
"""
import base64
import json
import sys
import unicodedata
from pathlib import Path

import sentencepiece as spm
import tiktoken
from rwkv.rwkv_tokenizer import TRIE_TOKENIZER

from make_tokenizers import FRAGMENTS, OUT, QWEN2, dump, train_sentencepiece

FILES = OUT / "files"
BYTE_LETTERS = {}


def letters():
    """The byte alphabet of byte-level BPE."""
    shown = [b for b in range(256) if 0x20 < b < 0x7F or 0xA0 < b and b != 0xAD]
    table = {chr(b): b for b in shown}
    for n, b in enumerate(b for b in range(256) if b not in shown):
        table[chr(0x100 + n)] = b
    return table


def write(name, ids):
    (FILES / f"{name}.json").write_text(dump({"ids": ids}))
    assert (FILES / f"{name}.json").stat().st_size <= 200_000


def write_sentencepiece(texts):
    common = dict(vocab_size=1000, remove_extra_whitespaces=False)
    for name, options in [("spm_bpe", dict(model_type="bpe", byte_fallback=True, **common)),
                          ("spm_unigram", dict(model_type="unigram", vocab_size=700)),
                          ("spm_unigram_bytes", dict(model_type="unigram", byte_fallback=True, **(common | {"vocab_size": 950})))]:
        model = train_sentencepiece(**options)
        (FILES / f"{name}.model").write_bytes(model)
        processor = spm.SentencePieceProcessor(model_proto=model)
        write(name, [processor.encode(t) for t in texts])


def write_ranks(texts):
    document = json.loads((OUT / "qwen2.tokenizer.json").read_text())
    special = {t["id"] for t in document["added_tokens"]}
    table = letters()
    ranks = {bytes(table[c] for c in text): id for text, id in document["model"]["vocab"].items()
             if id not in special}
    assert sorted(ranks.values()) == list(range(len(ranks)))
    lines = [f"{base64.b64encode(t).decode()} {r}\n" for t, r in sorted(ranks.items(), key=lambda e: e[1])]
    (FILES / "qwen.tiktoken").write_text("".join(lines))
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] + [f"<|extra_{i}|>" for i in range(205)]
    specials = {n: len(ranks) + i for i, n in enumerate(names)}
    encoding = tiktoken.Encoding("qwen", pat_str=QWEN2, mergeable_ranks=ranks, special_tokens=specials)
    write("qwen", [encoding.encode(unicodedata.normalize("NFC", t), allowed_special="all") for t in texts])


def write_rwkv(texts, world):
    words = {w.encode() for f in FRAGMENTS for w in f.split(" ") if len(w.encode()) > 1}
    words |= {b" " + w[:5] for w in words} | {w[:4] for w in words} | {b"  ", b"\n\n", b"'s", b'"', b"\\n", b"\xe3\x80"}
    words = sorted((w for w in words if len(w) > 1), key=lambda w: (len(w), w))
    words = words[:700]
    lines = []
    for id, token in enumerate([bytes([b]) for b in range(256)] + words, 1):
        try:
            shown = repr(token.decode())
        except UnicodeDecodeError:
            shown = repr(token)
        lines.append(f"{id} {shown} {len(token)}\n")
    path = FILES / "rwkv.txt"
    path.write_text("".join(lines), encoding="utf-8")
    for name, vocabulary in [("rwkv", path), ("world", world)]:
        tokenizer = TRIE_TOKENIZER(str(vocabulary))
        write(name, [tokenizer.encode(t) for t in texts])


def main():
    FILES.mkdir(exist_ok=True)
    texts = json.loads((OUT / "texts.json").read_text())
    write_sentencepiece(texts)
    write_ranks(texts)
    write_rwkv(texts, sys.argv[1])


main()
