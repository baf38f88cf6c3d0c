#!/usr/bin/env python3
"""Speed and memory of training: hone beside PyTorch (with peft and bitsandbytes), in turn.

  training.py --hone build/hone [--optimizer-bench build/bench/optimizer] [--cases GLOBS] ...

Every round runs each engine once, each in a process of its own: a step that warms up and some that
are timed. Medians over rounds are printed, and ratios hone/peer of one precision, of speed (more is better) and of
peak memory (less is better). README.md says what each runs, engines/training.py what is counted.
"""
import argparse
import dataclasses
import fnmatch
import json
import os
import pathlib
import statistics
import sys

from compare import alone, processor
from engines.hone_training import HoneTraining
from engines.peer import Absent
from engines.torch_training import TorchTraining
from engines.training import Shape, Work

SHAPES = {
    "gpt2-124m": Shape("gpt2", 12, 768, 12, 12, 3072, 50257, True, 1024),
    "smollm2-135m": Shape("llama", 30, 576, 9, 3, 1536, 49152, True, 2048),
    "llama-1.1b": Shape("llama", 22, 2048, 32, 4, 5632, 32000, False, 2048),
}
CASES = {f"{shape}/{method}/{batch}x{length}": (shape, method, batch, length)
         for shape, methods, sizes in (
             ("gpt2-124m", ("full",), ((1, 64), (4, 64), (4, 256), (8, 128), (1, 1024))),
             ("smollm2-135m", ("lora", "qlora"), ((1, 512), (4, 512))),
             ("llama-1.1b", ("lora", "qlora"), ((1, 512),)))
         for method in methods for batch, length in sizes}
CASES["gpt2-124m/adamw"] = ("gpt2-124m", "adamw", 0, 0)


def stop(message):
    sys.exit(f"training.py: {message}")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)

    def number(name, default, help, of=int):
        parser.add_argument(name, type=of, default=default, metavar="N", help=help)

    for name, help in (("--hone", "the program"),
                       ("--optimizer-bench", "build/bench/optimizer (-DHONE_BENCH=ON)")):
        parser.add_argument(name, type=pathlib.Path, metavar="PATH", help=help)
    parser.add_argument("--cases", default="*", metavar="GLOBS",
                        help=f"only these, separated by commas, of: {', '.join(CASES)}")
    parser.add_argument("--engines", default="*", metavar="GLOBS",
                        help="only these, separated by semicolons (their names hold commas)")
    parser.add_argument("--converted", type=pathlib.Path, metavar="PATH",
                        default=pathlib.Path(".cache/peers"),
                        help="where checkpoints are kept (default .cache/peers)")
    number("--threads", len(os.sched_getaffinity(0)), "threads of each engine (default: all)")
    number("--steps", 5, "timed in each run (default 5)")
    number("--rounds", 3, "of all engines (default 3)")
    number("--rank", 16, "of LoRA (default 16)")
    number("--f32-peak", None, "GFLOP/s, where hone does not run or does not say", float)
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    args = parser.parse_args()
    for option in ("threads", "steps", "rounds", "rank"):
        if getattr(args, option) < 1:
            stop(f"--{option} {getattr(args, option)}: expected 1 or more")
    if args.f32_peak is not None and not args.f32_peak > 0:
        stop(f"--f32-peak {args.f32_peak}: expected more than 0")
    for option in ("hone", "optimizer_bench"):
        path = getattr(args, option)
        if path and not (path.is_file() and os.access(path, os.X_OK)):
            stop(f"--{option.replace('_', '-')} {path}: no such program")
        setattr(args, option, path and path.resolve())
    return args


def chosen(names, globs, option):
    for glob in globs:
        if not fnmatch.filter(names, glob):
            stop(f"{option} {glob}: expected some of {'; '.join(names)}")
    return [n for n in names if any(fnmatch.fnmatchcase(n, glob) for glob in globs)]


class Engine:
    """An engine, and whether it is here."""

    def __init__(self, peer):
        self.peer, self.version, self.status, self.why = peer, None, "", ""

    def look(self):
        try:
            self.version = in_process_of(self.peer, self.peer.present)
        except Absent as why:
            self.status, self.why = "not present", str(why)
        except Exception as error:
            self.status, self.why = "failed", last_line(error)


def in_process_of(peer, function, *args):
    """function(*args) in a new process, which starts with the peer's environment."""
    before = {name: os.environ.get(name) for name in peer.environment}
    os.environ.update(peer.environment)
    try:
        return alone(function, *args)
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def last_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def middle(runs, what):
    values = [v for v in (what(run) for run in runs) if v is not None]
    return statistics.median(values) if values else None


class Row:
    """An engine's runs of one case."""

    def __init__(self, case, work, shape, engine):
        self.case, self.work, self.shape, self.engine = case, work, shape, engine
        self.runs, self.status, self.why = [], "", ""

    def run(self, round, directory):
        if self.status:
            return
        peer, work = self.engine.peer, self.work
        what = f"{self.case}: {peer.name}: round {round + 1}"
        print(what, file=sys.stderr)
        try:
            if work.method == "adamw":
                run = in_process_of(peer, peer.adamw, self.shape, work.steps, work.threads)
            else:
                run = in_process_of(peer, peer.train, directory, work)
                print(f"{what}: {run.step_seconds:.3f} s a step, {run.peak_bytes / 1e6:.0f} MB",
                      file=sys.stderr)
            self.runs.append(run)
        except Absent as why:
            self.status, self.why = "left out", str(why)
        except Exception as error:
            self.status, self.why = "failed", last_line(error)

    def record(self, f32_peak):
        """Medians; speed in tokens per second or, of the optimizer, bytes per second."""
        out = {"case": self.case, "engine": self.engine.peer.name, "status": self.status,
               "why": self.why, "runs": [dataclasses.asdict(run) for run in self.runs]}
        if not self.runs:
            return out
        if self.work.method == "adamw":
            out["bytes_per_second"] = middle(self.runs, lambda r: r.bytes_per_second)
            return out
        seconds = middle(self.runs, lambda r: r.step_seconds)
        operations = self.work.operations(self.shape)
        # Each engine beside the peak while hone ran: the clock changes on a shared machine.
        peak = middle(self.runs, lambda r: r.details.get("f32_peak")) or f32_peak
        out |= {"step_seconds": seconds, "operations": operations,
                "tokens_per_second": self.work.tokens / seconds,
                "peak_bytes": middle(self.runs, lambda r: r.peak_bytes),
                "of_f32_peak": operations / seconds / peak if peak else None}
        return out


