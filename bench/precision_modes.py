#!/usr/bin/env python3
"""Trains one small model from nothing in each precision: what the losses, speed and memory are.

  precision_modes.py --hone build/hone --text build/text [--steps 300] [--modes GLOBS]

The recipe is examples/training/hone-austen-3m.yaml with fewer steps; the tokenizer is that of
models/hone-austen-3m, `--text` what tools/extract_texts.sh wrote. Modes take turns in one process
each; the held-out loss is always that of the same calibration text.
"""
import argparse
import fnmatch
import json
import pathlib
import re
import subprocess
import sys
import tempfile

MODES = {
    "f32": {},
    "tf32": {"precision": "tf32"},
    "tf32, truncated": {"precision": "tf32_truncated"},
    "bf16, f32 masters": {"precision": "bf16"},
    "bf16 alone, to the nearest": {"precision": "bf16", "masters": "false"},
    "bf16 alone, stochastic": {"precision": "bf16", "masters": "false",
                               "stochastic_rounding": "true"},
    "f16, f32 masters, loss scale": {"precision": "f16"},
}
ROOT = pathlib.Path(__file__).resolve().parent.parent


def config(recipe, text, steps, mode):
    changes = {"tokenizer": ROOT / "models/hone-austen-3m", "data": text / "train.txt",
               "evaluate": text / "calibration.txt", "steps": steps, "warmup_steps": steps // 10,
               "decay_steps": steps * 2 // 5, "eval_every": 0, "save_every": 0, **mode}
    lines = [line for line in recipe.splitlines()
             if not re.match(rf"({'|'.join(changes)}):", line)]
    return "\n".join(lines + [f"{key}: {value}" for key, value in changes.items()]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hone", type=pathlib.Path, required=True)
    parser.add_argument("--text", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--modes", default="*", help="globs with semicolons between")
    args = parser.parse_args()
    recipe = (ROOT / "examples/training/hone-austen-3m.yaml").read_text()
    print("| Precision | Loss | Held out | Tokens/s | Memory | Skipped steps |")
    print("|---|---|---|---|---|---|")
    for name, mode in MODES.items():
        if not any(fnmatch.fnmatchcase(name, glob) for glob in args.modes.split(";")):
            continue
        with tempfile.TemporaryDirectory() as scratch:
            path = pathlib.Path(scratch) / "config.yaml"
            path.write_text(config(recipe, args.text.resolve(), args.steps, mode))
            run = subprocess.run([args.hone, "train", path, "--out", f"{scratch}/model", "--json",
                                  "--quiet"], stdout=subprocess.PIPE, text=True, check=False)
            if run.returncode:
                sys.exit(f"precision_modes.py: {name}: hone ended with {run.returncode}")
        r = json.loads(run.stdout)
        print(f"| {name} | {r['loss']:.3f} | {r['held_out_loss']:.3f} | "
              f"{r['train_tokens_per_second']:.0f} | {r['peak_rss_bytes'] / 1e6:.0f} MB | "
              f"{r['skipped_steps']} |", flush=True)


if __name__ == "__main__":
    main()
