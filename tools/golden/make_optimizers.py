#!/usr/bin/env python3
"""Writes tests/golden/optimizers.safetensors: optimizers, loss scaling and schedules, 20 steps each.

Parameters: `a` f32 [7, 37], `b` f32 [19], `c` f32 [3, 5, 6], `d` f32 [131, 33] (4323 elements: 8-bit
states, with a block that is not full). Their first values are a, b, c, d; the gradients of step t,
counted from 0, are GRADIENT.t.NAME scaled by 10^-(t mod 3). To keep the file small they are drawn
once for four steps, f16, and taken in turn: t mod 4. `b` has no weight decay.

For each case, CASE.NAME is the parameter after step 20 (d in some), CASE.mid.NAME after step 10 (b and
c only). The metadata's `options` is JSON: the options that make hone do the same. States of 8-bit
Adam at the end, of d: adamw8bit.m, .v u8 and .m_scales, .v_scales f32.

  adamw, adamw_wide   torch.optim.AdamW; wide: other betas, eps, weight decay. In adamw, `c` has no
                      gradient in the first 5 steps: its bias correction then counts its own steps
  sgd, momentum, nesterov   torch.optim.SGD
  adafactor, adafactor_moment, adafactor_relative   transformers' Adafactor: as its Trainer runs it,
                      with beta1 and weight decay, and with relative steps and scaled parameters
  lion                bitsandbytes' Lion32bit on CPU
  adamw8bit           bitsandbytes' AdamW8bit on CPU, its codes replaced by those of the nearest values:
                      its CPU library takes codes from a table of equal steps, up to four codes away
                      from the nearest below a hundredth of the block's largest; its GPU kernels search
  bf16                torch.optim.AdamW in f32 arithmetic, the result rounded to bf16 after each step

scaler.found u8 [N]: whether step i overflowed; scaler.scale f32 [N], scaler.tracker i32 [N]: those
of torch.amp.GradScaler (interval 5) behind it, and scaler.inverse f32 [N] the factor that it
unscaled with; a second trace (scaler.top.*) begins at 2^126, where the scale cannot grow.
schedule.NAME f64 [140]: what transformers' get_scheduler makes of a learning rate of 1, in steps.

The script checks that each option matters to the result.

Made with torch 2.15.0 (CPU), transformers 5.23.0, bitsandbytes 0.50.2, safetensors 0.8.0:
python tools/golden/make_optimizers.py
"""

import json
import os
import warnings
from pathlib import Path

import bitsandbytes as bnb
import bitsandbytes.backends.cpu.ops as bnb_cpu
import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import Adafactor, get_scheduler

warnings.filterwarnings("ignore")
torch.set_num_threads(1)
OUT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "optimizers.safetensors"
SHAPES = {"a": (7, 37), "b": (19,), "c": (3, 5, 6), "d": (131, 33)}
STEPS, DRAWS, LATE = 20, 4, 5
SIZE_LIMIT = 200_000

rng = np.random.default_rng(7)
FIRST = {k: (0.5 * rng.standard_normal(s)).astype(np.float16).astype(np.float32) for k, s in SHAPES.items()}
DRAWN = [{k: rng.standard_normal(s).astype(np.float16) for k, s in SHAPES.items()} for _ in range(DRAWS)]


def gradient(t: int, name: str) -> np.ndarray:
    return DRAWN[t % DRAWS][name].astype(np.float32) * np.float32(10.0 ** -(t % 3))


def run(make, names="abcd", late=(), after=lambda p: None):
    """The parameters at the end and half way, and the optimizer."""
    values = {k: torch.nn.Parameter(torch.tensor(FIRST[k])) for k in names}
    optimizer = make([{"params": [values[k] for k in names if k != "b"]},
                      {"params": [values["b"]], "weight_decay": 0.0}])
    middle = {}
    for p in values.values():
        after(p)
    for t in range(STEPS):
        for k, p in values.items():
            p.grad = None if k in late and t < LATE else torch.tensor(gradient(t, k))
        optimizer.step()
        for p in values.values():
            after(p)
        if t + 1 == STEPS // 2:
            middle = {k: values[k].detach().clone().numpy() for k in "bc"}
    return {k: p.detach().numpy() for k, p in values.items()}, middle, optimizer, values


def nearest_codes(x, code, absmax_out, codes_out, blocksize):
    """The codes of the values nearest to x/absmax, block by block."""
    flat = torch.nn.functional.pad(x.reshape(-1), (0, -x.numel() % blocksize)).reshape(-1, blocksize)
    absmax = flat.abs().amax(dim=1)
    middles = ((code[1:].double() + code[:-1].double()) / 2)
    codes = torch.bucketize((flat / absmax[:, None]).double(), middles)
    codes_out.copy_(codes.reshape(-1)[: x.numel()].reshape(codes_out.shape).to(torch.uint8))
    absmax_out.copy_(absmax)


