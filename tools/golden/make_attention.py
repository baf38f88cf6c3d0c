#!/usr/bin/env python3
"""Writes tests/golden/attention.safetensors: attention and its gradients by PyTorch, in double.

q f32 [30, 4, 8], k [70, 2, 8], v [70, 2, 6], grad [30, 4, 6] (of o), bias [1, 30, 70] and sinks [4] are shared. For each
case (metadata `cases`: JSON, name to hone's pattern as text and the other fields of its spec), CASE.o, CASE.log_sum
[30, 4], CASE.dq, dk, dv, and where the case has them dbias and dsinks, in f32.

Masks are made here from what the papers and libraries say, not by hone. Cases without soft cap, ALiBi and sinks are
torch's scaled_dot_product_attention (with enable_gqa, with is_causal where that is the mask); the others are its
formula with score modifications in the order that FlashAttention or flashinfer has, checked against flex_attention's
forward; sinks are one more column of the softmax, as in gpt-oss.

The script checks that each case differs from plain causal attention.

Made with torch 2.15.0 (CPU), safetensors 0.8.0: python tools/golden/make_attention.py
"""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

torch.set_num_threads(1)
OUT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "attention.safetensors"
HEADS, KV_HEADS, K_DIM, V_DIM, QUERIES, KEYS = 4, 2, 8, 6, 30, 70
SLOPES = [2.0 ** -(2 * (h + 1)) for h in range(HEADS)]
OFFSET = KEYS - QUERIES

rng = np.random.default_rng(5)
draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
q, k, v = draw(QUERIES, HEADS, K_DIM), draw(KEYS, KV_HEADS, K_DIM), draw(KEYS, KV_HEADS, V_DIM)
grad, bias, sinks = draw(QUERIES, HEADS, V_DIM), draw(1, QUERIES, KEYS), draw(HEADS)

documents = [0, 13, 45, 52, 70]
document_of = lambda x: (x.unsqueeze(-1) >= torch.tensor(documents[1:])).sum(-1)
# Query position i (of the last queries), key position j: tensors of integers.
CASES = {
    "torch_causal": ({"pattern": "causal", "top_left": True}, "is_causal"),
    "window": ({"pattern": "causal & (window(9) | prefix(3))"}, lambda i, j: (j <= i) & ((j > i - 9) | (j < 3))),
    "flash_window": ({"pattern": "band(5, 4)"}, lambda i, j: (j >= i - 5) & (j <= i + 4)),
    "strided": ({"pattern": "strided(7)"}, lambda i, j: (j <= i) & ((j >= i - 7) | ((i - j) % 7 == 0))),
    "longformer": (
        {"pattern": "band(5, 5) | global(2, 44..46)"},
        lambda i, j: ((i - j).abs() <= 5) | (i == 44) | (i == 45) | (j == 2) | (j == 44) | (j == 45),
    ),
    "documents": (
        {"pattern": "causal & documents(13, 45, 52)"},
        lambda i, j: (j <= i) & (document_of(i) == document_of(j)),
    ),
    "bias": ({"pattern": "causal", "bias": True}, lambda i, j: j <= i),
    "capped_alibi": (
        {"pattern": "causal", "softcap": 1.5, "slopes": SLOPES, "signed": False, "before_cap": False},
        lambda i, j: j <= i,
    ),
    "alibi_capped": (
        {"pattern": "all", "softcap": 1.5, "slopes": SLOPES, "signed": True, "before_cap": True},
        lambda i, j: j < 1000,
    ),
    "sinks": ({"pattern": "causal & window(20)", "sinks": True}, lambda i, j: (j <= i) & (j > i - 20)),
}
SCALE = 0.5


