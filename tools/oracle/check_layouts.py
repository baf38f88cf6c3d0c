"""Checks a checkpoint that hone wrote against the libraries that are to load it.

Usage: python tools/oracle/check_layouts.py WRITTEN DECODED

WRITTEN is what hone wrote: a gptq, bitsandbytes or hf directory, or a GGUF file. DECODED is the same
model as hone reads it back, in f32, in a container with the same names:
  hone convert WRITTEN --layout hf --decode-to f32 --out DECODED
and, for a GGUF file, from there: hone convert DECODED --layout gguf --out DECODED.gguf
Every weight that the library decodes must equal hone's bit for bit, after rounding to the float type
in which the library decodes.

Pinned: transformers 5.23.0, bitsandbytes 0.50.2, gguf 0.19.0, gptqmodel 7.7.0 (optional: without it
GPTQ directories are decoded by the formula).
"""
import json
import pathlib
import sys

import numpy as np
import torch
from safetensors.torch import load_file


def load_tensors(path):
    if path.is_file():
        return dict(decode_gguf(path))
    tensors = {}
    for shard in sorted(path.glob("*.safetensors")):
        tensors |= load_file(shard)
    return tensors


def decode_gguf(path):
    import gguf

    for t in gguf.GGUFReader(path).tensors:
        yield t.name, torch.from_numpy(gguf.quants.dequantize(t.data, t.tensor_type).copy())


def decode_bitsandbytes(directory):
    import bitsandbytes as bnb
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory)
    for name, module in model.named_modules():
        if isinstance(module, bnb.nn.Linear4bit):
            state, shape = module.weight.quant_state, module.weight.quant_state.shape
            if shape[1] % state.blocksize and shape.numel() % state.blocksize == 0:
                # The CPU kernel of 0.50.2 starts a block at every row, which its own encoder does
                # not: blocks are of the flat matrix. A row for each block avoids that.
                state.shape = torch.Size([shape.numel() // state.blocksize, state.blocksize])
            weight = bnb.functional.dequantize_4bit(module.weight.data, state)
            yield name + ".weight", weight.reshape(shape)
        elif isinstance(module, bnb.nn.Linear8bitLt):
            weight = module.weight
            yield name + ".weight", bnb.functional.int8_vectorwise_dequant(weight.CB, weight.SCB)
        elif isinstance(getattr(module, "weight", None), torch.Tensor):
            yield name + ".weight", module.weight.data


def load_gptqmodel(directory):
    from gptqmodel import BACKEND, GPTQModel

    return GPTQModel.load(str(directory), backend=BACKEND.GPTQ_TORCH, device="cpu", dtype=torch.float16).model


def decode_gptqmodel(directory):
    from gptqmodel.nn_modules.qlinear import BaseQuantLinear

    for name, module in load_gptqmodel(directory).named_modules():
        if isinstance(module, BaseQuantLinear):
            yield name + ".weight", module.dequantize_weight().T
        elif isinstance(getattr(module, "weight", None), torch.Tensor):
            yield name + ".weight", module.weight.data


def decode_gptq_formula(directory, config):
    """w[n, k] = scales[g_idx[k], n] (q - z), codes and zeros from little-endian bit streams."""
    def fields(words, bits):  # [rows, words] -> [rows, words * 32 / bits]
        flat = np.unpackbits(words.view(np.uint8), axis=-1, bitorder="little")
        count = flat.shape[-1] // bits
        flat = flat[..., :count * bits].reshape(*flat.shape[:-1], count, bits)
        return (flat.astype(np.int64) << np.arange(bits)).sum(-1)

    tensors = load_tensors(directory)
    offset = 0 if config["checkpoint_format"] == "gptq_v2" else 1
    for name in tensors:
        if not name.endswith(".qweight"):
            yield name, tensors[name]
            continue
        module = name.removesuffix(".qweight")
        words, g_idx, scales, zeros = (tensors[f"{module}.{part}"].numpy()
                                       for part in ["qweight", "g_idx", "scales", "qzeros"])
        bits = words.shape[0] * 32 // g_idx.shape[0]
        codes = fields(np.ascontiguousarray(words.T), bits)
        z = (fields(zeros, bits)[:, :words.shape[1]] + offset) % 2**bits
        value = scales.astype(np.float32)[g_idx].T * (codes - z[g_idx].T).astype(np.float32)
        yield module + ".weight", torch.from_numpy(value)


def decode(path):
    if path.is_file():
        return decode_gguf(path)
    config = json.loads((path / "config.json").read_text()).get("quantization_config", {})
    method = config.get("quant_method", "none")
    if method == "bitsandbytes":
        return decode_bitsandbytes(path)
    if method == "gptq":
        try:
            import gptqmodel  # noqa: F401
        except ImportError:
            return decode_gptq_formula(path, config)
        return decode_gptqmodel(path)
    return load_tensors(path).items()


def check(written, decoded):
    """How many tensors were compared, and a line about each that differs or was not loaded."""
    ours, seen, bad = load_tensors(decoded), set(), []
    for name, theirs in decode(written):
        if name not in ours:
            continue
        seen.add(name)
        mine = ours[name].to(theirs.dtype)
        if mine.shape != theirs.shape:
            bad.append(f"{name}: the shape is {tuple(theirs.shape)}, hone's {tuple(mine.shape)}")
        elif not torch.equal(mine, theirs.contiguous()):
            bad.append(f"{name}: differs by up to {(mine.float() - theirs.float()).abs().max()}")
    return len(seen), bad + [f"{name}: not loaded" for name in sorted(set(ours) - seen)]


def main():
    written, decoded = map(pathlib.Path, sys.argv[1:3])
    count, bad = check(written, decoded)
    print(*bad, f"{written}: {count} tensors, {len(bad)} differ", sep="\n")
    sys.exit(bool(bad) or not count)


if __name__ == "__main__":
    main()
