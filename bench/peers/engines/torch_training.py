"""PyTorch on the CPU as one who wants it fast runs it: transformers' model, peft's LoRA,
bitsandbytes' NF4 with quantised scales, and fused AdamW; in f32, with bf16 autocast, and compiled.

Dropout is off, gradients are clipped to a norm of 1 (as hone and transformers' Trainer do), and
activations are kept, not computed again. A step reads new tokens each time.
"""
import contextlib
import math
import statistics
import time
from importlib import metadata

from .peer import Absent
from .training import Stepped, Trained, TrainingPeer, forget_loading, resident_peak

KEPT = str(1 << 40)


class TorchTraining(TrainingPeer):
    # Large pages, and freed memory kept for the next step: both are faster than the defaults.
    environment = {"THP_MEM_ALLOC_ENABLE": "1", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
                   "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": KEPT,
                   "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error",
                   "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

    def __init__(self, bf16=False, compiled=False):
        self.bf16, self.compiled = bf16, compiled
        self.name = "PyTorch " + ("bf16" if bf16 else "f32") + (", compiled" if compiled else "")

    def present(self):
        found = {}
        for package in ("torch", "transformers", "peft", "bitsandbytes"):
            try:
                found[package] = metadata.version(package)
            except metadata.PackageNotFoundError:
                pass
        if not {"torch", "transformers"} <= found.keys():
            raise Absent("pip install torch transformers")
        return ", ".join(f"{package} {version}" for package, version in found.items())

    def can(self, method):
        return method != "adamw" or not (self.bf16 or self.compiled)

    def train(self, directory, work):
        import torch
        torch.set_num_threads(work.threads)
        torch.manual_seed(1)
        before = resident_peak()
        model = self.load(directory, work)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
        whole = resident_peak()
        forget_loading()

        def loss_of(ids):
            return model(input_ids=ids, labels=ids, use_cache=False).loss

        if self.compiled:
            loss_of = torch.compile(loss_of)

        def step():
            ids = torch.randint(model.config.vocab_size, (work.batch, work.length))
            start, busy = time.perf_counter(), time.process_time()
            optimizer.zero_grad(set_to_none=True)
            with self.precision():
                loss = loss_of(ids)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0, foreach=True)
            optimizer.step()
            seconds, busy = time.perf_counter() - start, time.process_time() - busy
            if not math.isfinite(loss.item()):
                raise RuntimeError(f"{self.name}: the loss is {loss.item()}")
            return seconds, busy, loss.item()

        step()
        took, busy, losses = zip(*(step() for _ in range(work.steps)))
        peak = resident_peak()
        return Trained(statistics.median(took), peak,
                       {"steps": took, "processor_seconds": busy, "last_loss": losses[-1],
                        "trained_parameters": sum(p.numel() for p in trained),
                        "import_peak_bytes": before, "process_peak_bytes": max(peak, whole)})

    def precision(self):
        import torch
        if not self.bf16:
            return contextlib.nullcontext()
        return torch.autocast("cpu", torch.bfloat16)

    def load(self, directory, work):
        """The model in training mode; its base frozen where adapters are trained."""
        import torch
        import transformers
        how = {}
        if work.method == "qlora":
            try:
                import bitsandbytes  # noqa: F401
            except ImportError:
                raise Absent("pip install bitsandbytes peft accelerate")
            how["quantization_config"] = transformers.BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=torch.bfloat16 if self.bf16 else torch.float32)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32, attn_implementation="sdpa", **how)
        # What is not quantised lies in the mapped file, all of whose pages would count as memory.
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.clone()
        if work.method != "full":
            try:
                import peft
            except ImportError:
                raise Absent("pip install peft")
            model = peft.get_peft_model(model, peft.LoraConfig(
                r=work.rank, lora_alpha=work.rank, target_modules="all-linear",
                task_type="CAUSAL_LM"))
        return model.train()

    def adamw(self, shape, steps, threads):
        import torch
        import transformers
        torch.set_num_threads(threads)
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(shape.config())
        parameters = [torch.nn.Parameter(torch.randn(p.shape)) for p in model.parameters()]
        for p in parameters:
            p.grad = torch.randn(p.shape)
        optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

        def seconds():
            start = time.perf_counter()
            optimizer.step()
            return time.perf_counter() - start

        seconds()
        took = [seconds() for _ in range(steps)]
        count = sum(p.numel() for p in parameters)
        return Stepped(28 * count / statistics.median(took),
                       {"steps": took, "parameters": count})
