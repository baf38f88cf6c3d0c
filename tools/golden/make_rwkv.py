#!/usr/bin/env python3
"""Writes tests/golden/families/rwkv{5,6,7}/: small random checkpoints and their logits.

No library in the registries has these models without a GPU, so the logits come from the equations
of the papers (Peng et al. 2024, "Eagle and Finch"; Peng et al. 2025, "RWKV-7 Goose") as plain loops
over tokens in float64, below. These loops are checked against the logits that rwkv.cpp publishes
for its test models (--models DIRECTORY), before anything is written. Files are those of
make_families.py. Names and shapes are the hub's: rwkv5 and rwkv6 of the remote code, rwkv7 of
flash-linear-attention.

Made with torch 2.15.0, safetensors 0.8.0:
  python tools/golden/make_rwkv.py [--models DIRECTORY]
"""

import argparse
import json
import struct
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

OUT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "families"
VOCAB, WIDTH, HEAD, LAYERS, FFN, PROMPT, STEPS = 128, 32, 16, 3, 48, 40, 8
MARGIN = 5e-3


def layer_norm(x, w, b, eps=1e-5):
    return torch.nn.functional.layer_norm(x, x.shape, w, b, eps)


def head_norm(x, w, b, heads, eps=64e-5):
    return torch.nn.functional.group_norm(x[None], heads, w, b, eps)[0]


def channel_mix(p, x, before):
    if "receptance.weight" not in p:  # RWKV-7
        k = x + (before - x) * p["x_k"]
        return p["value.weight"] @ torch.relu(p["key.weight"] @ k) ** 2
    k = x + (before - x) * p["mix_k"]
    r = x + (before - x) * p["mix_r"]
    v = p["value.weight"] @ torch.relu(p["key.weight"] @ k) ** 2
    return torch.sigmoid(p["receptance.weight"] @ r) * v


def eagle_finch(p, x, before, state, heads):
    d = before - x
    if "maa_w1" in p:  # RWKV-6
        low = torch.tanh((x + d * p["maa_x"]) @ p["maa_w1"]).view(5, -1)
        w, k, v, r, g = (
            x + d * (p["mix_" + n] + low[i] @ p["maa_w2"][i]) for i, n in enumerate("wkvrg")
        )
        decay = p["decay"] + torch.tanh(w @ p["decay_w1"]) @ p["decay_w2"]
    else:
        k, v, r, g = (x + d * p["mix_" + n] for n in "kvrg")
        decay = p["decay"]
    k, v, r = (
        (p[n + ".weight"] @ y).view(heads, -1)
        for n, y in (("key", k), ("value", v), ("receptance", r))
    )
    gate = torch.nn.functional.silu(p["gate.weight"] @ g)
    kv = k[:, :, None] * v[:, None, :]
    bonus = p["bonus"].reshape(heads, -1, 1)
    y = (r[:, None, :] @ (state + bonus * kv)).reshape(-1)
    state = torch.exp(-torch.exp(decay)).reshape(heads, -1, 1) * state + kv
    y = head_norm(y, p["ln_x.weight"], p["ln_x.bias"], heads, p.get("eps", 64e-5)) * gate
    return p["output.weight"] @ y, state


def goose(p, x, before, state, heads, first):
    d = before - x
    r, w, k, v, a, g = (x + d * p["x_" + n] for n in "rwkvag")
    r, k = p["receptance.weight"] @ r, p["key.weight"] @ k
    rate = torch.sigmoid(p["a0"] + p["a2"] @ (p["a1"] @ a))
    gate = p["g2"] @ torch.sigmoid(p["g1"] @ g)
    decay = torch.exp(-np.exp(-0.5) * torch.sigmoid(p["w0"] + p["w2"] @ torch.tanh(p["w1"] @ w)))
    value = p["value.weight"] @ v
    if first is None:
        first = value
    else:
        value = value + (first - value) * torch.sigmoid(p["v0"] + p["v2"] @ (p["v1"] @ v))
    kk = torch.nn.functional.normalize((k * p["k_k"]).view(heads, -1), dim=-1)
    k = k * (1 + (rate - 1) * p["k_a"])
    r, k, rate, decay, value = (y.view(heads, -1) for y in (r, k, rate, decay, value))
    # State [head, value, key].
    state = (
        state * decay[:, None, :]
        - (state @ kk[:, :, None]) @ (kk * rate)[:, None, :]
        + value[:, :, None] * k[:, None, :]
    )
    y = (state @ r[:, :, None]).reshape(-1)
    y = head_norm(y, p["ln_x.weight"], p["ln_x.bias"], heads)
    y = y + ((r * k * p["r_k"].view(heads, -1)).sum(-1, keepdim=True) * value).reshape(-1)
    return p["output.weight"] @ (y * gate), state, first.reshape(-1)