def distance(x, y):
    return max(float(np.abs(x[k] - y[k]).max()) for k in x)


out, options = {}, {}
for k in SHAPES:
    out[k] = FIRST[k].astype(np.float16)
for t in range(DRAWS):
    for k in SHAPES:
        out[f"gradient.{t}.{k}"] = DRAWN[t][k]

CASES = {
    "adamw": (lambda p: torch.optim.AdamW(p, lr=3e-3), dict(optimizer="adamw", lr=3e-3), "c"),
    "adamw_wide": (lambda p: torch.optim.AdamW(p, lr=1e-2, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.2),
                   dict(optimizer="adamw", lr=1e-2, beta1=0.8, beta2=0.95, eps=1e-3, weight_decay=0.2), ""),
    "sgd": (lambda p: torch.optim.SGD(p, lr=0.05, weight_decay=0.1),
            dict(optimizer="sgd", lr=0.05, weight_decay=0.1), ""),
    "momentum": (lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9),
                 dict(optimizer="sgd", lr=0.02, momentum=0.9), ""),
    "nesterov": (lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.8, nesterov=True, weight_decay=0.1),
                 dict(optimizer="sgd", lr=0.02, momentum=0.8, nesterov=True, weight_decay=0.1), ""),
    "adafactor": (lambda p: Adafactor(p, lr=1e-2, scale_parameter=False, relative_step=False),
                  dict(optimizer="adafactor", lr=1e-2), ""),
    "adafactor_moment": (lambda p: Adafactor(p, lr=1e-2, beta1=0.8, weight_decay=0.3, clip_threshold=0.7,
                                             decay_rate=-0.5, scale_parameter=False, relative_step=False),
                         dict(optimizer="adafactor", lr=1e-2, beta1=0.8, weight_decay=0.3,
                              clip_threshold=0.7, decay_rate=-0.5), ""),
    "adafactor_relative": (lambda p: Adafactor(p, scale_parameter=True, relative_step=True, warmup_init=False),
                           dict(optimizer="adafactor", relative_step=True, scale_parameter=True), ""),
    "lion": (lambda p: bnb.optim.Lion32bit(p, lr=2e-3, weight_decay=0.1),
             dict(optimizer="lion", lr=2e-3, weight_decay=0.1), ""),
    "adamw8bit": (lambda p: bnb.optim.AdamW8bit(p, lr=3e-3, weight_decay=0.05),
                  dict(optimizer="adamw8bit", lr=3e-3, weight_decay=0.05), ""),
}
end_of_cpu = run(CASES["adamw8bit"][0])[0]
bnb_cpu._quant_blockwise_fp32_direct = nearest_codes
ends = {}
for case, (make, opts, late) in CASES.items():
    end, middle, optimizer, values = run(make, late=late)
    ends[case] = end
    options[case] = opts
    for k in end:
        if k == "d" and case not in ("adamw8bit", "adafactor", "adafactor_moment"):
            continue  # to stay small
        out[f"{case}.{k}"] = end[k]
    for k in middle:
        out[f"{case}.mid.{k}"] = middle[k]
    if case == "adamw8bit":
        state = optimizer.state[values["d"]]
        assert state["state1"].dtype == torch.uint8 and optimizer.state[values["a"]]["state1"].dtype == torch.float32
        out["adamw8bit.m"] = state["state1"].numpy()
        out["adamw8bit.v"] = state["state2"].numpy()
        out["adamw8bit.m_scales"] = state["absmax1"].numpy()
        out["adamw8bit.v_scales"] = state["absmax2"].numpy()
assert len(out["adamw8bit.m_scales"]) == -(-131 * 33 // 256)

difference = np.abs(ends["adamw8bit"]["d"] - end_of_cpu["d"])
assert np.median(difference) < 1e-6 and difference.max() < 6e-3, "the replaced codes are nearly the same"

# What the goldens would notice.
changes = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=3e-3, weight_decay=0.0),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.8, weight_decay=0.1),
    "adafactor": lambda p: Adafactor(p, lr=1e-2, scale_parameter=False, relative_step=False, decay_rate=-0.7),
    "adafactor_moment": lambda p: Adafactor(p, lr=1e-2, beta1=0.8, weight_decay=0.3, decay_rate=-0.5,
                                            scale_parameter=False, relative_step=False),
    "adafactor_relative": lambda p: Adafactor(p, scale_parameter=False, relative_step=True, warmup_init=False),
    "lion": lambda p: bnb.optim.Lion32bit(p, lr=2e-3, weight_decay=0.0),
    "adamw8bit": lambda p: torch.optim.AdamW(p, lr=3e-3, weight_decay=0.05),
}
for case, make in changes.items():
    assert distance(ends[case], run(make, late=CASES[case][2])[0]) > 1e-4, case
