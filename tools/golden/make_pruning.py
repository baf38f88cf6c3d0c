#!/usr/bin/env python3
"""Goldens of pruning: Wanda's masks and SparseGPT's weights, from the papers' formulas in float64.

    make_pruning.py OUT.safetensors

Written: w [N, K], hessian = sum of x x^T over the inputs [K, K] in f32, and for each share or n:m what wanda
(Sun et al. 2023) and sparsegpt (Frantar and Alistarh 2023, blocks of 128 columns, damping 0.01) leave of w. Needs
numpy, safetensors.
"""
import sys

import numpy as np
from safetensors.numpy import save_file

BLOCK, DAMP = 128, 0.01


def zero_smallest(scores, count):
    """Mask [.., size]: True where one of the `count` smallest along the last axis."""
    order = np.argsort(scores, axis=-1, kind="stable")
    mask = np.zeros(scores.shape, bool)
    np.put_along_axis(mask, order[..., :count], True, axis=-1)
    return mask


def wanda(w, h, share, pattern):
    scores = np.abs(w) * np.sqrt(np.diag(h))
    n, k = w.shape
    if pattern:
        kept, of = pattern
        mask = zero_smallest(scores.reshape(n, k // of, of), of - kept).reshape(n, k)
    else:
        mask = zero_smallest(scores, int(k * share))
    return np.where(mask, 0, w)


def sparsegpt(w, h, share, pattern):
    w = w.astype(np.float64).copy()
    n, k = w.shape
    damped = h + np.eye(k) * DAMP * np.mean(np.diag(h))
    factor = np.linalg.cholesky(np.linalg.inv(damped)).T  # inverse = factor^T factor
    for first in range(0, k, BLOCK):
        last = min(k, first + BLOCK)
        pivots = np.diag(factor)[first:last]
        if not pattern:
            cost = (w[:, first:last] / pivots) ** 2
            gone = zero_smallest(cost.reshape(-1), int(cost.size * share)).reshape(cost.shape)
        else:
            gone = np.zeros((n, last - first), bool)
        for i in range(first, last):
            if pattern and (i - first) % pattern[1] == 0:
                kept, of = pattern
                cost = (w[:, i:i + of] / np.diag(factor)[i:i + of]) ** 2
                gone[:, i - first:i - first + of] = zero_smallest(cost, of - kept)
            error = np.where(gone[:, i - first], w[:, i], 0) / factor[i, i]
            w[:, i:] -= np.outer(error, factor[i, i:])  # eagerly, to the end of the row
            w[gone[:, i - first], i] = 0
    return w


def main(path):
    random = np.random.default_rng(5)
    n, k = 12, 160  # one block and a part
    mixing = random.standard_normal((k, k)) / np.sqrt(k) + np.eye(k)
    x = random.standard_normal((600, k)) @ mixing * np.exp(random.standard_normal(k))
    w = random.standard_normal((n, k)).astype(np.float32)
    h = x.T @ x
    out = {"w": w, "hessian": h.astype(np.float32)}
    for name, share, pattern in (("50", 0.5, None), ("30", 0.3, None), ("2_4", 0, (2, 4)), ("4_8", 0, (4, 8))):
        out["wanda_" + name] = wanda(w, h, share, pattern).astype(np.float32)
        out["sparsegpt_" + name] = sparsegpt(w, h, share, pattern).astype(np.float32)
    save_file(out, path)


if __name__ == "__main__":
    main(sys.argv[1])