def run(model, ids):
    """Logits [T, V] of tokens, one after the other. Parameters by the names used above."""
    heads, layers, head = model["heads"], model["layers"], model["head_size"]
    width = model["emb"].shape[1]
    zeros = torch.zeros(width, dtype=torch.float64)
    before = [[zeros, zeros] for _ in layers]
    states = [torch.zeros(heads, head, head, dtype=torch.float64) for _ in layers]
    rows = []
    for token in ids:
        x = layer_norm(model["emb"][token], *model["ln0"])
        first = None
        for i, layer in enumerate(layers):
            y = layer_norm(x, *layer["ln1"])
            if model["version"] == 7:
                out, states[i], first = goose(layer["att"], y, before[i][0], states[i], heads, first)
            else:
                out, states[i] = eagle_finch(layer["att"], y, before[i][0], states[i], heads)
            before[i][0] = y
            x = x + out
            y = layer_norm(x, *layer["ln2"])
            x = x + channel_mix(layer["ffn"], y, before[i][1])
            before[i][1] = y
        rows.append(model["head"] @ layer_norm(x, *model["ln_out"]))
    return torch.stack(rows)


def read_cpp(path):
    """The tensors of an rwkv.cpp file in float32, as numpy has them."""
    data, at, tensors = path.read_bytes(), 24, {}
    while at < len(data):
        rank, length, kind = struct.unpack_from("<3i", data, at)
        assert kind == 0, "only float32 files"
        sizes = struct.unpack_from(f"<{rank}i", data, at + 12)
        at += 12 + 4 * rank
        name = data[at : at + length].decode()
        at += length
        n = int(np.prod(sizes))
        values = np.frombuffer(data, "<f4", n, at).reshape(sizes[::-1]).copy()
        tensors[name] = torch.from_numpy(values).double()
        at += 4 * n
    return tensors


def from_cpp(version, t):
    layers = 1 + max(int(name.split(".")[1]) for name in t if name.startswith("blocks."))
    pair = lambda name: (t[name + ".weight"], t[name + ".bias"])

    def part(prefix):
        p = {k[len(prefix) :]: v.squeeze() for k, v in t.items() if k.startswith(prefix)}
        if "x_rwkvag" in p:
            p.update({"x_" + n: p["x_rwkvag"][i] for i, n in enumerate("rwkvag")})
        if version == 5:
            p["eps"] = 1e-5  # of a head_size_divisor of 1
            p.update({k[5:]: 1 - v for k, v in list(p.items()) if k.startswith("time_mix_")})
            if "time_decay" in p:
                p["decay"] = torch.log(-torch.log(p["time_decay"]))
                p["bonus"] = p["time_faaaa"]
        return p

    size = t["blocks.0.att.r_k"].shape[1] if version == 7 else t["blocks.0.att.time_faaaa"].shape[1]
    return {
        "version": version,
        "heads": t["emb.weight"].shape[1] // size,
        "head_size": size,
        "emb": t["emb.weight"],
        "head": t["head.weight"],
        "ln0": pair("blocks.0.ln0"),
        "ln_out": pair("ln_out"),
        "layers": [
            {
                "ln1": pair(f"blocks.{i}.ln1"),
                "ln2": pair(f"blocks.{i}.ln2"),
                "att": part(f"blocks.{i}.att."),
                "ffn": part(f"blocks.{i}.ffn."),
            }
            for i in range(layers)
        ],
    }


