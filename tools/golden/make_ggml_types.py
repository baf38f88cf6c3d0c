"""Goldens of GGUF's later block types, from ggml itself, and the errors of its searching encoders.

Pinned: the libggml-base of llama-cpp-py-sync 0.11739 (PyPI, a build of llama.cpp of October 2026;
needs glibc 2.38), gguf 0.19.0, safetensors 0.8.0, numpy 2.4.6.

    python tools/golden/make_ggml_types.py LIBGGML_BASE_SO  # tests/golden/encodings_ggml.safetensors
"""

import ctypes
import pathlib
import sys

import gguf
import numpy as np
from safetensors.numpy import save_file

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden"
# Name, number, weights of a block, bytes of a block; name of the functions in ggml.
COPIED = {"tq1_0": (34, 256, 54), "tq2_0": (35, 256, 66), "gguf_nvfp4": (40, 64, 36),
          "q1_0": (41, 128, 18), "q2_0": (42, 64, 18)}
SEARCHED = {"iq4_xs": (23, 256, 136)}
# Encoders that search, with importances alone or also without.
WITH_IMPORTANCE = {"q4_0": (2, 32, 18), "q4_1": (3, 32, 20), "q5_0": (6, 32, 22),
                   "q5_1": (7, 32, 24)}
ALWAYS = {"q2_k": (10, 256, 84), "q3_k": (11, 256, 110), "q4_k": (12, 256, 144),
          "q5_k": (13, 256, 176), "q6_k": (14, 256, 210), "iq4_nl": (20, 32, 18)} | SEARCHED


def pointer(array):
    return None if array is None else array.ctypes.data_as(ctypes.c_void_p)


class Ggml:
    def __init__(self, path):
        self.lib = ctypes.CDLL(path)
        self.lib.ggml_quantize_chunk.restype = ctypes.c_size_t
        self.lib.ggml_quantize_chunk.argtypes = [
            ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64,
            ctypes.c_int64, ctypes.c_void_p]

    def encode(self, number, block, size, x, importance=None):
        out = np.zeros((len(x), x.shape[1] // block * size), np.uint8)
        self.lib.ggml_quantize_chunk(number, pointer(x), pointer(out), 0, *x.shape,
                                     pointer(importance))
        return out

    def decode(self, name, blocks, columns):
        name = name.removeprefix("gguf_").replace("_k", "_K")
        f = getattr(self.lib, "dequantize_row_" + name)
        f.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
        out = np.zeros((len(blocks), columns), np.float32)
        f(pointer(np.ascontiguousarray(blocks)), pointer(out), out.size)
        return out


def sample(rng, rows, columns):
    """Heavy tails, columns of unequal size, and a few special blocks of 64."""
    x = rng.standard_t(5, (rows, columns)) * np.exp(0.5 * rng.standard_normal(columns)) * 0.02
    x[0, :64] = 0
    x[0, 64:128] = 0.25
    x[0, 128:192] = -np.abs(x[0, 128:192])
    x[1, :64] *= 1e-3
    return x.astype(np.float32)


def main(library):
    ggml = Ggml(library)
    rng = np.random.default_rng(11)
    x = sample(rng, 4, 512)
    x[3, :256] = rng.integers(-1, 2, 256) * np.float32(0.03)  # ternary already
    x[2, :64] *= 1e5  # beyond the largest scale of some
    out = {"x": x}
    for name, (number, block, size) in (COPIED | SEARCHED).items():
        decoded = np.array([np.nan])
        while not np.isfinite(decoded).all():  # a NaN would make the comparison vacuous
            blocks = rng.integers(0, 256, (2, 512 // block * size), dtype=np.uint8)
            decoded = ggml.decode(name, blocks, 512)
        out[f"{name}.blocks"], out[f"{name}.decoded"] = blocks, decoded
        if name in COPIED:
            out[f"{name}.encoded"] = ggml.encode(number, block, size, x)
    # Every scale of NVFP4, with the largest code.
    blocks = np.zeros((1, 64 * 36), np.uint8)
    blocks.reshape(64, 36)[:, :4] = np.arange(256).reshape(64, 4)
    blocks.reshape(64, 36)[:, 4:] = 0x77
    out["nvfp4_scales.blocks"] = blocks
    out["nvfp4_scales.decoded"] = ggml.decode("nvfp4", blocks, 64 * 64)
    for name in ("tq1_0", "tq2_0"):
        kind = gguf.GGMLQuantizationType[name.upper()]
        assert (gguf.quants.quantize(x, kind) == out[f"{name}.encoded"]).all()
        assert (gguf.quants.dequantize(out[f"{name}.blocks"], kind) == out[f"{name}.decoded"]).all()

    y = sample(rng, 16, 1024)
    importance = (rng.chisquare(1, 1024) + 0.01).astype(np.float32)
    out |= {"errors.x": y, "errors.importance": importance}
    for name, (number, block, size) in (ALWAYS | WITH_IMPORTANCE).items():
        errors = []
        for weights in (None, importance):
            decoded = ggml.decode(name, ggml.encode(number, block, size, y, weights), 1024)
            miss = decoded.astype(np.float64) - y
            errors.append(np.sqrt(np.mean(miss**2 * (1 if weights is None else weights))))
        out[f"{name}.error"] = np.array(errors)
    save_file(out, OUT / "encodings_ggml.safetensors")


main(*sys.argv[1:])
