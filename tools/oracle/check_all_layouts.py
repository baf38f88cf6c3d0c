#!/usr/bin/env python3
"""Runs check_layouts.py on every layout and encoding that hone writes, and prints a table.

  check_all_layouts.py --hone build/hone --model models/hone-austen-3m [ONLY]

ONLY keeps the rows whose name contains it. Exit status 1 where a library decodes another weight.
"""
import argparse
import pathlib
import subprocess
import sys
import tempfile

GGUF_TYPES = ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "mxfp4"]


def cases():
    """Name, and the options of `hone quantize`."""
    for layout in ["gptq", "gptq_v2"]:
        for bits in ["2", "3", "4", "8"]:
            for zeros in ["symmetric", "no-symmetric"]:
                yield (f"{layout}: {bits} bits, groups of 64, {zeros}",
                       ["rtn", "--bits", bits, "--group", "64", f"--{zeros}", "--layout", layout])
        yield f"{layout}: 4 bits, whole rows", ["rtn", "--bits", "4", "--group", "0", "--layout", layout]
    for method in ["nf4", "fp4"]:
        for scales in ["no-double-quant", "double-quant"]:
            yield f"bitsandbytes: {method}, {scales}", [method, f"--{scales}", "--layout", "bitsandbytes"]
    yield "bitsandbytes: int8", ["rtn", "--type", "int8_row", "--layout", "bitsandbytes"]
    for kind in GGUF_TYPES:
        yield f"gguf: {kind}", ["rtn", "--type", kind, "--layout", "gguf"]
    for kind in ["f32", "f16", "bf16"]:
        for layout in ["hf", "gguf"]:
            yield f"{layout}: {kind}", ["cast", "--to", kind, "--layout", layout]


def run(hone, *args):
    done = subprocess.run([hone, *map(str, args), "--quiet"], capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def check(hone, model, options, scratch):
    """A line on the result, and whether it is good."""
    gguf = "gguf" in options
    written, decoded = scratch / ("a.gguf" if gguf else "a"), scratch / "decoded"
    refused = (run(hone, "quantize", model, "--method", *options, "--out", written) or
               run(hone, "convert", written, "--layout", "hf", "--decode-to", "f32", "--out", decoded))
    if gguf and not refused:
        refused = run(hone, "convert", decoded, "--layout", "gguf", "--out", scratch / "decoded.gguf")
        decoded = scratch / "decoded.gguf"
    if refused:
        return f"not written: {refused}", False
    script = pathlib.Path(__file__).with_name("check_layouts.py")
    done = subprocess.run([sys.executable, script, written, decoded], capture_output=True, text=True)
    lines = (done.stdout.strip() or done.stderr.strip()).splitlines()
    return lines[-1].removeprefix(f"{written}: "), done.returncode == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hone", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("only", nargs="?", default="")
    args = parser.parse_args()
    good = True
    print("| Layout and encoding | Result |\n|---|---|")
    for name, options in cases():
        if args.only in name:
            with tempfile.TemporaryDirectory() as directory:
                line, fine = check(args.hone, args.model, options, pathlib.Path(directory))
            good &= fine
            print(f"| {name} | {line} |", flush=True)
    sys.exit(not good)


main()
