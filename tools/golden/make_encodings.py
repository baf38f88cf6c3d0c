"""Goldens of the weight encodings, from the libraries that define them.

Pinned: gguf 0.19.0, bitsandbytes 0.50.2 (CPU), torch 2.15.0, safetensors 0.8.0, numpy 2.4.6, and
the ggml library of llama-cpp-python 0.3.36 (called through ctypes for the K-quants' errors, which
gguf cannot encode).

    python tools/golden/make_encodings.py            # writes tests/golden/encodings_*.safetensors
"""

import ctypes
import pathlib

import gguf
import llama_cpp
import numpy as np
import torch
from bitsandbytes import functional as bnb
from safetensors.numpy import save_file

OUT = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden"
COPIED = ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "mxfp4"]  # encoded to the reference's bytes
SEARCHED = ["q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl"]  # encoded by a search of our own


def ggml_type(name):
    return gguf.GGMLQuantizationType[name.upper()]


def pointer(array):
    return None if array is None else array.ctypes.data_as(ctypes.c_void_p)


def sample(rng, rows, columns):
    """Heavy tails, columns of unequal size, and a few special blocks of 32."""
    x = rng.standard_t(5, (rows, columns)) * np.exp(0.5 * rng.standard_normal(columns)) * 0.02
    x[0, :32] = 0
    x[0, 32:64] = 0.25
    x[0, 64:96] = -np.abs(x[0, 64:96])
    x[1, :32] *= 1e-6
    return x.astype(np.float32)


