#!/usr/bin/env python3
"""Writes tests/golden/distillation.safetensors: losses of distillation and their gradients by PyTorch.

student, teacher f32 [5, 37] are logits, targets i32 [5]. For each case (metadata `cases`: JSON, name to
lambda and temperature), CASE.loss f64 [5] is the loss of each row,

  (1 - lambda) * cross_entropy(student, target)
    + lambda * T^2 * kl_div(log_softmax(student / T), log_softmax(teacher / T), log_target=True)

computed in double, and CASE.gradient f32 [5, 37] the derivative of their sum by the student's logits.

The script checks that lambda and temperature matter.

Made with torch 2.15.0 (CPU), safetensors 0.8.0: python tools/golden/make_distillation.py
"""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

torch.set_num_threads(1)
OUT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "distillation.safetensors"
ROWS, VOCABULARY = 5, 37
CASES = {
    "usual": {"lambda": 0.5, "temperature": 1.0},
    "warm": {"lambda": 0.5, "temperature": 2.0},
    "cold": {"lambda": 0.25, "temperature": 0.5},
    "teacher_alone": {"lambda": 1.0, "temperature": 2.0},
    "targets_alone": {"lambda": 0.0, "temperature": 4.0},
}

rng = np.random.default_rng(11)
student = (3 * rng.standard_normal((ROWS, VOCABULARY))).astype(np.float32)
# The last row's teacher is near the student: a small divergence of large logits.
teacher = (3 * rng.standard_normal((ROWS, VOCABULARY))).astype(np.float32)
teacher[-1] = student[-1] + 1e-3 * rng.standard_normal(VOCABULARY).astype(np.float32)
student[1] += 20
targets = rng.integers(0, VOCABULARY, ROWS).astype(np.int32)

out = {"student": student, "teacher": teacher, "targets": targets}
for name, case in CASES.items():
    part, t = case["lambda"], case["temperature"]
    z = torch.tensor(student, dtype=torch.float64, requires_grad=True)
    ce = F.cross_entropy(z, torch.tensor(targets).long(), reduction="none")
    kl = F.kl_div(F.log_softmax(z / t, -1), F.log_softmax(torch.tensor(teacher).double() / t, -1),
                  log_target=True, reduction="none").sum(-1)
    loss = (1 - part) * ce + part * t * t * kl
    loss.sum().backward()
    out[f"{name}.loss"] = loss.detach().numpy()
    out[f"{name}.gradient"] = z.grad.numpy().astype(np.float32)

for a in CASES:
    for b in CASES:
        assert a == b or np.abs(out[f"{a}.loss"] - out[f"{b}.loss"]).max() > 0.1, (a, b)
save_file(out, OUT, metadata={"cases": json.dumps(CASES)})
print(OUT, OUT.stat().st_size)