def check(directory):
    for version, name in ((5, "5v2-730K"), (7, "7v0-834K")):
        model = from_cpp(version, read_cpp(directory / f"tiny-rwkv-{name}-FP32.bin"))
        ours = run(model, list(b'"in'))[-1]
        theirs = torch.from_numpy(np.fromfile(directory / f"expected-logits-{name}.bin", "<f4"))
        error = float((ours - theirs).norm() / theirs.norm())
        print(f"{name}: relative distance from the published logits {error:.1e}")
        assert error < 1e-4


class Weights:
    """Random parameters under the hub's names, and the same under those of run()."""

    def __init__(self, version):
        self.stored, self.generator = {}, torch.Generator().manual_seed(20 + version)

    def __call__(self, name, *shape, scale=0.3, mean=0.0, stored_shape=None, inner=None):
        if inner is not None:
            scale = 1.2 / inner**0.5
        t = (mean + scale * torch.randn(shape, generator=self.generator)).float()
        self.stored[name] = t.reshape(stored_shape or shape).contiguous()
        return t.double()

    def norm(self, name, n=WIDTH):
        return (self(name + ".weight", n, mean=1.0), self(name + ".bias", n))


def draw_56(version):
    w, d, h = Weights(version), WIDTH, WIDTH // HEAD
    model = {"version": version, "heads": h, "head_size": HEAD, "layers": []}
    model["emb"] = w("rwkv.embeddings.weight", VOCAB, d, scale=0.5)
    model["ln0"] = w.norm("rwkv.blocks.0.pre_ln")
    for i in range(LAYERS):
        b = f"rwkv.blocks.{i}."
        att, ffn, a, f = {}, {}, b + "attention.", b + "feed_forward."
        for n in ("receptance", "key", "value", "gate", "output"):
            att[n + ".weight"] = w(f"{a}{n}.weight", d, d, inner=d)
        att["ln_x.weight"], att["ln_x.bias"] = w.norm(a + "ln_x")
        att["bonus"] = w(a + "time_faaaa", h, HEAD)
        ones = (1, 1, d)
        if version == 5:
            att["decay"] = w(a + "time_decay", h, HEAD, scale=1.0)
            for n, long in (("k", "key"), ("v", "value"), ("r", "receptance"), ("g", "gate")):
                att["mix_" + n] = 1 - w(f"{a}time_mix_{long}", d, mean=0.5, stored_shape=ones)
            for n, long in (("k", "key"), ("r", "receptance")):
                ffn["mix_" + n] = 1 - w(f"{f}time_mix_{long}", d, mean=0.5, stored_shape=ones)
        else:
            att["decay"] = w(a + "time_decay", d, scale=1.0, stored_shape=ones)
            att["maa_x"] = w(a + "time_maa_x", d, mean=0.5, stored_shape=ones)
            for n in "wkvrg":
                att["mix_" + n] = w(f"{a}time_maa_{n}", d, mean=0.5, stored_shape=ones)
            att["maa_w1"] = w(a + "time_maa_w1", d, 5 * 8, inner=d)
            att["maa_w2"] = w(a + "time_maa_w2", 5, 8, d)
            att["decay_w1"] = w(a + "time_decay_w1", d, 12, inner=d)
            att["decay_w2"] = w(a + "time_decay_w2", 12, d)
            for n in "kr":
                ffn["mix_" + n] = w(f"{f}time_maa_{n}", d, mean=0.5, stored_shape=ones)
        ffn["key.weight"] = w(f + "key.weight", FFN, d, inner=d)
        ffn["receptance.weight"] = w(f + "receptance.weight", d, d, inner=d)
        ffn["value.weight"] = w(f + "value.weight", d, FFN, inner=FFN)
        model["layers"].append(
            {"ln1": w.norm(b + "ln1"), "ln2": w.norm(b + "ln2"), "att": att, "ffn": ffn}
        )
    model["ln_out"] = w.norm("rwkv.ln_out")
    model["head"] = w("head.weight", VOCAB, d, inner=d)
    config = dict(
        model_type=f"rwkv{version}",
        vocab_size=VOCAB,
        hidden_size=d,
        attention_hidden_size=d,
        num_hidden_layers=LAYERS,
        head_size=HEAD,
        head_size_divisor=8,
        intermediate_size=FFN,
        context_length=128,
        layer_norm_epsilon=1e-5,
        tie_word_embeddings=False,
    )
    if version == 6:
        config.update(time_mix_extra_dim=8, time_decay_extra_dim=12)
    return model, w.stored, config