def gguf_goldens():
    """Random bytes decoded by gguf, and values encoded by it."""
    rng = np.random.default_rng(1)
    x = sample(rng, 4, 512)
    out = {"x": x}
    for name in COPIED + SEARCHED:
        block, size = gguf.GGML_QUANT_SIZES[ggml_type(name)]
        blocks = rng.integers(0, 256, (2, 512 // block * size), dtype=np.uint8)
        with np.errstate(all="ignore"):
            decoded = gguf.quants.dequantize(blocks, ggml_type(name))
        # A NaN or an infinity would make the comparison vacuous.
        while not np.isfinite(decoded).all():
            blocks = rng.integers(0, 256, blocks.shape, dtype=np.uint8)
            if name == "mxfp4":
                blocks[:, ::size] %= 160
            with np.errstate(all="ignore"):
                decoded = gguf.quants.dequantize(blocks, ggml_type(name))
        out[f"{name}.blocks"] = blocks
        out[f"{name}.decoded"] = decoded
        if name in COPIED:
            out[f"{name}.encoded"] = gguf.quants.quantize(x, ggml_type(name))
    return out


def ggml_errors():
    """Root mean (weighted) squared errors of ggml's encoders: [plain, with importances]."""
    ggml = ctypes.CDLL(str(pathlib.Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"))
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64,
        ctypes.c_int64, ctypes.c_void_p]
    rng = np.random.default_rng(2)
    x = sample(rng, 16, 1024)
    importance = (rng.chisquare(1, 1024) + 0.01).astype(np.float32)
    out = {"x": x, "importance": importance}
    for name in SEARCHED:
        block, size = gguf.GGML_QUANT_SIZES[ggml_type(name)]
        errors = []
        for weights in (None, importance):
            blocks = np.zeros((16, 1024 // block * size), np.uint8)
            ggml.ggml_quantize_chunk(int(ggml_type(name)), pointer(x), pointer(blocks), 0, 16, 1024,
                                     pointer(weights))
            miss = gguf.quants.dequantize(blocks, ggml_type(name)).astype(np.float64) - x
            errors.append(np.sqrt(np.mean(miss**2 * (1 if weights is None else weights))))
        out[f"{name}.error"] = np.array(errors, np.float64)
    return out


def rounding_sensitive(kind):
    """A block of 64 with values so near a decision point that their code depends on the rounding."""
    table = np.sort(bnb.get_4bit_type(kind, "cpu").numpy())
    bounds = (table[:-1] + table[1:]) / np.float32(2)
    rng = np.random.default_rng(5)
    while True:
        absmax = np.float32(rng.uniform(0.1, 1))
        x = np.resize(bounds * absmax, 64)
        x[0] = absmax
        multiplied, divided = x * (np.float32(1) / absmax), x / absmax
        if (np.searchsorted(bounds, multiplied) != np.searchsorted(bounds, divided)).any():
            return x


def bitsandbytes_goldens():
    out = {"nested_map": bnb.create_dynamic_map(signed=True).numpy()}
    # An odd number of elements, rows that blocks cross, a last block that is not full, a row of
    # 8-bit ties, and blocks in which multiplying by 1/absmax and dividing by absmax disagree.
    values = sample(np.random.default_rng(3), 33, 75)
    values[5] = np.arange(75) - 36.5
    values[5, 0] = 127
    values.reshape(-1)[640:704] = rounding_sensitive("nf4")
    values.reshape(-1)[704:768] = rounding_sensitive("fp4")
    x = torch.from_numpy(values)
    out["x"] = x.numpy()
    for kind in ("nf4", "fp4"):
        codes, state = bnb.quantize_4bit(x, blocksize=64, quant_type=kind)
        out[f"{kind}.codes"] = codes.flatten().numpy()
        out[f"{kind}.absmax"] = state.absmax.numpy()
        out[f"{kind}.decoded"] = bnb.dequantize_4bit(codes, state).numpy()
    out["int8.codes"], out["int8.scales"], _ = (
        t if t is None else t.numpy() for t in bnb.int8_vectorwise_quant(x))
    out["int8.decoded"] = bnb.int8_vectorwise_dequant(
        torch.from_numpy(out["int8.codes"]), torch.from_numpy(out["int8.scales"])).numpy()

    # Double quantisation. The CPU library rounds scales to a grid of 65536 points before it looks up
    # their codes; CUDA and the default backend take the nearest. Seeds are tried until both agree.
    for seed in range(100):
        y = torch.from_numpy(sample(np.random.default_rng(seed), 20, 640)).half().float()
        codes, state = bnb.quantize_4bit(y, blocksize=32, quant_type="nf4", compress_statistics=True)
        absmax = bnb.quantize_4bit(y, blocksize=32, quant_type="nf4")[1].absmax - state.offset
        largest = state.state2.absmax.repeat_interleave(256)[: absmax.numel()]
        table = state.state2.code
        nearest = torch.bucketize(absmax / largest, (table[:-1] + table[1:]) / 2)
        if torch.equal(nearest.to(torch.uint8), state.absmax):
            break
    else:
        raise SystemExit("no seed found")
    out |= {"double.x": y.half().numpy(), "double.codes": codes.flatten().numpy(),
            "double.absmax": state.absmax.numpy(), "double.nested_absmax": state.state2.absmax.numpy(),
            "double.offset": state.offset.reshape(1).numpy(),
            "double.decoded": bnb.dequantize_4bit(codes, state).numpy()[:4]}
    return out


def grid(x, bits, symmetric, mse, scale_type):
    """GPTQ's grid for each row of x: scales, zeros, codes."""
    top = 2**bits - 1
    low, high = x.min(1).clip(max=0), x.max(1).clip(min=0)
    if symmetric:
        high = np.maximum(-low, high)
        low = -high
    low, high = np.where(low == high, -1, low), np.where(low == high, 1, high)

    def make(low, high):
        scale = ((high - low) / top).astype(scale_type).astype(np.float32)
        zero = np.full_like(scale, 2 ** (bits - 1)) if symmetric else np.rint(-low / scale)
        codes = np.clip(np.rint(x / scale[:, None]) + zero[:, None], 0, top)
        error = (np.abs(scale[:, None] * (codes - zero[:, None]) - x).astype(np.float64) ** 2.4).sum(1)
        return scale, zero, codes, error

    best = make(low, high)
    if mse:
        for step in range(1, 80):
            part = np.float32(1 - step / 100)
            tried = make(part * low, part * high)
            better = tried[3] < best[3]
            best = [np.where(better[:, None] if b.ndim == 2 else better, t, b)
                    for t, b in zip(tried, best)]
    return best[0], best[1].astype(np.uint8), best[2].astype(np.uint8)


def grid_goldens():
    x = sample(np.random.default_rng(4), 12, 48)
    x[2] = 0
    x[3] = np.abs(x[3])
    out = {"x": x}
    for bits in (2, 3, 4, 8):
        for symmetric in (True, False):
            for mse in (False, True):
                key = f"{bits}.{'sym' if symmetric else 'asym'}.{'mse' if mse else 'range'}"
                scales, zeros, codes = grid(x, bits, symmetric, mse, np.float16)
                out |= {f"{key}.scales": scales, f"{key}.zeros": zeros, f"{key}.codes": codes}
    return out


def main():
    goldens = {"gguf": gguf_goldens(), "ggml_errors": ggml_errors(),
               "bitsandbytes": bitsandbytes_goldens(), "int_grid": grid_goldens()}
    for name, tensors in goldens.items():
        path = OUT / f"encodings_{name}.safetensors"
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path)
        print(path.name, path.stat().st_size)
        assert path.stat().st_size <= 200_000


if __name__ == "__main__":
    main()
