#!/usr/bin/env python3
"""Prefill and decode speed of hone and of llama.cpp (through llama-cpp-python) on one GGUF, in turn.

  compare.py --hone build/hone --model MODEL.gguf [--threads 2] [--prompt 512] [--decode 64] [--rounds 3]

Each round runs llama.cpp, then hone, so that both see the same state of the machine; medians and the
ratio are printed. Both quantise activations to 8 bits for quantised weights.
"""
import argparse
import json
import statistics
import subprocess
import time


class LlamaCpp:
    def __init__(self, args):
        import llama_cpp
        self.args = args
        self.model = llama_cpp.Llama(args.model, n_ctx=args.prompt + args.decode + 8, n_batch=512,
                                     n_ubatch=512, n_threads=args.threads, n_threads_batch=args.threads,
                                     verbose=False)
        vocabulary = self.model.n_vocab()
        self.ids = [(i * 7919 + 13) % vocabulary for i in range(args.prompt + args.decode + 1)]
        self.run()  # warms up

    def run(self):
        self.model.reset()
        start = time.perf_counter()
        self.model.eval(self.ids[:self.args.prompt])
        prefill = self.args.prompt / (time.perf_counter() - start)
        self.model.reset()
        self.model.eval(self.ids[:1])
        start = time.perf_counter()
        for i in range(self.args.decode):
            self.model.eval([self.ids[i + 1]])
        return prefill, self.args.decode / (time.perf_counter() - start)


def run_hone(args):
    out = subprocess.run([args.hone, "bench", args.model, "--threads", str(args.threads), "--prompt",
                          str(args.prompt), "--decode", str(args.decode), "--runs", "3", "--json", "--quiet"],
                         check=True, capture_output=True, text=True).stdout
    result = json.loads(out.splitlines()[-1])
    return result["prefill_tokens_per_second"], result["decode_tokens_per_second"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hone", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--decode", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    peer = LlamaCpp(args)
    rows = [(peer.run(), run_hone(args)) for _ in range(args.rounds)]
    for i, work in enumerate(("prefill", "decode")):
        theirs = statistics.median(r[0][i] for r in rows)
        ours = statistics.median(r[1][i] for r in rows)
        print(f"{work:8} hone {ours:8.1f} tok/s   llama.cpp {theirs:8.1f} tok/s   ratio {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
