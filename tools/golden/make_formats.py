"""Writes the container goldens of tests/formats with the reference libraries.

Pinned: gguf 0.19.0, safetensors 0.8.0, torch 2.15.0, numpy 2.4.6.
Usage: python tools/golden/make_formats.py   (writes into tests/golden/)
"""
import pathlib

import gguf
import numpy as np
import torch
from safetensors.torch import save_file

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden"


def values(shape, seed):
    """Multiples of 1/4 that the tests compute too: ((i + seed) mod 23 - 11) / 4."""
    i = np.arange(np.prod(shape)).reshape(shape)
    return (((i + seed) % 23 - 11) * 0.25).astype(np.float32)


def add_metadata(writer):
    kinds = gguf.GGUFValueType
    for name, value in [("uint8", 200), ("int8", -100), ("uint16", 60000), ("int16", -30000),
                        ("uint32", 4000000000), ("int32", -2000000000), ("float32", 0.5),
                        ("bool", True), ("string", "grüße \n 世界"), ("uint64", 2**63 + 1),
                        ("int64", -(2**62)), ("float64", 0.1)]:
        writer.add_key_value(f"scalar.{name}", value, kinds[name.upper()])
    for name, value in [("uint8", [0, 255]), ("int8", [-128, 127]), ("uint16", [1, 65535]),
                        ("int16", [-32768, 5]), ("uint32", [1, 2**32 - 1]), ("int32", [-7, 8, 9]),
                        ("float32", [1.5, -2.25]), ("bool", [True, False, True]),
                        ("string", ["", "a", "\u00e9"]), ("uint64", [2**64 - 1]),
                        ("int64", [-(2**63), 2**63 - 1]), ("float64", [1e300])]:
        writer.add_key_value(f"array.{name}", value, kinds.ARRAY, sub_type=kinds[name.upper()])


def make_gguf():
    writer = gguf.GGUFWriter(GOLDEN / "formats.gguf", "llama")
    add_metadata(writer)
    types = gguf.GGMLQuantizationType
    writer.add_tensor("norm.weight", values((6,), 1))
    writer.add_tensor("half.weight", values((3, 5), 2).astype(np.float16))
    for i, kind in enumerate(["BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0"]):
        x = values((3, 256), 10 + i)
        writer.add_tensor(f"{kind.lower()}.weight", gguf.quants.quantize(x, types[kind]),
                          raw_dtype=types[kind])
    writer.add_tensor("ids", np.arange(7, dtype=np.int32))
    writer.add_tensor("experts.weight", values((2, 3, 4), 3))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_split():
    writer = gguf.GGUFWriter(GOLDEN / "formats_split.gguf", "llama", split_max_tensors=2)
    writer.add_string("general.name", "split")
    for i in range(3):
        writer.add_tensor(f"t{i}", values((2, 4), 20 + i))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_safetensors():
    def tensors(types):  # element i of each tensor is 3 i
        return {f"{str(t)[6:]}.{name}": (torch.arange(n) * 3).reshape(shape).to(t)
                for t in types for name, n, shape in [("b", 15, (3, 5)), ("a", 4, (4,)),
                                                      ("scalar", 1, ()), ("empty", 0, (0, 3))]}

    plain = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn,
             torch.float8_e5m2, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]
    save_file(tensors(plain), GOLDEN / "formats.safetensors", {"format": "pt"})
    aliases = [torch.bool, torch.uint16, torch.uint32, torch.uint64]
    save_file(tensors(aliases), GOLDEN / "formats_aliases.safetensors")


make_gguf()
make_split()
make_safetensors()
