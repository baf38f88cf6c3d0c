#!/usr/bin/env python3
"""Writes tests/golden/peft/: what peft means by a config, and a directory of odd contents.

modules.json: which modules peft adapts, and with what, for many configs.
  {"modules": [...], "linears": [...], "head": name,
   "cases": [{"config": keys of adapter_config.json, "adapted": {module: [r, alpha]}}]}
`modules` are all of a small model's, with layers 0, 1, 10 and 11 and a nested index; `linears` those
that all-linear means, but for `head`, the output layer, which it leaves out. The script calls the
functions that decide in peft.

odd/: a LoRA directory as save_pretrained writes it, with what the plain ones of make_training.py
lack: embeddings, trained biases, a module saved whole, patterns, bf16 beside f32, numbers and texts
that Python prints in a way of its own.

odd.gguf: a LoRA file of llama.cpp with halves of several types, the embeddings' pair, and
ranks that differ.

Made with torch 2.15.0, transformers 5.23.0, peft 0.21.2, gguf 0.19.0: python tools/golden/make_peft.py
"""

import json
import os
import shutil
import sys
from pathlib import Path

if os.environ.get("PYTHONHASHSEED") != "0":  # peft saves sets of names in the order of their hashes
    os.environ["PYTHONHASHSEED"] = "0"
    os.execv(sys.executable, [sys.executable, *sys.argv])

import gguf
import numpy as np
import peft
import torch
from peft.tuners.lora import LoraModel
from peft.tuners.tuners_utils import _ExcludedModule, _maybe_include_all_linear_layers
from peft.utils.other import get_pattern_key
from transformers import LlamaConfig, LlamaForCausalLM

OUT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "peft"

CASES = [
    dict(target_modules=["q_proj", "v_proj"]),
    dict(target_modules=["self_attn.q_proj", "model.layers.1.mlp.up_proj", "lm_head"]),
    dict(target_modules=["proj"]),  # a whole part of the name, or nothing
    dict(target_modules=["_proj", "experts.0"]),
    dict(target_modules=r".*\.(q|v)_proj"),
    dict(target_modules=r"(q|v)_proj"),  # a full match: nothing
    dict(target_modules=r".*\.(q|v)"),  # at the end, too
    dict(target_modules=["q_proj"], exclude_modules=r".*layers\.1"),
    dict(target_modules=r"model\.layers\.1\d?\.self_attn\.[qk]_proj"),
    dict(target_modules=r".*proj|lm_head"),  # an alternative must match in full, too
    dict(target_modules="all-linear"),
    dict(target_modules="ALL-Linear"),
    dict(target_modules="all-linear", exclude_modules=["down_proj"]),
    dict(target_modules=["q_proj", "k_proj"], exclude_modules=["model.layers.1.self_attn.q_proj"]),
    dict(target_modules=["q_proj", "k_proj"], exclude_modules=r".*layers\.1\..*"),
    dict(target_modules=["q_proj", "lm_head"], modules_to_save=["lm_head"]),
    dict(target_modules=["q_proj", "gate_proj"], modules_to_save=["mlp"]),
    dict(target_modules=["q_proj"], layers_to_transform=1),
    dict(target_modules=["q_proj", "up_proj"], layers_to_transform=[0, 10]),
    dict(target_modules=["q_proj"], layers_to_transform=[]),
    dict(target_modules=["q_proj"], layers_to_transform=[1], layers_pattern="layers"),
    dict(target_modules=["q_proj"], layers_to_transform=[1], layers_pattern=["h", "layers"]),
    dict(target_modules=["q_proj"], layers_to_transform=[1], layers_pattern="h"),
    dict(target_modules=["up_proj"], layers_to_transform=[0], layers_pattern="experts"),
    dict(target_modules=["model.layers.0.self_attn.q_proj", "v_proj"], layers_to_transform=[1]),
    dict(target_modules=["q_proj", "v_proj"], rank_pattern={"q_proj": 16}),
    dict(
        target_modules=["q_proj", "v_proj", "up_proj"],
        rank_pattern={r"layers\.1\..*": 2, "q_proj": 16, "^model.layers.0.self_attn.v_proj": 3},
        alpha_pattern={r"layers.1.self_attn.q_proj": 5, r"(q|up)_proj": 7, "v": 9},
    ),
    dict(target_modules=["q_proj", "v_proj"], rank_pattern={"proj": 4, "[qv]_proj": 6}),
    # A group that does not close the alternation: "q_proj|up" is one key, anchored as a whole.
    dict(target_modules=["q_proj", "up_proj"], alpha_pattern={"q_proj|up_proj": 1.5}),
]


