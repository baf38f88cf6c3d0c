"""hone's side of training: `hone bench MODEL --train`, and for AdamW alone bench/optimizer."""
import json
import os

from .hone import Hone
from .peer import Absent, run
from .training import Stepped, Trained, TrainingPeer

GPT2_TENSORS = 124000000  # stands for the tensors of GPT-2, which are 124,439,808 numbers


class HoneTraining(TrainingPeer, Hone):
    def __init__(self, binary, optimizer_bench, precision):
        super().__init__(binary)
        self.optimizer_bench, self.precision = optimizer_bench, precision
        self.name = "hone" if precision == "f32" else f"hone {precision}"

    def present(self):
        if not (self.binary or self.optimizer_bench):
            raise Absent("give --hone PATH")
        if not self.binary:
            return None
        version = "hone " + run([self.binary, "--version"]).split()[-1]
        if "--train" not in run([self.binary, "bench", "--help"]):
            raise RuntimeError(f"{self.binary}: its bench knows no --train, so it is too old")
        return version

    def can(self, method):
        if method == "adamw":
            return bool(self.optimizer_bench) and self.precision == "f32"
        return bool(self.binary)

    def train(self, directory, work):
        how = ["full"] if work.method == "full" else ["lora", "--rank", work.rank]
        how += ["--load-as", "nf4"] if work.method == "qlora" else []
        out = self.json("bench", directory, "--batch", work.batch, "--length", work.length,
                        "--steps", work.steps, "--threads", work.threads,
                        "--precision", self.precision, "--train", *how)
        if missing := [k for k in ("step_seconds", "peak_rss_bytes") if not out.get(k)]:
            raise RuntimeError(f"{self.binary}: bench --train says no {missing[0]}")
        return Trained(out["step_seconds"], out["peak_rss_bytes"], out)

    def adamw(self, shape, steps, threads):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])  # it takes no --threads
        out = json.loads(run([self.optimizer_bench, "--method", "adamw", "--parameters",
                              GPT2_TENSORS, "--rounds", steps, "--json"]))["cases"][0]
        return Stepped(out["bytes_per_second"], out)
