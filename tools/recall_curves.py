#!/usr/bin/env python3
"""Trains the models of docs/recurrent-memory.md on the recall task, and draws their curves.

Every model has the same layers, width and segments of 16 tokens; what differs is what they carry
from one segment to the next. What the answer needs lies two segments in front of it. Writes into the
directory: the data, a config and a trained model for each, their logs, recall.json, recall.svg.

  tools/recall_curves.py DIRECTORY [--hone build/hone] [--steps 800] [--only plain infini]

Held-out loss is a mean over an answer's tokens, half of which are known keys: chance is ln(16)/2.
Recalled values are those of greedy `hone generate` on held-out prompts.
"""

import argparse
import json
import math
import subprocess
from pathlib import Path

TOOLS = Path(__file__).resolve().parent
SEGMENT, LENGTH, KEYS, VALUES = 16, 48, "abcd", 16
ARCHITECTURE = dict(
    model_type="memory_transformer", vocab_size=32, hidden_size=64, num_hidden_layers=2,
    num_attention_heads=4, intermediate_size=128, max_position_embeddings=256,
    rms_norm_eps=1e-5, tie_word_embeddings=True, initializer_range=0.1, segment=SEGMENT,
)
TRAINING = dict(
    batch=32, length=LENGTH, packing="single", segment=SEGMENT, optimizer="adamw", lr=2e-3,
    beta2=0.95, weight_decay=0.01, schedule="cosine", warmup_steps=100, max_norm=1.0,
    eval_every=25, save_every=0, kind="completion", format="raw",
)
# Title, colour, architecture, segments that gradients flow through (0: all).
MODELS = {
    "plain": ("Plain, same segments", "#888888", dict(mixer="segment"), 0),
    "transformer-xl": (
        "Transformer-XL, 32 rows of memory", "#1f77b4",
        dict(mixer="transformer_xl", memory=2 * SEGMENT), 1),
    "recurrent-memory": (
        "Recurrent Memory, 8 tokens", "#d62728", dict(mixer="segment", memory_tokens=8), 0),
    "infini": ("Infini-attention", "#2ca02c", dict(mixer="infini"), 0),
}


def write_config(path, architecture, bptt, steps):
    lines = ["architecture:"]
    lines += [f"  {k}: {json.dumps(v)}" for k, v in {**ARCHITECTURE, **architecture}.items()]
    settings = dict(tokenizer="tokenizer.json", data="train.jsonl", evaluate="held-out.jsonl",
                    steps=steps, bptt=bptt, **TRAINING)
    lines += [f"{k}: {json.dumps(v)}" for k, v in settings.items()]
    path.write_text("\n".join(lines) + "\n")


def read_log(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    evaluations = [(e["step"], e["eval_loss"]) for e in lines if "eval_loss" in e]
    return evaluations


def recalled(hone, model, examples):
    """The share of values that greedy generation gives back."""
    right = 0
    for e in examples:
        out = subprocess.run(
            [hone, "generate", str(model), "--prompt", e["prompt"],
             "--max-tokens", str(len(e["completion"])), "--quiet", "--json"],
            capture_output=True, text=True, check=True).stdout
        answer = json.loads(out.splitlines()[-1])["text"]
        right += sum(a == b for a, b in zip(answer[1::2], e["completion"][1::2]))
    return right / (len(KEYS) * len(examples))


def draw(path, curves, steps):
    """Held-out loss against steps; one line a model."""
    w, h, left, right, top, bottom = 720, 380, 56, 240, 34, 44
    most = 1.1 * math.log(VALUES) / 2
    x = lambda step: left + (w - left - right) * step / steps
    y = lambda loss: h - bottom - (h - top - bottom) * min(loss, most) / most
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" '
           'font-family="sans-serif" font-size="12">',
           f'<rect width="{w}" height="{h}" fill="white"/>',
           f'<text x="{left}" y="18" font-size="14">Recall from two segments back: '
           'held-out loss</text>']
    text = lambda px, py, s, extra="": out.append(f'<text x="{px:.1f}" y="{py:.1f}" {extra}>{s}</text>')
    for i in range(0, int(most / 0.25) + 1):
        at = y(0.25 * i)
        out.append(f'<path d="M{left},{at:.1f}H{w - right}" stroke="#ddd"/>')
        text(left - 6, at + 4, f"{0.25 * i:g}", 'text-anchor="end"')
    for i in range(5):
        text(x(steps * i / 4), h - bottom + 18, f"{steps * i // 4}", 'text-anchor="middle"')
    text((left + w - right) / 2, h - 8, "step", 'text-anchor="middle"')
    chance = y(math.log(VALUES) / 2)
    out.append(f'<path d="M{left},{chance:.1f}H{w - right}" stroke="black" stroke-dasharray="4 3"/>')
    text(left + 6, chance - 5, "chance")
    for row, (name, (title, colour, *_)) in enumerate(MODELS.items()):
        if name not in curves:
            continue
        points = " ".join(f"{x(s):.1f},{y(loss):.1f}" for s, loss in curves[name])
        out.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        at = top + 22 * row + 12
        out.append(f'<path d="M{w - right + 12},{at - 4}h18" stroke="{colour}" stroke-width="2"/>')
        text(w - right + 36, at, title, 'font-size="11"')
    path.write_text("\n".join(out + ["</svg>"]) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--hone", default="build/hone")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--only", nargs="*", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--prompts", type=int, default=32, help="that are generated from")
    a = parser.parse_args()
    hone = str(Path(a.hone).resolve())
    subprocess.run([TOOLS / "make_recall_data.py", a.directory, "--length", str(LENGTH)], check=True)
    results_file = a.directory / "recall.json"
    results = json.loads(results_file.read_text()) if results_file.exists() else {}
    for name in a.only:
        title, _, architecture, bptt = MODELS[name]
        config, model = a.directory / f"{name}.yaml", a.directory / name
        write_config(config, architecture, bptt, a.steps)
        subprocess.run(["rm", "-rf", model], check=True)
        subprocess.run([hone, "train", config, "--out", model, "--seed", "1"], check=True)
        curve = read_log(a.directory / f"{name}.log.jsonl")
        info = json.loads(subprocess.run([hone, "info", model, "--json"], capture_output=True,
                                         text=True, check=True).stdout.splitlines()[-1])
        held_out = (a.directory / "held-out.jsonl").read_text().splitlines()[: a.prompts]
        results[name] = dict(
            title=title, loss=curve[-1][1], curve=curve,
            parameters=info["parameters"], state_bytes=info["state_bytes"],
            recalled=recalled(hone, model, [json.loads(line) for line in held_out]))
        results_file.write_text(json.dumps(results, indent=1) + "\n")
    draw(a.directory / "recall.svg", {n: r["curve"] for n, r in results.items()}, a.steps)
    print(f"chance: {math.log(VALUES) / 2:.3f} nats, {1 / VALUES:.1%} of the values\n")
    print("| Model | Parameters | State | Held-out loss | Values recalled |\n|-|-|-|-|-|")
    for r in results.values():
        print(f"| {r['title']} | {r['parameters']} | {r['state_bytes'] / 1024:.1f} KiB "
              f"| {r['loss']:.3f} | {r['recalled']:.0%} |")


if __name__ == "__main__":
    main()
