#!/usr/bin/env python3
"""Writes tests/golden/gptq_{natural,actorder}.safetensors: GPTQ on a small layer.

An oracle of the published algorithm (Frantar et al. 2022, and the order of steps that the authors'
program fixed), written from its description. Both files hold the same layer; the second takes its
columns by falling diag(H):
  w        f32 [N, K]   the weight; K = 160 makes a full block of 128 columns and a part of one
  x        f16 [T, K]   activations, one token per row, correlated; column 77 is dead (all zero)
  u        f32 [K, K]   upper Cholesky factor of (H + damp I)^-1, columns in the solver's order;
                        H = 2/T x'x, a dead column has H = 1 and weight 0, and
                        damp = 0.01 mean(diag H)
  perm     i32 [K]      column perm[i] is the i-th to be quantised
and for each case:
  CASE.options  i32 [7]     bits, sym, group (-1: the row), act-order, static groups, MSE grid,
                            scales rounded to f16 before use
  CASE.codes    u8  [N, K]  in the layer's own column order; weight = scale * (code - zero)
  CASE.scales   f32 [N, G]
  CASE.zeros    u8  [N, G]
  CASE.g_idx    i32 [K]     the group of each column; a moving group of an act-order run holds
                            columns that are neighbours in that order
  CASE.errors   f64 [2]     sum of squares of x (W - W')' for GPTQ, and for rounding to nearest on
                            grids from the original weights, groups along the layer's own columns

What implementations get wrong, and this pins: a group's grid comes from weights that carry the
updates of earlier *blocks* only, never of this one; static groups take the grid from the original
weights; symmetric grids divide the range by 2^bits - 1 (absmax by 7.5 at 4 bits); ties go to even.

The script checks itself: float32 gives the codes of float64, no code, zero or grid choice hangs on
a near-tie, and without blocks the codes equal those of Optimal Brain Quantisation with the Hessian
of the remaining columns inverted anew at each step.

Made with numpy 2.4.6, safetensors 0.8.0: python tools/golden/make_gptq.py
"""

import itertools
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

OUT = Path(__file__).resolve().parents[2] / "tests" / "golden"
N, K, T, DEAD = 20, 160, 64, 77
BLOCK, DAMP = 128, 0.01
GRID, LEAST_SHRINK, NORM = 100, 0.2, 2.4  # the MSE grid tries 1, 0.99, ... of the range
TIE = 1e-5  # the least distance of an unrounded code from a tie, in codes
FIRST_SEED = 39  # earlier ones have near-ties
SIZE_LIMIT = 200_000


class Options:
    FIELDS = ("bits", "sym", "group", "act_order", "static", "mse", "f16")

    def __init__(self, bits=4, sym=0, group=-1, act_order=0, static=0, mse=0, f16=0):
        self.bits, self.sym, self.group, self.act_order = bits, sym, group, act_order
        self.static, self.mse, self.f16 = static, mse, f16
        self.max_code = 2**bits - 1

    def name(self):
        flags = [flag for flag in ("act_order", "static", "mse", "f16") if getattr(self, flag)]
        group = "row" if self.group < 0 else f"g{self.group}"
        return "_".join([f"b{self.bits}", "sym" if self.sym else "asym", group, *flags])

    def values(self):
        return np.array([getattr(self, field) for field in self.FIELDS], np.int32)


class Margin:
    """The least distance from a tie over everything that was rounded."""

    least = np.inf

    @classmethod
    def round(cls, x):
        if x.size:
            cls.least = min(cls.least, float(np.min(np.abs(np.abs(x - np.floor(x)) - 0.5))))
        return np.rint(x)


def make_layer(seed):
    """(w [N, K], x [T, K]): correlated activations with a few strong channels and a dead one."""
    random = np.random.default_rng(seed)
    spectrum = 1 / np.sqrt(1 + np.arange(K))
    x = random.standard_normal((T, K)) * spectrum @ random.standard_normal((K, K))
    x += 1.0 * random.standard_normal((T, K))
    x *= np.exp(0.5 * random.standard_normal(K))
    x *= 1.5 / np.sqrt(np.mean(x**2, axis=0)).min()  # so that a dead column's H = 1 sorts last
    x[:, DEAD] = 0
    w = random.standard_normal((N, K)) * np.exp(0.3 * random.standard_normal((N, 1)))
    w[:, random.integers(K, size=4)] *= 2.5
    w[:, DEAD] *= 1e-3  # so small that no grid depends on whether it was zeroed before
    return w.astype(np.float32), x.astype(np.float16)


