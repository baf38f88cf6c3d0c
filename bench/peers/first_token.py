#!/usr/bin/env python3
"""From a command's start to its first token, and the memory that it took at most: hone and llama.cpp in turn.

  first_token.py --hone build/hone --model MODEL.gguf [--llama-bench PATH] [--threads 2] [--rounds 7] [--cold]

hone generates one token, and the time is that to its first byte of text; llama-bench, which prints no text,
reads as many tokens as the prompt has, makes one without a warm-up, and ends. --cold drops the model from
the page cache before each run. Prints medians and the least and most of all rounds.
"""
import argparse
import os
import statistics
import subprocess
import sys
import time

PROMPT = "The old captain"


def drop_from_cache(path):
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run(command, to_first_byte):
    """Seconds and peak bytes of one process."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0)
    first = process.stdout.read(1)
    seconds = time.perf_counter() - start
    process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0 or not first:
        sys.exit(f"first_token.py: {command[0]}: it failed")
    return seconds if to_first_byte else time.perf_counter() - start, usage.ru_maxrss * 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hone", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--llama-bench")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cold", action="store_true")
    args = parser.parse_args()
    for path, mode in ((args.hone, os.X_OK), (args.model, os.R_OK), (args.llama_bench, os.X_OK)):
        if path and not os.access(path, mode):
            sys.exit(f"first_token.py: {path}: no such file")
    if args.rounds < 1 or args.threads < 1:
        sys.exit("first_token.py: --rounds and --threads must be 1 or more")
    threads = str(args.threads)
    commands = {"hone": [args.hone, "generate", args.model, "--prompt", PROMPT, "--max-tokens", "1", "--quiet",
                         "--ignore-eos", "--threads", threads]}
    if args.llama_bench:
        commands["llama.cpp"] = [args.llama_bench, "-m", args.model, "-t", threads, "-p", "4", "-n", "1", "-r", "1",
                                 "--no-warmup"]
    for command in commands.values():
        run(command, False)
    results = {name: [] for name in commands}
    for _ in range(args.rounds):
        for name, command in commands.items():
            if args.cold:
                drop_from_cache(args.model)
            results[name].append(run(command, name == "hone"))
    size = os.path.getsize(args.model)
    print(f"{os.path.basename(args.model)}, {size / 1e6:.1f} MB, {'cold' if args.cold else 'warm'} page cache, "
          f"{args.rounds} rounds")
    print(f"{'':<10} {'median':>9} {'least':>9} {'most':>9} {'peak memory':>12} {'of the file':>12}")
    for name, runs in results.items():
        seconds, peak = [r[0] for r in runs], statistics.median(r[1] for r in runs)
        print(f"{name:<10} {statistics.median(seconds):>7.3f} s {min(seconds):>7.3f} s {max(seconds):>7.3f} s "
              f"{peak / 1e6:>9.1f} MB {peak / size:>12.2f}")


if __name__ == "__main__":
    main()
