#!/usr/bin/env python3
"""Writes tests/golden/linear_attention.safetensors: linear attention by other implementations.

Inputs that all cases share, one sequence of 21 tokens: q, k, a, b, g [21, 4·6], v [21, 4·5], g_head,
beta [21, 4], u [24], state [4, 6, 5], and what flows back, d_o [21, 20], d_state [4, 6, 5]; k_unit is
k with each head's length 1. q and k of `grouped` cases are their first two heads. For each case,
CASE.o, CASE.state where there is one, and the gradients CASE.d_NAME of the inputs that it has; the
loss is Σ d_o·o + Σ d_state·state.

  linear, normalised         flash-linear-attention's naive_recurrent_linear_attn; normalised: with
                             q and k through elu + 1, and without states
  retnet                     its naive_retention: 5 of 6 channels are values; without states
  simple_gla, gla, rwkv6     its naive_recurrent_simple_gla, _gla and _rwkv6
  delta_net                  its delta_rule_recurrence
  gated_delta, kda           its naive_recurrent_gated_delta_rule and naive_recurrent_kda (grouped)
  dplr                       its dplr_recurrence: what RWKV-7 is
  qwen3_next                 transformers' torch_chunk_gated_delta_rule (grouped), chunks of 64

And mixer.*: transformers' Mamba2Mixer on CPU with 4 heads of 6, 2 groups, states of 5, a convolution
over 4: mixer.projected [21, 24 + 44 + 4] is what in_proj gave (gate, x with B and C, Δt), mixer.out
[21, 24] what out_proj gets; mixer.conv_weight, conv_bias, A_log, dt_bias, D, norm are its parameters.

The script checks that each input matters to each case.

Made with torch 2.15.0 (CPU), transformers 5.24.0, fla-core 0.6.0, einops 0.8.2,
safetensors 0.8.0: python tools/golden/make_linear_attention.py
"""

import importlib.util
import inspect
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import Mamba2Config
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer
from transformers.models.qwen3_next import modeling_qwen3_next

T, H, K, V = 21, 4, 6, 5


