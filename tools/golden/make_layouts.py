"""Writes the checkpoint goldens of tests/formats with the reference libraries.

tests/golden/layouts/<name>/ is a directory as the library writes it. For GPTQ, whose library cannot
quantise without a calibration run, modules are packed by its own packer and `planes.safetensors`
holds what was packed: a module's codes u8 [N, K], scales f16 [N, G], zeros u8 [N, G], g_idx i32 [K].

Pinned: transformers 5.23.0, bitsandbytes 0.50.2, gptqmodel 7.7.0, torch 2.15.0, safetensors 0.8.0.
Usage: python tools/golden/make_layouts.py
"""
import json
import pathlib
import shutil

import torch
from safetensors.torch import save_file

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden" / "layouts"


def make_bitsandbytes():
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

    # 48 is no multiple of the block of 64: blocks cross rows, and the last one is short.
    config = LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=1, vocab_size=16,
                         num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=32)
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(GOLDEN / "hf")
    variants = {
        "bnb_nf4": dict(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
        "bnb_fp4_double": dict(load_in_4bit=True, bnb_4bit_quant_type="fp4",
                               bnb_4bit_use_double_quant=True),
        "bnb_nf4_double_bf16": dict(load_in_4bit=True, bnb_4bit_quant_type="nf4",
                                    bnb_4bit_use_double_quant=True,
                                    bnb_4bit_quant_storage="bfloat16"),
        "bnb_int8": dict(load_in_8bit=True),
    }
    for name, options in variants.items():
        model = AutoModelForCausalLM.from_pretrained(
            GOLDEN / "hf", quantization_config=BitsAndBytesConfig(**options), dtype=torch.float32)
        model.save_pretrained(GOLDEN / name)


def gptq_module(bits, n, k, group, symmetric, act_order, seed):
    """A packed TorchLinear in v2 form, and the planes that went in."""
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear

    g = torch.Generator().manual_seed(seed)
    groups = 1 if group == -1 else -(-k // group)
    codes = torch.randint(0, 2**bits, (n, k), generator=g)
    scales = (torch.rand(n, groups, generator=g) + 0.5).half() / 16
    zeros = torch.full((n, groups), 2 ** (bits - 1)) if symmetric else torch.randint(
        1, 2**bits, (n, groups), generator=g)
    g_idx = torch.arange(k) // (k if group == -1 else group)
    if act_order:
        g_idx = g_idx[torch.randperm(k, generator=g)]
    values = scales.float()[:, g_idx] * (codes - zeros[:, g_idx]).float()
    linear = torch.nn.Linear(k, n, bias=False)
    linear.weight.data = values
    packed = TorchLinear(bits=bits, group_size=group, sym=symmetric, desc_act=act_order,
                         in_features=k, out_features=n, bias=False, pack_dtype=torch.int32,
                         register_buffers=True)
    packed.pack(linear, scales.float(), zeros.float(), g_idx.int())
    planes = {"codes": codes.to(torch.uint8), "scales": scales, "zeros": zeros.to(torch.uint8),
              "g_idx": g_idx.int()}
    return packed, planes


def make_gptq(name, version, modules):
    from gptqmodel import QuantizeConfig
    from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module

    tensors, planes = {}, {}
    for seed, (module, args) in enumerate(modules.items()):
        packed, parts = gptq_module(*args, seed)
        if version == 1:
            convert_gptq_v2_to_v1_format_module(packed, QuantizeConfig(bits=args[0]))
        for part in ["qweight", "qzeros", "scales", "g_idx"]:
            tensors[f"{module}.{part}"] = getattr(packed, part).contiguous()
        planes |= {f"{module}.{part}": t.contiguous() for part, t in parts.items()}
    tensors["model.norm.weight"] = torch.arange(8).half()
    (GOLDEN / name).mkdir(parents=True)
    save_file(tensors, GOLDEN / name / "model.safetensors", {"format": "pt"})
    save_file(planes, GOLDEN / name / "planes.safetensors")
    bits, _, _, group, symmetric, act_order = next(iter(modules.values()))
    quantization = {"quant_method": "gptq", "bits": bits, "group_size": group, "sym": symmetric,
                    "desc_act": act_order,
                    "checkpoint_format": "gptq" if version == 1 else "gptq_v2"}
    config = {"model_type": "llama", "quantization_config": quantization}
    (GOLDEN / name / "config.json").write_text(json.dumps(config, indent=2) + "\n")


shutil.rmtree(GOLDEN, ignore_errors=True)
make_bitsandbytes()
#                 bits  N   K  group  sym   act-order
make_gptq("gptq_v1", 1, {
    "m.sym4": (4, 32, 64, 32, True, False),
    "m.asym4": (4, 64, 96, 32, False, False),
    "m.sym2": (2, 32, 64, 32, True, False),
    "m.asym3": (3, 32, 64, 32, False, False),
    "m.asym8": (8, 32, 64, -1, False, False),
})
make_gptq("gptq_v2", 2, {
    "m.act4": (4, 32, 96, 32, False, True),
    "m.sym3": (3, 32, 64, 32, True, False),
    "m.short2": (2, 32, 96, 64, False, False),
    "m.asym8": (8, 64, 32, 16, False, False),
})
for path in GOLDEN.rglob("*.safetensors"):
    path.chmod(0o644)
for path in GOLDEN.rglob("generation_config.json"):
    path.unlink()
