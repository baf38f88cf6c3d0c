#!/usr/bin/env python3
"""Speed and quality of hone and its peers on the same weights at the same number of bits, in turn.

  compare.py --hone build/hone --model MODEL.gguf [--decode 64] [--text FILE] [--json] ...

Every round runs each engine once, each in a process of its own, so that all see the same state of
the machine; medians over rounds and ratios hone/peer are printed. README.md says what each runs.
"""
import argparse
import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import pathlib
import statistics
import sys

from engines.ctranslate2 import CTranslate2
from engines.hone import Hone
from engines.llama_bench import IkLlamaBench, LlamaBench
from engines.llama_cpp_python import LlamaCppPython
from engines.onnxruntime import OnnxRuntime
from engines.openvino import OpenVino
from engines.peer import Absent, Model, Text, Work


def stop(message):
    sys.exit(f"compare.py: {message}")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)

    def number(name, default, help):
        parser.add_argument(name, type=int, default=default, metavar="N",
                            help=f"{help} (default {default})")

    def path(name, help, **more):
        parser.add_argument(name, type=pathlib.Path, metavar="PATH", help=help, **more)

    path("--hone", "the program", required=True)
    path("--model", "a GGUF", required=True)
    path("--llama-bench", "llama.cpp's program")
    path("--ik-llama-bench", "ik_llama.cpp's program")
    path("--hf", "a directory of the same weights for peers that convert (default: hone writes it)")
    path("--converted", "where converted weights are kept (default .cache/peers)",
         default=pathlib.Path(".cache/peers"))
    parser.add_argument("--peers", metavar="NAMES", help="only these, separated by commas")
    number("--threads", len(os.sched_getaffinity(0)), "threads of each engine")
    number("--prompt", 512, "tokens of the prefill, 0 = none")
    number("--decode", 64, "tokens decoded one by one")
    number("--depth", 0, "tokens in the cache before; decode only")
    number("--batch", 1, "sequences side by side; decode only")
    number("--rounds", 3, "of speed, 0 = none")
    path("--text", "measure perplexity on this text")
    number("--chunks", 16, "of 512 tokens of the text")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    args = parser.parse_args()
    for option in ("threads", "decode", "batch", "chunks"):
        if getattr(args, option) < 1:
            stop(f"--{option} {getattr(args, option)}: expected 1 or more")
    for option in ("prompt", "depth", "rounds"):
        if getattr(args, option) < 0:
            stop(f"--{option} {getattr(args, option)}: expected 0 or more")
    for option in ("hone", "llama_bench", "ik_llama_bench"):
        path = getattr(args, option)
        if path and not (path.is_file() and os.access(path, os.X_OK)):
            stop(f"--{option.replace('_', '-')} {path}: no such program")
        setattr(args, option, path and path.resolve())
    for option in ("model", "hf", "text"):
        path = getattr(args, option)
        if path and not path.exists():
            stop(f"--{option} {path}: no such file")
    return args


def alone(function, *args):
    """function(*args) in a new process."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def read_model(args, hone):
    """The model, and what hone says of its weights."""
    info = hone.json("info", args.model)
    sizes = {name: e["parameters"] for name, e in info["encodings"].items()}
    encoding = max(sizes, key=sizes.get)
    table = info["vocabulary"] * info["width"]
    heads = [name for name, size in sizes.items() if name != encoding and size >= table]
    return Model(args.model, args.hf, args.converted / args.model.stem, args.hone, encoding,
                 heads[0] if heads else encoding, info["vocabulary"])


def read_text(path, model, chunks, context=512):
    """The text's ids in chunks; each begins with bos where the tokenizer begins a text with it."""
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(str(model.directory() / "tokenizer.json"))
    try:
        ids = tokenizer.encode(path.read_text(encoding="utf-8")).ids
    except (OSError, UnicodeDecodeError) as error:
        stop(f"--text {path}: {error}")
    bos = tokenizer.encode("").ids[:1]
    if len(ids) < chunks * context:
        stop(f"--text {path}: {len(ids)} tokens, fewer than {chunks} chunks of {context}")
    starts = range(0, chunks * context, context)
    return Text(path, [bos + ids[i + len(bos):i + context] for i in starts], context)


def median(values):
    values = [v for v in values if v is not None]
    return statistics.median(values) if values else None