def naive(path):
    """A file of fla.ops, without the package, which needs a GPU's compiler."""
    root = next(Path(p) / "fla/ops" for p in sys.path if (Path(p) / "fla/ops").is_dir())
    spec = importlib.util.spec_from_file_location(path.replace("/", "_"), root / f"{path}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def inputs():
    torch.manual_seed(7)
    x = {
        "q": torch.randn(T, H * K),
        "k": torch.randn(T, H * K),
        "v": torch.randn(T, H * V),
        "a": 0.4 * torch.randn(T, H * K),
        "g": -F.softplus(torch.randn(T, H * K) - 1),
        "g_head": -F.softplus(torch.randn(T, H) - 1),
        "beta": torch.rand(T, H),
        "u": torch.randn(H * K),
        "state": torch.randn(H, K, V),
        "d_o": torch.randn(T, H * V),
        "d_state": torch.randn(H, K, V),
    }
    x["b"] = -0.6 * x["a"] + 0.05 * torch.randn(T, H * K)
    x["k_unit"] = F.normalize(x["k"].view(T, H, K), dim=-1).reshape(T, H * K)
    return x


def heads(x, n=H):
    """[T, n·d] as [1, T, n, d]."""
    return x.view(1, T, n, -1)


def first(x):
    """The same as [1, n, T, d]."""
    return heads(x).transpose(1, 2)


def flat(o):
    return o.reshape(T, -1)


def cases():
    linear = naive("linear_attn/naive").naive_recurrent_linear_attn
    retention = naive("retention/naive").naive_retention
    simple = naive("simple_gla/naive").naive_recurrent_simple_gla
    gla = naive("gla/naive").naive_recurrent_gla
    rwkv6 = naive("rwkv6/recurrent_naive").naive_recurrent_rwkv6
    delta = naive("delta_rule/naive").delta_rule_recurrence
    gated = naive("gated_delta_rule/naive").naive_recurrent_gated_delta_rule
    kda = naive("kda/naive").naive_recurrent_kda
    dplr = naive("generalized_delta_rule/dplr/naive").dplr_recurrence
    # Its own function; wrapped, it would take kernels for GPUs.
    qwen = inspect.unwrap(modeling_qwen3_next.torch_chunk_gated_delta_rule)

    def elu(x):
        return F.elu(x) + 1

    def two(x):
        return heads(x, 2)

    return {
        "linear": (["q", "k", "v", "state"], lambda q, k, v, s: linear(
            heads(q), heads(k), heads(v), 1.0, s[None], True)),
        "normalised": (["q", "k", "v"], lambda q, k, v: (linear(
            heads(elu(q)), heads(elu(k)), heads(v), 1.0, None, False, True)[0], None)),
        "retnet": (["q", "k", "v"], lambda q, k, v: (
            retention(first(q), first(k), first(v)).transpose(1, 2), None)),
        "simple_gla": (["q", "k", "v", "g_head", "state"], lambda q, k, v, g, s: simple(
            heads(q), heads(k), heads(v), g[None], initial_state=s[None], output_final_state=True)),
        "gla": (["q", "k", "v", "g", "state"], lambda q, k, v, g, s: gla(
            heads(q), heads(k), heads(v), heads(g), s[None], True)),
        "rwkv6": (["q", "k", "v", "g", "u", "state"], lambda q, k, v, g, u, s: by_head(rwkv6(
            first(q), first(k), first(v), first(g), u.view(H, K), 1.0, s[None], True))),
        "delta_net": (["q", "k_unit", "v", "beta", "state"], lambda q, k, v, b, s: by_head(delta(
            first(q), first(k), first(v), b.T[None], s[None], True))),
        "gated_delta": (["q", "k_unit", "v", "g_head", "beta", "state"],
                        lambda q, k, v, g, b, s: gated(
            heads(q), heads(k), heads(v), b[None], g[None], None, s[None], True)),
        "kda": (["q:2", "k_unit:2", "v", "g", "beta", "state"], lambda q, k, v, g, b, s: kda(
            two(q), two(k), heads(v), heads(g), b[None], None, s[None], True)),
        "dplr": (["q", "k_unit", "v", "g", "a", "b", "state"], lambda q, k, v, g, a, b, s: by_head(
            dplr(first(q), first(k), first(v), first(a), first(b), first(g), s[None], True))),
        "qwen3_next": (["q:2", "k_unit:2", "v", "g_head", "beta", "state"],
                       lambda q, k, v, g, b, s: qwen(
            two(q), two(k), heads(v), g[None], b[None], initial_state=s[None],
            output_final_state=True)),
    }


def by_head(result):
    return result[0].transpose(1, 2), result[1]


def run(x, names, f):
    leaves = []
    for name in names:
        leaf = x[name.removesuffix(":2")]
        leaf = leaf[:, : 2 * K] if name.endswith(":2") else leaf
        leaves.append(leaf.clone().requires_grad_())
    o, state = f(*leaves)
    loss = (x["d_o"] * flat(o)).sum()
    if state is not None:
        loss = loss + (x["d_state"] * state.view(H, K, V)).sum()
    loss.backward()
    return flat(o), state, leaves


def mixer():
    torch.manual_seed(8)
    config = Mamba2Config(num_heads=H, head_dim=6, hidden_size=12, state_size=5, expand=2, n_groups=2,
                          conv_kernel=4, use_conv_bias=True, use_bias=False, chunk_size=8)
    layer = Mamba2Mixer(config, 0).eval()
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn_like(p) * 0.5)
        layer.A_log.copy_(torch.rand(H))
        layer.norm.weight.copy_(1 + 0.2 * torch.randn_like(layer.norm.weight))
    seen = {}
    layer.in_proj.register_forward_hook(lambda m, i, o: seen.update(projected=o))
    layer.out_proj.register_forward_hook(lambda m, i, o: seen.update(out=i[0]))
    with torch.no_grad():
        layer(torch.randn(1, T, 12))
    return {
        "projected": flat(seen["projected"]), "out": flat(seen["out"]),
        "conv_weight": layer.conv1d.weight.view(-1, 4), "conv_bias": layer.conv1d.bias,
        "A_log": layer.A_log, "dt_bias": layer.dt_bias, "D": layer.D, "norm": layer.norm.weight,
    }


def main():
    x = inputs()
    out = dict(x)
    for case, (names, f) in cases().items():
        o, state, leaves = run(x, names, f)
        out[f"{case}.o"] = o
        if state is not None:
            out[f"{case}.state"] = state.view(H, K, V)
        for name, leaf in zip(names, leaves):
            name = name.removesuffix(":2").removesuffix("_unit").removesuffix("_head")
            assert leaf.grad.abs().max() > 1e-3, (case, name)
            out[f"{case}.d_{'initial' if name == 'state' else name}"] = leaf.grad
    for name, value in mixer().items():
        out[f"mixer.{name}"] = value
    out = {k: v.detach().float().contiguous().clone() for k, v in out.items()}
    path = Path(__file__).resolve().parents[2] / "tests/golden/linear_attention.safetensors"
    save_file(out, path)
    assert path.stat().st_size <= 200 * 1024, path.stat().st_size
    print(path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