def by_formula(spec, seen, x):
    """softmax(score)·v with all score modifications: o [H, T, Dv] and log sum."""
    qs, ks, vs, b, s = x
    scores = SCALE * qs.transpose(0, 1) @ ks.repeat_interleave(HEADS // KV_HEADS, 1).permute(1, 2, 0)
    i, j = torch.arange(QUERIES).view(-1, 1) + OFFSET, torch.arange(KEYS)
    slopes = torch.tensor(spec.get("slopes", [0.0] * HEADS), dtype=torch.float64).view(-1, 1, 1)
    alibi = slopes * ((j - i) if spec.get("signed") else -(j - i).abs())
    cap = spec.get("softcap", 0.0)
    if spec.get("before_cap"):
        scores = scores + alibi
    if cap:
        scores = cap * torch.tanh(scores / cap)
    if not spec.get("before_cap"):
        scores = scores + alibi
    if spec.get("bias"):
        scores = scores + b
    scores = scores.masked_fill(~seen, -torch.inf)
    if spec.get("sinks"):
        scores = torch.cat([scores, s.view(-1, 1, 1).expand(-1, QUERIES, 1)], -1)
    p = torch.softmax(scores, -1)[..., :KEYS]
    return p @ vs.repeat_interleave(HEADS // KV_HEADS, 1).transpose(0, 1), torch.logsumexp(scores, -1)


def check_flex(spec, mask, o, x):
    slopes, cap = torch.tensor(spec["slopes"], dtype=torch.float64), spec["softcap"]

    def score_mod(score, batch, head, i, j):
        d = (j - i - OFFSET) if spec["signed"] else -(j - i - OFFSET).abs()
        if spec["before_cap"]:
            return cap * torch.tanh((score + slopes[head] * d) / cap)
        return cap * torch.tanh(score / cap) + slopes[head] * d

    blocks = create_block_mask(lambda b, h, i, j: mask(i + OFFSET, j), None, None, QUERIES, KEYS, device="cpu")
    heads_first = [t.detach().transpose(0, 1).unsqueeze(0) for t in x[:3]]
    again = flex_attention(*heads_first, score_mod=score_mod, block_mask=blocks, scale=SCALE, enable_gqa=True)
    assert torch.allclose(again[0], o.detach(), atol=1e-9)


def run(spec, mask):
    x = [torch.tensor(t, dtype=torch.float64, requires_grad=True) for t in (q, k, v, bias, sinks)]
    i, j = torch.arange(QUERIES).view(-1, 1) + OFFSET, torch.arange(KEYS)
    seen = (j <= i - OFFSET) if mask == "is_causal" else mask(i, j)
    o, log_sum = by_formula(spec, seen, x)
    if "slopes" in spec:
        check_flex(spec, mask, o, x)
    elif "sinks" not in spec:
        heads_first = [t.transpose(0, 1).unsqueeze(0) for t in x[:3]]
        how = {"is_causal": True} if mask == "is_causal" else {"attn_mask": seen}
        if spec.get("bias"):
            how = {"attn_mask": x[3].masked_fill(~seen, -torch.inf)}
        again = F.scaled_dot_product_attention(*heads_first, scale=SCALE, enable_gqa=True, **how)[0]
        assert torch.allclose(again, o.detach(), atol=1e-9)
        o = again
    o = o.transpose(0, 1)
    (o * torch.tensor(grad)).sum().backward()
    out = {"o": o, "log_sum": log_sum.transpose(0, 1), "dq": x[0].grad, "dk": x[1].grad, "dv": x[2].grad}
    if spec.get("bias"):
        out["dbias"] = x[3].grad
    if spec.get("sinks"):
        out["dsinks"] = x[4].grad
    return {name: np.ascontiguousarray(t.detach().numpy().astype(np.float32)) for name, t in out.items()}


tensors = {"q": q, "k": k, "v": v, "grad": grad, "bias": bias, "sinks": sinks}
plain = run({}, lambda i, j: j <= i)["o"]
for name, (spec, mask) in CASES.items():
    result = run(spec, mask)
    assert np.abs(result["o"] - plain).max() > 0.05, name
    tensors.update({f"{name}.{part}": t for part, t in result.items()})
save_file(tensors, OUT, metadata={"cases": json.dumps({name: spec for name, (spec, _) in CASES.items()})})
print(OUT, OUT.stat().st_size)