class Row:
    """An engine, and what was measured of it."""

    def __init__(self, peer):
        self.peer, self.version, self.weights, self.perplexity = peer, None, None, None
        self.prefill, self.decode = [], []
        self.status, self.why = "", ""  # "not present", "left out" or "failed", once it is

    def attempt(self, what, function, *args):
        """The result in a process of its own, or None; from a failure on, the engine rests."""
        if self.status:
            return None
        print(f"{self.peer.name}: {what}", file=sys.stderr)
        try:
            return alone(function, *args)
        except Absent as why:
            self.status = "not present" if self.version is None else "left out"
            self.why = str(why)
        except Exception as error:
            self.status = "failed"
            self.why = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        return None

    def record(self):
        return {"name": self.peer.name, "version": self.version, "weights": self.weights,
                "prefill_tokens_per_second": median(self.prefill),
                "decode_tokens_per_second": median(self.decode),
                "prefill_rounds": self.prefill, "decode_rounds": self.decode,
                "perplexity": self.perplexity, "status": self.status, "why": self.why}

    def measured(self):
        return bool(self.prefill or self.perplexity)


def measure(rows, model, work, rounds, text):
    for row in rows:
        row.version = row.attempt("looking", row.peer.present)
        row.weights = row.attempt("preparing", row.peer.prepare, model)
    for i in range(rounds):
        for row in rows:
            speed = row.attempt(f"round {i + 1} of {rounds}", row.peer.speed, model, work)
            if speed:
                row.prefill.append(speed.prefill)
                row.decode.append(speed.decode)
    for row in rows if text else []:
        row.perplexity = row.attempt("perplexity", row.peer.perplexity, model, text, work.threads)


def table(rows, work):
    """Lines of a Markdown table; ratios are of hone's speed, the first row's, to the peer's."""
    hone, records = rows[0].record(), [row.record() for row in rows if row.measured()]
    decode = f"Decode {work.decode}" + (f" at depth {work.depth}" if work.depth else "")
    decode += f", batch {work.batch}" if work.batch > 1 else ""
    columns = {c: title for c, title in (("prefill", f"Prefill {work.prompt}"), ("decode", decode))
               if any(r[f"{c}_tokens_per_second"] for r in records)}
    quality = any(r["perplexity"] for r in records)
    lines = [["Engine", "Weights"]]
    for title in columns.values():
        lines[0] += [title, "hone ÷ it"]
    lines[0] += ["Perplexity"] if quality else []
    for r in records:
        cells = [f"{r['name']} {r['version'] or ''}".strip(), r["weights"] or ""]
        for c in columns:
            ours, theirs = (x[f"{c}_tokens_per_second"] for x in (hone, r))
            rival = ours and theirs and r["name"] != "hone"
            cells.append(f"{theirs:.1f} tok/s" if theirs else "–")
            cells.append(f"{ours / theirs:.2f}" if rival else "–")
        cells += [f"{r['perplexity']:.4f}" if r["perplexity"] else "–"] if quality else []
        lines.append(cells)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    lines.insert(1, ["-" * w for w in widths])
    return ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines]


def processor():
    try:
        lines = open("/proc/cpuinfo", encoding="utf-8").read().splitlines()
    except OSError:
        return ""
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else ""


def chosen(args):
    peers = [LlamaBench(args.llama_bench), IkLlamaBench(args.ik_llama_bench, False),
             IkLlamaBench(args.ik_llama_bench, True), LlamaCppPython(), OpenVino(), OnnxRuntime(),
             CTranslate2()]
    names = [peer.name for peer in peers]
    wanted = [name.strip() for name in args.peers.split(",")] if args.peers else names
    for name in wanted:
        if name not in names + ["hone"]:
            stop(f"--peers {name}: expected some of {', '.join(names)}")
    return [Hone(args.hone)] + [peer for peer in peers if peer.name in wanted]


def main():
    args = arguments()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)  # before any engine starts
    prompt = 0 if args.depth or args.batch > 1 else args.prompt
    work = Work(args.threads, prompt, args.decode, args.depth, args.batch)
    rows = [Row(peer) for peer in chosen(args)]
    try:
        model = read_model(args, rows[0].peer)
        text = read_text(args.text, model, args.chunks) if args.text else None
    except (RuntimeError, OSError, ValueError, ImportError) as error:
        stop(error)
    measure(rows, model, work, args.rounds, text)
    if any(row.measured() for row in rows):
        print(f"{args.model.name}, {args.threads} threads, medians of {args.rounds} "
              f"round{'s' * (args.rounds != 1)} in turn")
        print("\n".join(table(rows, work)))
    for row in rows:
        if row.status:
            print(f"{row.status}: {row.peer.name}: {row.why}")
    if args.json:
        print(json.dumps({"processor": processor(), "model": args.model.name,
                          "encoding": model.encoding, **dataclasses.asdict(work),
                          "rounds": args.rounds, "chunks": args.chunks if text else 0,
                          "engines": [row.record() for row in rows]}, ensure_ascii=False))
    sys.exit(any(row.status == "failed" for row in rows))


if __name__ == "__main__":
    main()