def measured_peak(rows):
    """The f32 peak that hone measured around its own steps; None where it did not."""
    return middle([run for row in rows for run in row.runs],
                  lambda r: r.details.get("f32_peak"))


def ratio(ours, theirs, key):
    return f"{ours[key] / theirs[key]:.2f}" if ours and ours.get(key) and theirs[key] else "–"


def table(title, lines):
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    lines.insert(1, ["-" * w for w in widths])
    return "\n".join([title] + ["| " + " | ".join(map(str.ljust, line, widths)) + " |"
                                for line in lines])


def training_table(records, title):
    lines = [["Case", "Engine", "Tokens/s", "Step", "Of f32 peak", "hone ÷ it", "Peak memory",
              "hone ÷ it"]]
    for r in records:
        ours = next((o for o in records if o["case"] == r["case"]
                     and o["engine"] == ("hone bf16" if "bf16" in r["engine"] else "hone")), None)
        rival = None if r["engine"].startswith("hone") else ours
        lines.append([r["case"], r["engine"], f"{r['tokens_per_second']:.1f}",
                      f"{r['step_seconds']:.3f} s",
                      f"{100 * r['of_f32_peak']:.0f} %" if r["of_f32_peak"] else "–",
                      ratio(rival, r, "tokens_per_second"),
                      f"{r['peak_bytes'] / 1e6:.0f} MB" if r["peak_bytes"] else "–",
                      ratio(rival, r, "peak_bytes")])
    return table(title, lines)


def optimizer_table(records, title):
    lines = [["Case", "Engine", "GB/s", "Of the bandwidth", "hone ÷ it"]]
    ours = next((r for r in records if r["engine"] == "hone"), None)
    limit = ours and middle([run["details"] for run in ours["runs"]],
                            lambda d: d.get("plain_bytes_per_second"))
    for r in records:
        speed = r["bytes_per_second"]
        lines.append([r["case"], r["engine"], f"{speed / 1e9:.1f}",
                      f"{100 * speed / limit:.0f} %" if limit else "–",
                      "–" if r is ours else ratio(ours, r, "bytes_per_second")])
    return table(title, lines)


def measure(args, engines):
    rows = []
    for case in chosen(list(CASES), args.cases.split(","), "--cases"):
        name, method, batch, length = CASES[case]
        shape, directory = SHAPES[name], args.converted / name
        work = Work(method, batch, length, args.rank, args.steps, args.threads)
        here = [Row(case, work, shape, e) for e in engines
                if not e.status and e.peer.can(method)]
        if here and method != "adamw" and not (directory / "config.json").exists():
            print(f"{name}: writing {directory}", file=sys.stderr)
            directory.parent.mkdir(parents=True, exist_ok=True)
            try:
                alone(shape.checkpoint, directory)
            except (ImportError, OSError, RuntimeError) as error:
                stop(f"{directory}: {last_line(error)}")
        for round in range(args.rounds):
            for row in here:
                row.run(round, directory)
        rows += here
    return rows


def main():
    args = arguments()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)  # before any engine starts
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(args.converted.resolve() / "inductor"))
    peers = [HoneTraining(args.hone, args.optimizer_bench, precision)
             for precision in ("f32", "bf16")] + [
        TorchTraining(bf16, compiled) for compiled in (False, True) for bf16 in (False, True)]
    wanted = chosen([p.name for p in peers], args.engines.split(";"), "--engines")
    engines = [Engine(peer) for peer in peers if peer.name in wanted]
    for engine in engines:
        engine.look()
    rows = measure(args, engines)
    f32_peak = args.f32_peak * 1e9 if args.f32_peak else measured_peak(rows)
    records = [row.record(f32_peak) for row in rows]
    versions = dict.fromkeys(e.version for e in engines if e.version)
    title = (f"{', '.join(versions)}; {args.threads} threads, medians of {args.rounds} "
             f"round{'s' * (args.rounds != 1)} in turn, {args.steps} steps each")
    for kind, show in (("tokens_per_second", training_table),
                       ("bytes_per_second", optimizer_table)):
        if some := [r for r in records if kind in r]:
            print(show(some, title))
    for row in [e for e in engines if e.status]:
        print(f"{row.status}: {row.peer.name}: {row.why}")
    for row in [r for r in rows if r.status]:
        print(f"{row.status}: {row.case}: {row.engine.peer.name}: {row.why}")
    if args.json:
        print(json.dumps({"processor": processor(), "threads": args.threads, "steps": args.steps,
                          "rounds": args.rounds, "rank": args.rank, "f32_peak": f32_peak,
                          "engines": [{"name": e.peer.name, "version": e.version,
                                       "status": e.status, "why": e.why} for e in engines],
                          "records": records}, ensure_ascii=False))
    sys.exit(any(x.status == "failed" for x in rows + engines))


if __name__ == "__main__":
    main()
