"""Writes tests/golden/layouts/<name>/ for AWQ, compressed-tensors, FP8, NVFP4 and HQQ with the
reference libraries' own packers.

Beside model.safetensors and config.json lies values.safetensors: what the library decodes each
module to, "X.weight" [N, K]. Codes and scales are drawn, not fitted, so that every code occurs.

Pinned: torch 2.15.0, safetensors 0.8.0, compressed-tensors 0.20.1 (ct_*), 0.12.2 (ctold_*),
autoawq 0.2.9 (awq_*), hqq 0.2.8.post1 (hqq_*), nvidia-modelopt 0.47.0 (modelopt_*). They do not
agree on what lies beside them: give each its own PYTHONPATH.
Usage: python tools/golden/make_quantised_layouts.py NAME...
"""
import argparse
import importlib.util
import json
import pathlib
import shutil
import sys
import types

import torch
from safetensors.torch import save_file

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden" / "layouts"


def put(name, tensors, values, quantization):
    directory = GOLDEN / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    tensors = dict(tensors, **{"model.norm.weight": torch.arange(8).half()})
    contiguous = lambda t: {k: v.detach().contiguous() for k, v in t.items()}
    save_file(contiguous(tensors), directory / "model.safetensors", {"format": "pt"})
    save_file(contiguous(values), directory / "values.safetensors")
    config = {"model_type": "llama", "quantization_config": quantization}
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for path in directory.iterdir():
        path.chmod(0o644)


