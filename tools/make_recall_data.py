#!/usr/bin/env python3
"""Writes the recall task of docs/recurrent-memory.md: train.jsonl, held-out.jsonl, tokenizer.json.

An example shows four keys with their values, in any order, then dots, then asks for the values:

  c7a0dEb3.......................?   →   a0b3c7dE

One character is one token. The keys of the answer stand always in the same order and cost nothing;
its four values are uniform among 16, so that nothing below 4·ln 16 nats an answer is possible
without what stands at the beginning, `length` − 16 tokens before.

  tools/make_recall_data.py DIRECTORY [--length 48] [--examples 20000] [--seed 1]
"""

import argparse
import json
import random
from pathlib import Path

KEYS, VALUES, FILLER, ASK = "abcd", "0123456789ABCDEF", ".", "?"


def example(draw, length):
    """Of `length` tokens, answer and all."""
    values = {key: draw.choice(VALUES) for key in KEYS}
    shown = draw.sample(KEYS, len(KEYS))
    pairs = "".join(key + values[key] for key in shown)
    answer = "".join(key + values[key] for key in KEYS)
    filler = FILLER * (length - len(pairs) - len(answer) - 1)
    return {"prompt": pairs + filler + ASK, "completion": answer}


def tokenizer():
    vocabulary = {c: i for i, c in enumerate(KEYS + VALUES + FILLER + ASK)}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                  "use_regex": True}
    return {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--length", type=int, default=48, help="tokens of an example")
    parser.add_argument("--examples", type=int, default=20000)
    parser.add_argument("--held-out", type=int, default=512)
    parser.add_argument("--seed", type=int, default=1)
    a = parser.parse_args()
    if a.length < 2 * 2 * len(KEYS) + 1:
        parser.error(f"--length {a.length}: pairs, question and answer take {4 * len(KEYS) + 1}")
    a.directory.mkdir(parents=True, exist_ok=True)
    draw = random.Random(a.seed)
    for name, count in (("held-out", a.held_out), ("train", a.examples)):
        lines = [json.dumps(example(draw, a.length)) + "\n" for _ in range(count)]
        (a.directory / f"{name}.jsonl").write_text("".join(lines))
    (a.directory / "tokenizer.json").write_text(json.dumps(tokenizer(), indent=1) + "\n")


if __name__ == "__main__":
    main()
