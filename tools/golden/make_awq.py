#!/usr/bin/env python3
"""Writes tests/golden/awq.safetensors: AWQ's scale and clip searches on a small attention input.

An oracle of the published method (Lin et al. 2023, section 3.2 and the search of the authors'
program), written from its description in float64:
  w0, w1, w2  f32 [N, K]  weights that read one vector
  x           f32 [T, K]  the vectors, one token per row; some channels are far larger than others
and for each case (bits, group, symmetric, duo):
  CASE.options  i32 [4]
  CASE.scales   f32 [STEPS, K]   candidate r = step / STEPS: mean|x|^r, with duo over
                                 (w^(1-r) + 1e-4), at least 1e-4, over sqrt(max min); w is the mean
                                 over all rows of |w| over its group's largest + 1e-6
  CASE.errors   f64 [3, STEPS]   sum of squares of x (W - Q(W s)/s)' for each weight
  CASE.chosen   i32 [1]          the step of the least sum of errors over ||x W'||^2, among those
                                 where no weight is worse than with scale 1; -1: scale 1
  CASE.clipped  f64 [N]          of w2 with the chosen scales: each row's squared output error after
                                 clipping groups to 1, 0.95, ... 0.55 of their largest magnitude,
                                 each by its own output error, rows kept only where that helps

The grid is GPTQ's: a group's range with 0 in it, a scale rounded to f16, a rounded zero; a symmetric
one divides the largest magnitude by 2^bits - 1 halves. Codes are found in float32, as they are
stored.

Made with numpy 2.4.6, safetensors 0.8.0: python tools/golden/make_awq.py
"""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

OUT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "awq.safetensors"
N, K, T, STEPS = (24, 12, 12), 160, 96, 20
SIZE_LIMIT = 200_000


def rounded(values, bits, symmetric):
    """What rows of one group are stored as."""
    v = values.astype(np.float32)
    low, high = np.minimum(v.min(1), 0), np.maximum(v.max(1), 0)
    if symmetric:
        high = np.maximum(-low, high)
        low = -high
    top = 2**bits - 1
    scale = ((high - low) / np.float32(top)).astype(np.float16).astype(np.float32)
    if symmetric:
        zero = np.full(len(v), 2 ** (bits - 1))
    else:
        zero = np.clip(np.rint(-low / scale), 0, top)
    codes = np.clip(np.rint(v / scale[:, None]) + zero[:, None], 0, top)
    return (codes - zero[:, None]) * scale[:, None].astype(np.float64)


def groups(group):
    return [slice(a, min(a + group, K)) for a in range(0, K, group)] if group else [slice(0, K)]


def quantised(w, bits, group, symmetric):
    return np.concatenate([rounded(w[:, g], bits, symmetric) for g in groups(group)], axis=1)


def row_errors(difference, x):
    return ((x @ difference.T) ** 2).sum(0)


def candidate(ws, x, step, group, duo):
    r = step / STEPS
    s = np.abs(x).mean(0) ** r
    if duo:
        rows = np.abs(np.concatenate(ws))
        for g in groups(group):
            rows[:, g] = rows[:, g] / (rows[:, g].max(1, keepdims=True) + 1e-6)
        s = s / (rows.mean(0) ** (1 - r) + 1e-4)
    s = np.maximum(s, 1e-4)
    return s / np.sqrt(s.max() * s.min())


def clipped_errors(w, x, s, bits, group, symmetric):
    scaled, xs = w * s, x / s
    plain = row_errors(w - quantised(scaled, bits, group, symmetric) / s, x)
    out = scaled.copy()
    for g in groups(group):
        largest = np.abs(scaled[:, g]).max(1)
        best, limit = np.full(len(w), np.inf), largest.copy()
        for step in range(STEPS // 2):
            most = largest * (1 - step / STEPS)
            cut = np.clip(scaled[:, g], -most[:, None], most[:, None])
            error = row_errors(scaled[:, g] - rounded(cut, bits, symmetric), xs[:, g])
            limit = np.where(error < best, most, limit)
            best = np.minimum(best, error)
        out[:, g] = np.clip(scaled[:, g], -limit[:, None], limit[:, None])
    return np.minimum(plain, row_errors(w - quantised(out, bits, group, symmetric) / s, x))


def main():
    rng = np.random.default_rng(8)
    channel = np.exp(rng.normal(0, 1.2, K))
    x = rng.normal(0, 1, (T, K)) @ (np.eye(K) + 0.15 * rng.normal(0, 1, (K, K))) * channel
    x = x.astype(np.float32)
    ws = [(rng.standard_t(5, (n, K)) * 0.05).astype(np.float32) for n in N]
    out = {"x": x} | {f"w{i}": w for i, w in enumerate(ws)}
    x, ws = x.astype(np.float64), [w.astype(np.float64) for w in ws]
    cases = [(4, 32, 0, 0), (4, 0, 0, 0), (3, 64, 0, 0), (3, 32, 1, 0), (4, 32, 0, 1)]
    for bits, group, symmetric, duo in cases:
        name = f"b{bits}_g{group}_s{symmetric}_d{duo}"
        scales = np.stack([candidate(ws, x, i, group, duo) for i in range(STEPS)])
        error = lambda w, s: row_errors(w - quantised(w * s, bits, group, symmetric) / s, x).sum()
        errors = np.array([[error(w, s) for s in scales] for w in ws])
        plain = np.array([error(w, np.ones(K)) for w in ws])
        output = np.array([((x @ w.T) ** 2).sum() for w in ws])
        sums = (errors / output[:, None]).sum(0)
        sums[(errors > plain[:, None]).any(0)] = np.inf
        chosen = int(sums.argmin()) if sums.min() < (plain / output).sum() else -1
        best = sorted(sums)[:2]
        assert best[1] > best[0] * 1.001, (name, "a near-tie")
        s = scales[chosen] if chosen >= 0 else np.ones(K)
        out[f"{name}.options"] = np.array([bits, group, symmetric, duo], np.int32)
        out[f"{name}.scales"] = scales.astype(np.float32)
        out[f"{name}.errors"] = errors
        out[f"{name}.chosen"] = np.array([chosen], np.int32)
        out[f"{name}.clipped"] = clipped_errors(ws[2], x, s, bits, group, symmetric)
        print(name, "chosen", chosen, "error", sums[chosen], "plain", (plain / output).sum())
    save_file(out, OUT)
    assert OUT.stat().st_size <= SIZE_LIMIT, OUT.stat().st_size


if __name__ == "__main__":
    main()
