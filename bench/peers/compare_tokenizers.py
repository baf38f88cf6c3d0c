#!/usr/bin/env python3
"""Speed of hone's tokenizers and of Hugging Face tokenizers on one text, one thread each, in one run.

  compare_tokenizers.py --build build --text FILE TOKENIZER_JSON...

Needs the package tokenizers and a build with -DHONE_BENCH=ON. Megabytes (10^6 bytes) per second of CPU
time, encoding; tokenizers gets the whole text in one call and also makes offsets, which hone does not.
"""
import os

os.environ["RAYON_NUM_THREADS"] = "1"

import argparse
import json
import pathlib
import statistics
import subprocess
import time

from tokenizers import Tokenizer


def theirs(path, text, rounds=3):
    tokenizer, seconds = Tokenizer.from_file(path), []
    for _ in range(rounds):
        start = time.process_time()
        tokenizer.encode(text, add_special_tokens=False)
        seconds.append(time.process_time() - start)
    return len(text.encode()) / statistics.median(seconds) / 1e6


def ours(build, path, text_file):
    out = subprocess.run([build / "bench" / "tokenizer_speed", text_file, path, "--benchmark_filter=encode",
                          "--benchmark_format=json"], check=True, capture_output=True, text=True).stdout
    return json.loads(out)["benchmarks"][0]["bytes_per_second"] / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("tokenizers", nargs="+")
    args = parser.parse_args()
    text = open(args.text, encoding="utf-8").read()
    for path in args.tokenizers:
        a, b = ours(args.build, path, args.text), theirs(path, text)
        print(f"{path}: hone {a:.1f} MB/s   tokenizers {b:.1f} MB/s   ratio {a / b:.1f}")


main()