def grid_of(w, options, dtype):
    """(scale, zero) of each row of w [N, g]: the range holds 0; optionally shrunk for the error."""
    low, high = np.minimum(w.min(axis=1), 0), np.maximum(w.max(axis=1), 0)
    if options.sym:
        assert np.all(low < 0)  # of a row without negatives the authors' program keeps low = 0
        high = np.maximum(-low, high)
        low = -high
    assert np.all(high > low)
    steps = dtype(options.max_code)

    def at(part):
        scale = (part * high - part * low) / steps
        if options.sym:
            return scale, np.full_like(scale, (options.max_code + 1) // 2)
        return scale, Margin.round(-part * low / scale)

    scale, zero = at(dtype(1))
    if options.mse:
        scale, zero = search_grid(w, at, options, dtype)
    if options.f16:
        scale = scale.astype(np.float16).astype(dtype)
    return scale, zero


def search_grid(w, at, options, dtype):
    """The part of the range with the least sum of |error|^2.4, row by row; the widest of equals."""
    rows = np.arange(len(w))
    tried = [at(dtype(1 - i / GRID)) for i in range(int((1 - LEAST_SHRINK) * GRID))]
    errors = []
    for scale, zero in tried:
        code = np.clip(np.rint(w / scale[:, None]) + zero[:, None], 0, options.max_code)
        back = scale[:, None] * (code - zero[:, None])
        errors.append((np.abs(back - w) ** NORM).sum(axis=1))
    errors = np.array(errors)
    best = errors.argmin(axis=0)
    second = np.partition(errors, 1, axis=0)[1]
    Margin.least = min(Margin.least, float(np.min(second / errors[best, rows] - 1)))
    return (np.array([grid[i] for grid in tried])[best, rows] for i in (0, 1))


def encode(w, scale, zero, options):
    return np.clip(Margin.round(w / scale) + zero, 0, options.max_code)


def hessian(x, dtype):
    x = x.astype(dtype)
    h = dtype(2 / len(x)) * (x.T @ x)
    dead = np.diag(h) == 0
    h[dead, dead] = 1
    return h, dead


def damped(h):
    return h + DAMP * np.mean(np.diag(h)) * np.eye(len(h))


def upper_factor(h):
    """U, upper triangular, with U'U = h^-1."""
    return np.linalg.cholesky(np.linalg.inv(h)).T


def solve(w, u, perm, dead, options, dtype=np.float64, block=BLOCK):
    """(codes [N, K], scales [N, G], zeros [N, G], g_idx [K]), columns in the layer's order."""
    w, u = w.astype(dtype), u.astype(dtype)
    width = K if options.group < 0 else options.group
    w[:, dead] = 0
    fixed = [grid_of(w[:, c : c + width], options, dtype) for c in range(0, K, width)]
    keep_fixed = options.static or options.group < 0
    w = w[:, perm]
    codes, g_idx, grids = np.zeros((N, K), np.uint8), np.zeros(K, np.int32), list(fixed)
    for start in range(0, K, block):
        stop = min(start + block, K)
        inside = w[:, start:stop].copy()  # feels the errors of this block; w does so at its end
        errors = np.zeros_like(inside)
        for i in range(start, stop):
            column = i - start
            group = (perm[i] if keep_fixed else i) // width
            if not keep_fixed and i % width == 0:
                grids[group] = grid_of(w[:, i : i + width], options, dtype)
            scale, zero = grids[group]
            code = encode(inside[:, column], scale, zero, options)
            error = (inside[:, column] - scale * (code - zero)) / u[i, i]
            inside[:, column:] -= np.outer(error, u[i, i:stop])
            errors[:, column] = error
            codes[:, perm[i]], g_idx[perm[i]] = code, group
        w[:, stop:] -= errors @ u[start:stop, stop:]
    scales, zeros = (np.stack([grid[j] for grid in grids], axis=1) for j in (0, 1))
    return codes, scales, zeros, g_idx


def solve_by_definition(w, h, perm, dead, options):
    """Codes from Optimal Brain Quantisation's own formula; only for grids that do not move."""
    w = w.astype(np.float64)
    width = K if options.group < 0 else options.group
    w[:, dead] = 0
    grids = [grid_of(w[:, c : c + width], options, np.float64) for c in range(0, K, width)]
    codes = np.zeros((N, K), np.uint8)
    for i, column in enumerate(perm):
        rest = perm[i:]
        inverse_row = np.linalg.inv(h[np.ix_(rest, rest)])[0]
        scale, zero = grids[column // width]
        codes[:, column] = encode(w[:, column], scale, zero, options)
        error = w[:, column] - scale * (codes[:, column] - zero)
        w[:, rest] -= np.outer(error, inverse_row / inverse_row[0])
    return codes


def decode(codes, scales, zeros, g_idx):
    return scales[:, g_idx] * (codes - zeros[:, g_idx])


def layer_error(w, x, back):
    return float(np.sum((x.astype(np.float64) @ (w.astype(np.float64) - back).T) ** 2))


def nearest(w, options):
    """The weight rounded to nearest on the grids of the original weight."""
    width = K if options.group < 0 else options.group
    parts = []
    for c in range(0, K, width):
        part = w[:, c : c + width].astype(np.float64)
        scale, zero = (v[:, None] for v in grid_of(part, options, np.float64))
        parts.append(scale * (encode(part, scale, zero, options) - zero))
    return np.concatenate(parts, axis=1)


def natural_cases():
    for sym, group, mse in itertools.product((0, 1), (-1, 32), (0, 1)):
        yield Options(sym=sym, group=group, mse=mse)
    yield Options(bits=3, group=32)
    yield Options(bits=2, group=32)
    yield Options(group=32, static=1)
    yield Options(sym=1, group=32, f16=1)


def act_order_cases():
    for sym, (group, static) in itertools.product((0, 1), ((-1, 0), (32, 0), (32, 1))):
        yield Options(sym=sym, group=group, act_order=1, static=static)
    yield Options(bits=3, group=32, act_order=1, mse=1)
    yield Options(bits=2, group=32, act_order=1, static=1, mse=1)


def run_cases(w, x, cases, act_order):
    """The tensors of one file, or None where something hangs on a near-tie."""
    h, dead = hessian(x, np.float64)
    diagonal = np.diag(h)
    assert np.sum(dead) == 1 and np.delete(diagonal, DEAD).min() > 2
    perm = np.argsort(-diagonal, kind="stable") if act_order else np.arange(K)
    h = damped(h)
    u = upper_factor(h[np.ix_(perm, perm)]).astype(np.float32)
    tensors = {"w": w, "x": x, "u": np.ascontiguousarray(u), "perm": perm.astype(np.int32)}
    for options in cases:
        Margin.least = np.inf
        codes, scales, zeros, g_idx = solve(w, u, perm, dead, options)
        margin = Margin.least
        single = solve(w, u, perm, dead, options, dtype=np.float32)[0]
        if margin < TIE or np.any(single != codes):
            return None
        whole = layer_error(w, x, decode(codes.astype(float), scales, zeros, g_idx))
        rounded = layer_error(w, x, nearest(w, options))
        if options.static or options.group < 0:
            exact = solve_by_definition(w, h, perm, dead, options)
            assert np.mean(exact == codes) > 0.999, f"{options.name()}: {np.mean(exact == codes)}"
        elif not options.act_order:
            other = solve(w, u, perm, dead, options, block=K)[0]
            assert np.any(other != codes), "the block size does not matter here"
        figures = f"error {whole:9.1f}, nearest {rounded:9.1f}, margin {margin:.1e}"
        print(f"{options.name():28} {figures}")
        prefix = options.name() + "."
        tensors[prefix + "options"] = options.values()
        tensors[prefix + "codes"] = codes
        tensors[prefix + "scales"] = scales.astype(np.float32)
        tensors[prefix + "zeros"] = zeros.astype(np.uint8)
        tensors[prefix + "g_idx"] = g_idx
        tensors[prefix + "errors"] = np.array([whole, rounded])
    return tensors


def main():
    for seed in itertools.count(FIRST_SEED):
        w, x = make_layer(seed)
        natural = run_cases(w, x, natural_cases(), act_order=False)
        ordered = natural and run_cases(w, x, act_order_cases(), act_order=True)
        if ordered:
            break
        print(f"seed {seed} has a near-tie")
    for name, tensors in (("natural", natural), ("actorder", ordered)):
        path = OUT / f"gptq_{name}.safetensors"
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path)
        path.chmod(0o644)
        assert path.stat().st_size <= SIZE_LIMIT, path.stat().st_size
        print(f"seed {seed}: {path.name}, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