def draw_7():
    w, d, h = Weights(7), WIDTH, WIDTH // HEAD
    model = {"version": 7, "heads": h, "head_size": HEAD, "layers": []}
    model["emb"] = w("model.embeddings.weight", VOCAB, d, scale=0.5)
    model["ln0"] = w.norm("model.layers.0.pre_norm")
    ranks = {"w": 12, "a": 8, "v": 6, "g": 10}
    for i in range(LAYERS):
        b = f"model.layers.{i}."
        att, ffn, a = {}, {}, b + "attn."
        for n in "rwkvag":
            att["x_" + n] = w(a + "x_" + n, d, mean=0.5, stored_shape=(1, 1, d))
        for n, rank in ranks.items():
            if n == "v" and i == 0:
                continue
            att[n + "1"] = w(f"{a}{n}_lora.lora.0.weight", rank, d, inner=d)
            att[n + "2"] = w(f"{a}{n}_lora.lora.2.weight", d, rank, inner=rank)
            if n != "g":
                att[n + "0"] = w(f"{a}{n}_lora.lora.2.bias", d)
        att["k_k"], att["k_a"] = w(a + "k_k", d, mean=0.7), w(a + "k_a", d, mean=0.7)
        att["r_k"] = w(a + "r_k", h, HEAD)
        for n, long in (("r", "receptance"), ("k", "key"), ("v", "value"), ("o", "output")):
            att[long + ".weight"] = w(f"{a}{n}_proj.weight", d, d, inner=d)
        att["ln_x.weight"], att["ln_x.bias"] = w.norm(a + "g_norm")
        ffn["x_k"] = w(b + "ffn.x_k", d, mean=0.5)
        ffn["key.weight"] = w(b + "ffn.key.weight", FFN, d, inner=d)
        ffn["value.weight"] = w(b + "ffn.value.weight", d, FFN, inner=FFN)
        model["layers"].append(
            {"ln1": w.norm(b + "attn_norm"), "ln2": w.norm(b + "ffn_norm"), "att": att, "ffn": ffn}
        )
    model["ln_out"] = w.norm("model.norm")
    model["head"] = w("lm_head.weight", VOCAB, d, inner=d)
    config = dict(
        model_type="rwkv7",
        vocab_size=VOCAB,
        hidden_size=d,
        num_hidden_layers=LAYERS,
        head_dim=HEAD,
        intermediate_size=FFN,
        decay_low_rank_dim=ranks["w"],
        a_low_rank_dim=ranks["a"],
        v_low_rank_dim=ranks["v"],
        gate_low_rank_dim=ranks["g"],
        max_position_embeddings=128,
        norm_eps=1e-5,
        group_norm_eps=64e-5,
        tie_word_embeddings=False,
    )
    return model, w.stored, config


def write(version):
    model, stored, config = draw_7() if version == 7 else draw_56(version)
    for seed in range(1000, 2000):
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(3, VOCAB - 1, (PROMPT,), generator=generator).tolist()
        whole = list(ids)
        for _ in range(STEPS):
            whole.append(int(run(model, whole)[-1].argmax()))
        logits = run(model, whole)
        steps = logits[PROMPT - 1 : -1]
        best, second = steps.topk(2).values.unbind(1)
        if float((best - second).min() / steps.abs().max()) > MARGIN:
            break
    # Every parameter must matter.
    for group in ("att", "ffn"):
        for name, value in model["layers"][1][group].items():
            kept = value.clone()
            value.mul_(0.5).add_(0.1)
            moved = float((run(model, ids) - logits[:PROMPT]).abs().max() / logits.abs().max())
            value.copy_(kept)
            assert moved > 1e-4, f"rwkv{version}: {name} moves the logits by {moved}"
    directory = OUT / f"rwkv{version}"
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
    print(f"rwkv{version}: logits std {float(logits.std()):.2f}, largest file {largest}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=Path, help="rwkv.cpp's test models and expected logits")
    models = parser.parse_args().models
    torch.set_num_threads(1)
    if models is not None:
        check(models)
    for version in (5, 6, 7):
        write(version)


if __name__ == "__main__":
    main()