def drawn(n, k, group, bits, symmetric, seed, dtype=torch.float16):
    """Codes [N, K], scales and zero points [N, G], and the values that they stand for."""
    g = torch.Generator().manual_seed(seed)
    groups = 1 if group in (-1, None) else k // group
    codes = torch.randint(0, 2**bits, (n, k), generator=g)
    scales = ((torch.rand(n, groups, generator=g) + 0.5) / 16).to(dtype)
    zeros = torch.full((n, groups), 2 ** (bits - 1)) if symmetric else torch.randint(
        0, 2**bits, (n, groups), generator=g)
    spread = lambda t: t.repeat_interleave(k // groups, dim=1)
    return codes, scales, zeros, spread(scales).float() * (codes - spread(zeros)).float()


def awq_modules(form):
    """The linear module of AutoAWQ, without the imports of its package (Triton, models)."""
    for name in ["awq", "awq.utils", "awq.modules"]:
        sys.modules.setdefault(name, types.ModuleType(name))
    root = next(pathlib.Path(p) / "awq" for p in sys.path if (pathlib.Path(p) / "awq").is_dir())

    def load(name, path):
        spec = importlib.util.spec_from_file_location(name, root / path)
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    load("awq.utils.module", "utils/module.py")
    sys.modules["awq.utils.utils"] = types.SimpleNamespace(get_best_device=lambda: "cpu")
    load("awq.utils.packing_utils", "utils/packing_utils.py")
    return load(f"awq.modules.{form}", f"modules/linear/{form}.py")


def make_awq(name, form, modules, group):
    library = awq_modules(form)
    kind = library.WQLinear_GEMM if form == "gemm" else library.WQLinear_GEMV
    tensors, values = {}, {}
    for seed, (module, (n, k)) in enumerate(modules.items()):
        _, scales, zeros, w = drawn(n, k, group, 4, False, seed)
        linear = torch.nn.Linear(k, n, bias=False)
        linear.weight.data = w
        if form == "gemm":
            scales, zeros = scales.t().contiguous(), zeros.t().contiguous()
        packed = kind.from_linear(linear, 4, k if group == -1 else group, scales=scales, zeros=zeros)
        for part in ["qweight", "qzeros", "scales"]:
            tensors[f"{module}.{part}"] = getattr(packed, part)
        values[f"{module}.weight"] = w
        if form == "gemm":
            from_library = sys.modules["awq.utils.packing_utils"].dequantize_gemm(
                packed.qweight, packed.qzeros, packed.scales, 4, k if group == -1 else group)
            assert torch.equal(from_library.t().float(), w.half().float())
    put(name, tensors, values, {"quant_method": "awq", "bits": 4, "group_size": group,
                                "zero_point": True, "version": form,
                                "modules_to_not_convert": None})


def compressed(library, format_name, args, state, input_activations=None):
    """The library's compressed state of a module, and what it decompresses that to."""
    quantization = library.quantization
    scheme = quantization.QuantizationScheme(
        targets=["Linear"], weights=quantization.QuantizationArgs(**args),
        input_activations=input_activations)
    base = importlib.import_module("compressed_tensors.compressors.base").BaseCompressor
    compressor = base.get_value_from_registry(format_name)
    packed = compressor.compress(dict(state), scheme)
    return packed, compressor.decompress(dict(packed), scheme)["weight"], scheme


def signed_state(n, k, args, seed, dtype):
    """weight, weight_scale and weight_zero_point of a module whose codes are drawn."""
    bits, symmetric = args["num_bits"], args["symmetric"]
    strategy = args["strategy"]
    codes, scales, zeros, _ = drawn(n, k, args.get("group_size"), bits, symmetric, seed, dtype)
    if strategy == "tensor":
        scales, zeros = scales[:1], zeros[:1]
    groups = scales.shape[1]
    w = scales.repeat_interleave(k // groups, dim=1) * (
        codes - zeros.repeat_interleave(k // groups, dim=1)).to(dtype)
    scales = scales.reshape(-1) if strategy == "tensor" else scales
    state = {"weight": w, "weight_scale": scales}
    if not symmetric:
        state["weight_zero_point"] = (zeros - 2 ** (bits - 1)).to(torch.int8).reshape(scales.shape)
    return state


def make_compressed(name, format_name, modules, version="0.20.1"):
    """modules: name → (N, K, arguments, type of the scales)."""
    import compressed_tensors as library

    tensors, values, groups = {}, {}, {}
    for seed, (module, (n, k, args, dtype)) in enumerate(modules.items()):
        g = torch.Generator().manual_seed(100 + seed)
        if args["type"] == "int":
            state = signed_state(n, k, args, seed, dtype)
        else:
            state = {"weight": torch.randn(n, k, generator=g)}
            state |= float_scales(state["weight"], args, dtype)
        packed, back, scheme = compressed(library, format_name, args, state)
        tensors |= {f"{module}.{part}": t for part, t in packed.items()}
        values[f"{module}.weight"] = back
        groups[module] = dict(json.loads(scheme.model_dump_json()), targets=[module],
                              format=format_name)
    put(name, tensors, values, {
        "quant_method": "compressed-tensors", "format": format_name, "version": version,
        "quantization_status": "compressed", "ignore": ["lm_head"],
        "config_groups": {f"group_{i}": g for i, g in enumerate(groups.values())}})


def float_scales(w, args, dtype):
    """The library's min-max scales, for its strategy."""
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    args = QuantizationArgs(**args)
    strategy = args.strategy
    out = {}
    if strategy == "tensor":
        low, high = w.min().reshape(1), w.max().reshape(1)
    elif strategy == "channel":
        low, high = w.min(1, keepdim=True).values, w.max(1, keepdim=True).values
    elif strategy == "block":
        rows, columns = args.block_structure
        parts = [[b for b in band.split(columns, 1)] for band in w.split(rows)]
        low = torch.stack([torch.stack([b.min() for b in band]) for band in parts])
        high = torch.stack([torch.stack([b.max() for b in band]) for band in parts])
    else:
        parts = w.unflatten(1, (-1, args.group_size))
        low, high = parts.min(2).values, parts.max(2).values
    if strategy == "tensor_group":
        out["weight_global_scale"] = generate_gparam(w.min(), w.max())
    scale, _ = calculate_qparams(low, high, args, out.get("weight_global_scale"))
    out["weight_scale"] = scale if strategy in ("tensor_group", "group") else scale.to(dtype)
    return out


def make_old_packed(name, modules):
    """As compressed-tensors packed before 0.13: no code straddles a word. It could not decompress
    packed zero points itself: what was drawn is what is expected."""
    from compressed_tensors.compressors import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs

    tensors, values, groups = {}, {}, {}
    for seed, (module, (n, k, args, dtype)) in enumerate(modules.items()):
        state = signed_state(n, k, args, seed, dtype)
        parsed = QuantizationArgs(**args)
        packed = PackedQuantizationCompressor().compress_weight(
            state["weight"], state["weight_scale"], parsed, state.get("weight_zero_point"))
        packed["weight_scale"] = state["weight_scale"]
        tensors |= {f"{module}.{part}": t for part, t in packed.items()}
        values[f"{module}.weight"] = state["weight"]
        groups[module] = {"targets": [module], "weights": json.loads(parsed.model_dump_json())}
    put(name, tensors, values, {
        "quant_method": "compressed-tensors", "format": "pack-quantized", "version": "0.12.2",
        "quantization_status": "compressed", "ignore": ["lm_head"],
        "config_groups": {f"group_{i}": g for i, g in enumerate(groups.values())}})


def make_sparse(name, format_name, modules):
    """modules: name → (N, K, type); E4M3 with a scale for each row, int8 likewise."""
    from compressed_tensors.compressors.sparse_compressors import (BitmaskCompressor,
                                                                   Sparse24BitMaskCompressor)
    from compressed_tensors.config import Sparse24BitMaskConfig, BitmaskConfig

    two_four = format_name == "sparse-24-bitmask"
    compressor = (Sparse24BitMaskCompressor(config=Sparse24BitMaskConfig()) if two_four else
                  BitmaskCompressor(config=BitmaskConfig()))
    tensors, values = {}, {}
    for seed, (module, (n, k, dtype)) in enumerate(modules.items()):
        g = torch.Generator().manual_seed(seed)
        w = torch.randn(n, k, generator=g)
        if two_four:
            w = w * (w.unflatten(1, (-1, 4)).abs().argsort(2).argsort(2) >= 2).flatten(1)
        else:
            w = w * (w.abs() > 0.8)
        scaled = dtype in (torch.float8_e4m3fn, torch.int8)
        w = (w * 40).round().to(dtype) if dtype == torch.int8 else w.to(dtype)
        parts = compressor.compress_weight(module, w)
        tensors |= {name: t.reshape(-1, 1) if name.endswith(".shape") else t
                    for name, t in parts.items()}
        value = w.float()
        if scaled:
            scale = torch.rand(n, 1, generator=g)
            tensors[f"{module}.weight_scale"] = scale
            value = value * scale
        values[f"{module}.weight"] = value
    put(name, tensors, values, {
        "quant_method": "compressed-tensors", "version": "0.12.2",
        "sparsity_config": {"format": format_name, "ignore": [], "targets": []}})


def make_hqq(name, modules):
    """modules: name → (N, K, bits, group, axis, compute type)."""
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    tensors, values = {}, {}
    for seed, (module, (n, k, bits, group, axis, dtype)) in enumerate(modules.items()):
        torch.manual_seed(seed)
        linear = torch.nn.Linear(k, n, bias=False)
        config = BaseQuantizeConfig(nbits=bits, group_size=group, axis=axis)
        packed = HQQLinear(linear, config, compute_dtype=dtype, device="cpu")
        tensors |= {f"{module}.{part}": t for part, t in packed.state_dict().items()}
        packed.meta["compute_dtype"] = torch.float32  # without a rounding behind each step
        packed.meta["scale"], packed.meta["zero"] = (packed.meta[part].float()
                                                     for part in ("scale", "zero"))
        values[f"{module}.weight"] = packed.dequantize()
    put(name, tensors, values, {
        "quant_method": "hqq", "skip_modules": ["lm_head"],
        "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64, "axis": 1}}})


def make_fp8(name):
    """Blocks as transformers dequantises them, f32 all the way; a last block is not whole."""
    from transformers.integrations.finegrained_fp8 import _dequantize_fp8_weight

    g = torch.Generator().manual_seed(0)
    tensors, values = {}, {}
    for module, (n, k) in {"m.a": (144, 160), "m.b": (128, 256)}.items():
        w = torch.randn(n, k, generator=g).to(torch.float8_e4m3fn)
        scale = torch.rand(-(-n // 128), -(-k // 128), generator=g)
        tensors |= {f"{module}.weight": w, f"{module}.weight_scale_inv": scale}
        values[f"{module}.weight"] = _dequantize_fp8_weight(w, scale, [128, 128], torch.float32)
    put(name, tensors, values, {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                                "weight_block_size": [128, 128]})


def modelopt_tensor():
    """ModelOpt's NVFP4 tensor, without the imports of its packages."""
    root = next(pathlib.Path(p) / "modelopt" for p in sys.path if (pathlib.Path(p) / "modelopt").is_dir())
    for name in ["modelopt", "modelopt.torch", "modelopt.torch.quantization",
                 "modelopt.torch.quantization.qtensor", "modelopt.torch.quantization.backends"]:
        sys.modules[name] = module = types.ModuleType(name)
        module.__path__ = [str(root / "/".join(name.split(".")[1:]))]
    nothing = types.ModuleType("modelopt.torch.quantization.utils")
    for name in ["reduce_amax", "reduce_block_amax", "reduce_block_padding",
                 "fsdp2_aware_weight_update", "patch_fsdp_mp_dtypes"]:
        setattr(nothing, name, None)
    numbers = types.ModuleType("modelopt.torch.quantization.utils.numeric_utils")
    numbers.E2M1_MAX, numbers.E4M3_MAX, numbers.fp8_max_for_normalization = 6.0, 448.0, None
    sys.modules[nothing.__name__], sys.modules[numbers.__name__] = nothing, numbers
    return importlib.import_module("modelopt.torch.quantization.qtensor.nvfp4_tensor").NVFP4QTensor


def make_modelopt(name):
    """What ModelOpt dequantises drawn codes and scales to."""
    tensor = modelopt_tensor()
    g = torch.Generator().manual_seed(0)
    tensors, values = {}, {}
    for module, (n, k) in {"m.a": (16, 64), "m.b": (8, 48)}.items():
        codes = torch.randint(0, 256, (n, k // 2), generator=g, dtype=torch.uint8)
        scale = (torch.rand(n, k // 16, generator=g) * 448).to(torch.float8_e4m3fn)
        factor = torch.rand([], generator=g) / 2688
        tensors |= {f"{module}.weight": codes, f"{module}.weight_scale": scale,
                    f"{module}.weight_scale_2": factor, f"{module}.input_scale": torch.tensor(0.5)}
        values[f"{module}.weight"] = tensor((n, k), torch.float32, codes).dequantize(
            scale=scale, double_scale=factor, block_sizes={-1: 16})
    w = torch.randn(8, 24, generator=g).to(torch.float8_e4m3fn)
    tensors |= {"m.f8.weight": w, "m.f8.weight_scale": torch.tensor(0.37),
                "m.f8.input_scale": torch.tensor(0.5)}
    values["m.f8.weight"] = w.float() * torch.tensor(0.37)
    put(name, tensors, values, {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"})


def integer(bits, symmetric=True, group=None):
    return {"num_bits": bits, "type": "int", "symmetric": symmetric, "dynamic": False,
            "strategy": "group" if group else "channel", **({"group_size": group} if group else {})}


def eight(strategy, **more):
    return {"num_bits": 8, "type": "float", "symmetric": True, "strategy": strategy,
            "dynamic": False, **more}


F16, BF16, F32 = torch.float16, torch.bfloat16, torch.float32


def all_goldens():
    return {
        "awq_gemm": lambda: make_awq("awq_gemm", "gemm", {"m.a": (32, 64), "m.b": (64, 96)}, 32),
        "awq_gemm_row": lambda: make_awq("awq_gemm_row", "gemm", {"m.a": (32, 64)}, -1),
        "awq_gemv": lambda: make_awq("awq_gemv", "gemv", {"m.a": (16, 128), "m.b": (8, 640)}, 64),
        "ct_packed": lambda: make_compressed("ct_packed", "pack-quantized", {
            "m.sym4": (32, 64, integer(4, True, 32), F16),
            "m.asym4": (40, 96, integer(4, False, 32), BF16),
            "m.asym3": (33, 64, integer(3, False, 16), F32),
            "m.row8": (8, 40, integer(8), BF16),
            "m.sym2": (8, 64, integer(2, True, 64), F16),
            "m.asym5": (16, 96, integer(5, False, 48), F16),
            "m.row6": (8, 44, integer(6, False), F32),
        }),
        "ct_int": lambda: make_compressed("ct_int", "int-quantized", {
            "m.row": (16, 40, integer(8), F32),
            "m.bf16": (16, 40, integer(8), BF16),
            "m.group": (8, 64, integer(8, True, 32), F16),
            "m.asym": (8, 64, integer(8, False), F32),
            "m.tensor": (8, 24, dict(integer(8), strategy="tensor"), F32),
        }),
        "ct_float": lambda: make_compressed("ct_float", "float-quantized", {
            "m.row": (16, 40, eight("channel"), F32),
            "m.bf16": (16, 40, eight("channel"), BF16),
            "m.tensor": (8, 24, eight("tensor"), F32),
            "m.block": (20, 48, eight("block", block_structure=[8, 16]), F32),
        }),
        "ct_nvfp4": lambda: make_compressed("ct_nvfp4", "nvfp4-pack-quantized", {
            "m.a": (16, 64, {"num_bits": 4, "type": "float", "symmetric": True, "group_size": 16,
                             "strategy": "tensor_group", "dynamic": False,
                             "scale_dtype": torch.float8_e4m3fn}, F32),
        }),
        "ct_mxfp4": lambda: make_compressed("ct_mxfp4", "mxfp4-pack-quantized", {
            "m.a": (16, 64, {"num_bits": 4, "type": "float", "symmetric": True, "group_size": 32,
                             "strategy": "group", "dynamic": False,
                             "scale_dtype": torch.uint8}, F32),
        }),
        "ct_mxfp8": lambda: make_compressed("ct_mxfp8", "mxfp8-quantized", {
            "m.a": (16, 64, eight("group", group_size=32, scale_dtype=torch.uint8), F32),
        }),
        "ctold_packed": lambda: make_old_packed("ctold_packed", {
            "m.sym4": (16, 64, integer(4, True, 32), F16),
            "m.asym3": (33, 64, integer(3, False, 16), F32),
            "m.asym5": (16, 96, integer(5, False, 48), F16),
            "m.row6": (8, 44, integer(6), F32),
        }),
        "ctold_sparse24": lambda: make_sparse("ctold_sparse24", "sparse-24-bitmask", {
            "m.f16": (8, 64, F16), "m.f8": (16, 32, torch.float8_e4m3fn)}),
        "ctold_sparse": lambda: make_sparse("ctold_sparse", "sparse-bitmask", {
            "m.bf16": (8, 52, BF16), "m.int8": (5, 40, torch.int8)}),
        "hqq": lambda: make_hqq("hqq", {
            "m.b4": (16, 64, 4, 32, 1, F16), "m.b3": (9, 64, 3, 32, 1, BF16),
            "m.b8": (8, 48, 8, 16, 1, F32), "m.b2": (16, 64, 2, 16, 1, F16),
            "m.b1": (16, 64, 1, 32, 1, F16)}),
        "hqq_axis0": lambda: make_hqq("hqq_axis0", {
            "m.b4": (16, 64, 4, 32, 0, F16), "m.b3": (20, 48, 3, 32, 0, F16),
            "m.crossing": (16, 48, 4, 64, 1, F16)}),
        "fp8_block": lambda: make_fp8("fp8_block"),
        "modelopt": lambda: make_modelopt("modelopt"),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="+")
    chosen = parser.parse_args()
    goldens = all_goldens()
    for name in chosen.names:
        goldens[name]()
