#!/usr/bin/env python3
"""Goldens of LLM.int8(): products of bitsandbytes' Linear8bitLt with outliers.

    make_llm_int8.py OUT.safetensors

Written: x [T, K], the weight's codes and row maxima as bitsandbytes makes them, and what its
int8_vectorwise_quant and product give for a batch, and for each row by itself. Needs bitsandbytes
(0.50), torch, safetensors.
"""
import sys

import bitsandbytes as bnb
import torch
from bitsandbytes import functional as F
from safetensors.torch import save_file


def product(x, codes, maxima, threshold):
    state = bnb.MatmulLtState()
    state.CB, state.SCB = codes, maxima
    state.threshold, state.has_fp16_weights = threshold, False
    # bnb.matmul would multiply floats on a CPU.
    return bnb.autograd._functions.MatMul8bitLt.apply(x.float(), codes, None, None, state)


def main(path):
    torch.manual_seed(7)
    t, n, k = 6, 40, 96
    x = torch.randn(t, k)
    x[0, 3], x[0, 70], x[2, 70], x[3, 11], x[5, 5] = 8.5, -20.0, 6.0, -7.25, 5.9375
    x[4] = 0
    x = x.half()
    codes, maxima, _ = F.int8_vectorwise_quant(torch.randn(n, k).half() * 0.3)
    out = {"x": x.float(), "codes": codes, "maxima": maxima.float()}
    x_codes, x_maxima, columns = F.int8_vectorwise_quant(x.clone(), threshold=6.0)
    out |= {"x_codes": x_codes, "x_maxima": x_maxima.float(), "columns": columns.to(torch.int32)}
    out["by_batch"] = product(x, codes, maxima, 6.0)
    out["by_row"] = torch.cat([product(x[i : i + 1], codes, maxima, 6.0) for i in range(t)])
    save_file({name: value.contiguous() for name, value in out.items()}, path)


if __name__ == "__main__":
    main(sys.argv[1])
