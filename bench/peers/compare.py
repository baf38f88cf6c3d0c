#!/usr/bin/env python3
"""Speed and quality of hone and of its peers on the same weights at the same number of bits, in turn.

  compare.py --hone build/hone --model MODEL.gguf [--decode 64] [--text FILE] [--json] ...

Every round runs each engine once, each in a process of its own, so that all see the same state of the
machine; medians over rounds and ratios hone/peer are printed. README.md says what each peer runs.
"""
import argparse
import concurrent.futures
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
from engines.peer import Absent, Model, Text, Work, run


def stop(message):
    sys.exit(f"compare.py: {message}")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hone", required=True, metavar="PATH")
    parser.add_argument("--model", required=True, metavar="GGUF", type=pathlib.Path)
    parser.add_argument("--llama-bench", metavar="PATH", help="llama.cpp's")
    parser.add_argument("--ik-llama-bench", metavar="PATH", help="ik_llama.cpp's")
    parser.add_argument("--hf", metavar="DIR", type=pathlib.Path,
                        help="the same weights, for peers that convert them (default: written by hone convert)")
    parser.add_argument("--converted", metavar="DIR", type=pathlib.Path, default=pathlib.Path(".cache/peers"),
                        help="where converted weights are kept (default .cache/peers)")
    parser.add_argument("--peers", metavar="NAMES", help="only these, separated by commas")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), metavar="N")
    parser.add_argument("--prompt", type=int, default=512, metavar="N", help="tokens of the prefill (default 512)")
    parser.add_argument("--decode", type=int, default=64, metavar="N", help="tokens decoded (default 64)")
    parser.add_argument("--depth", type=int, default=0, metavar="N",
                        help="tokens in the cache before: decode only (default 0)")
    parser.add_argument("--batch", type=int, default=1, metavar="N",
                        help="sequences side by side: decode only (default 1)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="(default 3; 0: quality only)")
    parser.add_argument("--text", metavar="FILE", type=pathlib.Path, help="measure perplexity on this text")
    parser.add_argument("--chunks", type=int, default=16, metavar="N", help="of 512 tokens of the text (default 16)")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    args = parser.parse_args()
    for option in ("threads", "decode", "batch", "chunks"):
        if getattr(args, option) < 1:
            stop(f"--{option} {getattr(args, option)}: expected 1 or more")
    for option in ("prompt", "depth", "rounds"):
        if getattr(args, option) < 0:
            stop(f"--{option} {getattr(args, option)}: expected 0 or more")
    for option in ("hone", "llama_bench", "ik_llama_bench"):
        path = getattr(args, option)
        if path and not (os.path.isfile(path) and os.access(path, os.X_OK)):
            stop(f"--{option.replace('_', '-')} {path}: no such program")
        setattr(args, option, path and os.path.abspath(path))
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
    """What hone says of the model's weights; the Hugging Face directory is written where it is wanted first."""
    info = hone.json("info", args.model)
    sizes = {name: e["parameters"] for name, e in info["encodings"].items()}
    encoding = max(sizes, key=sizes.get)
    others = [name for name, size in sizes.items() if name != encoding and size >= info["vocabulary"] * info["width"]]
    model = Model(args.model, args.hf, args.converted / args.model.stem, encoding, (others or [encoding])[0],
                  info["vocabulary"])
    if args.hf:
        return model
    hf = model.converted("hf", lambda out: run([hone.binary, "convert", args.model, "--layout", "hf", "--decode-to",
                                                "bf16" if encoding == "bf16" else "f16", "--out", out, "--quiet"]))
    return Model(**{**vars(model), "hf": hf})


def read_text(path, model, chunks, context=512):
    """The text's ids in chunks; bos goes first in each where the tokenizer begins a text with it."""
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(str(model.hf / "tokenizer.json"))
    ids, bos = tokenizer.encode(path.read_text(encoding="utf-8")).ids, tokenizer.encode("").ids[:1]
    if len(ids) < chunks * context:
        stop(f"--text {path}: {len(ids)} tokens, fewer than {chunks} chunks of {context}")
    return Text(path, [bos + ids[i + len(bos):i + context] for i in range(0, chunks * context, context)], context)


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
            self.status, self.why = "left out" if self.version is not None else "not present", str(why)
        except Exception as error:
            self.status = "failed"
            self.why = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        return None

    def record(self):
        return {"name": self.peer.name, "version": self.version, "weights": self.weights,
                "prefill_tokens_per_second": median(self.prefill), "decode_tokens_per_second": median(self.decode),
                "prefill_rounds": self.prefill, "decode_rounds": self.decode, "perplexity": self.perplexity,
                "status": self.status, "why": self.why}

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


def table(records, work):
    """Lines of a Markdown table; ratios are of hone's speed to the peer's."""
    where = (f" at depth {work.depth}" if work.depth else "") + (f", batch {work.batch}" if work.batch > 1 else "")
    columns = {"prefill": f"Prefill {work.prompt}", "decode": f"Decode {work.decode}{where}"}
    columns = {c: title for c, title in columns.items() if any(r[f"{c}_tokens_per_second"] for r in records)}
    quality = any(r["perplexity"] for r in records)
    lines = [["Engine", "Weights"] + [cell for title in columns.values() for cell in (title, "hone ÷ it")]]
    lines[0] += ["Perplexity"] if quality else []
    for r in records:
        cells = [f"{r['name']} {r['version'] or ''}".strip(), r["weights"] or ""]
        for c in columns:
            ours, theirs = records[0][f"{c}_tokens_per_second"], r[f"{c}_tokens_per_second"]
            cells.append(f"{theirs:.1f} tok/s" if theirs else "–")
            cells.append(f"{ours / theirs:.2f}" if ours and theirs and r is not records[0] else "–")
        cells += [f"{r['perplexity']:.4f}" if r["perplexity"] else "–"] if quality else []
        lines.append(cells)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    lines.insert(1, ["-" * w for w in widths])
    return ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths)) + " |" for line in lines]


