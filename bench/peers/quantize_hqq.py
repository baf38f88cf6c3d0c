#!/usr/bin/env python3
"""Half-quadratic quantisation: hone and the hqq library's solver in turn, 4 bits in groups of 64, axis 1.

  quantize_hqq.py --hone build/hone --hf DIRECTORY [--threads N] [--rounds N]

The library solves the matrices of DIRECTORY's blocks, which are loaded before its clock starts; hone's time is that of
the whole command, with loading and writing. Prints medians and their ratio. Needs hqq, torch, safetensors.
"""
import argparse
import os
import statistics
import subprocess
import tempfile
import time


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hone", required=True)
    parser.add_argument("--hf", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    import torch
    from hqq.core.quantize import Quantizer
    from safetensors.torch import load_file
    torch.set_num_threads(args.threads)
    weights = [t.float() for name, t in load_file(os.path.join(args.hf, "model.safetensors")).items()
               if ".layers." in name and t.dim() == 2]
    ours, theirs = [], []
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as directory:
            start = time.perf_counter()
            subprocess.run([args.hone, "quantize", args.hf, "--method", "hqq", "--threads", str(args.threads), "--out",
                            os.path.join(directory, "out"), "--quiet"], check=True, stdout=subprocess.DEVNULL)
            ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        for w in weights:
            Quantizer.quantize(w, nbits=4, group_size=64, axis=1, device="cpu", compute_dtype=torch.float32)
        theirs.append(time.perf_counter() - start)
    mine, other = statistics.median(ours), statistics.median(theirs)
    print(f"{len(weights)} matrices, {args.threads} threads, {args.rounds} rounds: hone {mine:.2f} s, "
          f"the library's solver {other:.2f} s, {other / mine:.1f}x")


if __name__ == "__main__":
    main()