assert distance(ends["adamw"], run(CASES["adamw"][0])[0]) > 1e-4, "late gradients"


def to_bf16(p):
    with torch.no_grad():
        p.copy_(p.to(torch.bfloat16).float())


end, _, _, _ = run(lambda p: torch.optim.AdamW(p, lr=3e-2), names="abc", after=to_bf16)
options["bf16"] = dict(optimizer="adamw", lr=3e-2)
for k in end:
    out[f"bf16.{k}"] = end[k]


def scaler_trace(found, initial, prefix):
    scaler = torch.amp.GradScaler("cpu", init_scale=initial, growth_interval=5)
    p = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([p], lr=0.0)
    scale, tracker, inverse = [], [], []
    for bad in found:
        loss = scaler.scale((p * 0).sum())
        p.grad = torch.tensor([float("inf") if bad else 2.0**-20])
        before = p.grad.clone()
        scaler.unscale_(optimizer)
        inverse.append(float(p.grad / before) if not bad else float("nan"))
        scaler.step(optimizer)
        scaler.update()
        scale.append(scaler.get_scale())
        tracker.append(scaler._get_growth_tracker())
        del loss
    out[f"{prefix}.found"] = np.array(found, np.uint8)
    out[f"{prefix}.scale"] = np.array(scale, np.float32)
    out[f"{prefix}.tracker"] = np.array(tracker, np.int32)
    out[f"{prefix}.inverse"] = np.array(inverse, np.float32)
    return scale


found = [0, 1, 1] + [0] * 4 + [1] + [0] * 13 + [1] + [0] * 5 + [1, 0, 1] + [0] * 12
trace = scaler_trace(found, 2.0**16, "scaler")
assert min(trace) < 2.0**14 and max(trace) > min(trace) * 4
top = scaler_trace([0] * 17 + [1] + [0] * 5, 2.0**126, "scaler.top")
assert max(top) == 2.0**127

SCHEDULES = {
    "constant": ("constant", 0, None, dict()),
    "constant_warmup": ("constant_with_warmup", 10, None, dict()),
    "linear": ("linear", 0, None, dict()),
    "linear_warmup": ("linear", 13, None, dict()),
    "cosine": ("cosine", 10, None, dict()),
    "cosine_min": ("cosine_with_min_lr", 10, dict(min_lr_rate=0.1), dict(min_ratio=0.1)),
    "inverse_sqrt": ("inverse_sqrt", 10, None, dict()),
    "inverse_sqrt_cold": ("inverse_sqrt", 0, None, dict()),
    "wsd": ("warmup_stable_decay", 10, dict(num_decay_steps=30), dict(decay_steps=30)),
    "wsd_linear": ("warmup_stable_decay", 7, dict(num_decay_steps=25, decay_type="linear", min_lr_ratio=0.05),
                   dict(decay_steps=25, decay="linear", min_ratio=0.05)),
    "wsd_sqrt": ("warmup_stable_decay", 0, dict(num_decay_steps=40, decay_type="1-sqrt", min_lr_ratio=0.1),
                 dict(decay_steps=40, decay="1-sqrt", min_ratio=0.1)),
}
TOTAL, TRACE = 120, 140
OURS = {"constant_with_warmup": "constant", "cosine_with_min_lr": "cosine", "warmup_stable_decay": "wsd"}
for case, (name, warmup, specific, ours) in SCHEDULES.items():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=TOTAL,
                              scheduler_specific_kwargs=specific)
    values = []
    # A cosine would rise again behind the end, where hone stays.
    for _ in range(TOTAL + 1 if "cosine" in case else TRACE):
        values.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    out[f"schedule.{case}"] = np.array(values, np.float64)
    options[f"schedule.{case}"] = dict(schedule=OURS.get(name, name), warmup_steps=warmup, **ours)

save_file(out, OUT, metadata={"options": json.dumps(options, sort_keys=True), "steps": str(TOTAL)})
assert os.path.getsize(OUT) < SIZE_LIMIT, os.path.getsize(OUT)
print(OUT.name, os.path.getsize(OUT), torch.__version__)
