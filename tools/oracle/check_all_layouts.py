#!/usr/bin/env python3
"""Writes one model in every layout and encoding, and has the libraries that are to load it read it.

  check_all_layouts.py --build build --model models/hone-austen-3m --text examples/text/heldout.txt
      --calibration examples/text/calibration.txt [--only TEXT]

For each: hone quantises and writes; the library decodes every weight, which must equal hone's bit for bit
(check_layouts.py); and the library (llama.cpp for GGUF) runs 256 tokens of the text, whose logits stand
beside hone's. hone and transformers compute in f32 here, GPTQModel in f16, bitsandbytes' int8 and llama.cpp
with quantised activations. Prints a table; exit status 1 where a weight differs. GPTQModel 7.7.0 installs
on a machine without a GPU by: pip install --no-deps gptqmodel pypcre tokenicer logbar device-smi defuser
torchao datasets pyarrow dill threadpoolctl protobuf pillow multiprocess xxhash aiohttp.
"""
import argparse
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch

import check_layouts
import check_logits

BLOCKS = "q4_0 q4_1 q5_0 q5_1 q8_0 q2_k q3_k q4_k q5_k q6_k iq4_nl mxfp4".split()


def cases():
    """Name, layout, and the options of `hone quantize`."""
    for layout in ["hf", "gguf"]:
        for kind in ["f32", "f16", "bf16"]:
            yield f"{layout}: {kind}", layout, f"cast --to {kind}"
    for kind in BLOCKS:
        yield f"gguf: {kind}", "gguf", f"rtn --type {kind}"
    for method in ["nf4", "fp4"]:
        for scales in ["no-double-quant", "double-quant"]:
            yield f"bitsandbytes: {method}, {scales}", "bitsandbytes", f"{method} --{scales}"
    yield "bitsandbytes: int8", "bitsandbytes", "int8"
    # GPTQModel loads asymmetric models in the older layout only where it wrote them itself.
    for layout, kinds in [("gptq", ["symmetric"]), ("gptq_v2", ["symmetric", "no-symmetric"])]:
        for zeros in kinds:
            for bits in [2, 3, 4, 8]:
                yield f"{layout}: {bits} bits, groups of 64, {zeros}", layout, f"rtn --bits {bits} --group 64 --{zeros}"
            for group in [32, 128, 0]:
                yield (f"{layout}: 4 bits, groups of {group or 'a row'}, {zeros}", layout,
                       f"rtn --bits 4 --group {group} --{zeros}")
            for order in ["--act-order", "--act-order --static-groups"]:
                yield f"{layout}: 4 bits, {order}, {zeros}", layout, f"gptq --bits 4 --group 64 --{zeros} {order}"


def write(args, layout, options, scratch):
    """The model in the layout, and as hone decodes it in a container with the same names."""
    def hone(*arguments):
        subprocess.run([args.build / "hone", *map(str, arguments), "--quiet"], check=True)

    written, decoded = scratch / ("written.gguf" if layout == "gguf" else "written"), scratch / "decoded"
    calibration = ["--calibration", args.calibration] if options.startswith("gptq") else []
    hone("quantize", args.model, "--method", *options.split(), "--layout", layout, *calibration, "--out", written)
    hone("convert", written, "--layout", "hf", "--decode-to", "f32", "--out", decoded)
    if layout != "gguf":
        return written, decoded
    hone("convert", decoded, "--layout", "gguf", "--out", scratch / "decoded.gguf")
    return written, scratch / "decoded.gguf"


def library_logits(layout, path, ids):
    if layout == "gguf":
        return check_logits.LlamaCpp(str(path), len(ids) + 8).logits(ids)
    if layout.startswith("gptq"):
        model = check_layouts.load_gptqmodel(path)
    else:
        from transformers import AutoModelForCausalLM
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].float().numpy()


def check(args, name, layout, options, ids):
    with tempfile.TemporaryDirectory() as directory:
        written, decoded = write(args, layout, options, pathlib.Path(directory))
        count, bad = check_layouts.check(written, decoded)
        ours = check_logits.Hone(args.build, written).logits(ids)
        theirs = library_logits(layout, written, ids)
    rms = np.sqrt(((ours - theirs) ** 2).mean() / (theirs ** 2).mean())
    same = (ours.argmax(-1) == theirs.argmax(-1)).mean()
    print(f"| {name} | {len(bad)} of {count} | {rms:.1e} | {100 * same:.1f} % |", *bad[:2], flush=True)
    return not bad and count > 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--only", default="", help="the rows whose name contains it")
    args = parser.parse_args()
    torch.set_num_threads(2)
    ids = check_logits.Hone(args.build, args.model).tokenize(open(args.text, encoding="utf-8").read())[:256]
    print("| Layout and encoding | Tensors that differ | Logits, RMS error | Same top-1 |\n|---|---|---|---|")
    sys.exit(not all([check(args, *case, ids) for case in cases() if args.only in case[0]]))


main()
