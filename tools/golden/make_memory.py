#!/usr/bin/env python3
"""Writes tests/golden/families/{transformer_xl,infini,infini_linear,recurrent_memory}/.

Small random checkpoints of hone's memory_transformer and their logits. The layout is hone's own and
no library runs it, so the logits come from the papers' equations (Dai et al. 2019; Munkhdalai et
al. 2024; Bulatov et al. 2022) in float64, below: of a sequence as a whole, query by query, with
nothing carried from call to call. Files are those of make_families.py.

Made with torch 2.15.0, safetensors 0.8.0:
  python tools/golden/make_memory.py
"""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file

OUT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "families"
VOCAB, WIDTH, HEADS, HEAD, LAYERS, FFN, PROMPT, STEPS = 96, 24, 3, 8, 2, 40, 40, 8
EPS, THETA, MARGIN = 1e-5, 10000.0, 5e-3


def rms_norm(x, w):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + EPS) * w


def rotate(x, places):
    """x [T, heads, size] by rotate-half angles."""
    half = x.shape[-1] // 2
    frequencies = THETA ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.tensor(places, dtype=torch.float64)[:, None] * frequencies
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def projections(p, x):
    return ((x @ p[n].T).view(len(x), HEADS, HEAD) for n in "qkv")


def transformer_xl(p, x, segment, memory):
    q, k, v = projections(p, x)
    u, w = (p[n].view(HEADS, HEAD) for n in ("content_bias", "position_bias"))
    out = torch.zeros(len(x), HEADS, HEAD, dtype=torch.float64)
    half = WIDTH // 2
    frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    for i in range(len(x)):
        first = max(0, i - i % segment - memory)
        distance = (i - torch.arange(first, i + 1)).double()[:, None] * frequencies
        r = (torch.cat([distance.sin(), distance.cos()], -1) @ p["r"].T).view(-1, HEADS, HEAD)
        for h in range(HEADS):
            scores = k[first : i + 1, h] @ (q[i, h] + u[h]) + r[:, h] @ (q[i, h] + w[h])
            out[i, h] = torch.softmax(scores / math.sqrt(HEAD), 0) @ v[first : i + 1, h]
    return out.flatten(1) @ p["o"].T


def within_segments(q, k, v, segment):
    places = [i % segment for i in range(len(q))]
    q, k = rotate(q, places), rotate(k, places)
    out = torch.zeros_like(q)
    for i in range(len(q)):
        first = i - i % segment
        for h in range(HEADS):
            scores = k[first : i + 1, h] @ q[i, h] / math.sqrt(HEAD)
            out[i, h] = torch.softmax(scores, 0) @ v[first : i + 1, h]
    return out


def infini(p, x, segment, delta):
    q, k, v = projections(p, x)
    local = within_segments(q, k, v, segment)
    sq, sk = (torch.nn.functional.elu(t) + 1 for t in (q, k))
    gate = torch.sigmoid(p["memory_gate"])
    out = torch.zeros_like(q)
    for h in range(HEADS):
        m = torch.zeros(HEAD, HEAD, dtype=torch.float64)
        z = torch.zeros(HEAD, dtype=torch.float64)
        for first in range(0, len(x), segment):
            rows = slice(first, first + segment)
            a = sq[rows, h] @ m / (sq[rows, h] @ z + 1e-6)[:, None]
            out[rows, h] = gate[h] * a + (1 - gate[h]) * local[rows, h]
            keys, new = sk[rows, h], v[rows, h]
            if delta:
                new = new - keys @ m / (keys @ z + 1e-6)[:, None]
            m, z = m + keys.T @ new, z + keys.sum(0)
    return out.flatten(1) @ p["o"].T


def segment_attention(p, x, segment):
    return within_segments(*projections(p, x), segment).flatten(1) @ p["o"].T


def stack(model, x):
    c = model["config"]
    # A block of attention holds what stands around a segment as well.
    segment = c["segment"] + 2 * c.get("memory_tokens", 0)
    for layer in model["layers"]:
        y = rms_norm(x, layer["ln1"])
        if c["mixer"] == "transformer_xl":
            y = transformer_xl(layer, y, segment, c["memory"])
        elif c["mixer"] == "infini":
            y = infini(layer, y, segment, c["memory_delta"])
        else:
            y = segment_attention(layer, y, segment)
        x = x + y
        y = rms_norm(x, layer["ln2"])
        x = x + (torch.nn.functional.silu(y @ layer["gate"].T) * (y @ layer["up"].T)) @ layer["down"].T
    return x


def run(model, ids):
    x = model["emb"][torch.tensor(ids)]
    if "memory" not in model:
        x = stack(model, x)
    else:
        memory, rows = model["memory"], []
        segment, m = model["config"]["segment"], len(model["memory"])
        for first in range(0, len(ids), segment):
            part = x[first : first + segment]
            y = stack(model, torch.cat([memory, part, memory]))
            rows.append(y[m : m + len(part)])
            memory = rms_norm(y[m + len(part) :], model["norm"])
        x = torch.cat(rows)
    return rms_norm(x, model["norm"]) @ model["head"].T