class Experts(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.experts = torch.nn.ModuleList([torch.nn.ModuleDict({"up_proj": torch.nn.Linear(8, 8)})])


def build():
    """Layers 0, 1, 10 and 11, the last with a list of its own inside."""
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=4,
        num_attention_heads=1,
        num_key_value_heads=1,
    )
    model = LlamaForCausalLM(config)
    model.model.layers = torch.nn.ModuleDict(zip(["0", "1", "10", "11"], model.model.layers))
    model.model.layers["11"].mlp = Experts()
    return model


def adapted(model, options):
    config = peft.LoraConfig(r=8, lora_alpha=16, **options)
    config = _maybe_include_all_linear_layers(config, model)
    result = {}
    for name, _ in model.named_modules():
        found = LoraModel._check_target_module_exists(config, name) if name else False
        if not found or isinstance(found, _ExcludedModule):
            continue
        r = config.rank_pattern.get(get_pattern_key(config.rank_pattern, name), config.r)
        alpha = get_pattern_key(config.alpha_pattern, name)
        result[name] = [r, config.alpha_pattern.get(alpha, config.lora_alpha)]
    return result


def write_modules():
    model = build()
    names = [name for name, _ in model.named_modules() if name]
    linears = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    cases = [{"config": options, "adapted": adapted(model, options)} for options in CASES]
    for case in cases:
        print(len(case["adapted"]), case["config"])
    golden = {"modules": names, "linears": linears, "head": "lm_head", "cases": cases}
    (OUT / "modules.json").write_text(json.dumps(golden, indent=1) + "\n")


def write_odd():
    torch.manual_seed(5)
    config = peft.LoraConfig(
        r=2,
        lora_alpha=16.5,
        lora_dropout=0.00001,
        target_modules=r".*\.(q_proj|up_proj|embed_tokens)",
        exclude_modules=["model.layers.1.mlp.up_proj"],
        rank_pattern={r"layers\.1\.self_attn\.q_proj": 3},
        alpha_pattern={"embed_tokens": 4, "q_proj": 1e16},
        modules_to_save=["lm_head"],
        bias="lora_only",
        use_rslora=True,
        init_lora_weights="gaussian",
        revision="gr\u00fc\u00df \u4e16\U0001f600 \"\\/\x7f\n",
    )
    base = LlamaConfig(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=1,
        num_key_value_heads=1,
        attention_bias=True,
    )
    model = peft.get_peft_model(LlamaForCausalLM(base), config)
    for name, p in model.named_parameters():
        if "up_proj" in name:
            p.data = p.data.bfloat16()
    shutil.rmtree(OUT / "odd", ignore_errors=True)
    model.save_pretrained(OUT / "odd", save_embedding_layers=False)
    (OUT / "odd" / "README.md").unlink()
    for path in (OUT / "odd").iterdir():
        path.chmod(0o644)


def write_odd_gguf():
    rng = np.random.default_rng(6)
    writer = gguf.GGUFWriter(OUT / "odd.gguf", "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 16.5)
    writer.add_array("general.tags", ["lora", "toy"])

    def add(name, shape, kind):
        data = rng.standard_normal(shape).astype(np.float32)
        packed = gguf.quants.quantize(data, kind)
        plain = kind == gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, packed, raw_dtype=None if plain else kind)

    kinds = gguf.GGMLQuantizationType
    add("blk.0.attn_q.weight.lora_a", (4, 32), kinds.Q8_0)
    add("blk.0.attn_q.weight.lora_b", (32, 4), kinds.F16)
    add("token_embd.weight.lora_a", (96, 2), kinds.F32)
    add("token_embd.weight.lora_b", (32, 2), kinds.BF16)
    add("output.weight.lora_a", (3, 32), kinds.F32)
    add("output.weight.lora_b", (96, 3), kinds.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    OUT.mkdir(exist_ok=True)
    write_modules()
    write_odd()
    write_odd_gguf()


if __name__ == "__main__":
    main()