def processor():
    try:
        lines = open("/proc/cpuinfo", encoding="utf-8").read().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def chosen(args):
    peers = [Hone(args.hone), LlamaBench(args.llama_bench), IkLlamaBench(args.ik_llama_bench, False),
             IkLlamaBench(args.ik_llama_bench, True), LlamaCppPython(), OpenVino(), OnnxRuntime(), CTranslate2()]
    if args.peers:
        names = [name.strip() for name in args.peers.split(",")]
        unknown = sorted(set(names) - {p.name.split(",")[0] for p in peers})
        if unknown:
            stop(f"--peers {unknown[0]}: expected some of {', '.join(p.name for p in peers[1:] if ',' not in p.name)}")
        peers = [p for p in peers if p.name == "hone" or p.name.split(",")[0] in names]
    return peers


def main():
    args = arguments()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)  # before any engine starts
    only_decode = args.depth > 0 or args.batch > 1
    work = Work(args.threads, 0 if only_decode else args.prompt, args.decode, args.depth, args.batch)
    rows = [Row(peer) for peer in chosen(args)]
    try:
        model = read_model(args, rows[0].peer)
        text = read_text(args.text, model, args.chunks) if args.text else None
    except RuntimeError as error:
        stop(error)
    measure(rows, model, work, args.rounds, text)
    print(f"{args.model.name}, {args.threads} threads, medians of {args.rounds} rounds in turn")
    print("\n".join(table([row.record() for row in rows if row.measured()], work)))
    for row in rows:
        if row.status:
            print(f"{row.status}: {row.peer.name}: {row.why}")
    if args.json:
        print(json.dumps({"processor": processor(), "model": args.model.name, "encoding": model.encoding,
                          **vars(work), "rounds": args.rounds, "chunks": args.chunks if text else 0,
                          "engines": [row.record() for row in rows]}, ensure_ascii=False))
    sys.exit(any(row.status == "failed" for row in rows))


if __name__ == "__main__":
    main()