class Weights:
    def __init__(self, seed):
        self.stored, self.generator = {}, torch.Generator().manual_seed(seed)

    def __call__(self, name, *shape, scale=None, mean=0.0):
        scale = 1.2 / shape[-1] ** 0.5 if scale is None else scale
        t = (mean + scale * torch.randn(shape, generator=self.generator)).float()
        self.stored[name] = t.contiguous()
        return t.double()


def draw(seed, config):
    w = Weights(seed)
    model = {"config": config, "layers": []}
    model["emb"] = w("model.embed_tokens.weight", VOCAB, WIDTH, scale=0.5)
    if config.get("memory_tokens"):
        model["memory"] = w("model.memory.weight", config["memory_tokens"], WIDTH, scale=0.5)
    for i in range(LAYERS):
        b, n = f"model.layers.{i}.", HEADS * HEAD
        a = b + "self_attn."
        layer = {"ln1": w(b + "input_layernorm.weight", WIDTH, scale=0.3, mean=1.0)}
        layer["ln2"] = w(b + "post_attention_layernorm.weight", WIDTH, scale=0.3, mean=1.0)
        for name in "qkv":
            layer[name] = w(f"{a}{name}_proj.weight", n, WIDTH)
        layer["o"] = w(a + "o_proj.weight", WIDTH, n)
        if config["mixer"] == "transformer_xl":
            layer["r"] = w(a + "r_proj.weight", n, WIDTH)
            for name in ("content_bias", "position_bias"):
                layer[name] = w(a + name, n, scale=0.5)
        if config["mixer"] == "infini":
            layer["memory_gate"] = w(a + "memory_gate", HEADS, scale=1.0)
        for name, rows, columns in (("gate", FFN, WIDTH), ("up", FFN, WIDTH), ("down", WIDTH, FFN)):
            layer[name] = w(f"{b}mlp.{name}_proj.weight", rows, columns)
        model["layers"].append(layer)
    model["norm"] = w("model.norm.weight", WIDTH, scale=0.3, mean=1.0)
    model["head"] = w("lm_head.weight", VOCAB, WIDTH)
    return model, w.stored


def write(name, seed, **settings):
    config = dict(
        model_type="memory_transformer",
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=FFN,
        max_position_embeddings=128,
        rms_norm_eps=EPS,
        rope_theta=THETA,
        tie_word_embeddings=False,
        **settings,
    )
    model, stored = draw(seed, config)
    for attempt in range(1000, 2000):
        generator = torch.Generator().manual_seed(attempt)
        ids = torch.randint(3, VOCAB - 1, (PROMPT,), generator=generator).tolist()
        whole = list(ids)
        for _ in range(STEPS):
            whole.append(int(run(model, whole)[-1].argmax()))
        logits = run(model, whole)
        steps = logits[PROMPT - 1 : -1]
        best, second = steps.topk(2).values.unbind(1)
        if float((best - second).min() / steps.abs().max()) > MARGIN:
            break
    # The first segment must matter to the last, and so must every parameter.
    other = [ids[0] + 1 if ids[0] < VOCAB - 2 else 3] + ids[1:]
    carried = float((run(model, other)[-1] - logits[PROMPT - 1]).abs().max() / logits.abs().max())
    if settings["mixer"] != "transformer_xl":
        assert carried > 1e-5, f"{name}: the first token moves the last logits by {carried}"
    groups = [model["layers"][1]] + ([{"memory": model["memory"]}] if "memory" in model else [])
    for group in groups:
        for parameter, value in group.items():
            kept = value.clone()
            value.mul_(0.5).add_(0.1)
            moved = float((run(model, ids) - logits[:PROMPT]).abs().max() / logits.abs().max())
            value.copy_(kept)
            assert moved > 1e-4, f"{name}: {parameter} moves the logits by {moved}"
    directory = OUT / name
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    save_file(stored, directory / "model.safetensors", metadata={"format": "pt"})
    golden = {
        "input_ids": torch.tensor(ids),
        "logits": logits[:PROMPT].float().contiguous(),
        "continuation": torch.tensor(whole[PROMPT:]),
        "step_logits": steps.float().contiguous(),
    }
    save_file(golden, directory / "logits.safetensors")
    largest = max(path.stat().st_size for path in directory.iterdir())
    assert largest <= 200_000, largest
    print(f"{name}: the first token moves the last logits by {carried:.1e}, largest file {largest}")


def main():
    torch.set_num_threads(1)
    write("transformer_xl", 31, mixer="transformer_xl", segment=8, memory=11)
    write("infini", 32, mixer="infini", segment=8, memory_delta=True)
    write("infini_linear", 33, mixer="infini", segment=7, memory_delta=False)
    write("recurrent_memory", 34, mixer="segment", segment=8, memory_tokens=3)


if __name__ == "__main__":
    main()
