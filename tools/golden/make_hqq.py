#!/usr/bin/env python3
"""Goldens of half-quadratic quantisation: what the hqq library's solver makes of a matrix.

    make_hqq.py OUT.safetensors

Written: w [N, K], and for each bits_group its codes, scales and zero points [N, K/group] in f32 (axis
1), with the library's defaults. w has outliers that the proximal operator keeps. Needs hqq (0.2.8),
torch, safetensors.
"""
import sys

import torch
from hqq.core.quantize import Quantizer
from safetensors.torch import save_file


def main(path):
    torch.manual_seed(11)
    n, k = 24, 128
    w = torch.randn(n, k) * 0.25
    w[::5, ::37] *= 12
    w[3] = 0.5  # no range
    out = {"w": w}
    for bits, group in ((4, 64), (3, 32), (2, 16), (8, 128), (1, 64)):
        codes, meta = Quantizer.quantize(w, nbits=bits, group_size=group, axis=1, bitpack=False,
                                         device="cpu", compute_dtype=torch.float32)
        name = f"{bits}_{group}."
        out[name + "codes"] = codes.reshape(n, k).to(torch.uint8)
        out[name + "scales"] = meta["scale"].float().reshape(n, -1)
        out[name + "zeros"] = meta["zero"].float().reshape(n, -1)
    save_file({name: value.contiguous() for name, value in out.items()}, path)


if __name__ == "__main__":
    main(sys.argv[1])
