#!/usr/bin/env python3
"""Causal attention of a whole prompt: hone's kernel beside PyTorch's scaled_dot_product_attention.

  attention.py --hone build/bench/attention [--keys 4096] [--heads 8] [--threads 2] [--rounds 3]

Needs a build with -DHONE_BENCH=ON, and torch. Both work on f32, on the same shapes, in turn; medians,
the fraction of the f32 multiply-add peak (2 operations each, measured by hone around its runs), and the
ratio are printed for head sizes 64 and 128, and for grouped heads, which PyTorch repeats.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time


def run_hone(binary, keys, heads, kv_heads, head_size):
    command = [binary, "--keys", str(keys), "--heads", str(heads), "--kv-heads", str(kv_heads), "--head-size",
               str(head_size), "--rounds", "3", "--json", "--prefill-only"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"attention.py: {(done.stderr.strip() or binary).splitlines()[-1]}")
    case = next(c for c in json.loads(done.stdout)["cases"] if c["name"] == "prefill, causal" and c["cache"] == "f32")
    return case["seconds"], case["of_f32_peak"]


def torch_attention(keys, heads, kv_heads, head_size):
    import torch
    torch.manual_seed(1)
    q = torch.randn(1, heads, keys, head_size)
    k, v = (torch.randn(1, kv_heads, keys, head_size) for _ in range(2))

    def run():
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True,
                                                                enable_gqa=heads != kv_heads)

    def seconds():
        took = []
        for _ in range(3):
            start = time.perf_counter()
            run()
            took.append(time.perf_counter() - start)
        return statistics.median(took)

    run()
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hone", required=True, help="the program bench/attention")
    parser.add_argument("--keys", type=int, default=4096)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    cpus = sorted(os.sched_getaffinity(0))
    if not 1 <= args.threads <= len(cpus):
        sys.exit(f"attention.py: --threads {args.threads}: expected 1 to {len(cpus)}")
    if min(args.keys, args.rounds) < 1 or args.heads < 2 or args.heads % 2:
        sys.exit("attention.py: --keys and --rounds must be 1 or more, --heads even")
    if not os.access(args.hone, os.X_OK):
        sys.exit(f"attention.py: --hone {args.hone}: no such program")
    os.sched_setaffinity(0, cpus[:args.threads])  # of both
    try:
        import torch
    except ImportError:
        sys.exit("attention.py: PyTorch is not installed")
    torch.set_num_threads(args.threads)
    print(f"causal, {args.keys} keys, {args.threads} threads, PyTorch {torch.__version__}")
    print(f"{'heads':>8} {'size':>5} {'hone':>10} {'of f32':>7} {'PyTorch':>10} {'ratio':>6}")
    for heads, kv_heads, head_size in ((args.heads, args.heads, 64), (args.heads, args.heads, 128),
                                       (4 * args.heads, args.heads // 2, 64)):
        peer = torch_attention(args.keys, heads, kv_heads, head_size)
        theirs, ours = [], []
        for _ in range(args.rounds):
            theirs.append(peer())
            ours.append(run_hone(args.hone, args.keys, heads, kv_heads, head_size))
        seconds = statistics.median(x[0] for x in ours)
        of_peak = statistics.median(x[1] for x in ours)
        other = statistics.median(theirs)
        print(f"{f'{heads}/{kv_heads}':>8} {head_size:>5} {1e3 * seconds:>7.1f} ms {100 * of_peak:>5.0f} % "
              f"{1e3 * other:>7.1f} ms {other / seconds:>6.2f}")


if __name__ == "__main__":
    main()
